"""vmap: the mapped axis becomes more images, or just more regions where the images are shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.interpreters import batching

from ._primitives import PRIMITIVES, bind
from ._site import BOXES, INDICES, MAP, POOLED, Site

Array = Any


def _merge(array: Array, axis: int = 0) -> Array:
    """One axis of two."""
    shape = array.shape
    return array.reshape((*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]))


def _whole_indices(site: Site, column: Array) -> Array:
    """An index column as int32, exactly; what is no index of an image becomes -1."""
    known = (column >= 0) & (column < site.images)
    whole = jnp.where(known, column, -1).astype(jnp.int32)
    return jnp.where(whole.astype(column.dtype) == column, whole, -1)


def _indices(site: Site, boxes: Array, indices: Array | None) -> Array:
    """The image of each region, int32 [..., K], of boxes in any form; -1 for one that is not."""
    if indices is not None:
        return _whole_indices(site, indices)
    if site.grouped:
        count = boxes.shape[-2]
        each = jnp.repeat(jnp.arange(site.images, dtype=jnp.int32), count)
        return jnp.broadcast_to(each, (*boxes.shape[:-3], each.size))
    if boxes.shape[-1] == 5:
        return _whole_indices(site, boxes[..., 0])
    return jnp.zeros(boxes.shape[:-1], jnp.int32)


def _ungrouped(
    site: Site, operands: Sequence[Array], batched: Sequence[bool]
) -> tuple[Site, list[Array], list[bool]]:
    """The same with boxes [K, 4] and indices; mapped axes are in front."""
    boxes = operands[site.leading]
    arrays = []
    for array, role, mapped in zip(operands, site.operand_roles(), batched, strict=True):
        if role in (POOLED, BOXES) and site.grouped:
            array = _merge(array, int(mapped))
        arrays.append(array[..., -4:] if role == BOXES else array)
    found = _indices(site, boxes, operands[-1] if site.indexed else None)
    arrays = [*arrays[: site.leading + 1], found]
    mapped_indices = batched[site.leading] or (site.indexed and batched[-1])
    return (
        site._replace(indexed=True, grouped=False),
        arrays,
        [*batched[: site.leading + 1], mapped_indices],
    )


def _fold(site: Site, array: Array, role: str, batched: bool, size: int, shared: bool) -> Array:
    """The mapped axis, in front or not there, folded into the next one."""
    if role == MAP and shared:
        return array
    if not batched:
        array = jnp.broadcast_to(array, (size, *array.shape))
    if role == INDICES and not shared:
        first = site.images * jnp.arange(size, dtype=jnp.int32)[:, None]
        # Checked example by example: a wrong index must not become another example's right one.
        array = jnp.where((array >= 0) & (array < site.images), array + first, -1)
    return _merge(array)


def _unfold(given: Site, array: Array, role: str, size: int, columns: int) -> Array:
    """A result with the mapped axis in front, shaped as it was asked for."""
    array = array.reshape((size, array.shape[0] // size, *array.shape[1:]))
    if role == MAP:
        return array
    if given.grouped and array.ndim:
        images = given.images
        rows = array.shape[1] // images if images else 0
        array = array.reshape((size, images, rows, *array.shape[2:]))
    if role == BOXES and columns == 5:  # the batch index has no gradient
        array = jnp.pad(array, ((0, 0), (0, 0), (1, 0)))
    return array


def _batch(operands: Sequence[Array], dims: Sequence[Any], *, site: Site) -> tuple[Any, Any]:
    size = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
    batched = [dim is not None for dim in dims]
    arrays = [
        array if dim is None else jnp.moveaxis(array, dim, 0)
        for array, dim in zip(operands, dims, strict=True)
    ]
    roles = site.operand_roles()
    mapped_maps = [each for each, role in zip(batched, roles, strict=True) if role == MAP]
    shared = not any(mapped_maps) and MAP not in site.result_roles()
    columns = operands[site.leading].shape[-1] if dims[site.leading] is None else arrays[site.leading].shape[-1]
    inner = site
    if shared or not site.grouped:
        inner, arrays, batched = _ungrouped(site, arrays, batched)
    folded = [
        _fold(inner, array, role, each, size, shared)
        for array, role, each in zip(arrays, inner.operand_roles(), batched, strict=True)
    ]
    if not shared:
        inner = inner._replace(input_shape=(size * site.images, *site.input_shape[1:]))
    outs = bind(inner, *folded)
    flat = [
        _unfold(site, out, role, size, columns)
        for out, role in zip(outs, site.result_roles(), strict=True)
    ]
    return flat, [0] * len(flat)


for _primitive in PRIMITIVES.values():
    batching.primitive_batchers[_primitive] = _batch
