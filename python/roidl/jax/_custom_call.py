"""The custom calls of XLA that the operators become, and where their handlers are registered."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from .. import _core
from .._bridge import bridge
from .._derivatives import is_average
from .._operators import OPERATORS
from ._arrays import metadata_of, named
from ._site import COUNTS, INDICES, LEVELS, Site
from ._versions import CALLS_MUST_RETURN_PAIRS

Array = Any


def _cuda_workspace(site: Site, operands: Sequence[Array]) -> int:
    """How many bytes the kernels for CUDA need besides the arrays.

    XLA lends them: what a handler allocates itself could not be part of XLA's command buffers.
    """
    op = site.named(site.op)
    arrays = {
        role: named(op, metadata_of(array))
        for role, array in zip(site.operand_roles(), operands, strict=True)
        if role in (INDICES, LEVELS, COUNTS)
    }
    boxes = named(op, metadata_of(operands[site.place_of_boxes]))
    maps: Any = [(shape, operands[0].dtype.name) for shape in site.input_shapes]
    pyramid = site.pyramid
    if pyramid is None:
        (maps,) = maps
    else:
        pyramid = pyramid._replace(levels=arrays.get(LEVELS), counts=arrays.get(COUNTS))
    given = site.params, maps, boxes, arrays.get(INDICES), pyramid
    return _core.cuda_workspace(op, site.op, *given)


def call(site: Site, *operands: Array) -> tuple[Array, ...]:
    """The custom call itself."""
    types = [
        jax.ShapeDtypeStruct(shape, jax.numpy.dtype(dtype))
        for shape, dtype in site.result_types(operands)
    ]
    if site.platform == "cuda":
        types.append(jax.ShapeDtypeStruct((_cuda_workspace(site, operands),), np.uint8))
    elif CALLS_MUST_RETURN_PAIRS and len(types) == 1:
        # What is optional is made, and dropped.
        optional = len(site.operator.writes) > 1 and not is_average(site.operator, site.params)
        types.append(jax.ShapeDtypeStruct(types[0].shape if optional else (0,), jax.numpy.int32))
    results = jax.ffi.ffi_call(f"roidl_{site.op}", types)(*operands, **site.attributes())
    return tuple(results[: len(site.result_roles())])


# A function object of our own: jax.ffi.pycapsule changes the types of ctypes.pythonapi's, for all.
_new_capsule = ctypes.PyDLL(None).PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

_library = ctypes.CDLL(bridge("xla"))
_library.roidl_xla_handler.restype = ctypes.c_void_p
for _op in (*OPERATORS, "assign_levels"):
    for _platform, _jax_platform in (("cpu", "cpu"), ("cuda", "CUDA")):
        _handler = _library.roidl_xla_handler(_platform.encode(), _op.encode())
        _capsule = _new_capsule(_handler, None, None)
        # On CUDA it is called before a program runs, too, and loads its kernels. Where there is no
        # CUDA, JAX keeps it in a list.
        _stages = {"execute": _capsule, "initialize": _capsule}
        _target = _stages if _platform == "cuda" else _capsule
        jax.ffi.register_ffi_target(f"roidl_{_op}", _target, platform=_jax_platform)
