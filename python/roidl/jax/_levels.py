"""The map of every box, by the core itself: at the borders another logarithm says otherwise."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from .. import _core
from .._multiscale import LevelsCall
from .._params import Pyramid
from . import _custom_call  # noqa: F401, it registers the custom call
from ._arrays import Metadata, as_array, metadata_of, named
from ._site import pyramid_attributes
from ._versions import CALLS_MUST_RETURN_PAIRS

Array = Any


@functools.lru_cache(maxsize=1024)
def _check(op: str, pyramid: Pyramid, boxes: Metadata) -> None:
    """Have the core check a call, on boxes of the same form."""
    shape, _ = named(op, boxes)
    _core.assign_levels(op.encode(), np.zeros(shape, boxes[1]), pyramid)


@functools.partial(jax.jit, static_argnums=0)
def _assign(pyramid: Pyramid, boxes: Array) -> Array:
    types = [jax.ShapeDtypeStruct(boxes.shape[:-1], np.int32)]
    if CALLS_MUST_RETURN_PAIRS:
        types.append(jax.ShapeDtypeStruct((0,), np.int32))
    assign = jax.ffi.ffi_call("roidl_assign_levels", types, vmap_method="broadcast_all")
    # Which map a box belongs to counts as a constant.
    return assign(jax.lax.stop_gradient(boxes), **pyramid_attributes(pyramid))[0]


def run_levels(call: LevelsCall) -> Any:
    """Run or trace one call."""

    def levels_of(name: str, boxes: Any) -> Array:
        array = as_array(call.op, name, boxes)
        _check(call.op, call.pyramid, metadata_of(array))
        return _assign(call.pyramid, array)

    if isinstance(call.boxes, (list, tuple)):
        return [levels_of(f"boxes[{i}]", boxes) for i, boxes in enumerate(call.boxes)]
    return levels_of("boxes", call.boxes)
