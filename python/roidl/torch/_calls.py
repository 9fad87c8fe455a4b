"""How an operator is called: the cheapest way that keeps every derivative somebody asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from .._core import answering_signals
from .._params import LAYOUTS, POOL_MODES
from ._derivatives import AVG, RULES
from ._library import (
    LIBRARY,
    OPERATORS,
    OVERLOADS,
    Arguments,
    MapShape,
    Params,
    Tensor,
    has_channels_last,
    own_error,
)

_below_autograd = torch._C._AutoDispatchBelowAutograd
_functorch_is_active = torch._C._are_functorch_transforms_active
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled

# The kernel -------------------------------------------------------------------------------------


def _run_kernel(name: str, call: Arguments) -> Any:
    """The result without a graph; the kernel's errors as Python's own."""
    try:
        with _below_autograd():
            return answering_signals(OVERLOADS[name], *OPERATORS[name].flat(call))
    except RuntimeError as error:
        raise own_error(name, error) from None


# The graph --------------------------------------------------------------------------------------
# Nodes know one level of functorch: the dispatcher takes care of the others, as for PyTorch's own.


class _NotOffered(_SingleLevelFunction):  # type: ignore[misc]
    """The identity, standing before an argument whose derivative there is not."""

    @staticmethod
    def forward(tensor: Tensor, sentence: str) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        ctx.sentence = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise NotImplementedError(ctx.sentence)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Any:
        raise NotImplementedError(ctx.sentence)


def _sentence(name: str, params: Params) -> str:
    mode = "" if params.mode == AVG else " in the max modes"
    return f"{name}: second derivatives along the boxes{mode} are not implemented"


def _fence(name: str, call: Arguments) -> Arguments:
    """Let a derivative that is not offered fail, but only when somebody asks for it."""
    lacks = RULES[name].lacks(call.params)
    if True not in lacks:
        return call
    sentence = _sentence(name, call.params)

    def fenced(tensor: Tensor | None, lacking: bool) -> Tensor | None:
        if not lacking or tensor is None or not tensor.is_floating_point():
            return tensor
        return _NotOffered.apply(tensor, sentence)

    return call._replace(
        leader=fenced(call.leader, lacks[0]),
        boxes=fenced(call.boxes, lacks[1]),
        other=fenced(call.other, lacks[2]),
    )


def _map_shape(name: str, call: Arguments) -> MapShape:
    """The shape of the map that the operator reads or makes."""
    if OPERATORS[name].takes_shape:
        return MapShape(*call.extra)
    map, layout = call.leader, call.params.layout
    if OPERATORS[name].leader[1] != "map":
        map = call.other
    n, c_or_h, h_or_w, w_or_c = map.shape
    if layout != LAYOUTS["NCHW"]:
        return MapShape(n, c_or_h, h_or_w, False)
    return MapShape(n, h_or_w, w_or_c, has_channels_last(map, layout))


def _node(name: str) -> type[_SingleLevelFunction]:
    """The operator as a node of autograd's graph; its arguments: Arguments, `outer`."""
    rule, pools = RULES[name], name == "roi_pool"

    class Node(_SingleLevelFunction):  # type: ignore[misc]
        @staticmethod
        def forward(
            ctx: Any,
            leader: Tensor,
            boxes: Tensor,
            indices: Tensor | None,
            other: Tensor | None,
            extra: tuple[Any, ...],
            params: Params,
            outer: tuple[bool, bool] | None,
        ) -> Any:
            call = Arguments(leader, boxes, indices, other, extra, params)
            if outer is None:
                result = _run_kernel(name, call)
            else:
                # autograd.Function has switched them off, for functorch's other levels, too.
                grad, forward_grad = outer
                with (
                    torch.set_grad_enabled(grad),
                    forward_ad._set_fwd_grad_enabled(forward_grad),
                ):
                    result = _run_kernel(name, call)
            ctx.set_materialize_grads(False)
            pooled = result
            if pools:
                pooled, argmax = result
                ctx.mark_non_differentiable(argmax)
                other = argmax if extra[0] else None
            ctx.rest = (extra, params, _map_shape(name, call), pooled.shape)
            needs = ctx.needs_input_grad
            # What is linear in the leader does not need its values for the gradient to it.
            selects = name == "roi_align" and params.mode != AVG
            kept = leader if needs[1] or needs[3] or selects else None
            ctx.save_for_backward(kept, boxes, indices, other)
            if forward_ad._current_level >= 0 or outer is not None:
                ctx.save_for_forward(leader, boxes, indices, other)
            return result

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None, *_: None) -> Any:
            if grad is None:
                return None, None, None, None, None, None, None
            leader, boxes, indices, other = ctx.saved_tensors
            extra, params, map, _ = ctx.rest
            call = Arguments(leader, boxes, indices, other, extra, params)
            to_leader, to_boxes, _, to_other, *_ = ctx.needs_input_grad
            if to_boxes or to_other:
                lacks = rule.lacks(params)
                to_leader = to_leader and not lacks[0]
                to_boxes = to_boxes and not lacks[1]
                to_other = to_other and not lacks[2]
            needs = to_leader, to_boxes, to_other
            by_leader, by_boxes, by_other = rule.pull(apply, call, map, grad, needs)
            return by_leader, by_boxes, None, by_other, None, None, None

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            extra, params, _, shape = ctx.rest
            leader, boxes, indices, other = ctx.saved_tensors
            call = Arguments(leader, boxes, indices, other, extra, params)
            parts = rule.push(apply, call, (tangents[0], tangents[1], tangents[3]))
            total = None
            for part in parts:
                if part is not None:
                    total = part if total is None else total + part
            if total is None:  # piecewise constant in what moves
                like = call.boxes if OPERATORS[name].result == "boxes" else call.leader
                total = like.new_zeros(shape)
            return (total, None) if pools else total

    Node.__name__ = Node.__qualname__ = name
    return Node


_APPLY: dict[str, Callable[..., Any]] = {name: _node(name).apply for name in OPERATORS}


def _needs_graph(call: Arguments) -> bool:
    if forward_ad._current_level >= 0:
        return True
    if not _is_grad_enabled():
        return False
    if call.leader.requires_grad or call.boxes.requires_grad:
        return True
    return call.other is not None and call.other.requires_grad


def _run_graph(name: str, call: Arguments, outer: tuple[bool, bool] | None = None) -> Any:
    """The result, with its node in the graph.

    `outer`: whether reverse and forward mode are on, for functorch's other levels.
    """
    if name != "roi_pool":
        return _APPLY[name](*_fence(name, call), outer)
    # The graph needs the argmax, whoever else does.
    selects = call.params.mode == POOL_MODES["max"]
    return _APPLY[name](*call._replace(extra=(selects or call.extra[0],)), outer)


def apply(
    name: str,
    leader: Tensor,
    boxes: Tensor,
    batch_indices: Tensor | None,
    other: Tensor | None,
    extra: tuple[Any, ...],
    params: Params,
) -> Any:
    """Call an operator."""
    call = Arguments(leader, boxes, batch_indices, other, extra, params)
    if _is_compiling() or _functorch_is_active():
        return OVERLOADS[name](*OPERATORS[name].flat(call))
    return (_run_graph if _needs_graph(call) else _run_kernel)(name, call)


def _as_the_schema_has_it(call: Arguments, result: Any) -> Any:
    """An argmax only where it was asked for."""
    if not isinstance(result, tuple) or call.extra[0]:
        return result
    return result[0], result[1].new_empty((0,))


def _register() -> None:
    for name, operator in OPERATORS.items():

        def kernel(*flat: Any, name: str = name, operator: Any = operator) -> Any:
            call = operator.unflat(flat)
            if not _functorch_is_active():
                if not _needs_graph(call):
                    return _run_kernel(name, call)
                return _as_the_schema_has_it(call, _run_graph(name, call))
            # The dispatcher has peeled off all levels but one, as for PyTorch's own operators;
            # whether that one wants a graph it does not always say.
            outer = _is_grad_enabled(), torch._C._is_fwd_grad_enabled()
            with enable_single_level_autograd_function():
                return _as_the_schema_has_it(call, _run_graph(name, call, outer))

        LIBRARY.impl(name, kernel, "Autograd")


_register()
