"""The array front end: NumPy, CuPy and any object with `__dlpack__`.

Results are of the input's library; `_array_libraries` says how its arrays are read and made.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core
from ._array_libraries import NUMPY, library_of, numpy_dtype
from ._multiscale import LevelsCall
from ._operators import operator_of
from ._params import Call, choices_of
from ._recycled import empty_bytes

Array = Any


def _prepare(op: str, name: str, value: Any) -> Any:
    if value is None or type(value) is np.ndarray:
        return value
    if isinstance(value, list):
        return [_prepare(op, f"{name}[{i}]", each) for i, each in enumerate(value)]
    # What is no array (a shape, None, a mistake) belongs to no row: the core gets it as it is.
    return library_of(value).prepare(op, name, value)


def _writable(call: Call) -> Array:
    """What DLPack writes to in place of out."""
    library = library_of(call.out)
    if not library.writable(call.out):
        raise TypeError(
            f"{call.op}: out must be an array that can be written to as it is, "
            f"got {type(call.out).__name__}"
        )
    return library.prepare(call.op, "out", call.out)


def _compiled(call: Call, allocate: Callable[[tuple[int, ...], str], Array]) -> Any:
    """Call the core's function with arrays that it can read."""
    op, boxes, pyramid = call.op, call.boxes, call.pyramid
    boxes = _prepare(op, "boxes", list(boxes) if isinstance(boxes, tuple) else boxes)
    reads = operator_of(op).reads
    arguments = (
        *(
            _prepare(op, *each)
            for each in zip([read.name for read in reads], call.arguments, strict=False)
        ),
        *call.arguments[len(reads) :],
    )
    indices = _prepare(op, "batch_indices", call.batch_indices)
    if pyramid is not None:
        levels = _prepare(op, "levels", pyramid.levels)
        counts = _prepare(op, "counts", pyramid.counts)
        pyramid = pyramid._replace(levels=levels, counts=counts)
    out = None if call.out is None else _writable(call)
    device = library_of(call.leader).device(call.leader)
    result = _core.run(op, call.params, boxes, indices, allocate, device, out, arguments, pyramid)
    if out is None:
        return result
    return (call.out, *result[1:]) if isinstance(result, tuple) else call.out


# Results of more bytes are stored by whole cache lines, which NumPy's memory does not begin at.
_LARGE = 4 << 20


def _numpy_empty(shape: tuple[int, ...], dtype: str) -> Array:
    kind = numpy_dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size <= _LARGE:
        return np.empty(shape, kind)
    return empty_bytes(size).view(kind).reshape(shape)


def _no_result(op: str, leader: Array) -> str:
    return f"{op}: cannot make a result of type {type(leader).__name__} on a CUDA device"


def _host_empty(call: Call) -> Callable[[tuple[int, ...], str], Array]:
    """NumPy's memory, to be adopted by the leader's library; it must not be on a GPU."""
    if library_of(call.leader).device(call.leader) is None:
        return _numpy_empty

    def refuse(shape: tuple[int, ...], dtype: str) -> Array:
        raise NotImplementedError(f"{_no_result(call.op, call.leader)}; pass out=")

    return refuse


def run_like_leader(call: Call) -> Any:
    """The result is of the library of the features or of their gradient."""
    library = library_of(call.leader)
    empty, leader = library.empty, call.leader
    if empty is not None:
        return _compiled(call, lambda shape, dtype: empty(shape, dtype, leader))
    result = _compiled(call, _host_empty(call))
    if call.out is not None or library is NUMPY:
        return result
    if isinstance(result, (tuple, list)):
        return type(result)(library.adopt(call.op, part, leader) for part in result)
    return library.adopt(call.op, result, leader)


def _run_like_boxes(call: Call) -> Any:
    """The result is shaped like the boxes as they were passed, and of their library."""
    library, leader = library_of(call.leader), call.leader
    empty = library.empty
    on_device = library.device(leader) is not None
    if on_device and empty is not None:
        make = empty
        grads, shapes, double = _compiled(call, lambda shape, dtype: make(shape, dtype, leader))
    else:
        grads, shapes, double = _compiled(call, _numpy_empty)

    def like(boxes: Array, values: Array) -> Array:
        dtype = getattr(boxes, "dtype", None)
        name = getattr(dtype, "name", str(dtype)).removeprefix("torch.")
        if name not in ("float32", "float64"):
            name = "float64" if double else "float32"
        if on_device:
            return library.cast(values, name)
        return library_of(boxes).adopt(call.op, _core.rounded(values, name), boxes)

    if not isinstance(call.boxes, (list, tuple)):
        return like(call.boxes, grads)
    stops = np.cumsum([shape[0] for shape in shapes], dtype=int).tolist()
    parts = [grads[stop - shape[0] : stop] for stop, shape in zip(stops, shapes, strict=True)]
    return [like(*each) for each in zip(call.boxes, parts, strict=True)]


def run_here(call: Call) -> Any:
    """Run one call of any operator, without an adapter."""
    if operator_of(call.op).writes[0].role == "boxes":
        return _run_like_boxes(call)
    return run_like_leader(call)


_NAMES = {name: name for name in ("float16", "bfloat16", "float32", "float64", "int32")}


def _make(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> Array:
    return _numpy_empty(shape, dtype)  # in C order, whatever the input's


def fast_path(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """bind(args, kwargs) of a public function: a call on plain arrays that is ready, or None."""
    signature = inspect.signature(function)
    return _core.Shortcut(op, signature, np.ndarray, _make, _NAMES, choices_of(op)).bind


def levels_of(call: LevelsCall, boxes: Array) -> Array:
    """The map of every box of one array."""
    library = library_of(boxes)
    arguments = call.op.encode(), _prepare(call.op, "boxes", boxes), call.pyramid
    device, empty = library.device(boxes), library.empty
    if device is None:
        return library.adopt(call.op, _core.assign_levels(*arguments), boxes)
    if empty is None:
        raise NotImplementedError(_no_result(call.op, boxes))
    return _core.assign_levels(*arguments, lambda shape, dtype: empty(shape, dtype, boxes), device)
