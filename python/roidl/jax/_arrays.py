"""What a call was given, as JAX arrays; boxes in a form that the primitives take."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import _core
from .._params import Call, Params, Pyramid

Array = Any


def as_array(op: str, name: str, value: Any) -> Array:
    """A JAX array, or a tracer, of any array: a copy, as JAX takes its arrays never to change."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, type) or getattr(value, "__dlpack__", None) is None:
        raise TypeError(
            f"{op}: {name} must be an array (an object with __dlpack__), got {type(value).__name__}"
        )
    try:
        if isinstance(value, np.ndarray):
            return jnp.array(value)
        with jax.ensure_compile_time_eval():  # or a function that is traced would copy when it runs
            return jnp.array(jax.dlpack.from_dlpack(value)).block_until_ready()
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{op}: {name} cannot be read by JAX: {error}") from error


def _as_integers(op: str, name: str, value: Any) -> Array | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.dtype.itemsize > 4:
        # Without 64-bit types JAX would cut off the upper half, and make a wrong index a right one.
        value = np.clip(value, -1, np.iinfo(np.int32).max).astype(np.int32)
    return None if value is None else as_array(op, name, value)


Metadata = tuple[tuple[int, ...], Any]  # shape and dtype


def metadata_of(array: Array) -> Metadata:
    return array.shape, array.dtype


def named(op: str, metadata: Metadata) -> tuple[tuple[int, ...], str]:
    shape, dtype = metadata
    if not all(isinstance(size, int) for size in shape):
        raise NotImplementedError(
            f"{op}: symbolic dimensions are not implemented, got shape {list(shape)}"
        )
    return shape, dtype.name


class Described(NamedTuple):
    """Shapes and dtypes of a call's arrays, the key of what was found out about it."""

    maps: tuple[Metadata, ...]
    boxes: Metadata
    indices: Metadata | None
    pyramid: Pyramid | None  # in it, those of levels and counts


def check(op: str, params: Params, described: Described) -> None:
    """Have the core check a call.

    Here and not when the primitive is traced: between the two JAX would add to the sentence.
    """

    def named_or_none(metadata: Metadata | None) -> tuple[tuple[int, ...], str] | None:
        return None if metadata is None else named(op, metadata)

    maps, boxes, indices, pyramid = described
    input: Any = [named(op, each) for each in maps]
    if pyramid is None:
        (input,) = input
    else:
        levels, counts = named_or_none(pyramid.levels), named_or_none(pyramid.counts)
        pyramid = pyramid._replace(levels=levels, counts=counts)
    last = named_or_none(indices)
    _core.result_shape(op, params, input, named(op, boxes), last, pyramid)


def _join(op: str, boxes: Any, input: Array) -> tuple[Array, Array]:
    """A list of boxes as [K, 4] and the image of each."""
    arrays = [as_array(op, f"boxes[{i}]", each) for i, each in enumerate(boxes)]
    images = input.shape[0] if input.ndim == 4 else len(arrays)  # else it is refused later
    _core.check_box_list(op, [named(op, metadata_of(array)) for array in arrays], images)
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
    return as_array(op, "boxes", boxes), _as_integers(op, "batch_indices", indices)


def read(call: Call) -> tuple[list[Array], Described]:
    """The arrays of a call, in the order of the operators' operands, and what they look like."""
    op, pyramid = call.op, call.pyramid
    if call.out is not None:
        raise TypeError(
            f"{op}: out must be an array that can be written to as it is, "
            f"got {type(call.out).__name__}"
        )
    levels = counts = None
    if pyramid is None:
        maps = [as_array(op, "input", call.leader)]
    else:
        maps = [as_array(op, f"input[{i}]", each) for i, each in enumerate(call.arguments[0])]
        levels = _as_integers(op, "levels", pyramid.levels)
        counts = _as_integers(op, "counts", pyramid.counts)
        pyramid = pyramid._replace(
            levels=None if levels is None else metadata_of(levels),
            counts=None if counts is None else metadata_of(counts),
        )
    boxes, indices = _boxes_and_indices(call, maps[0])
    described = Described(
        tuple([metadata_of(each) for each in maps]),
        metadata_of(boxes),
        None if indices is None else metadata_of(indices),
        pyramid,
    )
    arrays = [*maps, boxes]
    arrays += [each for each in (indices, levels, counts) if each is not None]
    return arrays, described
