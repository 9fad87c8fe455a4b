"""The front end of the operators on several maps: calls of `roidl` on tensors, differentiable."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.overrides import handle_torch_function, has_torch_function

from .. import _core, _multiscale
from .._arrays import run_like_leader
from .._multiscale import LevelsCall
from .._params import Call, front_end
from . import _front, _pyramid
from ._front import _join, as_tensor, check_given, may_be_kept
from ._library import Tensor
from ._pyramid import PREFIX, PyramidParams, Rows
from ._pyramid_graph import apply


def _run_levels(call: LevelsCall) -> Any:
    def levels_of(boxes: Any) -> Tensor:
        boxes = as_tensor(boxes, kept=False)
        if not isinstance(boxes, torch.Tensor):
            _core.check_array(call.op, "boxes", boxes)  # it says what is wrong
        check_given(call.op, boxes=boxes)
        return _pyramid.assign_levels(boxes, call.pyramid)

    if isinstance(call.boxes, (list, tuple)):
        return [levels_of(boxes) for boxes in call.boxes]
    return levels_of(call.boxes)


def _arguments(call: Call) -> dict[str, Any]:
    """The keywords of the public function that `call` was made of."""
    assert call.pyramid is not None
    names = _front._arguments(call) | call.pyramid._asdict() | {"inputs": list(call.arguments[0])}
    del names["input"], names["spatial_scale"]
    return names


def _refuse_dtensors(op: str, tensors: tuple[Any, ...]) -> None:
    """DTensor has no way to say how a list of results is sharded."""
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed and any(isinstance(each, distributed.DTensor) for each in tensors):
        raise NotImplementedError(
            f"{op}: DTensors are not implemented for several maps; pass what to_local() gives"
        )


def run(call: Call | LevelsCall) -> Any:
    """Run one call on tensors."""
    if isinstance(call, LevelsCall):
        return _run_levels(call)
    pyramid, boxes = call.pyramid, call.boxes
    assert pyramid is not None
    if call.out is not None:
        return run_like_leader(call)
    many = isinstance(boxes, (list, tuple))
    asked = (*call.arguments[0], *(boxes if many else [boxes]))
    if not all(type(each) is torch.Tensor for each in asked):
        _refuse_dtensors(call.op, asked)
    if many or has_torch_function(asked):
        check_given(call.op, input=call.arguments[0], boxes=boxes)
    if has_torch_function(asked):
        return handle_torch_function(PUBLIC[call.op], asked, **_arguments(call))
    kept = may_be_kept(asked)
    inputs = tuple([as_tensor(each, kept) for each in call.arguments[0]])
    indices = as_tensor(call.batch_indices, kept)
    levels, counts = as_tensor(pyramid.levels, kept), as_tensor(pyramid.counts, kept)
    boxes = [as_tensor(each, kept) for each in boxes] if many else as_tensor(boxes, kept)
    given = [*inputs, *(boxes if many else [boxes])]
    given += [each for each in (indices, levels, counts) if each is not None]
    tensors = all(isinstance(each, torch.Tensor) for each in given)
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
PUBLIC = {
    "multiscale_roi_align": multiscale_roi_align,
    "multiscale_roi_pool": multiscale_roi_pool,
}
