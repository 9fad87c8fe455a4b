"""The short way: calls on plain tensors of the CPU go to the compiled core, past the dispatcher.

A kernel of the dispatcher gets every number of the schema as an argument of its own, and for small
maps that costs more than the operator. Calls go this way only if the dispatcher would do nothing
else than call the CPU's kernel: on plain CPU tensors, without a mode, transform, tracer or
profiler.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch._C import DispatchKey, DispatchKeySet
from torch.autograd import forward_ad, profiler
from torch.autograd.function import _SingleLevelFunction

from .. import _core
from .._derivatives import mode_of
from .._params import choices_of
from ._arguments import OPERATORS, MapShapes, Tensor
from ._calls import apply
from ._derived import MOVED, Rest, derivative

_added_keys = torch._C._dispatch_tls_local_include_set
_num_function_modes = torch._C._len_torch_function_stack
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled

# What the dispatcher adds to the keys of every call, inside inference mode and outside. Whoever
# listens adds one more: modes, functorch, tracers.
_INFERENCE = DispatchKeySet(DispatchKey.BackendSelect)
_QUIET = frozenset((_INFERENCE.raw_repr(), _INFERENCE.add(DispatchKey.ADInplaceOrView).raw_repr()))


def is_quiet() -> bool:
    """Whether the dispatcher would do nothing else than call a kernel."""
    return (
        _added_keys().raw_repr() in _QUIET
        and _num_function_modes() == 0
        and forward_ad._current_level < 0
        and not profiler._is_profiler_enabled
    )


_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int32": torch.int32,
}


def _empty(shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype)


# What compiled graphs of PyTorch make their tensors with costs half as much.
_make = getattr(torch._C._dynamo.guards, "_empty_strided_cpu", _empty)


INPUT = 0  # among the values of a call


def _node(op: str, shortcut: Any) -> Callable[..., Tensor]:
    """The operator as a node of autograd's graph; its arguments: the tensors, the bound call."""
    operator = OPERATORS[op]
    # Of every mode: the derivative along the input, and which other value it reads.
    rules: list[tuple[Any, int | None]] = []
    for mode in range(max(len(operator.row.family.modes), 1)):
        found: Any = derivative(operator, operator.values[INPUT], mode, True)
        rules.append(
            (found, next((each for each in found.sources if each not in (None, MOVED)), None))
        )

    class Node(_SingleLevelFunction):  # type: ignore[misc]
        @staticmethod
        def forward(
            ctx: Any, input: Tensor, boxes: Tensor, indices: Tensor | None, call: Any
        ) -> Tensor:
            params = operator.params._make(call.params())
            _, place = rules[mode_of(params)]
            if place is None or place == INPUT:
                result, other = call.run(), None if place is None else input
            else:
                result, other = call.run(True)
            ctx.save_for_backward(boxes, indices, other)
            ctx.params, ctx.map = params, call.map_shape()
            return result

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            boxes, indices, other = ctx.saved_tensors
            params, map = ctx.params, ctx.map
            if not _is_compiling() and not _is_grad_enabled() and is_quiet():
                result = shortcut.backward(params, grad, boxes, indices, other, map)
                if result is not None:
                    return result, None, None, None
            found, place = rules[mode_of(params)]
            rest = Rest(MapShapes(map[0], map[1:3], map[3:]), (), params)
            values = {place: other}
            rows = boxes, indices, None, None
            result = apply(found.operator, found.arguments(values, grad, rows, rest))
            return result, None, None, None

    Node.__name__ = Node.__qualname__ = op
    return Node.apply  # type: ignore[no-any-return]


def shorten(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The public function of an operator, with the short way for the calls that it is for."""
    shortcut = _core.Shortcut(
        op,
        inspect.signature(function),
        torch.Tensor,
        _make,
        _DTYPES,
        choices_of(op),
        torch.get_num_threads,
        torch.Tensor.is_neg,
    )
    bind, node = shortcut.bind, _node(op, shortcut)

    @functools.wraps(function)
    def shortened(*args: Any, **kwargs: Any) -> Any:
        if not _is_compiling():
            call = bind(args, kwargs)
            if call is not None and is_quiet():
                input, boxes = call.input, call.boxes
                if not _is_grad_enabled() or not (input.requires_grad or boxes.requires_grad):
                    return call.run()
                if not (boxes.requires_grad or call.return_argmax):
                    return node(input, boxes, call.batch_indices, call)
        return function(*args, **kwargs)

    return shortened
