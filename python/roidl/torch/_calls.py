"""How an operator is called: the cheapest way that keeps every derivative somebody asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from .._core import answering_signals
from .._derivatives import BOXES, Refused, mode_of
from ._arguments import OPERATORS, Arguments, Operator, Tensor
from ._derived import Derivative, Rest, as_computed, derivative, gradients, needed_results, refused
from ._library import LIBRARY, OVERLOADS, own_error
from ._shapes import map_shapes

_below_autograd = torch._C._AutoDispatchBelowAutograd
_functorch_is_active = torch._C._are_functorch_transforms_active
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled

# The kernel -------------------------------------------------------------------------------------


def _run_kernel(operator: Operator, call: Arguments) -> Any:
    """The result without a graph; the kernel's errors as Python's own."""
    try:
        with _below_autograd():
            result = answering_signals(OVERLOADS[operator.name], *operator.flat(call))
    except RuntimeError as error:
        raise own_error(operator.name, error) from None
    return tuple(result) if type(result) is list else result


# The graph --------------------------------------------------------------------------------------
# Nodes know one level of functorch: the dispatcher takes care of the others, as for PyTorch's own.


class _NotOffered(_SingleLevelFunction):  # type: ignore[misc]
    """The identity, standing before an argument to which there is no gradient."""

    @staticmethod
    def forward(tensor: Tensor, backward: str, forward: str | None) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str, str | None], output: Tensor) -> None:
        _, ctx.backward_sentence, ctx.forward_sentence = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise NotImplementedError(ctx.backward_sentence)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None, __: None) -> Any:
        if ctx.forward_sentence is None:
            return tangent.view_as(tangent)
        raise NotImplementedError(ctx.forward_sentence)


def _fence(operator: Operator, call: Arguments, sentences: dict[str, Any]) -> Arguments:
    """Let a gradient that is not offered fail, but only when somebody asks for it."""

    def fenced(name: str, value: Any) -> Any:
        if name not in sentences or value is None:
            return value
        if isinstance(value, tuple):
            return tuple([fenced(name, each) for each in value])
        if not value.is_floating_point():
            return value
        return _NotOffered.apply(value, *sentences[name])

    return call._replace(
        reads=tuple([fenced(*each) for each in operator.named_reads(call).items()]),
        boxes=fenced(BOXES, call.boxes),
    )


# The tensors of a call lie one after the other in the arguments of its node: the reads, the boxes,
# batch_indices, levels and counts. With several maps, Counts has the number of tensors of each
# read; None: one tensor, or none.
Counts = tuple[int | None, ...]


def _flattened(reads: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    for read in reads:
        if isinstance(read, tuple):
            flat.extend(read)
        else:
            flat.append(read)
    return flat


def _split(counts: Counts, flat: Sequence[Any]) -> list[Any]:
    """The reads, of what there is for every tensor, and the rest as it is."""
    reads: list[Any] = []
    at = 0
    for count in counts:
        if count is None:
            reads.append(flat[at])
            at += 1
        else:
            reads.append(tuple(flat[at : at + count]))
            at += count
    return [*reads, *flat[at:]]


def _zeros_like(tensor: Any) -> Any:
    """Zeros that take no memory; of a tuple of maps, for each."""
    if isinstance(tensor, tuple):
        return tuple(map(_zeros_like, tensor))
    return tensor.new_zeros(()).expand(tensor.shape)


def _filled(tangent: Any, like: Any) -> Any:
    """None if no map moves; else zeros for those that do not."""
    if not isinstance(tangent, tuple):
        return tangent
    if all(each is None for each in tangent):
        return None
    pairs = zip(tangent, like, strict=True)
    return tuple(torch.zeros_like(map) if each is None else each for each, map in pairs)


def _add(total: Any, part: Any) -> Any:
    if total is None:
        return part
    if isinstance(part, tuple):
        return tuple(a + b for a, b in zip(total, part, strict=True))
    return total + part


def _node(operator: Operator) -> type[_SingleLevelFunction]:
    """The operator as a node of the graph; its arguments: the call, `outer`, all its tensors."""
    row, num_optional, several = operator.row, operator.num_optional, operator.several
    lists_maps = several and row.makes_maps
    num_reads = len(row.reads)  # the boxes are the next

    def compute(found: Derivative, split: Sequence[Any], moved: Any, rest: Rest) -> Any:
        values, rows = split, split[num_reads : num_reads + 4]
        if num_optional:
            values = (*split[: num_reads + 1], *split[-num_optional:])
        result = apply(found.operator, found.arguments(values, moved, rows, rest))
        return result[0] if found.operator.num_optional else result

    class Node(_SingleLevelFunction):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, call: Arguments, outer: tuple[bool, bool] | None, *flat: Any) -> Any:
            if outer is None:
                result = _run_kernel(operator, call)
            else:
                # autograd.Function has switched them off, for functorch's other levels, too.
                grad, forward_grad = outer
                with (
                    torch.set_grad_enabled(grad),
                    forward_ad._set_fwd_grad_enabled(forward_grad),
                ):
                    result = _run_kernel(operator, call)
            ctx.set_materialize_grads(False)
            reads, _, _, _, _, _, make, rule, params = call
            results = result if isinstance(result, tuple) else (result,)
            optional: list[Any] = []
            if num_optional:
                ctx.mark_non_differentiable(*results[-num_optional:])
                pairs = zip(results[-num_optional:], make, strict=True)
                optional = [each if made else None for each, made in pairs]
                results = results[:-num_optional]
            wanted, counts = ctx.needs_input_grad[2:], None
            if several:
                counts = tuple([len(each) if isinstance(each, tuple) else None for each in reads])
                split = _split(counts, wanted)
                wanted = tuple([any(to) if isinstance(to, tuple) else to for to in split])
            steps, kept = gradients(operator, mode_of(params), wanted[: num_reads + 1])
            saved: list[Any] = []
            for read, keep in zip(reads, kept, strict=True):
                if isinstance(read, tuple):
                    saved.extend(read if keep else [None] * len(read))
                else:
                    saved.append(read if keep else None)
            ctx.save_for_backward(*saved, *call[1:5], *optional)
            rest = Rest(map_shapes(operator, call), rule, params)
            ctx.rest = counts, steps, rest, [each.shape for each in results]
            if forward_ad._current_level >= 0 or outer is not None:
                ctx.save_for_forward(*flat, *optional)
            return result

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            counts, steps, rest, shapes = ctx.rest
            given = grads[: len(shapes)]
            known = [each for each in given if each is not None]
            if not known:
                return (None,) * len(ctx.needs_input_grad)
            grad = known[0]
            if lists_maps:
                pairs = zip(given, shapes, strict=True)
                grad = tuple([known[0].new_zeros(s) if g is None else g for g, s in pairs])
            saved = ctx.saved_tensors
            if several:
                saved = _split(counts, saved)
            parts: list[Any] = [None] * (num_reads + 1)
            for place, found in steps:
                if found is None:
                    parts[place] = _zeros_like(saved[place])
                else:
                    parts[place] = compute(found, saved, grad, rest)
            if several:
                parts = [
                    (None,) * count if count is not None and part is None else part
                    for count, part in zip((*counts, None), parts, strict=True)
                ]
                parts = _flattened(parts)
            return (None, None, *parts, None, None, None)

        @staticmethod
        def jvp(ctx: Any, _: None, __: None, *tangents: Any) -> Any:
            counts, _, rest, shapes = ctx.rest
            saved = ctx.saved_tensors
            if several:
                saved, tangents = _split(counts, saved), tuple(_split(counts, tangents))
            total: Any = None
            for place in range(num_reads + 1):
                tangent, found = _filled(tangents[place], saved[place]), None
                if tangent is not None:
                    name = operator.values[place]
                    found = derivative(operator, name, mode_of(rest.params), False)
                if isinstance(found, Refused):
                    raise NotImplementedError(f"{operator.name}: {found.sentence}")
                if found is not None:
                    total = _add(total, compute(found, saved, tangent, rest))
            if total is None:  # piecewise constant in what moves
                like = saved[num_reads if row.writes[0].role == "boxes" else 0]
                like = like[0] if isinstance(like, tuple) else like
                total = tuple([like.new_zeros(shape) for shape in shapes])
            elif not isinstance(total, tuple):
                total = (total,)
            results = (*total, *[None] * num_optional)
            return results if num_optional or lists_maps else results[0]

    Node.__name__ = Node.__qualname__ = operator.name
    return Node


_APPLY: dict[str, Callable[..., Any]] = {
    name: _node(operator).apply for name, operator in OPERATORS.items()
}


def _needs_graph(call: Arguments) -> bool:
    if forward_ad._current_level >= 0:
        return True
    if not _is_grad_enabled():
        return False
    if call.boxes.requires_grad:
        return True
    for read in call.reads:
        if isinstance(read, tuple):
            if any(each.requires_grad for each in read):
                return True
        elif read is not None and read.requires_grad:
            return True
    return False


def _run_graph(operator: Operator, call: Arguments, outer: tuple[bool, bool] | None = None) -> Any:
    """The result, with its node in the graph.

    `outer`: whether reverse and forward mode are on, for functorch's other levels.
    """
    asked = operator
    if operator.row.in_average is not None:
        operator, call = as_computed(operator, call)
    mode = mode_of(call.params)
    if call.make and not all(call.make):  # the graph may need others than the caller
        both = zip(call.make, needed_results(operator, mode), strict=True)
        make = tuple([made or needed for made, needed in both])
        call = Arguments._make((*call[:6], make, *call[7:]))
    sentences = refused(operator, mode)
    if sentences:
        call = _fence(operator, call, sentences)
    reads = _flattened(call.reads) if operator.several else call.reads
    result = _APPLY[operator.name](call, outer, *reads, *call[1:5])
    return result[0] if operator.num_optional > asked.num_optional else result


def apply(operator: Operator, call: Arguments) -> Any:
    """Call an operator; maps, where there are several, are a tuple."""
    if _is_compiling() or _functorch_is_active():
        result = OVERLOADS[operator.name](*operator.flat(call))
        return tuple(result) if isinstance(result, list) else result
    return (_run_graph if _needs_graph(call) else _run_kernel)(operator, call)


def _as_the_schema_has_it(call: Arguments, result: Any) -> Any:
    """Optional results only where they were asked for."""
    if all(call.make):
        return result
    results = list(result)
    for place, made in enumerate(call.make, start=len(results) - len(call.make)):
        if not made:
            results[place] = results[place].new_empty((0,))
    return tuple(results)


def _register(operator: Operator) -> None:
    returns_list = operator.several and operator.row.makes_maps

    def kernel(*flat: Any) -> Any:
        call = operator.unflat(flat)
        if _functorch_is_active():
            # The dispatcher has removed all levels but one, as for PyTorch's own operators, but
            # does not always tell whether that level needs a graph.
            outer = _is_grad_enabled(), torch._C._is_fwd_grad_enabled()
            with enable_single_level_autograd_function():
                result = _as_the_schema_has_it(call, _run_graph(operator, call, outer))
        elif _needs_graph(call):
            result = _as_the_schema_has_it(call, _run_graph(operator, call))
        else:
            result = _run_kernel(operator, call)
        return list(result) if returns_list else result

    LIBRARY.impl(operator.name, kernel, "Autograd")


for _operator in OPERATORS.values():
    _register(_operator)
