"""`torch.vmap`: the examples become images of one call, their boxes rows of one list.

Batch indices are carried as integers, each checked against its own example's images before it is
shifted to where these lie: no index reaches into another example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ._calls import apply
from ._library import LIBRARY, OPERATORS, Arguments, MapShape, Operator, Tensor, check_metadata

Dims = tuple[int | None, ...]
NOWHERE = -1  # the index of no image: the core refuses it


def _first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The mapped axis in front; a view of one example stands for all where there is none."""
    if dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor.movedim(dim, 0)


def _example(call: Arguments, dims: Dims) -> Arguments:
    """The call of the first example."""
    leader, boxes, indices, other = (
        part if dim is None else part.select(dim, 0)
        for part, dim in zip(call[:4], dims, strict=True)
    )
    return Arguments(leader, boxes, indices, other, call.extra, call.params)


def _images(operator: Operator, example: Arguments) -> Any:
    if operator.takes_shape:
        return example.extra[0]
    map: Any = example.leader if operator.leader[1] == "map" else example.other
    return map.shape[0]


def _local_indices(boxes: Tensor, indices: Tensor | None, example: Arguments, n: Any) -> Tensor:
    """The image of each box among its own example's `n`, [B, K], or NOWHERE."""
    if indices is None and example.boxes.dim() == 2 and example.boxes.shape[1] == 5:
        indices = boxes[..., 0]
    if indices is not None:
        # Of any number type: what is no whole number, a NaN included, belongs to no image.
        whole = (indices >= 0) & (indices < n) & (indices == indices.floor())
        return torch.where(whole, indices, NOWHERE).to(torch.int64)
    places = torch.arange(n, device=boxes.device)
    per_image = example.boxes.shape[-2]
    if example.boxes.dim() == 3:
        places = places.repeat_interleave(per_image)
    else:  # there is one image
        places = places.expand(per_image)
    return places.expand(boxes.shape[0], *places.shape)


def _rule(name: str) -> Callable[..., Any]:
    operator = OPERATORS[name]

    def rule(info: Any, in_dims: Dims, *flat: Any) -> Any:
        call, size = operator.unflat(flat), info.batch_size
        dims = (*in_dims[:3], None if operator.other is None else in_dims[3])
        example = _example(call, dims)
        check_metadata(operator, example)  # in the words of one example
        form, n = example.boxes.shape, _images(operator, example)
        rows = form[-2] if example.boxes.dim() == 2 else form[0] * form[1]
        lead = form[:-1]

        def folded(tensor: Tensor | None, dim: int | None, part: str) -> Tensor | None:
            if tensor is None or (part == "map" and not folds):
                return tensor
            tensor = _first(tensor, dim, size)
            if part == "boxes":
                return tensor[..., -4:].reshape(size * rows, 4)
            count = n if part == "map" else rows
            return tensor.reshape(size * count, *tensor.shape[-3:])

        parts = (operator.leader[1], None if operator.other is None else operator.other[1])
        maps = [dim for part, dim in zip(parts, (dims[0], dims[3]), strict=True) if part == "map"]
        # One map for all the examples is read where it is.
        folds = operator.result == "map" or any(dim is not None for dim in maps)
        boxes = _first(call.boxes, dims[1], size)
        indices = call.batch_indices
        if indices is not None:
            indices = _first(indices, dims[2], size)
        indices = _local_indices(boxes, indices, example, n)
        if folds:
            offset = n * torch.arange(size, device=boxes.device)[:, None]
            indices = torch.where(indices == NOWHERE, NOWHERE, indices + offset)
        extra = call.extra
        if operator.takes_shape:
            extra = MapShape(size * n, *extra[1:])
        result = apply(
            name,
            folded(call.leader, dims[0], parts[0]),
            boxes[..., -4:].reshape(size * rows, 4),
            indices.reshape(size * rows),
            folded(call.other, dims[3], parts[1] or ""),
            extra,
            call.params,
        )
        if operator.result == "map":
            return result.reshape(size, n, *result.shape[1:]), 0
        if operator.result == "boxes":
            if form[-1] == 5:  # nothing to the batch column
                result = torch.nn.functional.pad(result, (1, 0))
            return result.reshape(size, *form), 0
        if name != "roi_pool":
            return result.reshape(size, *lead, *result.shape[1:]), 0
        pooled, argmax = result
        shape = (size, *lead, *pooled.shape[1:])
        if not call.extra[0]:
            return (pooled.reshape(shape), argmax), (0, None)
        return (pooled.reshape(shape), argmax.reshape(shape)), (0, 0)

    return rule


def register() -> None:
    for name in OPERATORS:
        torch.library.register_vmap(f"roidl::{name}", _rule(name), lib=LIBRARY)
