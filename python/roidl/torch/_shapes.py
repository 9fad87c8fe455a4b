"""What is known of a call without data: checks of its tensors, and the shapes of its results."""

from __future__ import annotations

from typing import Any

import torch

from .. import _core
from .._params import LAYOUTS
from ._arguments import Arguments, MapShapes, Operator, Tensor


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


def maps_of(operator: Operator, call: Arguments) -> tuple[Tensor, ...]:
    """The first maps that an operator reads which makes none."""
    read = call.reads[operator.place_of_maps]
    return read if operator.several else (read,)


def map_shapes(operator: Operator, call: Arguments) -> MapShapes:
    """Of the maps that the operator reads or makes."""
    if call.shapes is not None:
        return call.shapes
    maps, layout = maps_of(operator, call), call.params.layout
    first = 2 if layout == LAYOUTS["NCHW"] else 1
    if len(maps) == 1:
        shape = maps[0].shape
        return MapShapes(shape[0], shape[first : first + 2], (has_channels_last(maps[0], layout),))
    return MapShapes(
        maps[0].shape[0],
        tuple([size for map in maps for size in map.shape[first : first + 2]]),
        tuple([has_channels_last(map, layout) for map in maps]),
    )


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


def check_device(op: str, name: str, tensor: Tensor | None, first: Tensor) -> None:
    """All tensors have to be where the first is; the core's words, which cannot see the others."""
    if tensor is not None and tensor.device != first.device:
        here, there = (f"{each.device.type}:{each.device.index or 0}" for each in (first, tensor))
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
    first = operator.first_tensor(call)
    named = operator.named_reads(call) | {"boxes": call.boxes}
    for name, tensor in (named | {row: getattr(call, row) for row in operator.rows}).items():
        if isinstance(tensor, tuple):
            for place, each in enumerate(tensor):
                check_device(operator.name, f"{name}[{place}]", each, first)
        else:
            check_device(operator.name, name, tensor, first)


def shapes_of_maps(operator: Operator, call: Arguments) -> list[tuple[Any, ...]]:
    """The whole shapes of the maps that the operator makes."""
    assert call.shapes is not None
    images, sizes, _ = call.shapes
    if call.boxes.dim() == 3:
        images = call.boxes.shape[0]
    pairs = list(zip(sizes[::2], sizes[1::2], strict=True))
    *_, a, b, c = call.reads[0].shape
    nchw = call.params.layout == LAYOUTS["NCHW"]
    channels, bins = (a, b * c) if nchw else (c, a * b)
    if operator.row.family.channels_per_bin:
        channels = channels * bins
    return [(images, channels, *pair) if nchw else (images, *pair, channels) for pair in pairs]


def check_metadata(operator: Operator, call: Arguments) -> None:
    """Raise what the call would raise for its shapes and dtypes."""
    check_devices(operator, call)
    if operator.row.makes_maps:
        shape, dtype = metadata(call.reads[0])
        if len(shape) < 4:
            raise ValueError(
                f"{operator.name}: grad_output must have the shape of the result, got {list(shape)}"
            )
        maps: Any = [(tuple(map(_size, each)), dtype) for each in shapes_of_maps(operator, call)]
    else:
        maps = [metadata(each) for each in maps_of(operator, call)]
    box_shape, box_dtype = metadata(call.boxes)
    indices, levels, counts = (None if each is None else metadata(each) for each in call[2:5])
    known = indices or levels
    if known is not None and not isinstance(call.boxes.shape[0], int):
        # A number of boxes that the example does not know is that of what is said of them.
        box_shape = (*known[0][:1], *box_shape[1:])
    _core.result_shape(
        operator.name,
        call.params._asdict(),
        maps if operator.several else maps[0],
        (box_shape, box_dtype),
        indices,
        call._replace(levels=levels, counts=counts).pyramid(),
    )


def _pooled_shape(operator: Operator, call: Arguments) -> tuple[Any, ...]:
    params, nchw = call.params, call.params.layout == LAYOUTS["NCHW"]
    grid = params.output_height, params.output_width
    channels = maps_of(operator, call)[0].shape[1 if nchw else 3]
    if operator.row.family.channels_per_bin:
        channels = channels // (grid[0] * grid[1])
    return (*call.boxes.shape[:-1], *((channels, *grid) if nchw else (*grid, channels)))


def result_of_shapes(operator: Operator, call: Arguments) -> Any:
    """What the kernel would return, without data: the same shapes, strides and dtypes."""
    check_metadata(operator, call)
    results: list[Any] = []
    optional = iter(call.make)
    for write in operator.row.writes:
        first = operator.first_tensor(call)
        if write.optional and not next(optional):
            results.append(first.new_empty((0,), dtype=torch.int32))
        elif write.role == "boxes":
            results.append(call.boxes.new_empty(tuple(call.boxes.shape)))
        elif write.role == "maps":
            assert call.shapes is not None
            each = zip(shapes_of_maps(operator, call), call.shapes.channels_last, strict=True)
            maps = [_dense(shape, last, first, first.dtype) for shape, last in each]
            results.append(maps if operator.several else maps[0])
        else:
            map = maps_of(operator, call)[0]
            dtype = torch.int32 if write.role == "argmax" else map.dtype
            last = has_channels_last(map, call.params.layout)
            results.append(_dense(_pooled_shape(operator, call), last, map, dtype))
    return results[0] if len(results) == 1 else tuple(results)
