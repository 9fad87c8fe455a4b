"""The front end: calls of `roidl` on tensors, brought into the operators' form and run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function

from .. import _core, _multiscale
from .._array_libraries import ADAPTED, check_dense
from .._multiscale import LevelsCall
from .._numpy import run_like_leader
from .._operators import FAMILIES, operator_of
from .._params import Call, choices_of, front_end
from .._public import FORWARD
from . import _levels
from ._arguments import OPERATORS, Arguments, Tensor
from ._calls import apply
from ._direct import shorten
from ._shapes import check_device, check_devices, check_storage, metadata

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
    columns = OPERATORS[op].row.family.columns
    listed = all(each.dim() == 2 and each.shape[1] == columns for each in boxes)
    dtypes = {each.dtype for each in boxes}
    unlike = len(dtypes) > 1 or len(boxes) != input.shape[0] or len(boxes) == 0
    if not listed or input.dim() != 4 or unlike:
        shape = tuple(input.shape)
        _core.check_box_list(op, [metadata(each) for each in boxes], shape[0] if shape else 0)
        if not boxes:
            return input.new_empty((0, columns)), None
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


PAIRS = {"output": "output_size", "sampling": "sampling_ratio"}  # of a height and a width


def _keywords(call: Call) -> dict[str, Any]:
    """Of the public function that `call` was made of."""
    operator, choices = operator_of(call.op), choices_of(call.op)
    given: dict[str, Any] = {"boxes": call.boxes, "batch_indices": call.batch_indices}
    if call.pyramid is None:
        given["input"] = call.leader
    else:
        given |= call.pyramid._asdict() | {"inputs": list(call.arguments[0])}
    optional = [write.name for write in operator.writes if write.optional]
    made = call.arguments[len(operator.reads) :]
    given |= {f"return_{name}": flag for name, flag in zip(optional, made, strict=True)}
    for name, value in call.params._asdict().items():
        start, _, axis = name.rpartition("_")
        if name in choices:
            given[name] = next(word for word, n in choices[name].items() if n == value)
        elif axis == "height":
            given[PAIRS[start]] = value, getattr(call.params, f"{start}_width")
        elif axis != "width" and not (call.pyramid and name == "spatial_scale"):
            given[name] = value
    return given


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


def _tell_dtensor() -> None:
    """Tell DTensor, which takes long to import, of the operators once somebody uses it."""
    if "torch.distributed.tensor" in sys.modules:
        from . import _dtensor  # noqa: F401


_meet_subclass = torch._dynamo.assume_constant_result(_tell_dtensor)  # done while it is traced


def _meet_subclasses(op: str, several: bool, tensors: Sequence[Any]) -> None:
    if not several:
        _meet_subclass()
        return
    # DTensor has no way to say how a list of results is sharded.
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed and any(isinstance(each, distributed.DTensor) for each in tensors):
        raise NotImplementedError(
            f"{op}: DTensors are not implemented for several maps; pass what to_local() gives"
        )


def _are_tensors(values: Sequence[Any]) -> bool:
    return all(isinstance(each, torch.Tensor) for each in values)


def run(call: Call) -> Any:
    """Run one call on tensors."""
    op, params, boxes, indices, out, _, arguments, pyramid = call
    if out is not None:
        return run_like_leader(call)
    several, first, make = pyramid is not None, arguments[0], arguments[1:]
    maps: tuple[Any, ...] = (first,)
    levels = counts = None
    rule: tuple[Any, ...] = ()
    if pyramid is not None:
        maps, levels, counts, rule = tuple(first), pyramid.levels, pyramid.counts, pyramid[:3]
    many = isinstance(boxes, (list, tuple))
    asked = (*maps, *boxes) if many else (*maps, boxes)
    plain = True
    for each in asked:
        if type(each) is not torch.Tensor:
            plain = False
    if not plain:
        _meet_subclasses(op, several, asked)
    if has_torch_function(asked):
        check_given(op, input=first, boxes=boxes)
        return handle_torch_function(PUBLIC[op], asked, **_keywords(call))
    said = [each for each in (indices, levels, counts) if each is not None]
    if (said or not plain) and not _are_tensors((*asked, *said)):
        kept = may_be_kept(asked)
        if several or isinstance(maps[0], torch.Tensor):
            maps = tuple([as_tensor(each, kept) for each in maps])
            boxes = [as_tensor(each, kept) for each in boxes] if many else as_tensor(boxes, kept)
            indices, levels = as_tensor(indices, kept), as_tensor(levels, kept)
            counts = as_tensor(counts, kept)
        said = [each for each in (indices, levels, counts) if each is not None]
        if not _are_tensors((*maps, *(boxes if many else [boxes]), *said)):
            with torch.no_grad():
                return run_like_leader(call)  # it says what is wrong
    if many:
        if indices is not None:
            with torch.no_grad():
                return run_like_leader(call)  # it says that both are too much
        check_given(op, input=maps if several else maps[0], boxes=boxes)
        boxes, indices = _join(op, boxes, maps[0])
    operator, reads = OPERATORS[op], (maps if several else maps[0],)
    read = Arguments(reads, boxes, indices, levels, counts, None, make, rule, params)
    if said or (not many and boxes.device != maps[0].device):
        check_devices(operator, read)
    result = apply(operator, read)
    if not make:
        return result
    if True not in make:
        return result[0]
    made = zip(result[-len(make) :], make, strict=True)
    return (result[0], *[each for each, asked_for in made if asked_for])


def run_levels(call: LevelsCall) -> Any:
    """Run one call of `assign_levels` on tensors."""

    def levels_of(boxes: Any) -> Tensor:
        boxes = as_tensor(boxes, kept=False)
        if not isinstance(boxes, torch.Tensor):
            _core.check_array(call.op, "boxes", boxes)  # it says what is wrong
        check_given(call.op, boxes=boxes)
        return _levels.assign_levels(boxes, call.pyramid)

    if isinstance(call.boxes, (list, tuple)):
        return [levels_of(boxes) for boxes in call.boxes]
    return levels_of(call.boxes)


_adapt = front_end(run)
_SHORT = {name: shorten(name, _adapt(FORWARD[name])) for name in FAMILIES}
PUBLIC: dict[str, Callable[..., Any]] = {
    **{name: _adapt(describe) for name, describe in FORWARD.items()},
    **_SHORT,
    "assign_levels": front_end(run_levels)(_multiscale.assign_levels),
}


def run_first(call: Call) -> Any:
    """Run a call that came by `roidl`'s functions; they come here directly from now on."""
    if not _is_compiling():  # it guards what it reads, and would compile again
        ADAPTED[torch.Tensor] = _SHORT
    return run(call)
