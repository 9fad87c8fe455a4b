"""The operators as JAX primitives: what they return, and how they are lowered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.extend.core
from jax.interpreters import mlir

from .._derivatives import why_not
from .._operators import OPERATORS
from ._sharding import divisible_call, in_parts
from ._site import Site
from ._versions import explicit_mesh, register, result_type, varying_alike

Array = Any

_config: Any = jax.config

PRIMITIVES: dict[str, Any] = {}


def is_traced(operands: Sequence[Array]) -> bool:
    """Whether a call with these is to be staged rather than run."""
    for operand in operands:  # noqa: SIM110, a generator takes three times as long
        if isinstance(operand, jax.core.Tracer):
            return True
    return False


def run_compiled(function: Any, operands: Sequence[Array]) -> list[Array]:
    """Run a function made by jit by its shortest way, even if users have disabled jit: in the
    operators there are no steps to look at."""
    if _config.jax_disable_jit:
        with jax.disable_jit(False):
            return function(*operands)  # type: ignore[no-any-return]
    return function(*operands)  # type: ignore[no-any-return]


def bind(site: Site, *operands: Array) -> list[Array]:
    """Run, or stage, one use of an operator."""
    if not is_traced(operands):
        return run_compiled(partial(_run, site), operands)
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
    # It may be traced all the same: its transpose may be there.
    reason = why_not(site.op, site.params)
    if reason is not None:
        raise NotImplementedError(f"{site.named(site.operator.family.name)}: {reason}")


def _lower(platform: str, ctx: Any, *operands: Any, site: Site) -> Any:
    _check_kernel(site)
    function = partial(divisible_call, site._replace(platform=platform))
    return mlir.lower_fun(function, multiple_results=True)(ctx, *operands)


@partial(jax.jit, static_argnums=0)
def _run(site: Site, *operands: Array) -> list[Array]:
    return bind(site, *operands)


def _impl(*operands: Array, site: Site) -> list[Array]:
    return run_compiled(partial(_run, site), operands)


def _make_primitive(op: str) -> Any:
    primitive = jax.extend.core.Primitive(f"roidl_{op}")
    primitive.multiple_results = True
    primitive.def_impl(_impl)
    primitive.def_abstract_eval(_abstract_eval)
    # On other platforms JAX says that there is no rule.
    for platform in ("cpu", "cuda"):
        mlir.register_lowering(primitive, partial(_lower, platform), platform=platform)
    register(primitive)
    return primitive


for _op in OPERATORS:
    PRIMITIVES[_op] = _make_primitive(_op)
