"""The front end of the operators on several maps: calls of `roidl` on tensors, differentiable."""

from __future__ import annotations

from typing import Any

import torch

from .. import _core, _multiscale
from .._arrays import run_like_leader
from .._multiscale import LevelsCall
from .._params import Call, front_end
from . import _pyramid
from ._front import _as_tensor, _join
from ._library import Tensor
from ._pyramid import PREFIX, PyramidParams, Rows
from ._pyramid_graph import apply


def _run_levels(call: LevelsCall) -> Any:
    def levels_of(boxes: Any) -> Tensor:
        boxes = _as_tensor(boxes)
        if not isinstance(boxes, torch.Tensor):
            _core.check_array(call.op, "boxes", boxes)  # it says what is wrong
        return _pyramid.assign_levels(boxes, call.pyramid)

    if isinstance(call.boxes, (list, tuple)):
        return [levels_of(boxes) for boxes in call.boxes]
    return levels_of(call.boxes)


def run(call: Call | LevelsCall) -> Any:
    """Run one call on tensors."""
    if isinstance(call, LevelsCall):
        return _run_levels(call)
    pyramid, indices, boxes = call.pyramid, _as_tensor(call.batch_indices), call.boxes
    assert pyramid is not None
    inputs = tuple(map(_as_tensor, call.arguments[0]))
    levels, counts = _as_tensor(pyramid.levels), _as_tensor(pyramid.counts)
    many = isinstance(boxes, (list, tuple))
    boxes = [_as_tensor(each) for each in boxes] if many else _as_tensor(boxes)
    given = [*inputs, *(boxes if many else [boxes])]
    given += [each for each in (indices, levels, counts) if each is not None]
    tensors = all(isinstance(each, torch.Tensor) for each in given)
    if call.out is not None:
        return run_like_leader(call)
    if not tensors or (many and indices is not None):
        with torch.no_grad():
            return run_like_leader(call)  # it says what is wrong
    if many:
        boxes, indices = _join(call.op, boxes, inputs[0])
    rows = Rows(indices, levels, counts)
    params = PyramidParams(call.params, *pyramid[:3])
    name = call.op.removeprefix(PREFIX)
    if name == "roi_align":
        return apply(name, inputs, boxes, rows, None, (), params)
    return_argmax = call.arguments[1]
    pooled, argmax = apply(name, inputs, boxes, rows, None, (return_argmax,), params)
    return (pooled, argmax) if return_argmax else pooled


_adapt = front_end(run)
multiscale_roi_align = _adapt(_multiscale.multiscale_roi_align)
multiscale_roi_pool = _adapt(_multiscale.multiscale_roi_pool)
assign_levels = _adapt(_multiscale.assign_levels)
