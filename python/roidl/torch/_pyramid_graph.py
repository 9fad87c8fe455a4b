"""The operators on several maps in autograd's graph, with the derivatives of those on one.

The rules of `_derivatives` hold as they stand: maps are tuples of tensors, and what is said of
the boxes travels where one map has batch indices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from .._core import answering_signals
from .._params import POOL_MODES
from ._calls import _NotOffered
from ._derivatives import AVG, RULES
from ._library import LIBRARY, Tensor, own_error
from ._pyramid import OPERATORS, OVERLOADS, PREFIX, Arguments, PyramidParams, Rows, map_shapes

_functorch_is_active = torch._C._are_functorch_transforms_active


class Frame(NamedTuple):
    """A call without its tensors, and how these are laid out one after the other.

    The leader, the boxes, their rows' three, and the other; a number of maps, or None for what is
    one tensor or nothing.
    """

    leaders: int | None
    others: int | None
    extra: tuple[Any, ...]
    params: PyramidParams

    def split(self, flat: Sequence[Any]) -> tuple[Any, Any, Rows, Any]:
        """Leader, boxes, rows and other of what there is for every tensor."""
        at = 1 if self.leaders is None else self.leaders
        leader = flat[0] if self.leaders is None else tuple(flat[:at])
        last = flat[at + 4 :]
        return (
            leader,
            flat[at],
            Rows(*flat[at + 1 : at + 4]),
            (last[0] if self.others is None else tuple(last)),
        )

    def call(self, flat: Sequence[Any]) -> Arguments:
        return Arguments(*self.split(flat), self.extra, self.params)


def _each(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _framed(call: Arguments) -> tuple[Frame, tuple[Any, ...]]:
    counts = [len(part) if isinstance(part, tuple) else None for part in (call.leader, call.other)]
    flat = (*_each(call.leader), call.boxes, *call.rows, *_each(call.other))
    return Frame(counts[0], counts[1], call.extra, call.params), flat


def _filled(tangent: Any, like: Any) -> Any:
    """None if no map moves; else zeros for those that do not."""
    if not isinstance(tangent, tuple) or all(each is None for each in tangent):
        return None if isinstance(tangent, tuple) else tangent
    pairs = zip(tangent, like, strict=True)
    return tuple(torch.zeros_like(map) if each is None else each for each, map in pairs)


def _sum(parts: Sequence[Any]) -> Any:
    total: Any = None
    for part in parts:
        if part is None or total is None:
            total = part if total is None else total
        elif isinstance(part, (tuple, list)):
            total = [a + b for a, b in zip(total, part, strict=True)]
        else:
            total = total + part
    return total


def _run_kernel(name: str, call: Arguments) -> Any:
    """The result without a graph; the kernel's errors as Python's own."""
    try:
        with torch._C._AutoDispatchBelowAutograd():
            result = answering_signals(OVERLOADS[name], *OPERATORS[name].flat(call))
    except RuntimeError as error:
        raise own_error(OPERATORS[name].name, error) from None
    return tuple(result) if isinstance(result, list) else result


def _node(name: str) -> type[_SingleLevelFunction]:
    """The operator as a node of the graph; its arguments: a Frame, `outer`, and all tensors."""
    rule, operator, pools = RULES[name], OPERATORS[name], name == "roi_pool"
    makes_maps = operator.base.result == "map"

    class Node(_SingleLevelFunction):  # type: ignore[misc]
        @staticmethod
        def forward(frame: Frame, outer: tuple[bool, bool] | None, *flat: Any) -> Any:
            call = frame.call(flat)
            if outer is None:
                return _run_kernel(name, call)
            # autograd.Function has switched them off, for the other levels of functorch, too.
            with torch.set_grad_enabled(outer[0]), forward_ad._set_fwd_grad_enabled(outer[1]):
                return _run_kernel(name, call)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            frame, _, *flat = inputs
            call = frame.call(flat)
            ctx.set_materialize_grads(False)
            if pools:
                pooled, argmax = output
                ctx.mark_non_differentiable(argmax)
                call = call._replace(other=argmax if frame.extra[0] else None)
                ctx.shapes = [pooled.shape]
            else:
                ctx.shapes = [part.shape for part in _each(output)]
            ctx.maps = map_shapes(operator, call)
            _, to_boxes, _, to_other = frame.split(ctx.needs_input_grad[2:])
            selects = name == "roi_align" and frame.params.mode != AVG
            ctx.frame, all_tensors = _framed(call)
            ctx.save_for_forward(*all_tensors)
            # What is linear in the leader does not need its values for the gradient to it.
            if not (to_boxes or any(_each(to_other)) or selects):
                nothing = (None,) * len(call.leader) if operator.reads_maps else None
                all_tensors = _framed(call._replace(leader=nothing))[1]
            ctx.save_for_backward(*all_tensors)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            frame = ctx.frame
            given = grads[:1] if pools else grads
            known = [grad for grad in given if grad is not None]
            if not known:
                return (None,) * len(ctx.needs_input_grad)
            grad = given[0]
            if makes_maps:
                pairs = zip(given, ctx.shapes, strict=True)
                grad = tuple(known[0].new_zeros(s) if g is None else g for g, s in pairs)
            to_leader, to_boxes, _, to_other = frame.split(ctx.needs_input_grad[2:])
            needs = any(_each(to_leader)), to_boxes, any(_each(to_other))
            if needs[1] or needs[2]:
                lacks = rule.lacks(frame.params)
                needs = (
                    needs[0] and not lacks[0],
                    needs[1] and not lacks[1],
                    needs[2] and not lacks[2],
                )
            call = frame.call(ctx.saved_tensors)
            by_leader, by_boxes, by_other = rule.pull(apply, call, ctx.maps, grad, needs)
            results = []
            for result, part in ((by_leader, call.leader), (by_other, call.other)):
                nothing = (None,) * len(_each(part))
                listed = isinstance(result, (tuple, list))
                results.append(nothing if result is None else result if listed else (result,))
            return None, None, *results[0], by_boxes, None, None, None, *results[1]

        @staticmethod
        def jvp(ctx: Any, _: None, __: None, *tangents: Any) -> Any:
            call = ctx.frame.call(ctx.saved_tensors)
            leader, boxes, _, other = ctx.frame.split(tangents)
            moves = _filled(leader, call.leader), boxes, _filled(other, call.other)
            total = _sum(rule.push(apply, call, moves))
            if total is None:  # piecewise constant in what moves
                like = call.boxes if operator.base.result == "boxes" else _each(call.leader)[0]
                total = tuple(like.new_zeros(shape) for shape in ctx.shapes)
                total = total if makes_maps else total[0]
            if makes_maps:
                return tuple(total)
            return (total, None) if pools else total

    Node.__name__ = Node.__qualname__ = PREFIX + name
    return Node


_APPLY: dict[str, Callable[..., Any]] = {name: _node(name).apply for name in OPERATORS}


def _fence(name: str, call: Arguments) -> Arguments:
    """Let a derivative that is not offered fail, but only when somebody asks for it."""
    lacks = RULES[name].lacks(call.params)
    mode = "" if call.params.mode == AVG else " in the max modes"
    sentence = f"{PREFIX}{name}: second derivatives along the boxes{mode} are not implemented"

    def fenced(value: Any, lacking: bool) -> Any:
        if isinstance(value, tuple):
            return tuple(fenced(each, lacking) for each in value)
        if not lacking or value is None or not value.is_floating_point():
            return value
        return _NotOffered.apply(value, sentence)

    leader, boxes, other = (
        fenced(value, lacking)
        for value, lacking in zip((call.leader, call.boxes, call.other), lacks, strict=True)
    )
    return call._replace(leader=leader, boxes=boxes, other=other)


def _run_graph(name: str, call: Arguments, outer: tuple[bool, bool] | None = None) -> Any:
    """The result, with its node in the graph; `outer` as in `_calls`."""
    if name == "roi_pool":  # the graph needs the argmax, whoever else does
        call = call._replace(extra=(call.params.mode == POOL_MODES["max"],))
    frame, flat = _framed(_fence(name, call))
    return _APPLY[name](frame, outer, *flat)


def _needs_graph(call: Arguments) -> bool:
    if forward_ad._current_level >= 0:
        return True
    if not torch.is_grad_enabled():
        return False
    _, flat = _framed(call)
    return any(tensor is not None and tensor.requires_grad for tensor in flat)


def apply(
    name: str,
    leader: Tensor | tuple[Tensor, ...],
    boxes: Tensor,
    rows: Rows,
    other: Tensor | tuple[Tensor, ...] | None,
    extra: tuple[Any, ...],
    params: PyramidParams,
) -> Any:
    """Call an operator on several maps; its name is that of the operator on one."""
    if isinstance(leader, list):
        leader = tuple(leader)
    result = OVERLOADS[name](
        *OPERATORS[name].flat(Arguments(leader, boxes, rows, other, extra, params))
    )
    return tuple(result) if isinstance(result, list) else result


def _register() -> None:
    for name, operator in OPERATORS.items():

        def kernel(*flat: Any, name: str = name, operator: Any = operator) -> Any:
            call = operator.unflat(flat)
            if _functorch_is_active():
                # As in _calls: the dispatcher has peeled off all levels but one.
                outer = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
                with enable_single_level_autograd_function():
                    result = _run_graph(name, call, outer)
            elif _needs_graph(call):
                result = _run_graph(name, call)
            else:
                result = _run_kernel(name, call)
            if operator.base.result == "map":
                return list(result)
            if isinstance(result, tuple) and not call.extra[0]:
                return result[0], result[1].new_empty((0,))  # an argmax where it was asked for
            return result

        LIBRARY.impl(operator.name, kernel, "Autograd")


_register()
