"""Checks of parameters and of shapes that are known in part, as while a graph is traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _core
from ._params import RoiAlignParams, RoiPoolParams

Params = RoiAlignParams | RoiPoolParams
Sizes = Sequence[int | None]  # None where a size is not known yet
Metadata = tuple[Sizes, str]  # and the name of the dtype


def check_params(op: str, params: Params) -> None:
    """Raise the core's error of parameters that are wrong for any arrays."""
    nothing = (1, 1, 1, 1), "float32"
    _core.result_shape(op, params._asdict(), nothing, ((0, 5), "float32"), None)


def check_known(
    op: str, params: Params, input: Metadata, boxes: Metadata, indices: Metadata | None
) -> None:
    """Raise the core's error of a call if what is known of its shapes is wrong, or a type is."""
    given = [each for each in (input, boxes, indices) if each is not None]
    fitting = _that_fit(input[0], boxes[0], indices and indices[0])
    filled: Any = [(sizes, name) for sizes, (_, name) in zip(fitting, given, strict=False)]
    try:
        _core.result_shape(op, params._asdict(), *filled, *[None] * (3 - len(filled)))
    except ValueError as error:
        if not any(None in sizes for sizes, _ in given):
            raise
        known = ", ".join(str(list(sizes)) for sizes, _ in given)
        raise ValueError(f"{error} (what is known of the shapes: {known})") from None


def check_known_list(op: str, boxes: Sequence[Metadata], images: int | None) -> None:
    """As `check_known`, of a list of boxes; `images` is how many there are, if that is known."""
    filled: Any = [(_filled(sizes, [0, 4]), name) for sizes, name in boxes]
    _core.check_box_list(op, filled, len(filled) if images is None else images)


def known_result(params: Params, input: Sizes, boxes: Sizes) -> tuple[int | None, ...]:
    """What is known of the shape of a result; `boxes` are rows or grouped by image."""
    bins = params.output_height, params.output_width
    channels = input[3 if params.layout else 1]
    tail = (*bins, channels) if params.layout else (channels, *bins)
    return (*boxes[:-1], *tail)


def _that_fit(input: Sizes, boxes: Sizes, indices: Sizes | None) -> list[Sizes]:
    """The same sizes, with some that fit where they are not known.

    As many images as there are groups of boxes, or one; no boxes.
    """
    grouped = len(boxes) == 3
    images = input[0] if input and input[0] is not None else boxes[0] if grouped else 1
    input = _filled(input, [1 if images is None else images, 1, 1, 1])
    if grouped:
        boxes = _filled(boxes, [input[0] if input else 0, 0, 4])
    else:
        count = indices[0] if indices else 0
        boxes = _filled(boxes, [count or 0, 5 if indices is None else 4])
    if indices is None:
        return [input, boxes]
    return [input, boxes, _filled(indices, [boxes[0] if boxes else 0])]


def _filled(sizes: Sizes, instead: Sizes) -> Sizes:
    return [
        (instead[axis] if axis < len(instead) else 0) if size is None else size
        for axis, size in enumerate(sizes)
    ]
