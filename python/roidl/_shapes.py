"""Checks of parameters and of shapes that are known in part, as while a graph is traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _core
from ._array_libraries import numpy_dtype
from ._operators import operator_of
from ._params import Params, Pyramid

Sizes = Sequence[int | None]  # None where a size is not known yet
Metadata = tuple[Sizes, str]  # and the name of the dtype

# kNoImage and kMostEncoded of src/boxes.h, by which errors tell what a wrong index was under vmap.
NO_IMAGE, MOST_ENCODED = -(2**30), 2**29


def shifted_indices(where: Any, indices: Any, first: Any, images: Any) -> Any:
    """Batch indices of examples whose images lie one after the other, from `first` on.

    A wrong index must not become another example's right one. `indices` are integers, NO_IMAGE for
    a number that is not whole; `where` is that of their library.
    """
    is_small = (indices > -MOST_ENCODED) & (indices < MOST_ENCODED)
    wrong = where(is_small, NO_IMAGE - indices, indices)
    return where((indices >= 0) & (indices < images), indices + first, wrong)


def check_params(op: str, params: Params | tuple[Any, ...]) -> None:
    """Raise the core's error of parameters that are wrong for any arrays."""
    nothing = (1, 0, 0, 0), "float32"
    _core.result_shape(op, params, nothing, ((0, 5), "float32"), None)


def check_known(
    op: str,
    params: Params,
    maps: Sequence[Metadata],
    boxes: Metadata,
    indices: Metadata | None,
    pyramid: Pyramid | None = None,
) -> None:
    """Raise the core's error of a call if what is known of its shapes is wrong, or a type is.

    The arrays of a pyramid are metadata, too; without one there is one map.
    """
    levels, counts = (None, None) if pyramid is None else (pyramid.levels, pyramid.counts)
    given = [*maps, boxes, indices, levels, counts]
    fitting = _that_fit(params, [each and each[0] for each in given])
    filled: Any = [each and (sizes, each[1]) for sizes, each in zip(fitting, given, strict=True)]
    *inputs, rows, images, levels, counts = filled
    if pyramid is not None:
        pyramid = pyramid._replace(levels=levels, counts=counts)
    leader = inputs[0] if pyramid is None else inputs
    try:
        _core.result_shape(op, params, leader, rows, images, pyramid)
    except ValueError as error:
        shapes = [each[0] for each in given if each is not None]
        if not any(None in sizes for sizes in shapes):
            raise
        known = ", ".join(str(list(sizes)) for sizes in shapes)
        raise ValueError(f"{error} (what is known of the shapes: {known})") from None


def check_known_list(op: str, boxes: Sequence[Metadata], images: int | None) -> None:
    """As `check_known`, of a list of boxes; `images` is how many there are, if that is known."""
    filled: Any = [(_filled(sizes, [0, 4]), name) for sizes, name in boxes]
    _core.check_box_list(op, filled, len(filled) if images is None else images)


def check_known_levels(op: str, pyramid: Pyramid, boxes: Metadata) -> None:
    """As `check_known`, of a call of `assign_levels`."""
    sizes, name = boxes
    shape: Any = _filled(sizes, [0, 0, 4] if len(sizes) == 3 else [0, 5])
    rows = np.zeros(shape, numpy_dtype(name))
    _core.assign_levels(op.encode(), rows, pyramid)


def known_result(op: str, params: Params, input: Sizes, boxes: Sizes) -> tuple[int | None, ...]:
    """What is known of the shape of a result; `boxes` are rows or grouped by image."""
    bins = params.output_height, params.output_width
    channels = input[3 if params.layout else 1]
    if channels is not None and operator_of(op).family.channels_per_bin:
        channels //= bins[0] * bins[1]
    tail = (*bins, channels) if params.layout else (channels, *bins)
    return (*boxes[:-1], *tail)


def _that_fit(params: Params, shapes: Sequence[Sizes | None]) -> list[Sizes | None]:
    """The same sizes, with some that fit where they are not known.

    Of the maps, the boxes, the batch indices, levels and counts: as many images as there are groups
    of boxes, or one; no boxes; as many channels as the first map has of which it is known, or bins.
    """
    *maps, boxes, indices, levels, counts = shapes
    assert boxes is not None
    grouped = len(boxes) == 3
    channel_axis = 3 if params.layout else 1
    owners: list[tuple[Sizes | None, int]] = [*((each, 0) for each in maps)]
    owners += [(boxes if grouped else None, 0), (counts, 0)]
    images = _first_known(owners)
    bins = params.output_height * params.output_width
    channels = _first_known([(each, channel_axis) for each in maps], bins)
    like = [images, channels, 1, 1] if channel_axis == 1 else [images, 1, 1, channels]
    inputs = [each and _filled(each, like) for each in maps]
    if grouped:
        first = inputs[0]
        rows = _first_known([(levels, 1)], 0)
        boxes = _filled(boxes, [first[0] if first else 0, rows, 4])
    else:
        count = _first_known([(indices, 0), (levels, 0)], 0)
        boxes = _filled(boxes, [count, 5 if indices is None else 4])
    return [
        *inputs,
        boxes,
        indices and _filled(indices, boxes[:1]),
        levels and _filled(levels, boxes[:-1]),
        counts and _filled(counts, [images]),
    ]


def _first_known(owners: Sequence[tuple[Sizes | None, int]], otherwise: int = 1) -> int:
    """The first size that is known along the axis of an array that has it."""
    for sizes, axis in owners:
        size = sizes[axis] if sizes is not None and axis < len(sizes) else None
        if size is not None:
            return size
    return otherwise


def _filled(sizes: Sizes, instead: Sizes) -> Sizes:
    return [
        (instead[axis] if axis < len(instead) else 0) if size is None else size
        for axis, size in enumerate(sizes)
    ]
