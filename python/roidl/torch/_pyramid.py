"""The operators on several maps in PyTorch's dispatcher: `_library`'s, with lists of maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import _core
from .._params import LAYOUTS, Pyramid
from . import _library
from ._library import LIBRARY, MISSING, Params, Tensor, check_device, has_channels_last, metadata

PREFIX = "multiscale_"


class Rows(NamedTuple):
    """What is said of every box besides its corners; it stands where one map has batch indices."""

    batch_indices: Tensor | None
    levels: Tensor | None
    counts: Tensor | None


class PyramidParams(NamedTuple):
    """What was asked: the operator's parameters, and how boxes find their map."""

    params: Params
    scales: tuple[float, ...]
    canonical_scale: float
    canonical_level: float

    @property
    def mode(self) -> int:
        return self.params.mode

    def pyramid(self, rows: Rows) -> Pyramid:
        return Pyramid(*self[1:], rows.levels, rows.counts)


class MapShapes(NamedTuple):
    """What is said of the shapes of maps that are not there, and the order of results in memory."""

    images: int
    sizes: tuple[int, ...]  # height and width of each, one after the other
    channels_last: tuple[bool, ...]


class Arguments(NamedTuple):
    """The arguments of an operator; maps are a tuple of tensors."""

    leader: Any
    boxes: Tensor
    rows: Rows
    other: Any
    extra: tuple[Any, ...]  # MapShapes, or (return_argmax,), or nothing
    params: PyramidParams


class Operator(NamedTuple):
    """One operator of the dispatcher: `base` on several maps."""

    base: _library.Operator

    @property
    def name(self) -> str:
        return PREFIX + self.base.name

    @property
    def leader(self) -> tuple[str, str]:
        return self.base.leader

    @property
    def reads_maps(self) -> bool:
        return self.leader[1] == "map"

    @property
    def other_maps(self) -> bool:
        return self.base.other is not None and self.base.other[1] == "map"

    @property
    def fields(self) -> tuple[str, ...]:
        """Of the parameters; every map has a scale of its own."""
        return tuple(field for field in self.base.params._fields if field != "spatial_scale")

    @property
    def schema(self) -> str:
        base = self.base
        arguments = [f"Tensor{'[]' if self.reads_maps else ''} {base.leader[0]}", "Tensor boxes"]
        arguments += [f"Tensor? {field}" for field in Rows._fields]
        if base.other is not None:
            # Of an optional list, None is the empty one.
            kind = "[]" if self.other_maps else "?" if base.optional else ""
            arguments.append(f"Tensor{kind} {base.other[0]}")
        if base.takes_shape:
            arguments += ["SymInt images", "SymInt[] sizes", "bool[] channels_last"]
        if base.name == "roi_pool":
            arguments.append("bool return_argmax")
        arguments += ["float[] scales", "float canonical_scale", "float canonical_level"]
        arguments += [f"{'bool' if name == 'aligned' else 'int'} {name}" for name in self.fields]
        results = {"map": "Tensor[]", "roi_pool": "(Tensor, Tensor)"}
        result = results.get(base.name) or results.get(base.result, "Tensor")
        return f"{self.name}({', '.join(arguments)}) -> {result}"

    def flat(self, call: Arguments) -> tuple[Any, ...]:
        """The arguments in the order of the schema."""
        leader, boxes, rows, other, extra, (params, *rule) = call
        given = params._asdict()
        numbers = [given[name] for name in self.fields]
        others: tuple[Any, ...] = ()
        if self.base.other is not None:
            others = ((other or ()) if self.other_maps else other,)
        return (leader, boxes, *rows, *others, *extra, *rule, *numbers)

    def unflat(self, flat: tuple[Any, ...]) -> Arguments:
        """The arguments again, from the order of the schema."""
        at, end = 5, len(flat) - len(self.fields)
        named: Any = dict(zip(self.fields, flat[end:], strict=True))
        params = PyramidParams(
            self.base.params(spatial_scale=1.0, **named), tuple(flat[end - 3]), *flat[end - 2 : end]
        )
        leader: Any = flat[0]
        other: Any = None
        if self.base.other is not None:
            at, other = 6, flat[5]
        extra = flat[at : end - 3]
        if self.base.takes_shape:
            extra = MapShapes(extra[0], tuple(extra[1]), tuple(extra[2]))
        if self.reads_maps:
            leader = tuple(leader)
        if self.other_maps:
            other = tuple(other) or None
        return Arguments(leader, flat[1], Rows(*flat[2:5]), other, extra, params)


OPERATORS = {name: Operator(base) for name, base in _library.OPERATORS.items()}


def map_shapes(operator: Operator, call: Arguments) -> MapShapes:
    """The shapes of the maps that the operator reads or makes."""
    if operator.base.takes_shape:
        return MapShapes(*call.extra)
    maps, layout = call.leader if operator.reads_maps else call.other, call.params.params.layout
    first = 2 if layout == LAYOUTS["NCHW"] else 1
    return MapShapes(
        maps[0].shape[0],
        tuple(size for map in maps for size in map.shape[first : first + 2]),
        tuple(has_channels_last(map, layout) for map in maps),
    )


# The shapes of results ----------------------------------------------------------------------------


def _check_devices(operator: Operator, call: Arguments) -> None:
    op, first = operator.name, call.leader[0] if operator.reads_maps else call.leader
    for part in ("leader", "other"):
        given = getattr(call, part)
        for place, tensor in enumerate(given if isinstance(given, tuple) else ()):
            check_device(op, f"input[{place}]", tensor, first)
    if operator.base.other is not None and not operator.other_maps:
        check_device(op, operator.base.other[0], call.other, first)
    for name, tensor in zip(("boxes", *Rows._fields), (call.boxes, *call.rows), strict=True):
        check_device(op, name, tensor, first)


def _shapes_of_maps(call: Arguments) -> list[tuple[Any, ...]]:
    """The whole shapes of maps of which there are MapShapes."""
    n, sizes, _ = call.extra
    if call.boxes.dim() == 3:
        n = call.boxes.shape[0]
    pairs = list(zip(sizes[::2], sizes[1::2], strict=True))
    if call.params.params.layout == LAYOUTS["NCHW"]:
        return [(n, call.leader.shape[-3], *pair) for pair in pairs]
    return [(n, *pair, call.leader.shape[-1]) for pair in pairs]


def check_metadata(operator: Operator, call: Arguments) -> None:
    """Raise what the call would raise for its shapes and dtypes."""
    _check_devices(operator, call)
    op, rows, params = operator.name, call.rows, call.params
    if operator.base.takes_shape:
        shape, dtype = metadata(call.leader)
        if len(shape) < 4:
            raise ValueError(f"{op}: grad_output must have the shape of the result, got {shape}")
        shapes = [tuple(map(_library._size, each)) for each in _shapes_of_maps(call)]
        maps: Any = [(shape, dtype) for shape in shapes]
    else:
        maps = [metadata(map) for map in (call.leader if operator.reads_maps else call.other)]
    box_shape, box_dtype = metadata(call.boxes)
    listed = Rows(*(None if each is None else metadata(each) for each in rows))
    known = listed.batch_indices or listed.levels
    if known is not None and not isinstance(call.boxes.shape[0], int):
        # A number of boxes that the example does not know is that of what is said of them.
        box_shape = (*known[0][:1], *box_shape[1:])
    _core.result_shape(
        op,
        params.params._asdict(),
        maps,
        (box_shape, box_dtype),
        listed.batch_indices,
        params.pyramid(listed),
    )


def result_of_shapes(operator: Operator, call: Arguments) -> Any:
    """What the kernel would return, without data: the same shapes, strides and dtypes."""
    check_metadata(operator, call)
    leader, boxes, params = call.leader, call.boxes, call.params.params
    if operator.base.result == "boxes":
        return boxes.new_empty(tuple(boxes.shape))
    if operator.base.result == "map":
        maps = zip(_shapes_of_maps(call), call.extra[2], strict=True)
        return [_library._dense(shape, last, leader, leader.dtype) for shape, last in maps]
    nchw, first = params.layout == LAYOUTS["NCHW"], leader[0]
    grid, channels = (params.output_height, params.output_width), first.shape[1 if nchw else 3]
    shape = (*boxes.shape[:-1], *((channels, *grid) if nchw else (*grid, channels)))
    channels_last = has_channels_last(first, params.layout)
    pooled = _library._dense(shape, channels_last, first, first.dtype)
    if operator.base.name != "roi_pool":
        return pooled
    if not call.extra[0]:
        return pooled, first.new_empty((0,), dtype=torch.int32)
    return pooled, _library._dense(shape, channels_last, first, torch.int32)


# Registration -------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Tensors that DLPack reads whatever graph they are in; a list for a tuple."""
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return value if value is None else value.detach()


def _core_kernel(operator: Operator) -> Callable[..., Any]:
    """A kernel in Python, over the same core: for a PyTorch without the stable C interface."""

    def kernel(*flat: Any) -> Any:
        call = operator.unflat(flat)
        result = result_of_shapes(operator, call)
        out, argmax = result if operator.base.name == "roi_pool" else (result, None)
        rows = Rows(*map(_plain, call.rows))
        _core.run_operator(
            operator.name,
            tuple(call.params.params),
            _plain(call.leader),
            _plain(call.boxes),
            rows.batch_indices,
            _plain(call.other),
            _shapes_of_maps(call) if operator.base.takes_shape else None,
            out,
            argmax if argmax is not None and call.extra[0] else None,
            torch.get_num_threads(),
            call.params.pyramid(rows),
        )
        return result

    return kernel


for _operator in OPERATORS.values():
    _library.define(_operator, result_of_shapes, _check_devices)
    if MISSING is not None:
        LIBRARY.impl(_operator.name, _core_kernel(_operator), "CPU")
OVERLOADS = {name: getattr(torch.ops.roidl, PREFIX + name).default for name in OPERATORS}


# The rule alone -----------------------------------------------------------------------------------


class _Levels(NamedTuple):
    """The operator that says which map each box belongs to, for `_library.define`."""

    name: str = "assign_levels"
    leader: tuple[str, str] = ("boxes", "boxes")
    schema: str = (
        "assign_levels(Tensor boxes, float[] scales, float canonical_scale, float canonical_level)"
        " -> Tensor"
    )

    def unflat(self, flat: tuple[Any, ...]) -> tuple[Tensor, Pyramid]:
        boxes, scales, size, level = flat
        return boxes, Pyramid(tuple(scales), size, level, None, None)


def _no_levels(operator: _Levels, call: tuple[Tensor, Pyramid]) -> Tensor:
    boxes, _ = call
    return boxes.new_empty(tuple(boxes.shape[:-1]), dtype=torch.int32)


def _assign_levels(*flat: Any) -> Tensor:
    boxes, pyramid = _LEVELS.unflat(flat)
    return torch.from_numpy(_core.assign_levels(b"assign_levels", boxes.detach(), pyramid))


_LEVELS = _Levels()
_library.define(_LEVELS, _no_levels, lambda operator, call: None)
if MISSING is not None:
    LIBRARY.impl(_LEVELS.name, _assign_levels, "CPU")
LEVELS_OVERLOAD = torch.ops.roidl.assign_levels.default


def assign_levels(boxes: Tensor, pyramid: Pyramid) -> Tensor:
    """The index of the map of every box."""
    if torch.compiler.is_compiling():
        return LEVELS_OVERLOAD(boxes, *pyramid[:3])
    try:
        return _core.answering_signals(LEVELS_OVERLOAD, boxes, *pyramid[:3])
    except RuntimeError as error:
        raise _library.own_error("assign_levels", error) from None
