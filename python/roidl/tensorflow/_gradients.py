"""The gradients of the operators, of every order, as TensorFlow finds them: by the name of a node.

With the boxes b, RoIAlign is linear in its input x; a gradient g goes back by its transpose
`backward`; `backward_boxes` is linear in g and in x; `jvp_boxes` is the derivative along a
direction t of the boxes, linear in x and t. The derivatives of each are others of these. Forward
mode needs nothing of its own: TensorFlow transposes the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from .._params import ALIGN_MODES
from ._operators import ALIGN_FIELDS, ops
from ._refusals import undefined, zero_along

Tensor = Any

SECOND_ORDER = "roi_align: second derivatives along the boxes are not implemented"
MAX_ORDER = (
    "roi_align: forward mode and second derivatives along the boxes are implemented for mode "
    "'avg' only"
)
NO_GRADIENT = "roi_align: mode 'max_onnx' has no gradient to the boxes"


def _is_needed(op: Any, place: int) -> bool | None:
    """Whether the gradient to an input is asked for; None: a graph does not say.

    An integer has no gradient.
    """
    if not op.inputs[place].dtype.is_floating:
        return False
    skipped = getattr(op, "skip_input_indices", None)
    return None if skipped is None else place not in skipped


def _if_needed(op: Any, place: int, make: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    return None if _is_needed(op, place) is False else make(*arguments)


class _Align:
    """A node of RoIAlign's: its rest, shared with all nodes of its derivatives."""

    def __init__(self, op: Any, boxes: int, grid: int) -> None:
        self.op, self.place = op, boxes
        self.boxes = op.inputs[boxes]
        self.rest = op.inputs[grid], list(op.inputs[grid + 1 :])
        self.attributes = {"params": op.get_attr("params")}
        self.mode = self.attributes["params"][ALIGN_FIELDS.index("mode")]
        self.none_for_rest = [None] * (len(op.inputs) - grid)

    def forward(self, x: Tensor) -> Tensor:
        return ops.roidl_roi_align(x, self.boxes, *self.rest, **self.attributes)

    def backward(self, g: Tensor, x: Tensor) -> Tensor:
        return ops.roidl_roi_align_backward(g, x, self.boxes, *self.rest, **self.attributes)

    def jvp(self, t: Tensor, x: Tensor) -> Tensor:
        if self.mode == ALIGN_MODES["avg"]:
            return self.forward(t)
        return ops.roidl_roi_align_jvp(t, x, self.boxes, *self.rest, **self.attributes)

    def backward_boxes(self, g: Tensor, x: Tensor) -> Tensor:
        return ops.roidl_roi_align_backward_boxes(g, x, self.boxes, *self.rest, **self.attributes)

    def jvp_boxes(self, x: Tensor, t: Tensor) -> Tensor:
        return ops.roidl_roi_align_jvp_boxes(x, self.boxes, t, *self.rest, **self.attributes)

    def jvp_boxes_backward(self, g: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return ops.roidl_roi_align_jvp_boxes_backward(
            g, x, self.boxes, t, *self.rest, **self.attributes
        )

    def to_boxes(self, g: Tensor, x: Tensor) -> Tensor:
        """The gradient to the boxes of <g, roi_align(x)>."""
        needed = _is_needed(self.op, self.place)
        if needed is False:
            return None
        if self.mode == ALIGN_MODES["max_onnx"]:
            return undefined(NO_GRADIENT, self.boxes, [g, x], needed)
        return self.backward_boxes(g, x)

    def refused(self, sentence: str, *operands: Tensor) -> Tensor:
        """In the place of a gradient to the boxes that is not there."""
        needed = _is_needed(self.op, self.place)
        return None if needed is False else undefined(sentence, self.boxes, [*operands], needed)


def _of_roi_align(op: Any, g: Tensor) -> list[Tensor]:
    x, _ = op.inputs[:2]
    node = _Align(op, 1, 2)
    return [
        _if_needed(op, 0, node.backward, g, x),
        node.to_boxes(g, x),
        *node.none_for_rest,
    ]


# The average does not depend on x but for its shape, and the maxima do only where they change:
# there the gradient to x is None.


def _of_roi_align_backward(op: Any, t: Tensor) -> list[Tensor]:
    g, x, _ = op.inputs[:3]
    node = _Align(op, 2, 3)
    average = node.mode == ALIGN_MODES["avg"]
    return [
        _if_needed(op, 0, node.jvp, t, x),
        None,
        node.to_boxes(g, t) if average else node.refused(MAX_ORDER, g, t),
        *node.none_for_rest,
    ]


def _of_roi_align_jvp(op: Any, g: Tensor) -> list[Tensor]:
    t, x, _ = op.inputs[:3]
    node = _Align(op, 2, 3)
    return [
        _if_needed(op, 0, node.backward, g, x),
        None,
        node.refused(MAX_ORDER, g, t),
        *node.none_for_rest,
    ]


def _of_roi_align_backward_boxes(op: Any, t: Tensor) -> list[Tensor]:
    g, x, _ = op.inputs[:3]
    node = _Align(op, 2, 3)
    if node.mode != ALIGN_MODES["avg"]:
        return [
            _if_needed(op, 0, zero_along, MAX_ORDER, t, g),
            _if_needed(op, 1, zero_along, MAX_ORDER, t, x),
            node.refused(MAX_ORDER, t, g, x),
            *node.none_for_rest,
        ]
    return [
        _if_needed(op, 0, node.jvp_boxes, x, t),
        _if_needed(op, 1, node.jvp_boxes_backward, g, x, t),
        node.refused(SECOND_ORDER, t, g, x),
        *node.none_for_rest,
    ]


def _of_roi_align_jvp_boxes(op: Any, g: Tensor) -> list[Tensor]:
    x, _, t = op.inputs[:3]
    node = _Align(op, 1, 3)
    return [
        _if_needed(op, 0, node.jvp_boxes_backward, g, x, t),
        node.refused(SECOND_ORDER, g, x, t),
        _if_needed(op, 2, node.backward_boxes, g, x),
        *node.none_for_rest,
    ]


def _of_roi_align_jvp_boxes_backward(op: Any, c: Tensor) -> list[Tensor]:
    g, _, _, t = op.inputs[:4]
    node = _Align(op, 2, 4)
    return [
        _if_needed(op, 0, node.jvp_boxes, c, t),
        None,
        node.refused(SECOND_ORDER, c, g, t),
        _if_needed(op, 3, node.backward_boxes, g, c),
        *node.none_for_rest,
    ]


# RoIPool: piecewise constant in the boxes, linear in its input where the maxima stay --------------


class _Pool:
    """A node of RoIPool's."""

    def __init__(self, op: Any, boxes: int, grid: int, argmax: list[Tensor]) -> None:
        self.op, self.place = op, boxes
        self.boxes, self.grid, self.argmax = op.inputs[boxes], op.inputs[grid], argmax
        self.attributes = {"params": op.get_attr("params")}
        number = op.get_attr("num_indices")
        self.indices = list(op.inputs[len(op.inputs) - number :])
        self.none_for_rest = [None] * (len(op.inputs) - grid)

    def backward(self, g: Tensor, x: Tensor) -> Tensor:
        lists = self.argmax, self.indices
        return ops.roidl_roi_pool_backward(g, x, self.boxes, self.grid, *lists, **self.attributes)

    def jvp(self, t: Tensor) -> Tensor:
        lists = self.argmax, self.indices
        return ops.roidl_roi_pool_jvp(t, self.boxes, self.grid, *lists, **self.attributes)

    def to_boxes(self) -> Tensor:
        return _if_needed(self.op, self.place, tf.zeros_like, self.boxes)


def _of_roi_pool(op: Any, g: Tensor, *of_argmax: Tensor) -> list[Tensor]:
    node = _Pool(op, 1, 2, list(op.outputs[1:]))
    to_input = _if_needed(op, 0, node.backward, g, op.inputs[0])
    return [to_input, node.to_boxes(), *node.none_for_rest]


def _argmax_after(op: Any, grid: int) -> list[Tensor]:
    return list(op.inputs[grid + 1 : grid + 1 + op.get_attr("num_argmax")])


def _of_roi_pool_backward(op: Any, t: Tensor) -> list[Tensor]:
    node = _Pool(op, 2, 3, _argmax_after(op, 3))
    return [_if_needed(op, 0, node.jvp, t), None, node.to_boxes(), *node.none_for_rest]


def _of_roi_pool_jvp(op: Any, g: Tensor) -> list[Tensor]:
    node = _Pool(op, 1, 2, _argmax_after(op, 2))
    to_input = _if_needed(op, 0, node.backward, g, op.inputs[0])
    return [to_input, node.to_boxes(), *node.none_for_rest]


_GRADIENTS = {
    "RoidlRoiAlign": _of_roi_align,
    "RoidlRoiAlignBackward": _of_roi_align_backward,
    "RoidlRoiAlignJvp": _of_roi_align_jvp,
    "RoidlRoiAlignBackwardBoxes": _of_roi_align_backward_boxes,
    "RoidlRoiAlignJvpBoxes": _of_roi_align_jvp_boxes,
    "RoidlRoiAlignJvpBoxesBackward": _of_roi_align_jvp_boxes_backward,
    "RoidlRoiPool": _of_roi_pool,
    "RoidlRoiPoolBackward": _of_roi_pool_backward,
    "RoidlRoiPoolJvp": _of_roi_pool_jvp,
}
for _name, _function in _GRADIENTS.items():
    tf.RegisterGradient(_name)(_function)
