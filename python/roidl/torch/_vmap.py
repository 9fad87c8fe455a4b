"""`torch.vmap`: the examples become images of one call, their boxes rows of one list.

Batch indices are carried as integers, each checked against its own example's images before it is
shifted to where these lie: no index reaches into another example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._shapes import NO_IMAGE
from . import _calls, _library, _pyramid, _pyramid_graph
from ._library import LIBRARY, Tensor
from ._pyramid import Rows


def _first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The mapped axis in front; a view of one example stands for all where there is none."""
    if dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor.movedim(dim, 0)


def _each(function: Callable[..., Any], tensors: Any, dims: Any) -> Any:
    """function(tensor, its axis), of a tensor, of every map's, or of the rows' three."""
    if not isinstance(tensors, tuple):
        return None if tensors is None else function(tensors, dims)
    results = [_each(function, *pair) for pair in zip(tensors, dims, strict=True)]
    return Rows(*results) if isinstance(tensors, Rows) else tuple(results)


def _select(tensor: Tensor, dim: int | None) -> Tensor:
    return tensor if dim is None else tensor.select(dim, 0)


def _is_mapped(dims: Any) -> bool:
    if isinstance(dims, tuple):
        return any(map(_is_mapped, dims))
    return dims is not None


def _images(base: _library.Operator, example: Any) -> Any:
    if base.takes_shape:
        return example.extra[0]
    maps = example.leader if base.leader[1] == "map" else example.other
    return (maps[0] if isinstance(maps, tuple) else maps).shape[0]


def _local_indices(boxes: Tensor, indices: Tensor | None, form: Any, n: Any) -> Tensor:
    """The index of each box, that of an image among its own example's `n` or not, [B, K].

    `form` is the shape of an example's boxes.
    """
    if indices is None and len(form) == 2 and form[1] == 5:
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


def _rule(
    operator: Any, apply: Callable[..., Any], check_metadata: Callable[[Any, Any], None]
) -> Callable[..., Any]:
    """Of an operator on one map or on several."""
    several = isinstance(operator, _pyramid.Operator)
    base = operator.base if several else operator
    parts = (base.leader[1], None if base.other is None else base.other[1])

    def rule(info: Any, in_dims: tuple[Any, ...], *flat: Any) -> Any:
        call, dims, size = operator.unflat(flat), operator.unflat(in_dims), info.batch_size
        tensors = (_each(_select, *pair) for pair in zip(call[:4], dims[:4], strict=True))
        example = type(call)(*tensors, *call[4:])
        check_metadata(operator, example)  # in the words of one example
        form, n = example.boxes.shape, _images(base, example)
        rows = form[0] if len(form) == 2 else form[0] * form[1]
        counts = call[2].counts if several else None
        # One map for all the examples is read where it is; but only what is grouped by image has
        # rows that are padding.
        mapped = [
            _is_mapped(d)
            for d, part in zip((dims[0], dims[3]), parts, strict=True)
            if part == "map"
        ]
        folds = base.result == "map" or any(mapped) or counts is not None
        grouped = folds and len(form) == 3
        lead = (size * form[0], form[1]) if grouped else (size * rows,)

        def folded(part: str | None) -> Callable[..., Tensor]:
            def fold(tensor: Tensor, dim: int | None) -> Tensor:
                if part == "map" and not folds:
                    return tensor
                tensor = _first(tensor, dim, size)
                if part == "boxes":
                    return tensor[..., -4:].reshape(*lead, 4)
                return tensor.reshape(*((size * n,) if part == "map" else lead), *tensor.shape[-3:])

            return fold

        indices, indices_dim = (
            (call[2].batch_indices, dims[2].batch_indices) if several else (call[2], dims[2])
        )
        if grouped:
            indices = None
        else:
            if indices is not None:
                indices = _first(indices, indices_dim, size)
            boxes = _first(call.boxes, dims.boxes, size)
            indices = _local_indices(boxes, indices, form, n)
            if folds:
                offset = n * torch.arange(size, device=boxes.device)[:, None]
                wrong = torch.where(indices < size * n, NO_IMAGE - indices, indices)
                right = torch.where(indices < n, indices + offset, wrong)
                indices = torch.where(indices < 0, indices, right)
            indices = indices.reshape(size * rows)
        said: Any = indices
        if several:
            levels = call[2].levels
            if levels is not None:
                levels = _first(levels, dims[2].levels, size).reshape(lead)
            if counts is not None:
                counts = _first(counts, dims[2].counts, size).reshape(lead[:1])
            said = Rows(indices, levels, counts)
        extra = call.extra
        if base.takes_shape:
            extra = extra._replace(images=size * n)
        result = apply(
            base.name,
            _each(folded(parts[0]), call.leader, dims.leader),
            folded("boxes")(call.boxes, dims.boxes),
            said,
            _each(folded(parts[1]), call.other, dims.other),
            extra,
            call.params,
        )
        if base.result == "map":
            if several:
                return [map.reshape(size, n, *map.shape[1:]) for map in result], [0] * len(result)
            return result.reshape(size, n, *result.shape[1:]), 0
        if base.result == "boxes":
            if form[-1] == 5:  # nothing to the batch column
                result = torch.nn.functional.pad(result, (1, 0))
            return result.reshape(size, *form), 0
        pooled, argmax = result if base.name == "roi_pool" else (result, None)
        shape = (size, *form[:-1], *pooled.shape[-3:])
        if argmax is None:
            return pooled.reshape(shape), 0
        if not call.extra[0]:
            return (pooled.reshape(shape), argmax), (0, None)
        return (pooled.reshape(shape), argmax.reshape(shape)), (0, 0)

    return rule


def _levels_rule(info: Any, in_dims: tuple[Any, ...], boxes: Tensor, *rule: Any) -> Any:
    boxes = boxes.movedim(in_dims[0], 0)
    if boxes.dim() == 2:  # in the words of one example, which has too few axes
        return torch.ops.roidl.assign_levels(boxes[0], *rule), None
    levels = torch.ops.roidl.assign_levels(boxes.reshape(-1, boxes.shape[-1]), *rule)
    return levels.reshape(boxes.shape[:-1]), 0


def register() -> None:
    for layer, graph in ((_library, _calls), (_pyramid, _pyramid_graph)):
        for operator in layer.OPERATORS.values():
            rule = _rule(operator, graph.apply, layer.check_metadata)
            torch.library.register_vmap(f"roidl::{operator.name}", rule, lib=LIBRARY)
    torch.library.register_vmap("roidl::assign_levels", _levels_rule, lib=LIBRARY)
