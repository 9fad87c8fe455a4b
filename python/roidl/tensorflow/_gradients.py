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

from .._params import ALIGN_MODES, POOL_MODES
from ._operators import ALIGN_FIELDS, NO_ARGMAX, POOL_FIELDS, ops, read_params
from ._refusals import undefined, zero_along

Tensor = Any
Maps = list[Tensor]  # one tensor for every map, be there one or several

SECOND_ORDER = "second derivatives along the boxes are not implemented"
MAX_ORDER = (
    "forward mode and second derivatives along the boxes are implemented for mode 'avg' only"
)
NO_GRADIENT = "mode 'max_onnx' has no gradient to the boxes"


class _Node:
    """A node of ours: its parameters, boxes and lists are those of all nodes of its derivatives.

    Its inputs are boxes, grid, what is the operator's own, once or twice the maps, and lists.
    """

    def __init__(self, op: Any, fields: tuple[str, ...], own: int, slots: int = 1) -> None:
        self.op, self.params = op, op.get_attr("params")
        self.several = op.type.startswith("RoidlMultiscale")
        self.mode, maps = read_params(fields, self.params)
        maps = maps if self.several else 1
        inputs = list(op.inputs)
        self.boxes, self.grid = inputs[:2]
        self.own = inputs[2 : 2 + own]
        starts = [2 + own + slot * maps for slot in range(slots + 1)]
        self.slots = [inputs[first : first + maps] for first in starts[:-1]]
        self.maps = range(starts[-2], starts[-1])  # the places of the last slot
        names = ("num_indices", "num_levels", "num_counts")
        self.lists, start = [], starts[-1]
        for name in names if self.several else names[:1]:
            count = op.get_attr(name)
            self.lists.append(inputs[start : start + count])
            start += count
        self.none_for_lists = [None] * (len(inputs) - starts[-1])

    def make(self, name: str, own: list[Tensor], *slots: Maps) -> Any:
        """Another operator on the same boxes."""
        function = getattr(ops, f"roidl_multiscale_{name}" if self.several else f"roidl_{name}")
        maps = slots if self.several else [one for (one,) in slots]
        return function(self.boxes, self.grid, *own, *maps, *self.lists, params=self.params)

    def make_maps(self, name: str, own: list[Tensor], *slots: Maps) -> Maps:
        """The same where there is a result for every map."""
        result = self.make(name, own, *slots)
        return list(result) if self.several else [result]

    def needs(self, place: int) -> bool | None:
        """Whether the gradient to an input is asked for; None: a graph does not say.

        An integer has no gradient, and nothing flows past tf.stop_gradient.
        """
        input = self.op.inputs[place]
        if not input.dtype.is_floating:
            return False
        skipped = getattr(self.op, "skip_input_indices", None)
        if skipped is not None:
            return place not in skipped
        return False if input.op.type in ("StopGradient", "Const") else None

    def if_needed(self, place: int, make: Callable[..., Tensor], *arguments: Any) -> Tensor:
        return None if self.needs(place) is False else make(*arguments)

    def maps_if_needed(self, make: Callable[..., Maps], *arguments: Any) -> list[Tensor | None]:
        """The gradients to the last slot."""
        if all(self.needs(place) is False for place in self.maps):
            return [None] * len(self.maps)
        return list(make(*arguments))

    def gradients(
        self, to_boxes: Tensor, to_own: list[Tensor], *to_maps: list[Tensor]
    ) -> list[Tensor]:
        """In the order of the inputs."""
        parts = [each for slot in to_maps for each in slot]
        return [to_boxes, None, *to_own, *parts, *self.none_for_lists]

    @property
    def no_maps(self) -> list[Tensor]:
        """In the place of the gradients to maps: what depends on their shapes alone, as the average
        does, or on where they change, as the maxima do.
        """
        return [None] * len(self.maps)


# RoIAlign -----------------------------------------------------------------------------------------


class _Align(_Node):
    def __init__(self, op: Any, own: int, slots: int = 1) -> None:
        super().__init__(op, ALIGN_FIELDS, own, slots)
        self.average = self.mode == ALIGN_MODES["avg"]
        prefix = "multiscale_roi_align" if self.several else "roi_align"
        self.second_order = f"{prefix}: {SECOND_ORDER}"
        self.max_order = f"{prefix}: {MAX_ORDER}"
        self.no_gradient = f"{prefix}: {NO_GRADIENT}"

    def backward(self, g: Tensor, x: Maps) -> Maps:
        return self.make_maps("roi_align_backward", [g], x)

    def jvp(self, t: Maps, x: Maps) -> Tensor:
        if self.average:
            return self.make("roi_align", [], t)
        return self.make("roi_align_jvp", [], t, x)

    def backward_boxes(self, g: Tensor, x: Maps) -> Tensor:
        return self.make("roi_align_backward_boxes", [g], x)

    def jvp_boxes(self, t: Tensor, x: Maps) -> Tensor:
        return self.make("roi_align_jvp_boxes", [t], x)

    def jvp_boxes_backward(self, g: Tensor, t: Tensor, x: Maps) -> Maps:
        return self.make_maps("roi_align_jvp_boxes_backward", [g, t], x)

    def to_boxes(self, g: Tensor, x: Maps) -> Tensor:
        """The gradient to the boxes of <g, roi_align(x)>."""
        if self.mode == ALIGN_MODES["max_onnx"]:
            return self.refused(self.no_gradient, g, *x)
        return self.if_needed(0, self.backward_boxes, g, x)

    def refused(self, sentence: str, *operands: Tensor) -> Tensor:
        """In the place of a gradient to the boxes that is not there."""
        needed = self.needs(0)
        return None if needed is False else undefined(sentence, self.boxes, [*operands], needed)


def _of_roi_align(op: Any, g: Tensor) -> list[Tensor]:
    node = _Align(op, 0)
    (x,) = node.slots
    return node.gradients(node.to_boxes(g, x), [], node.maps_if_needed(node.backward, g, x))


def _of_roi_align_backward(op: Any, *t: Tensor) -> list[Tensor]:
    node = _Align(op, 1)
    (g,), (x,) = node.own, node.slots
    to_boxes = node.to_boxes(g, [*t]) if node.average else node.refused(node.max_order, g, *t)
    return node.gradients(to_boxes, [node.if_needed(2, node.jvp, [*t], x)], node.no_maps)


def _of_roi_align_jvp(op: Any, g: Tensor) -> list[Tensor]:
    node = _Align(op, 0, 2)
    t, x = node.slots
    to_boxes = node.refused(node.max_order, g, *t)
    return node.gradients(to_boxes, [], node.backward(g, x), node.no_maps)


def _of_roi_align_backward_boxes(op: Any, t: Tensor) -> list[Tensor]:
    node = _Align(op, 1)
    (g,), (x,) = node.own, node.slots
    if not node.average:
        zeros = [
            node.if_needed(place, zero_along, node.max_order, t, each)
            for place, each in zip(node.maps, x, strict=True)
        ]
        to_g = node.if_needed(2, zero_along, node.max_order, t, g)
        return node.gradients(node.refused(node.max_order, t, g, *x), [to_g], zeros)
    return node.gradients(
        node.refused(node.second_order, t, g, *x),
        [node.if_needed(2, node.jvp_boxes, t, x)],
        node.maps_if_needed(node.jvp_boxes_backward, g, t, x),
    )


def _of_roi_align_jvp_boxes(op: Any, g: Tensor) -> list[Tensor]:
    node = _Align(op, 1)
    (t,), (x,) = node.own, node.slots
    return node.gradients(
        node.refused(node.second_order, g, t, *x),
        [node.if_needed(2, node.backward_boxes, g, x)],
        node.maps_if_needed(node.jvp_boxes_backward, g, t, x),
    )


def _of_roi_align_jvp_boxes_backward(op: Any, *c: Tensor) -> list[Tensor]:
    node = _Align(op, 2)
    g, t = node.own
    to_g = node.if_needed(2, node.jvp_boxes, t, [*c])
    to_t = node.if_needed(3, node.backward_boxes, g, [*c])
    to_boxes = node.refused(node.second_order, *c, g, t)
    return node.gradients(to_boxes, [to_g, to_t], node.no_maps)


# RoIPool: piecewise constant in the boxes, linear in its input where the maxima stay --------------


class _Pool(_Node):
    def __init__(self, op: Any, own: int) -> None:
        super().__init__(op, POOL_FIELDS, own)
        self.to_boxes = self.if_needed(0, tf.zeros_like, self.boxes)

    def backward(self, g: Tensor, argmax: Tensor, x: Maps) -> Maps:
        return self.make_maps("roi_pool_backward", [g, argmax], x)

    def jvp(self, argmax: Tensor, t: Maps) -> Tensor:
        return self.make("roi_pool_jvp", [argmax], t)


def _of_roi_pool(op: Any, g: Tensor) -> list[Tensor]:
    node = _Pool(op, 0)
    (x,) = node.slots
    argmax = NO_ARGMAX if node.mode == POOL_MODES["avg"] else node.make("roi_pool_argmax", [], x)[1]
    return node.gradients(node.to_boxes, [], node.maps_if_needed(node.backward, g, argmax, x))


def _of_roi_pool_argmax(op: Any, g: Tensor, _: Tensor) -> list[Tensor]:
    node = _Pool(op, 0)
    (x,), argmax = node.slots, op.outputs[1]
    return node.gradients(node.to_boxes, [], node.maps_if_needed(node.backward, g, argmax, x))


def _of_roi_pool_backward(op: Any, *t: Tensor) -> list[Tensor]:
    node = _Pool(op, 2)
    _, argmax = node.own
    return node.gradients(
        node.to_boxes, [node.if_needed(2, node.jvp, argmax, [*t]), None], node.no_maps
    )


def _of_roi_pool_jvp(op: Any, g: Tensor) -> list[Tensor]:
    node = _Pool(op, 1)
    (argmax,), (t,) = node.own, node.slots
    return node.gradients(node.to_boxes, [None], node.maps_if_needed(node.backward, g, argmax, t))


_GRADIENTS = {
    "RoiAlign": _of_roi_align,
    "RoiAlignBackward": _of_roi_align_backward,
    "RoiAlignJvp": _of_roi_align_jvp,
    "RoiAlignBackwardBoxes": _of_roi_align_backward_boxes,
    "RoiAlignJvpBoxes": _of_roi_align_jvp_boxes,
    "RoiAlignJvpBoxesBackward": _of_roi_align_jvp_boxes_backward,
    "RoiPool": _of_roi_pool,
    "RoiPoolArgmax": _of_roi_pool_argmax,
    "RoiPoolBackward": _of_roi_pool_backward,
    "RoiPoolJvp": _of_roi_pool_jvp,
}
for _name, _function in _GRADIENTS.items():
    tf.RegisterGradient(f"Roidl{_name}")(_function)
    tf.RegisterGradient(f"RoidlMultiscale{_name}")(_function)
tf.no_gradient("RoidlAssignLevels")  # which map a box belongs to counts as a constant
