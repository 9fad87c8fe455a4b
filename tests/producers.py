"""Good calls of every operator, and producers: arrays that record their export by DLPack."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

import roidl

NumpyArray = npt.NDArray[Any]

OPERATORS = (
    "roi_align",
    "roi_align_backward",
    "roi_align_backward_boxes",
    "roi_pool",
    "roi_pool_backward",
)


def every_argument(op: str) -> dict[str, Any]:
    """Arguments of a call with every array argument of `op`, as NumPy arrays."""
    rng = np.random.default_rng(7)
    features = rng.standard_normal((2, 3, 7, 9), dtype=np.float32)
    boxes = np.array([[0.5, 1, 6, 5], [1.5, 0, 8, 6.5], [2, 2, 7, 4]], np.float32)
    grad = rng.standard_normal((3, 3, 2, 3), dtype=np.float32)
    arguments: dict[str, Any] = {"boxes": boxes, "batch_indices": np.array([0, 1, 0])}
    if op in ("roi_align", "roi_pool"):
        return arguments | {"input": features, "output_size": (2, 3), "out": np.zeros_like(grad)}
    arguments["grad_output"] = grad
    if op == "roi_align_backward_boxes":
        return arguments | {"input": features}
    arguments |= {"input_shape": features.shape, "out": np.zeros_like(features)}
    if op == "roi_align_backward":
        return arguments | {"input": features, "mode": "max"}
    row, column = rng.integers(2, 5, grad.shape), rng.integers(2, 7, grad.shape)  # of every box
    argmax = np.where(grad < 1, row * 9 + column, -1).astype(np.int32)
    return arguments | {"argmax": argmax}


def arrays_of(arguments: dict[str, Any]) -> dict[str, NumpyArray]:
    return {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}


def call(op: str, **arguments: Any) -> Any:
    return getattr(roidl, op)(**arguments)


# The structs of DLPack, from its specification ----------------------------------------------------


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Legacy(ctypes.Structure):
    _fields_ = (("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", DELETER))


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


EXPORT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(ctypes.c_void_p))


class ExchangeAPI(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("export", EXPORT),
        ("others", ctypes.c_void_p * 3),
    )


CODES = {"i": 0, "u": 1, "f": 2, "V": 4, "c": 5, "b": 6}  # NumPy's kind of bfloat16 is V

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
name_of_capsule = ctypes.pythonapi.PyCapsule_GetName
name_of_capsule.restype = ctypes.c_char_p
name_of_capsule.argtypes = (ctypes.py_object,)


# Producers ----------------------------------------------------------------------------------------


class Producer:
    """Exports a NumPy array by versioned capsules; `lies` replaces fields by false values."""

    used_names: ClassVar[set[bytes]] = {b"used_dltensor_versioned"}

    def __init__(self, array: NumpyArray, **lies: Any) -> None:
        self.array, self.lies = array, lies
        self.shape, self.dtype = array.shape, array.dtype
        self.exported: list[int] = []  # addresses, in order
        self.released: list[int] = []
        self.capsules: list[Any] = []
        self._alive: list[Any] = []

    def __len__(self) -> int:
        return len(self.array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.lies.get("device_type", 1), 0

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any:
        return self.capsule(self.manage(self.versioned()), b"dltensor_versioned")

    def versioned(self) -> Versioned:
        return Versioned(major=1, minor=1, flags=0 if self.array.flags.writeable else 1)

    def capsule(self, address: int, name: bytes) -> Any:
        self.capsules.append(new_capsule(address, name, None))
        return self.capsules[-1]

    def manage(self, managed: Any) -> int:
        """Fill the struct and return its address."""
        array, dims, tensor = self.array, ctypes.c_int64 * self.array.ndim, managed.tensor
        tensor.data, tensor.device_type, tensor.ndim = array.ctypes.data, 1, array.ndim
        tensor.code, tensor.bits, tensor.lanes = CODES[array.dtype.kind], 8 * array.itemsize, 1
        tensor.shape = dims(*array.shape)
        tensor.strides = dims(*(step // array.itemsize for step in array.strides))
        managed.deleter = DELETER(self.release)
        for name, value in self.lies.items():
            if isinstance(value, tuple):
                value = (ctypes.c_int64 * len(value))(*value)
            setattr(managed if hasattr(managed, name) else tensor, name, value)
        self._alive.append(managed)
        self.exported.append(ctypes.addressof(managed))
        return self.exported[-1]

    def release(self, address: int) -> None:
        self.released.append(address)

    def assert_released_once(self) -> None:
        assert self.released == self.exported
        assert len(self.exported) <= 1
        assert {name_of_capsule(capsule) for capsule in self.capsules} <= self.used_names


class OldProducer(Producer):
    """Exports by DLPack before version 1: `__dlpack__` has no max_version."""

    used_names: ClassVar[set[bytes]] = {b"used_dltensor"}

    def __dlpack__(self, *, stream: Any = None) -> Any:  # type: ignore[override]
        return self.capsule(self.manage(Legacy()), b"dltensor")


@EXPORT  # type: ignore[untyped-decorator]
def _export(producer: Any, out: Any) -> int:
    out[0] = producer.manage(producer.versioned())
    return 0


_API = ExchangeAPI(major=1, minor=3, export=_export)
_API_NAME = b"dlpack_exchange_api"  # a capsule borrows its name


class ExchangeProducer(Producer):
    """Has the C exchange API, which is used instead of its `__dlpack__`."""

    used_names: ClassVar[set[bytes]] = set()
    __dlpack_c_exchange_api__: ClassVar[Any] = new_capsule(ctypes.addressof(_API), _API_NAME, None)

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("the exchange API comes first")


PRODUCERS = [Producer, OldProducer, ExchangeProducer]


def wrapped(op: str, kind: type[Producer]) -> dict[str, Any]:
    """As `every_argument`, with a producer for every array."""
    arguments = every_argument(op)
    return arguments | {name: kind(array) for name, array in arrays_of(arguments).items()}


def producers_of(arguments: dict[str, Any]) -> Iterator[Producer]:
    return (value for value in arguments.values() if isinstance(value, Producer))
