"""What a call was given, as JAX arrays; boxes in a form that the primitives take."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _core
from .._params import POOL_MODES, Call, RoiAlignParams, RoiPoolParams

Array = Any


def as_array(op: str, name: str, value: Any) -> Array:
    """A JAX array, or a tracer, of any array."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, type) or getattr(value, "__dlpack__", None) is None:
        raise TypeError(
            f"{op}: {name} must be an array (an object with __dlpack__), got {type(value).__name__}"
        )
    try:
        if isinstance(value, np.ndarray):
            return jnp.asarray(value)
        return jax.dlpack.from_dlpack(value)
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{op}: {name} cannot be read by JAX: {error}") from error


def _as_indices(op: str, value: Any) -> Array:
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.dtype.itemsize > 4:
        # Without 64-bit types JAX would cut off the upper half, and make a wrong index a right one.
        value = np.clip(value, -1, np.iinfo(np.int32).max).astype(np.int32)
    return as_array(op, "batch_indices", value)


Metadata = tuple[tuple[int, ...], Any]  # shape and dtype


def _metadata(array: Array) -> Metadata:
    return array.shape, array.dtype


def _named(op: str, metadata: Metadata) -> tuple[tuple[int, ...], str]:
    shape, dtype = metadata
    if not all(isinstance(size, int) for size in shape):
        raise NotImplementedError(
            f"{op}: symbolic dimensions are not implemented, got shape {list(shape)}"
        )
    return shape, dtype.name


@functools.lru_cache(maxsize=1024)
def _check(
    op: str,
    params: RoiAlignParams | RoiPoolParams,
    input: Metadata,
    boxes: Metadata,
    indices: Metadata | None,
) -> None:
    """Have the core check a call, once: naming dtypes takes longer than the smallest call."""
    last = None if indices is None else _named(op, indices)
    _core.result_shape(op, params._asdict(), _named(op, input), _named(op, boxes), last)


def _join(op: str, boxes: Any, input: Array) -> tuple[Array, Array]:
    """A list of boxes as [K, 4] and the image of each."""
    arrays = [as_array(op, f"boxes[{i}]", each) for i, each in enumerate(boxes)]
    images = input.shape[0] if input.ndim == 4 else len(arrays)  # else it is refused later
    _core.check_box_list(op, [_named(op, _metadata(array)) for array in arrays], images)
    # Integers that float32 has no room for are rounded, as the compiled core does.
    dtype = jnp.float64 if any(array.dtype == jnp.float64 for array in arrays) else jnp.float32
    parts = [array.astype(dtype) for array in arrays] or [jnp.zeros((0, 4), dtype)]
    counts = [array.shape[0] for array in arrays]
    indices = np.repeat(np.arange(len(arrays), dtype=np.int32), counts)
    return jnp.concatenate(parts), jnp.asarray(indices)


def _boxes_and_indices(call: Call, input: Array) -> tuple[Array, Array | None]:
    op, boxes, indices = call.op, call.boxes, call.batch_indices
    if isinstance(boxes, (list, tuple)):
        if indices is not None:
            raise ValueError(f"{op}: batch_indices must be None when boxes is a list")
        return _join(op, boxes, input)
    return as_array(op, "boxes", boxes), None if indices is None else _as_indices(op, indices)


def read(call: Call) -> tuple[Array, Array, Array | None]:
    """The input, the boxes in one array, and their batch indices if they come apart; all checked.

    Here and not when the primitive is traced: between the two JAX would add to the sentence.
    """
    op = call.op
    if call.out is not None:
        raise TypeError(
            f"{op}: out must be an array that can be written to as it is, "
            f"got {type(call.out).__name__}"
        )
    input = as_array(op, "input", call.leader)
    boxes, indices = _boxes_and_indices(call, input)
    last = None if indices is None else _metadata(indices)
    _check(op, call.params, _metadata(input), _metadata(boxes), last)
    if op == "roi_pool" and call.arguments[1] and call.params.mode != POOL_MODES["max"]:
        raise ValueError(f"{op}: only mode 'max' has an argmax to return")
    return input, boxes, indices
