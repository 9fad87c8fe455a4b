"""`torch.vmap`: the examples become images of one call, their boxes rows of one list.

Batch indices are carried as integers, each checked against its own example's images before it is
shifted to where these lie: no index reaches into another example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._shapes import NO_IMAGE, shifted_indices
from ._arguments import OPERATORS, Arguments, Operator, Tensor
from ._calls import apply
from ._library import LIBRARY
from ._shapes import check_metadata, map_shapes


def _first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Move the mapped axis to the front, or expand a tensor without one to `size` examples."""
    if dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor.movedim(dim, 0)


def _each(function: Callable[..., Any], tensors: Any, dims: Any) -> Any:
    """Return function(tensor, axis) of a tensor, or of each tensor of a tuple."""
    if not isinstance(tensors, tuple):
        return None if tensors is None else function(tensors, dims)
    return tuple([_each(function, *pair) for pair in zip(tensors, dims, strict=True)])


def _example(tensor: Tensor, dim: int | None) -> Tensor:
    """The first example, or one of its metadata if there is none."""
    if dim is None:
        return tensor
    if tensor.shape[dim] > 0:
        return tensor.select(dim, 0)
    return tensor.new_empty(tensor.movedim(dim, 0).shape[1:])


def _is_mapped(dims: Any) -> bool:
    if isinstance(dims, tuple):
        return any(map(_is_mapped, dims))
    return dims is not None


def _local_indices(
    boxes: Tensor, indices: Tensor | None, form: Any, columns: int, n: Any
) -> Tensor:
    """Return the batch indices [B, K] among the `n` images of each example, as integers; they may
    be wrong, and are NO_IMAGE for a number that is not whole.

    `form` is the shape of an example's boxes; without indices they have `columns`.
    """
    if indices is None and len(form) == 2 and form[1] == columns + 1:
        indices = boxes[..., 0]
    if indices is not None:
        if not indices.is_floating_point():
            return indices.to(torch.int64)
        # What is no whole number, a NaN included, belongs to no image.
        whole = (indices.abs() < -NO_IMAGE) & (indices == indices.floor())
        return torch.where(whole, torch.where(whole, indices, 0).to(torch.int64), NO_IMAGE)
    places, per_image = torch.arange(n, device=boxes.device), form[-2]
    # Boxes [K, 4] belong to the one image that there is.
    grouped = len(form) == 3
    places = places.repeat_interleave(per_image) if grouped else places.expand(per_image)
    return places.expand(boxes.shape[0], *places.shape)


def _rule(operator: Operator) -> Callable[..., Any]:
    row, roles, columns = operator.row, operator.roles, operator.row.family.columns

    def rule(info: Any, in_dims: tuple[Any, ...], *flat: Any) -> Any:
        call, dims, size = operator.unflat(flat), operator.unflat(in_dims), info.batch_size
        tensors = [_each(_example, *pair) for pair in zip(call[:5], dims[:5], strict=True)]
        example = Arguments._make((*tensors, *call[5:]))
        check_metadata(operator, example)  # in the words of one example
        form, n = example.boxes.shape, map_shapes(operator, example).images
        rows = form[0] if len(form) == 2 else form[0] * form[1]
        # Maps without a mapped axis are shared by the examples, except with `counts`, which are
        # counted by image: boxes then stay grouped by image.
        mapped = [
            _is_mapped(dim) for dim, role in zip(dims.reads, roles, strict=True) if role == "maps"
        ]
        folds = row.makes_maps or any(mapped) or call.counts is not None
        grouped = folds and len(form) == 3
        lead = (size * form[0], form[1]) if grouped else (size * rows,)

        def folded(role: str) -> Callable[..., Tensor]:
            def fold(tensor: Tensor, dim: int | None) -> Tensor:
                if role == "maps" and not folds:
                    return tensor
                tensor = _first(tensor, dim, size)
                if role == "boxes":
                    return tensor[..., -columns:].reshape(*lead, columns)
                front = (size * n,) if role == "maps" else lead
                return tensor.reshape(*front, *tensor.shape[-3:])

            return fold

        indices, levels, counts = call.batch_indices, call.levels, call.counts
        if grouped:
            indices = None
        else:
            if indices is not None:
                indices = _first(indices, dims.batch_indices, size)
            boxes = _first(call.boxes, dims.boxes, size)
            indices = _local_indices(boxes, indices, form, columns, n)
            if folds:
                first = n * torch.arange(size, device=boxes.device)[:, None]
                indices = shifted_indices(torch.where, indices, first, n)
            indices = indices.reshape(size * rows)
        if levels is not None:
            levels = _first(levels, dims.levels, size).reshape(lead)
        if counts is not None:
            counts = _first(counts, dims.counts, size).reshape(lead[:1])
        reads = zip(roles, call.reads, dims.reads, strict=True)
        result = apply(
            operator,
            call._replace(
                reads=tuple([_each(folded(role), read, dim) for role, read, dim in reads]),
                boxes=folded("boxes")(call.boxes, dims.boxes),
                batch_indices=indices,
                levels=levels,
                counts=counts,
                shapes=call.shapes and call.shapes._replace(images=size * n),
            ),
        )

        def unfolded(role: str, result: Any) -> tuple[Any, Any]:
            """A result by examples, and its mapped axis."""
            if role == "maps":
                if operator.several:
                    maps = [map.reshape(size, n, *map.shape[1:]) for map in result]
                    return maps, [0] * len(maps)
                return result.reshape(size, n, *result.shape[1:]), 0
            if role == "boxes":
                # Nothing to the column of the indices.
                result = torch.nn.functional.pad(result, (form[-1] - columns, 0))
                return result.reshape(size, *form), 0
            return result.reshape(size, *form[:-1], *result.shape[-3:]), 0

        if len(row.writes) == 1:
            return unfolded(row.writes[0].role, result)
        made = iter(call.make)
        pairs = [
            (each, None) if write.optional and not next(made) else unfolded(write.role, each)
            for write, each in zip(row.writes, result, strict=True)
        ]
        results, axes = zip(*pairs, strict=True)
        return tuple(results), tuple(axes)

    return rule


def _levels_rule(info: Any, in_dims: tuple[Any, ...], boxes: Tensor, *rule: Any) -> Any:
    boxes = boxes.movedim(in_dims[0], 0)
    if boxes.dim() == 2:  # in the words of one example, which has too few axes
        return torch.ops.roidl.assign_levels(boxes[0], *rule), None
    levels = torch.ops.roidl.assign_levels(boxes.reshape(-1, boxes.shape[-1]), *rule)
    return levels.reshape(boxes.shape[:-1]), 0


def register() -> None:
    for operator in OPERATORS.values():
        torch.library.register_vmap(f"roidl::{operator.name}", _rule(operator), lib=LIBRARY)
    torch.library.register_vmap("roidl::assign_levels", _levels_rule, lib=LIBRARY)
