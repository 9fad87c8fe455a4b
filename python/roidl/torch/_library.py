"""The operators in PyTorch's dispatcher: schemas, kernels, and the shapes of results for tracing.

Every schema begins with a leader (the features, a tangent of them, or a gradient of the result),
the boxes and their batch indices; then comes what is the operator's own, and the parameters.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import _core
from .._bridge import bridge
from .._libraries import check_dense
from .._params import LAYOUTS, RoiAlignParams, RoiPoolParams

Tensor = Any
Params = RoiAlignParams | RoiPoolParams


class MapShape(NamedTuple):
    """What is said of the shape of a map that is not there, and the order of the result in memory.

    The gradient to the result has the channels, and boxes that are grouped by image the images:
    where tensors are sharded, these are the shard's.
    """

    images: int
    height: int
    width: int
    channels_last: bool


class Operator(NamedTuple):
    """One operator of the dispatcher: its tensors and its result, by the part that they play.

    A tensor is shaped like the "map", like the "pooled" result, or like the "boxes".
    """

    name: str
    leader: tuple[str, str]  # name, part
    other: tuple[str, str] | None  # the tensor after the batch indices
    result: str
    params: type[Params]
    takes_shape: bool = False  # MapShape follows the tensors
    optional: bool = False  # `other` may be None

    @property
    def schema(self) -> str:
        kinds = {"aligned": "bool", "spatial_scale": "float"}
        arguments = [f"Tensor {self.leader[0]}", "Tensor boxes", "Tensor? batch_indices"]
        if self.other is not None:
            arguments.append(f"Tensor{'?' if self.optional else ''} {self.other[0]}")
        if self.takes_shape:
            arguments += [f"SymInt {field}" for field in MapShape._fields[:3]]
            arguments.append(f"bool {MapShape._fields[3]}")
        if self.name == "roi_pool":
            arguments.append("bool return_argmax")
        arguments += [f"{kinds.get(field, 'int')} {field}" for field in self.params._fields]
        result = "(Tensor, Tensor)" if self.name == "roi_pool" else "Tensor"
        return f"{self.name}({', '.join(arguments)}) -> {result}"

    def flat(self, call: Arguments) -> tuple[Any, ...]:
        """The arguments in the order of the schema."""
        leader, boxes, indices, other, extra, params = call
        if other is None and self.other is None:
            return (leader, boxes, indices, *extra, *params)
        return (leader, boxes, indices, other, *extra, *params)

    def unflat(self, flat: tuple[Any, ...]) -> Arguments:
        """The arguments again, from the order of the schema."""
        at = 3 if self.other is None else 4
        params = flat[-len(self.params._fields) :]
        extra = flat[at : len(flat) - len(params)]
        if self.takes_shape:
            extra = MapShape(*extra)
        other = None if self.other is None else flat[3]
        return Arguments(flat[0], flat[1], flat[2], other, extra, self.params(*params))


class Arguments(NamedTuple):
    """The arguments of an operator, whichever it is."""

    leader: Tensor
    boxes: Tensor
    batch_indices: Tensor | None
    other: Tensor | None
    extra: tuple[Any, ...]  # a MapShape, or (return_argmax,), or nothing
    params: Params


_INPUT, _TANGENT = ("input", "map"), ("input_tangent", "map")
_GRAD, _ALONG = ("grad_output", "pooled"), ("boxes_tangent", "boxes")
_ARGMAX = ("argmax", "pooled")

# What the derivatives of each other are: see _derivatives.py.
OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("roi_align", _INPUT, None, "pooled", RoiAlignParams),
        Operator("roi_align_backward", _GRAD, _INPUT, "map", RoiAlignParams, True, True),
        Operator("roi_align_backward_boxes", _GRAD, _INPUT, "boxes", RoiAlignParams),
        Operator("roi_align_jvp", _TANGENT, _INPUT, "pooled", RoiAlignParams, optional=True),
        Operator("roi_align_jvp_boxes", _INPUT, _ALONG, "pooled", RoiAlignParams),
        Operator("roi_align_jvp_boxes_backward", _GRAD, _ALONG, "map", RoiAlignParams, True),
        Operator("roi_pool", _INPUT, None, "pooled", RoiPoolParams),
        Operator("roi_pool_backward", _GRAD, _ARGMAX, "map", RoiPoolParams, True, True),
        Operator("roi_pool_jvp", _TANGENT, _ARGMAX, "pooled", RoiPoolParams, optional=True),
    )
}

# Tracing ------------------------------------------------------------------------------------------


def _decide(condition: Any) -> bool:
    """A condition on sizes; False where tracing knows nothing of them."""
    if condition is True or condition is False:
        return condition
    if isinstance(condition, torch.SymBool):
        from torch.fx.experimental.symbolic_shapes import guard_or_false

        return bool(guard_or_false(condition))
    return bool(condition)


def has_channels_last(map: Tensor, layout: int) -> bool:
    """Whether the channels of a map [N, C, H, W] lie next to each other, as torch.cpp decides.

    Axes of one element have strides that say nothing.
    """
    if layout != LAYOUTS["NCHW"] or map.dim() != 4:
        return False
    _, channels, height, width = map.shape
    narrow = _decide(width == 1)
    if _decide(channels == 1) or (narrow and _decide(height == 1)):
        return False
    strides = map.stride()
    return _decide(strides[1] < strides[2 if narrow else 3])


def _dense(shape: tuple[Any, ...], channels_last: bool, like: Tensor, dtype: Any) -> Tensor:
    """An empty tensor whose last three axes are C, H, W, in the order of memory wanted."""
    if not channels_last:
        return like.new_empty(shape, dtype=dtype)
    *lead, channels, height, width = shape
    return like.new_empty((*lead, height, width, channels), dtype=dtype).movedim(-1, -3)


def _size(size: Any) -> int:
    """A size as the tracing example has it; 1 where it has none."""
    if isinstance(size, int):
        return size
    return int(size.node.hint) if size.node.has_hint() else 1


def metadata(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    """Shape and dtype's name, as the core's checks want them."""
    return tuple(map(_size, tensor.shape)), str(tensor.dtype).removeprefix("torch.")


def check_device(op: str, name: str, tensor: Tensor | None, leader: Tensor) -> None:
    """All tensors have to be where the leader is; the core's words, which cannot see the others."""
    if tensor is not None and tensor.device != leader.device:
        here, there = (f"{each.device.type}:{each.device.index or 0}" for each in (leader, tensor))
        raise ValueError(f"{op}: {name} must be on the device of the features, {here}, got {there}")


def check_storage(op: str, name: str, tensor: Tensor) -> None:
    """What the core checks of every tensor, of one that PyTorch's own operators are to read first:
    they end the process where its storage was freed or shrunk."""
    if torch.compiler.is_compiling() or type(tensor) is not torch.Tensor or tensor.numel() == 0:
        return
    try:
        held = tensor.untyped_storage().nbytes()
    except RuntimeError:  # a transform's, which has none
        return
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum((size - 1) * step for size, step in steps)
    needed = (last + 1) * tensor.element_size()
    if needed > held:
        raise ValueError(
            f"{op}: {name} needs {needed} bytes for its shape and strides, but has {held}: "
            f"its storage was freed or shrunk"
        )


def check_devices(operator: Operator, call: Arguments) -> None:
    op, leader = operator.name, call.leader
    check_device(op, "boxes", call.boxes, leader)
    check_device(op, "batch_indices", call.batch_indices, leader)
    if operator.other is not None:
        check_device(op, operator.other[0], call.other, leader)


def _shape_of_map(call: Arguments) -> tuple[Any, ...]:
    """The whole shape of a map of which there is a MapShape."""
    n, h, w, _ = call.extra
    if call.boxes.dim() == 3:
        n = call.boxes.shape[0]
    if call.params.layout == LAYOUTS["NCHW"]:
        return n, call.leader.shape[-3], h, w
    return n, h, w, call.leader.shape[-1]


def check_metadata(operator: Operator, call: Arguments) -> None:
    """Raise what the call would raise for its shapes and dtypes."""
    boxes, indices, params = call.boxes, call.batch_indices, call.params
    check_devices(operator, call)
    shape, dtype = metadata(call.leader)
    if operator.takes_shape:
        if len(shape) < 4:
            raise ValueError(
                f"{operator.name}: grad_output must have the shape of the result, got {list(shape)}"
            )
        shape = tuple(map(_size, _shape_of_map(call)))
    elif operator.leader[1] != "map":
        shape, _ = metadata(call.other)
    box_shape, box_dtype = metadata(boxes)
    listed = None if indices is None else metadata(indices)
    if listed is not None and not isinstance(boxes.shape[0], int):
        # A number of boxes that the example does not know is that of their indices.
        box_shape = (*listed[0][:1], *box_shape[1:])
    _core.result_shape(
        operator.name, params._asdict(), (shape, dtype), (box_shape, box_dtype), listed
    )


def result_of_shapes(operator: Operator, call: Arguments) -> Any:
    """What the kernel would return, without data: the same shapes, strides and dtypes."""
    check_metadata(operator, call)
    leader, boxes, params = call.leader, call.boxes, call.params
    first = params.layout == LAYOUTS["NCHW"]
    if operator.result == "boxes":
        return boxes.new_empty(tuple(boxes.shape))
    if operator.result == "map":
        return _dense(_shape_of_map(call), call.extra[3], leader, leader.dtype)
    channels = leader.shape[1 if first else 3]
    grid = (params.output_height, params.output_width)
    shape = (*boxes.shape[:-1], *((channels, *grid) if first else (*grid, channels)))
    channels_last = has_channels_last(leader, params.layout)
    pooled = _dense(shape, channels_last, leader, leader.dtype)
    if operator.name != "roi_pool":
        return pooled
    (return_argmax,) = call.extra
    if not return_argmax:
        return pooled, leader.new_empty((0,), dtype=torch.int32)
    return pooled, _dense(shape, channels_last, leader, torch.int32)


# Registration -------------------------------------------------------------------------------------

LIBRARY = torch.library.Library("roidl", "DEF")


def _named(operator: Any, flat: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a call, those of its lists too, by the names that the schema has."""
    schema = getattr(torch.ops.roidl, operator.name).default._schema
    for argument, value in zip(schema.arguments, flat, strict=True):
        several = isinstance(value, list)
        for i, each in enumerate(value if several else [value]):
            if isinstance(each, torch.Tensor):
                yield f"{argument.name}[{i}]" if several else argument.name, each


def refuse(operator: Any, check_devices: Callable[[Any, Any], None]) -> Callable[..., Any]:
    """The kernel of every place that has none."""

    def elsewhere(*flat: Any) -> Any:
        op = operator.name
        for name, tensor in _named(operator, flat):
            check_dense(op, name, tensor)
        check_devices(operator, operator.unflat(flat))
        leader = flat[0][0] if isinstance(flat[0], list) else flat[0]
        raise NotImplementedError(f"{op}: not implemented on device {leader.device}")

    return elsewhere


def _core_kernel(operator: Operator) -> Callable[..., Any]:
    """A kernel in Python, over the same core: for a PyTorch without the stable C interface."""

    def kernel(*flat: Any) -> Any:
        call = operator.unflat(flat)
        result = result_of_shapes(operator, call)
        out, argmax = result if operator.name == "roi_pool" else (result, None)
        _core.run_operator(
            operator.name,
            tuple(call.params),
            call.leader,
            call.boxes,
            call.batch_indices,
            call.other,
            _shape_of_map(call) if operator.takes_shape else None,
            out,
            argmax if argmax is not None and call.extra[0] else None,
            torch.get_num_threads(),
        )
        return result

    return kernel


def define(
    operator: Any,
    result_of_shapes: Callable[[Any, Any], Any],
    check_devices: Callable[[Any, Any], None],
) -> None:
    """Tell the dispatcher of an operator on one map or on several; its kernels come by themselves.

    `operator` has a name, a schema, a leader and `unflat`.
    """

    def fake(*flat: Any) -> Any:
        return result_of_shapes(operator, operator.unflat(flat))

    LIBRARY.define(operator.schema, tags=(torch.Tag.pt2_compliant_tag,))
    for elsewhere in ("CompositeExplicitAutograd", "NestedTensorCPU", "NestedTensorCUDA"):
        LIBRARY.impl(operator.name, refuse(operator, check_devices), elsewhere)
    torch.library.register_fake(f"roidl::{operator.name}", fake, lib=LIBRARY)


def _register_kernels() -> str | None:
    """The native ones of all operators; returns why there are none, or None."""
    register = ctypes.CDLL(bridge("torch")).roidl_torch_register
    register.restype = ctypes.c_char_p
    folder = Path(torch.__file__).parent / "lib"
    libraries = (str(folder / f"libtorch_{device}.so").encode() for device in ("cpu", "cuda"))
    missing = register(*libraries)
    return None if missing is None else str(missing.decode())


for _operator in OPERATORS.values():
    define(_operator, result_of_shapes, check_devices)
MISSING = _register_kernels()
if MISSING is not None:
    for _operator in OPERATORS.values():
        LIBRARY.impl(_operator.name, _core_kernel(_operator), "CPU")
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
