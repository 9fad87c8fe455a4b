"""The operators as JAX primitives: what they return, and the custom calls that they become."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import jax
import jax.extend.core
from jax.interpreters import mlir

from .._bridge import bridge
from .._params import ALIGN_MODES
from ._sharding import divisible_call, in_parts
from ._site import ROLES, Site
from ._versions import explicit_mesh, register, result_type, varying_alike

Array = Any

PRIMITIVES: dict[str, Any] = {}


def bind(site: Site, *operands: Array) -> list[Array]:
    """Run, or stage, one use of an operator."""
    if not any(isinstance(operand, jax.core.Tracer) for operand in operands):
        return _run(site, *operands)  # type: ignore[no-any-return]  # by jit's shortest way
    mesh = explicit_mesh(operands)
    if mesh is not None:
        return _in_parts(site, mesh, *operands)  # type: ignore[no-any-return]
    results: list[Array] = PRIMITIVES[site.op].bind(*varying_alike(operands), site=site)
    return results


@partial(jax.jit, static_argnums=(0, 1))
def _in_parts(site: Site, mesh: Any, *operands: Array) -> list[Array]:
    return in_parts(site, mesh, bind, operands)  # type: ignore[no-any-return]


def _abstract_eval(*operands: Any, site: Site) -> list[Any]:
    return [
        result_type(operands, shape, jax.numpy.dtype(dtype))
        for shape, dtype in site.result_types(operands)
    ]


def _check_kernel(site: Site) -> None:
    # It may be traced all the same: its transpose is the gradient to the boxes.
    if site.op.startswith("roi_align_jvp_boxes") and site.params.mode != ALIGN_MODES["avg"]:
        raise NotImplementedError(
            f"{site.named('roi_align')}: forward mode and second derivatives along the boxes are "
            "implemented for mode 'avg' only"
        )


def _lower(ctx: Any, *operands: Any, site: Site) -> Any:
    _check_kernel(site)
    function = partial(divisible_call, site)
    return mlir.lower_fun(function, multiple_results=True)(ctx, *operands)


@partial(jax.jit, static_argnums=0)
def _run(site: Site, *operands: Array) -> list[Array]:
    return bind(site, *operands)


def _impl(*operands: Array, site: Site) -> list[Array]:
    results: list[Array] = _run(site, *operands)
    return results


def _make_primitive(op: str) -> Any:
    primitive = jax.extend.core.Primitive(f"roidl_{op}")
    primitive.multiple_results = True
    primitive.def_impl(_impl)
    primitive.def_abstract_eval(_abstract_eval)
    # On other platforms JAX says that there is no rule.
    mlir.register_lowering(primitive, _lower, platform="cpu")
    register(primitive)
    return primitive


# A function object of our own: jax.ffi.pycapsule changes the types of ctypes.pythonapi's, for all.
_new_capsule = ctypes.PyDLL(None).PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

_library = ctypes.CDLL(bridge("xla"))
for _op in (*ROLES, "assign_levels"):
    _handler = ctypes.cast(getattr(_library, f"roidl_cpu_{_op}"), ctypes.c_void_p)
    _capsule = _new_capsule(_handler, None, None)
    jax.ffi.register_ffi_target(f"roidl_{_op}", _capsule, platform="cpu")
for _op in ROLES:
    PRIMITIVES[_op] = _make_primitive(_op)
