"""vmap: the mapped axis becomes more images, or just more regions where the images are shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import batching

from .._shapes import NO_IMAGE, shifted_indices
from ._primitives import PRIMITIVES, bind
from ._site import ARGMAX, BOXES, INDICES, LEVELS, MAPS, POOLED, Shape, Site

Array = Any


def _merge(array: Array, axis: int = 0) -> Array:
    """Merge `axis` and the next one."""
    shape = array.shape
    return array.reshape((*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]))


def _whole_indices(column: Array) -> Array:
    """An index column as int32, exactly; what int32 has no number for becomes NO_IMAGE."""
    kind = column.dtype
    if jnp.issubdtype(kind, jnp.integer) and (kind.itemsize < 4 or kind == jnp.int32):
        return column.astype(jnp.int32)
    if not jnp.issubdtype(kind, jnp.integer):
        column = column.astype(jnp.promote_types(kind, jnp.float32))
    known = (column < -NO_IMAGE) & (column == jnp.floor(column))
    if not jnp.issubdtype(kind, jnp.unsignedinteger):
        known &= column > NO_IMAGE
    return jnp.where(known, jnp.where(known, column, 0).astype(jnp.int32), NO_IMAGE)


def _with_indices(
    site: Site, operands: Sequence[Array], batched: Sequence[bool]
) -> tuple[Site, list[Array], list[bool]]:
    """The same with boxes [K, 4] and int32 indices of their images; mapped axes in front."""
    place = site.place_of_boxes
    boxes, mapped = operands[place], batched[place]
    if site.indexed:
        indices, mapped = _whole_indices(operands[place + 1]), batched[place + 1]
    elif site.grouped:
        indices = jnp.repeat(jnp.arange(site.images, dtype=jnp.int32), boxes.shape[-2])
        mapped = False
    elif boxes.shape[-1] == 5:
        indices = _whole_indices(boxes[..., 0])
    else:
        indices, mapped = jnp.zeros(boxes.shape[-2], jnp.int32), False
    arrays = []
    for array, role, in_front in zip(operands, site.operand_roles(), batched, strict=True):
        if role in (POOLED, ARGMAX, BOXES, LEVELS) and site.grouped:
            array = _merge(array, int(in_front))
        arrays.append(array[..., -4:] if role == BOXES else array)
    after = place + 1 + site.indexed
    inner = site._replace(indexed=True, grouped=False)
    return (
        inner,
        [*arrays[: place + 1], indices, *arrays[after:]],
        [*batched[: place + 1], mapped, *batched[after:]],
    )


def _fold(site: Site, array: Array, role: str, batched: bool, size: int, shared: bool) -> Array:
    """The mapped axis, in front or not there, folded into the next one."""
    if role == MAPS and shared:
        return array
    if not batched:
        array = jnp.broadcast_to(array, (size, *array.shape))
    if role == INDICES and not shared:
        first = site.images * jnp.arange(size, dtype=jnp.int32)[:, None]
        array = shifted_indices(jnp.where, array, first, site.images)
    return _merge(array)


def _unfold(result: Array, shape: Shape) -> Array:
    """A result as it was asked for, the mapped axis in front."""
    if shape[-1] == 5 and result.shape[-1] == 4 and result.ndim == 2:
        result = jnp.pad(result, ((0, 0), (1, 0)))  # a batch index has no gradient
    return result.reshape(shape)


def _batch(operands: Sequence[Array], dims: Sequence[Any], *, site: Site) -> tuple[Any, Any]:
    given = list(zip(operands, dims, strict=True))
    size = next(array.shape[dim] for array, dim in given if dim is not None)
    batched = [dim is not None for dim in dims]
    arrays = [array if dim is None else jnp.moveaxis(array, dim, 0) for array, dim in given]
    examples = [
        jax.ShapeDtypeStruct(array.shape[1:] if mapped else array.shape, array.dtype)
        for array, mapped in zip(arrays, batched, strict=True)
    ]
    # Examples share the maps if none is mapped, none is a result, and there are no `counts`, which
    # are counted by image.
    maps = [role == MAPS for role in site.operand_roles()]
    mapped_map = any(is_map and mapped for is_map, mapped in zip(maps, batched, strict=True))
    shared = not (mapped_map or MAPS in site.result_roles() or site.has_counts)
    inner = site
    if shared or not site.grouped:
        inner, arrays, batched = _with_indices(site, arrays, batched)
    folded = [
        _fold(inner, array, role, mapped, size, shared)
        for array, role, mapped in zip(arrays, inner.operand_roles(), batched, strict=True)
    ]
    if not shared:
        shapes = tuple((size * site.images, *shape[1:]) for shape in site.input_shapes)
        inner = inner._replace(input_shapes=shapes)
    results = bind(inner, *folded)
    unfolded = [
        _unfold(result, (size, *shape))
        for result, (shape, _) in zip(results, site.result_types(examples), strict=True)
    ]
    return unfolded, [0] * len(unfolded)


for _primitive in PRIMITIVES.values():
    batching.primitive_batchers[_primitive] = _batch
