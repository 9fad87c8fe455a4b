"""The operators in PyTorch's dispatcher: definitions and kernels, and the errors of these."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .. import _core
from .._array_libraries import check_dense
from .._bridge import bridge
from ._arguments import OPERATORS, Operator, Tensor
from ._shapes import check_devices, result_of_shapes, shapes_of_maps

LIBRARY = torch.library.Library("roidl", "FRAGMENT")


def _named(name: str, flat: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a call, those of its lists too, by the names that the schema has."""
    schema = getattr(torch.ops.roidl, name).default._schema
    for argument, value in zip(schema.arguments, flat, strict=True):
        several = isinstance(value, list)
        for i, each in enumerate(value if several else [value]):
            if isinstance(each, torch.Tensor):
                yield f"{argument.name}[{i}]" if several else argument.name, each


def _define() -> str | None:
    """Have the bridge define all operators, with its kernels; where it cannot, define them without
    kernels and return why."""
    native = ctypes.CDLL(bridge("torch"))
    native.roidl_torch_register.restype = native.roidl_torch_schemas.restype = ctypes.c_char_p
    missing = native.roidl_torch_register()
    if missing is None:
        return None
    for schema in native.roidl_torch_schemas().decode().splitlines():
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    return str(missing.decode())


def register(
    name: str,
    fake: Callable[..., Any],
    core_kernel: Callable[..., Any],
    check: Callable[..., None] | None = None,
) -> None:
    """Tell the dispatcher what Python knows of an operator.

    `fake`, `core_kernel` (for a PyTorch without the stable C interface), and `check` of a place
    that has no kernel take the arguments in the order of the schema.
    """

    def elsewhere(*flat: Any) -> Any:
        """The kernel of every place that has none."""
        for argument, tensor in _named(name, flat):
            check_dense(name, argument, tensor)
        if check is not None:
            check(*flat)
        first = flat[0][0] if isinstance(flat[0], list) else flat[0]
        raise NotImplementedError(f"{name}: not implemented on device {first.device}")

    for key in ("CompositeExplicitAutograd", "NestedTensorCPU", "NestedTensorCUDA"):
        LIBRARY.impl(name, elsewhere, key)
    torch.library.register_fake(f"roidl::{name}", fake, lib=LIBRARY)
    if MISSING is not None:
        LIBRARY.impl(name, core_kernel, "CPU")


def _detached(value: Any) -> Any:
    """Tensors that DLPack reads whatever graph they are in; lists of them for tuples."""
    if isinstance(value, (tuple, list)):
        return [_detached(each) for each in value]
    return value if value is None else value.detach()


def _core_kernel(operator: Operator) -> Callable[..., Any]:
    """A kernel in Python, over the same core: for a PyTorch without the stable C interface."""

    def kernel(*flat: Any) -> Any:
        call = operator.unflat(flat)
        result = result_of_shapes(operator, call)
        results = list(result) if isinstance(result, tuple) else [result]
        optional = iter(call.make)
        for place, write in enumerate(operator.row.writes):
            if write.optional and not next(optional):
                results[place] = None
        reads, boxes, batch_indices, levels, counts = map(_detached, call[:5])
        shapes = shapes_of_maps(operator, call) if operator.row.makes_maps else None
        _core.run_operator(
            operator.name,
            tuple(call.params),
            reads,
            boxes,
            batch_indices,
            shapes if shapes is None or operator.several else shapes[0],
            results,
            torch.get_num_threads(),
            call._replace(levels=levels, counts=counts).pyramid(),
        )
        return result

    return kernel


def _register_operator(operator: Operator) -> None:
    register(
        operator.name,
        lambda *flat: result_of_shapes(operator, operator.unflat(flat)),
        _core_kernel(operator),
        lambda *flat: check_devices(operator, operator.unflat(flat)),
    )


MISSING = _define()
for _operator in OPERATORS.values():
    _register_operator(_operator)
OVERLOADS = {name: getattr(torch.ops.roidl, name).default for name in OPERATORS}

# Errors -------------------------------------------------------------------------------------------

# Whatever a kernel throws arrives as RuntimeError, but for ValueError in some versions (2.13):
# torch.cpp names every kind but ValueError in front of the sentence.
_KINDS = {kind.__name__: kind for kind in (TypeError, NotImplementedError, RuntimeError)}


def own_error(op: str, error: RuntimeError) -> Exception:
    """What Python would have raised in the place of a kernel's error."""
    if type(error) is not RuntimeError:  # NotImplementedError is one, too
        return error
    sentence = str(error).partition("\n")[0]  # C++ frames may follow
    if sentence.startswith(f"{op}: "):
        return ValueError(sentence)
    kind, _, sentence = sentence.partition(": ")
    return _KINDS[kind](sentence) if kind in _KINDS else error
