"""Bad and extreme calls of every operator, and the server that tries each in its own process.

The server imports only NumPy and roidl, and forks for every case; the child limits its memory and
time, makes the call and reports the outcome.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import roidl
from producers import NumpyArray, arrays_of, call, every_argument, new_capsule
from untrue_producers import UNTRUE

SECONDS = 10  # a case takes milliseconds, but the machine may be busy
GIGABYTES = 3  # beyond what the server has mapped
ALLOWED = (ValueError, TypeError, NotImplementedError, MemoryError, BufferError)

FINE = "fine"

Case = dict[str, Any]  # changes of `every_argument`

# Objects in the place of an array -----------------------------------------------------------------


class Says:
    """An object whose `__dlpack__` returns or raises a given object."""

    def __init__(self, answer: Any, **attributes: Any) -> None:
        self.answer = answer
        self.__dict__.update(attributes)

    def __dlpack__(self, **_: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Recursive:
    shape = (2, 3, 7, 9)

    def __dlpack__(self, **_: Any) -> Any:
        return self.__dlpack__()


class Moody:
    """Raises an error for every attribute."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"no {name} today")


def _unaligned(a: NumpyArray) -> NumpyArray:
    odd = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    odd[...] = a
    return odd


def _odd_strides(a: NumpyArray) -> NumpyArray:
    """Strides that are not multiples of the element size, in a dtype that DLPack refuses."""
    raw = np.zeros((*a.shape, 4), np.uint8)
    return np.ndarray(a.shape, ml_dtypes.bfloat16, raw.data, 0, (*raw.strides[:-2], 3))


def _used_capsule(a: NumpyArray) -> Any:
    capsule = np.zeros(3).__dlpack__()
    np.from_dlpack(Says(capsule, __dlpack_device__=lambda: (1, 0)))
    return Says(capsule, shape=a.shape)


FOREIGN_NAME = b"arrow_array_stream"
ANYTHING: dict[str, Callable[[NumpyArray], Any]] = {
    "None": lambda a: None,
    "text": lambda a: "boxes",
    "an empty list": lambda a: [],
    "a list of lists": lambda a: a.tolist(),
    "a list of None": lambda a: [None, None],
    "a list of one array": lambda a: [a],
    "a list of lists of arrays": lambda a: [[a], [a]],
    "a dict": lambda a: {"x": a},
    "a generator": lambda a: (row for row in a),
    "a function": lambda a: np.zeros,
    "a memoryview": lambda a: memoryview(a.tobytes()),
    "a NumPy scalar": lambda a: np.float32(1),
    "0-d": lambda a: np.array(1, a.dtype),
    "1-d": lambda a: a.ravel(),
    "a dimension more": lambda a: a[None],
    "a dimension less": lambda a: a[0],
    "9-d": lambda a: a.reshape((1,) * (9 - a.ndim) + a.shape),
    "32-d": lambda a: np.zeros((1,) * 32, a.dtype),
    "64-d": lambda a: np.zeros((1,) * 64, a.dtype),
    "64-d of bfloat16": lambda a: np.zeros((1,) * 64, ml_dtypes.bfloat16),
    "no rows": lambda a: a[:0],
    "nothing anywhere": lambda a: np.zeros((0,) * a.ndim, a.dtype),
    "more rows": lambda a: np.concatenate([a, a]),
    "reversed axes": lambda a: a.T,
    "bool": lambda a: a.astype(bool),
    "int8": lambda a: a.astype(np.int8),
    "uint64": lambda a: np.abs(a).astype(np.uint64),
    "int64 at its limits": lambda a: np.where(a > 0, 2**63 - 1, -(2**63)),
    "float16": lambda a: a.astype(np.float16),
    "bfloat16": lambda a: a.astype(ml_dtypes.bfloat16),
    "float8": lambda a: a.astype(ml_dtypes.float8_e4m3fn),
    "float64": lambda a: a.astype(np.float64),
    "long double": lambda a: a.astype(np.longdouble),
    "complex": lambda a: a.astype(np.complex64),
    "long complex": lambda a: a.astype(np.clongdouble),
    "strings": lambda a: a.astype(str),
    "objects": lambda a: a.astype(object),
    "a record": lambda a: np.zeros(a.shape, [("x", "f4"), ("y", "f4")]),
    "records of nothing": lambda a: np.zeros(a.shape, []),
    "dates": lambda a: a.astype("M8[s]"),
    "void": lambda a: np.zeros(a.shape, "V4"),
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": _unaligned,
    "odd strides": _odd_strides,
    "negative strides": lambda a: a[..., ::-1],
    "stride 0": lambda a: np.broadcast_to(a[:1], a.shape),
    "all strides 0": lambda a: np.broadcast_to(a.dtype.type(0), a.shape),
    "a masked array": lambda a: np.ma.masked_less(a, 0),
    "NaN": lambda a: np.full(a.shape, np.nan, np.float32),
    "infinity": lambda a: np.full(a.shape, -np.inf, np.float32),
    "denormal": lambda a: np.full(a.shape, 1e-45, np.float32),
    "the largest floats": lambda a: np.full(a.shape, 3.4e38, np.float32),
    "the largest doubles": lambda a: np.full(a.shape, -1.7e308),
    "__dlpack__ is None": lambda a: type("Null", (), {"__dlpack__": None})(),
    "__dlpack__ returns None": lambda a: Says(None, shape=a.shape),
    "__dlpack__ returns a number": lambda a: Says(7, shape=a.shape),
    "__dlpack__ returns another capsule": lambda a: Says(new_capsule(1, FOREIGN_NAME, None)),
    "__dlpack__ returns a used capsule": _used_capsule,
    "__dlpack__ raises BufferError": lambda a: Says(BufferError("no"), shape=a.shape),
    "__dlpack__ raises without a word": lambda a: Says(RuntimeError(), shape=a.shape),
    "__dlpack__ calls itself": lambda a: Recursive(),
    "every attribute raises": lambda a: Moody(),
    "an array interface of nothing": lambda a: Says(
        BufferError("no"), shape=a.shape, itemsize=4, __array_interface__={}
    ),
    "an array interface of 60 dimensions": lambda a: Says(
        BufferError("no"),
        shape=(1,) * 60,
        strides=(4,) * 60,
        ndim=60,
        itemsize=4,
        dtype=np.dtype(np.float32),
        __array_interface__={"data": (a.ctypes.data, False)},
    ),
} | UNTRUE

# Values -------------------------------------------------------------------------------------------

BIG = 2**31 - 1
SIZES: list[Any] = [
    0, -1, BIG, 2**31, 2**63, 2**64, -(2**70), (1, BIG), (BIG, 1), (2**20, 2**20), (2**14, 2**15),
    (300, 1), 1.5, float("nan"), None, "7", (), (1,), (1, 2, 3), [2, 2], {}, True, np.int8(3),
    np.array([2, 2]), (2, None), (2.0, 2),
]  # fmt: skip
SCALES: list[Any] = [
    0, -0.0, -1.0, float("nan"), float("inf"), 1e308, 1e39, 3e38, 1e-39, 5e-324, 1e30, None, "x",
    1j, 10**400, np.float16(0.5), np.array([1.0, 2.0]), [1.0], True,
]  # fmt: skip
RATIOS: list[Any] = [
    0, BIG, 2**31, 2**63, -(2**63), -(2**70), (0, BIG), (BIG, BIG), (BIG, -1), (1, 2, 3), 1.5, None,
    "2", object(), True,
]  # fmt: skip
SHAPES: list[Any] = [
    None, 7, (), (2, 3), (2, 3, 7, 9, 1), (2, 3, -7, 9), (2, 3, 7.0, 9), (2, 3, 0, 9), (2, 0, 7, 9),
    (0, 3, 7, 9), (2**31, 3, 7, 9), (2, 3, 2**40, 9), (2, 3, 2**31 - 1, 2**31 - 1), (2**58,) * 4,
    (2**64, 3, 7, 9), (2, 3, 2**15, 2**15), "2379", {2: 1, 3: 1, 7: 1, 9: 1}, [2, 3, 7, 9],
    np.array([2, 3, 7, 9]), (None, 3, 7, 9),
]  # fmt: skip
INDICES = [5, -1, 0.7, np.nan, np.inf, -np.inf, 1e8, 2.0**31, 2.0**63, 1e30, -0.0, 1e-40]
CORNERS: dict[str, tuple[float, float, float, float]] = {
    "NaN": (np.nan, 1, 5, 5),
    "minus infinity": (1, -np.inf, 5, 5),
    "1e30": (-1e30, -1e30, 1e30, 1e30),
    "3e38": (-3e38, -3e38, 3e38, 3e38),
    "3e38 backwards": (3e38, 3e38, -3e38, -3e38),
    "far away": (1e30, 1e30, 1e30, 1e30),
    "denormal": (1e-45, 1e-45, 2e-45, 2e-45),
    "inverted": (8, 6, 1, 1),
    "inverted one way": (8, 1, 1, 6),
    "a point": (4, 4, 4, 4),
    "a million pixels": (-1e6, -1e6, 1e6, 1e6),
    "a billion pixels and one": (4, 4, 1e9, 5),
    "just off": (9.000001, 7.000001, 20, 20),
    "2 to the 31": (-(2.0**31), -(2.0**31), 2.0**31, 2.0**31),
    "2 to the 63": (-(2.0**63), 2.0**63, 2.0**63, 2.0**63),
}
ARGMAX = [-2, 63, BIG, -BIG - 1]  # the map has 63 cells
MAPS: list[tuple[int, ...]] = [
    (0, 3, 7, 9), (2, 0, 7, 9), (2, 3, 0, 9), (2, 3, 7, 0), (0, 0, 0, 0), (2**40, 0, 7, 9),
    (2**31, 1, 7, 9), (2**40, 1, 7, 9), (2**40, 1, 0, 9), (1, 2**40, 1, 1), (2, 1, BIG, 1),
    (2, 1, 1, BIG), (2, 1, 2**31, 1), (2, 1, 2**16, 2**16), (2, 1, 2**20, 2**20),
]  # fmt: skip
NUMBERS: dict[str, list[Any]] = {
    "output_size": SIZES,
    "spatial_scale": SCALES,
    "sampling_ratio": RATIOS,
    "input_shape": SHAPES,
    "mode": ["avg", "max", "max_onnx", "mean", "", None, 0, ["avg"], b"avg", np.array("avg")],
    "layout": ["NCHW", "NHWC", "nchw", "CHW", None, 0, {}, np.array(["NCHW", "NHWC"])],
    "aligned": [True, None, "no", 2, [], np.array([True, False]), np.float32(0), object()],
    "return_argmax": [True, None, "no", np.array([True, False])],
}

# Cases --------------------------------------------------------------------------------------------


@functools.cache
def _takes(op: str, name: str) -> bool:
    return name in inspect.signature(getattr(roidl, op)).parameters


def _modes(op: str) -> Iterator[Case]:
    if op == "roi_pool_backward":
        yield from ({"mode": "max"}, {"mode": "avg", "argmax": None})
    else:
        names = ("max", "avg") if op == "roi_pool" else ("avg", "max", "max_onnx")
        yield from ({"mode": name} for name in names)


def _rows(index: float, corners: tuple[float, ...], dtype: Any = np.float32) -> Case:
    """Boxes [K, 5] whose second row is the one under test."""
    rows = np.array([[0, 1, 1, 6, 5], [index, *corners], [1, 2, 2, 7, 4]])
    with np.errstate(all="ignore"):
        return {"boxes": rows.astype(dtype), "batch_indices": None}


def _odd_boxes(op: str, dtypes: tuple[Any, ...]) -> Iterator[tuple[str, Case]]:
    for index in INDICES:
        yield f"index {index}", _rows(index, (1, 1, 5, 5))
    for name, corners in CORNERS.items():
        for dtype in dtypes:
            yield f"{name}, {dtype.__name__}", _rows(1, corners, dtype)
        if _takes(op, "sampling_ratio"):
            yield f"{name}, three samples", _rows(1, corners) | {"sampling_ratio": 3}


def _map(shape: tuple[int, ...]) -> Case:
    features = np.broadcast_to(np.float32(1), shape)
    boxes = np.zeros((1, 5), np.float32)
    return {"input": features, "boxes": boxes, "batch_indices": None, "out": None}


def families_of(op: str) -> list[str]:
    numbers = [name for name in NUMBERS if _takes(op, name)]
    maps = ["map"] if "output_size" in numbers else []
    return [*arrays_of(every_argument(op)), "rows", *maps, *numbers]


def cases_of(op: str, family: str) -> Iterator[tuple[str, Case]]:
    """Named changes of `every_argument`."""
    if family in NUMBERS:
        modes = list(_modes(op)) if family in ("output_size", "sampling_ratio") else [{}]
        for mode in modes:
            for value in NUMBERS[family]:
                yield f"{value!r}, {mode}", mode | {"out": None, family: value}
    elif family == "rows":
        dtypes: tuple[Any, ...] = (np.float32, np.float64, np.float16, np.int64)
        for i, mode in enumerate(_modes(op)):
            for name, case in _odd_boxes(op, dtypes if i == 0 else dtypes[:1]):
                yield f"{name}, {mode['mode']}", mode | case
    elif family == "map":
        for mode in _modes(op):
            for shape in MAPS:
                yield f"{shape}, {mode['mode']}", mode | _map(shape)
    else:
        good = every_argument(op)[family]
        for name, spoil in ANYTHING.items():
            yield name, {family: spoil(good)}
            if family == "boxes" and _takes(op, "output_size"):
                yield f"{name}, no indices", {family: spoil(good), "batch_indices": None}
        for value in ARGMAX if family == "argmax" else []:
            yield f"a cell {value}", {family: np.full_like(good, value)}


# The server ---------------------------------------------------------------------------------------


def _shape(array: Any) -> tuple[int, ...]:
    array = getattr(array, "array", array)
    return np.shape(array.view(np.ndarray) if isinstance(array, np.ndarray) else array)


def _expected_shape(op: str, given: Case) -> tuple[int, ...]:
    if "input_shape" in given:
        return tuple(given["input_shape"])
    if op == "roi_align_backward_boxes":
        return _shape(given["boxes"])
    boxes, size, features = given["boxes"], given["output_size"], _shape(given["input"])
    rows = (sum(map(len, boxes)),) if isinstance(boxes, list) else _shape(boxes)[:-1]
    grid = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if given.get("layout") == "NHWC":
        return (*rows, *grid, features[3])
    return (*rows, features[1], *grid)


def judge(op: str, case: Case) -> str:
    given = {name: value for name, value in (every_argument(op) | case).items() if _takes(op, name)}
    try:
        result = call(op, **given)
    except ALLOWED as error:
        # Python's own MemoryError has no message.
        return FINE if str(error) or isinstance(error, MemoryError) else f"{error!r}: no message"
    except BaseException as error:
        return f"raised {error!r}"
    expected = _expected_shape(op, given)
    for part in result if isinstance(result, tuple) else (result,):
        if _shape(part) != expected:
            return f"returned shape {_shape(part)} instead of {expected}"
    return FINE


def start(op: str, case: Case) -> tuple[int, int]:
    """Start a child that tries the case; return it and the pipe for its verdict."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(SECONDS)
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = mapped + GIGABYTES * 2**30
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.write(writer, judge(op, case).encode()[:2000])
        finally:
            os._exit(0)
    os.close(writer)
    return child, reader


def verdict_of(child: int, reader: int) -> str:
    with open(reader, "rb") as pipe:
        verdict = pipe.read().decode(errors="replace")
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"took more than {SECONDS} s" if name == "SIGALRM" else f"ended by {name}"
    return verdict


def try_all(op: str, family: str) -> Iterator[tuple[str, str]]:
    """The name and verdict of every case; two children run at a time."""
    waiting: list[tuple[str, int, int]] = []
    for name, case in cases_of(op, family):
        waiting.append((name, *start(op, case)))
        if len(waiting) == 2:
            first, *ids = waiting.pop(0)
            yield first, verdict_of(*ids)
    for name, *ids in waiting:
        yield name, verdict_of(*ids)


def serve() -> None:
    for line in sys.stdin:
        print(json.dumps(list(try_all(*json.loads(line)))), flush=True)


if __name__ == "__main__":
    serve()
