"""The derivatives of every operator by other operators: a closed system, so of every order.

The average is linear in the input: with A its forward, the backward is A^T, and the gradient to the
boxes is B(g, x), bilinear. Forward mode along the boxes is T(x, t), the transpose of B in g; T^T is
the transpose of B in x. The max modes select: their derivatives are linear with the selection
fixed. Second derivatives along the boxes are not offered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ._library import Arguments, MapShape

Tensor = Any
Apply = Callable[..., Any]  # (name, leader, boxes, batch_indices, other, extra, params)
Parts = tuple[Any, Any, Any]  # what belongs to the leader, the boxes and `other`
Flags = tuple[bool, bool, bool]


class Rule(NamedTuple):
    """The derivatives of one operator."""

    # (apply, arguments, shape of the map, gradient of the result, which are needed) -> gradients
    pull: Callable[[Apply, Arguments, MapShape, Tensor, Flags], Parts]
    # (apply, arguments, tangents) -> the parts of the result's tangent
    push: Callable[[Apply, Arguments, Parts], Parts]
    # Whose derivative there is not, when the mode is the average, and when it is another.
    lacks_in_avg: Flags = (False, False, False)
    lacks_in_max: Flags = (False, False, False)

    def lacks(self, params: Any) -> Flags:
        return self.lacks_in_max if params.mode != AVG else self.lacks_in_avg


AVG = 0  # of RoIAlign; RoIPool's rules are the same for both of its modes
_ONLY_BOXES = (False, True, False)
_ALL = (True, True, True)


def zeros_like(tensor: Tensor) -> Tensor:
    """Zeros that take no memory; of a tuple of maps, for each."""
    if isinstance(tensor, tuple):
        return tuple(map(zeros_like, tensor))
    return tensor.new_zeros(()).expand(tensor.shape)


def _selection(call: Arguments, input: Tensor) -> Tensor | None:
    """The input where the derivative to it depends on it: in the max modes."""
    return None if call.params.mode == AVG else input


# RoIAlign -----------------------------------------------------------------------------------------


def _align_along_input(apply: Apply, call: Arguments, tangent: Tensor, input: Tensor) -> Tensor:
    if call.params.mode == AVG:
        return apply("roi_align", tangent, *call[1:3], None, (), call.params)
    return apply("roi_align_jvp", tangent, *call[1:3], input, (), call.params)


def _align_pull(apply: Apply, call: Arguments, map: MapShape, g: Tensor, needs: Flags) -> Parts:
    x, boxes, indices, _, _, p = call
    grad_input = grad_boxes = None
    if needs[0]:
        grad_input = apply("roi_align_backward", g, boxes, indices, _selection(call, x), map, p)
    if needs[1]:
        grad_boxes = apply("roi_align_backward_boxes", g, boxes, indices, x, (), p)
    return grad_input, grad_boxes, None


def _align_push(apply: Apply, call: Arguments, tangents: Parts) -> Parts:
    x, boxes, indices, _, _, p = call
    tx, tb, _ = tangents
    by_input = None if tx is None else _align_along_input(apply, call, tx, x)
    by_boxes = None
    if tb is not None:
        by_boxes = apply("roi_align_jvp_boxes", x, boxes, indices, tb, (), p)
    return by_input, by_boxes, None


def _backward_pull(apply: Apply, call: Arguments, map: MapShape, c: Tensor, needs: Flags) -> Parts:
    g, boxes, indices, x, _, p = call
    by_g = _align_along_input(apply, call, c, x) if needs[0] else None
    by_boxes = None
    if needs[1]:
        by_boxes = apply("roi_align_backward_boxes", g, boxes, indices, c, (), p)
    return by_g, by_boxes, zeros_like(x) if needs[2] else None


def _backward_push(apply: Apply, call: Arguments, tangents: Parts) -> Parts:
    g, boxes, indices, x, map, p = call
    tg, tb, _ = tangents
    by_g = by_boxes = None
    if tg is not None:
        by_g = apply("roi_align_backward", tg, boxes, indices, x, map, p)
    if tb is not None:
        by_boxes = apply("roi_align_jvp_boxes_backward", g, boxes, indices, tb, map, p)
    return by_g, by_boxes, None


def _jvp_pull(apply: Apply, call: Arguments, map: MapShape, g: Tensor, needs: Flags) -> Parts:
    t, boxes, indices, x, _, p = call
    by_t = by_boxes = None
    if needs[0]:
        by_t = apply("roi_align_backward", g, boxes, indices, _selection(call, x), map, p)
    if needs[1]:
        by_boxes = apply("roi_align_backward_boxes", g, boxes, indices, t, (), p)
    return by_t, by_boxes, zeros_like(x) if needs[2] else None


def _jvp_push(apply: Apply, call: Arguments, tangents: Parts) -> Parts:
    t, boxes, indices, x, _, p = call
    tt, tb, _ = tangents
    by_t = None if tt is None else _align_along_input(apply, call, tt, x)
    by_boxes = None
    if tb is not None:
        by_boxes = apply("roi_align_jvp_boxes", t, boxes, indices, tb, (), p)
    return by_t, by_boxes, None


# B(g, x), T(x, t) and T^T(g, t) are bilinear: each derivative is one of the others.


def _bilinear_push(name: str) -> Callable[[Apply, Arguments, Parts], Parts]:
    def push(apply: Apply, call: Arguments, tangents: Parts) -> Parts:
        leader, boxes, indices, other, extra, p = call
        by_leader = by_other = None
        if tangents[0] is not None:
            by_leader = apply(name, tangents[0], boxes, indices, other, extra, p)
        if tangents[2] is not None:
            by_other = apply(name, leader, boxes, indices, tangents[2], extra, p)
        return by_leader, None, by_other

    return push


def _to_boxes_pull(apply: Apply, call: Arguments, map: MapShape, t: Tensor, needs: Flags) -> Parts:
    g, boxes, indices, x, _, p = call
    by_g = by_x = None
    if needs[0]:
        by_g = apply("roi_align_jvp_boxes", x, boxes, indices, t, (), p)
    if needs[2]:
        by_x = apply("roi_align_jvp_boxes_backward", g, boxes, indices, t, map, p)
    return by_g, None, by_x


def _along_pull(apply: Apply, call: Arguments, map: MapShape, g: Tensor, needs: Flags) -> Parts:
    x, boxes, indices, t, _, p = call
    by_x = by_t = None
    if needs[0]:
        by_x = apply("roi_align_jvp_boxes_backward", g, boxes, indices, t, map, p)
    if needs[2]:
        by_t = apply("roi_align_backward_boxes", g, boxes, indices, x, (), p)
    return by_x, None, by_t


def _along_backward_pull(
    apply: Apply, call: Arguments, map: MapShape, c: Tensor, needs: Flags
) -> Parts:
    g, boxes, indices, t, _, p = call
    by_g = by_t = None
    if needs[0]:
        by_g = apply("roi_align_jvp_boxes", c, boxes, indices, t, (), p)
    if needs[2]:
        by_t = apply("roi_align_backward_boxes", g, boxes, indices, c, (), p)
    return by_g, None, by_t


# RoIPool: linear with the argmax fixed, and piecewise constant in the boxes -----------------------


def _pool_pull(apply: Apply, call: Arguments, map: MapShape, g: Tensor, needs: Flags) -> Parts:
    _, boxes, indices, argmax, _, p = call
    by_leader = None
    if needs[0]:
        by_leader = apply("roi_pool_backward", g, boxes, indices, argmax, map, p)
    return by_leader, zeros_like(boxes) if needs[1] else None, None


def _pool_push(apply: Apply, call: Arguments, tangents: Parts) -> Parts:
    _, boxes, indices, argmax, _, p = call
    if tangents[0] is None:
        return None, None, None
    return apply("roi_pool_jvp", tangents[0], boxes, indices, argmax, (), p), None, None


def _pool_backward_pull(
    apply: Apply, call: Arguments, map: MapShape, c: Tensor, needs: Flags
) -> Parts:
    _, boxes, indices, argmax, _, p = call
    by_g = apply("roi_pool_jvp", c, boxes, indices, argmax, (), p) if needs[0] else None
    return by_g, zeros_like(boxes) if needs[1] else None, None


def _pool_backward_push(apply: Apply, call: Arguments, tangents: Parts) -> Parts:
    _, boxes, indices, argmax, map, p = call
    if tangents[0] is None:
        return None, None, None
    return apply("roi_pool_backward", tangents[0], boxes, indices, argmax, map, p), None, None


RULES = {
    "roi_align": Rule(_align_pull, _align_push),
    "roi_align_backward": Rule(_backward_pull, _backward_push, lacks_in_max=_ONLY_BOXES),
    "roi_align_backward_boxes": Rule(
        _to_boxes_pull, _bilinear_push("roi_align_backward_boxes"), _ONLY_BOXES, _ALL
    ),
    "roi_align_jvp": Rule(_jvp_pull, _jvp_push, lacks_in_max=_ONLY_BOXES),
    "roi_align_jvp_boxes": Rule(
        _along_pull, _bilinear_push("roi_align_jvp_boxes"), _ONLY_BOXES, _ALL
    ),
    "roi_align_jvp_boxes_backward": Rule(
        _along_backward_pull, _bilinear_push("roi_align_jvp_boxes_backward"), _ONLY_BOXES, _ALL
    ),
    "roi_pool": Rule(_pool_pull, _pool_push),
    "roi_pool_backward": Rule(_pool_backward_pull, _pool_backward_push),
    "roi_pool_jvp": Rule(_pool_pull, _pool_push),
}
