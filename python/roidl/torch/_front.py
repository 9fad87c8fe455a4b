"""The front end: a call of `roidl` on tensors, brought into the operators' form and run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function

from .. import _core, _ops
from .._arrays import run_like_leader
from .._libraries import ADAPTED, check_dense
from .._params import ALIGN_MODES, LAYOUTS, POOL_MODES, Call, RoiAlignParams, front_end
from ._calls import apply
from ._direct import shorten
from ._library import Tensor, check_device, check_storage, metadata

_is_compiling = torch.compiler.is_compiling
_functorch_is_active = torch._C._are_functorch_transforms_active


def check_given(op: str, **given: Any) -> None:
    """Refuse tensors that are not dense before lists and subclasses stumble over them."""
    for name, value in given.items():
        many = isinstance(value, (list, tuple))
        for i, each in enumerate(value if many else [value]):
            if isinstance(each, torch.Tensor):
                check_dense(op, f"{name}[{i}]" if many else name, each)


def _join(op: str, boxes: Sequence[Tensor], input: Tensor) -> tuple[Tensor, Tensor | None]:
    """One tensor [K, 4] and its batch indices from one tensor [L, 4] per image."""
    listed = all(each.dim() == 2 and each.shape[1] == 4 for each in boxes)
    dtypes = {each.dtype for each in boxes}
    unlike = len(dtypes) > 1 or len(boxes) != input.shape[0] or len(boxes) == 0
    if not listed or input.dim() != 4 or unlike:
        shape = tuple(input.shape)
        _core.check_box_list(op, [metadata(each) for each in boxes], shape[0] if shape else 0)
        if not boxes:
            return input.new_empty((0, 4)), None
    for n, each in enumerate(boxes):
        check_device(op, "boxes", each, input)
        check_storage(op, f"boxes[{n}]", each)
    if len(boxes) == 1:
        return boxes[0], None
    if len(dtypes) > 1:
        # As the core joins them; promotion would keep bfloat16 and lose digits of integers.
        wide = torch.float64 if torch.float64 in dtypes else torch.float32
        boxes = [each.to(wide) for each in boxes]
    counts = [
        torch.full((each.shape[0],), n, dtype=torch.int32, device=each.device)
        for n, each in enumerate(boxes)
    ]
    return torch.cat(tuple(boxes)), torch.cat(counts)


def _arguments(call: Call) -> dict[str, Any]:
    """The keywords of the public function that `call` was made of."""
    params, modes = call.params, POOL_MODES
    names: dict[str, Any] = {"input": call.leader, "boxes": call.boxes}
    names["output_size"] = (params.output_height, params.output_width)
    names["spatial_scale"] = params.spatial_scale
    if isinstance(params, RoiAlignParams):
        modes = ALIGN_MODES
        names["sampling_ratio"] = (params.sampling_height, params.sampling_width)
        names["aligned"] = params.aligned
    else:
        names["return_argmax"] = call.arguments[1]
    names["mode"] = next(name for name, number in modes.items() if number == params.mode)
    names["layout"] = next(name for name, number in LAYOUTS.items() if number == params.layout)
    return names | {"batch_indices": call.batch_indices}


def may_be_kept(values: Sequence[Any]) -> bool:
    """Whether a graph may remember the arguments of a call, these among them."""
    if _is_compiling() or _functorch_is_active() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(
        isinstance(each, torch.Tensor) and each.requires_grad for each in values
    )


def as_tensor(value: Any, kept: bool) -> Any:
    """A tensor of another library's array; what is no array, and None, as it is.

    PyTorch knows when a tensor that it has `kept` was written to, but not when an array was: of
    that it has a copy.
    """
    if isinstance(value, torch.Tensor) or value is None:
        return value
    if _is_compiling() and isinstance(value, np.ndarray):  # the compiler knows no other way
        return torch.as_tensor(value).clone()
    if not hasattr(type(value), "__dlpack__"):
        return value
    tensor = torch.from_dlpack(value)
    return tensor.clone() if kept else tensor


def _run_mixed(call: Call) -> Any:
    """A call in which not everything is a tensor."""
    boxes, indices, input = call.boxes, call.batch_indices, call.leader
    many = isinstance(boxes, (list, tuple))
    if isinstance(input, torch.Tensor):
        kept = may_be_kept([input, *boxes] if many else [input, boxes])
        indices = as_tensor(indices, kept)
        boxes = [as_tensor(each, kept) for each in boxes] if many else as_tensor(boxes, kept)
    given = [input, *(boxes if many else [boxes])]
    given += [] if indices is None else [indices]
    if not all(isinstance(each, torch.Tensor) for each in given):
        return run_like_leader(call)  # it says what is wrong
    return run(call._replace(boxes=boxes, batch_indices=indices))


def _tell_dtensor() -> None:
    """Tell DTensor, which takes long to import, of the operators once somebody uses it."""
    if "torch.distributed.tensor" in sys.modules:
        from . import _dtensor  # noqa: F401


_meet_subclass = torch._dynamo.assume_constant_result(_tell_dtensor)  # done while it is traced


def run(call: Call) -> Any:
    """Run one call on tensors."""
    op, params, boxes, indices, out, input, arguments, _ = call
    if out is not None:
        return run_like_leader(call)
    if type(input) is not torch.Tensor:
        _meet_subclass()
    many = isinstance(boxes, (list, tuple))
    tensors = (input, *boxes) if many else (input, boxes)
    if has_torch_function(tensors):
        check_given(op, input=input, boxes=boxes)
        return handle_torch_function(PUBLIC[op], tensors, **_arguments(call))
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            return _run_mixed(call)
    if indices is not None and not isinstance(indices, torch.Tensor):
        return _run_mixed(call)
    if many:
        if indices is not None:
            return run_like_leader(call)  # it says that both are too much
        check_given(op, input=input, boxes=boxes)
        boxes, indices = _join(op, boxes, input)
    elif boxes.device != input.device or indices is not None:
        check_device(op, "boxes", boxes, input)
        check_device(op, "batch_indices", indices, input)
    if op == "roi_align":
        return apply(op, input, boxes, indices, None, (), params)
    return_argmax = arguments[1]
    pooled, argmax = apply(op, input, boxes, indices, None, (return_argmax,), params)
    return (pooled, argmax) if return_argmax else pooled


_adapt = front_end(run)
roi_align = shorten("roi_align", _adapt(_ops.roi_align))
roi_pool = shorten("roi_pool", _adapt(_ops.roi_pool))
PUBLIC = {"roi_align": roi_align, "roi_pool": roi_pool}


def run_first(call: Call) -> Any:
    """Run a call that came by `roidl`'s functions; they come here directly from now on."""
    if not _is_compiling():  # it guards what it reads, and would compile again
        ADAPTED[torch.Tensor] = PUBLIC
    return run(call)
