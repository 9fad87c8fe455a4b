"""Arrays in the memory of the machine that runs CUDA kernels on a CPU: as much of CuPy as is used.

What `empty` returns nobody has written, which the machine knows; what lies between the elements of
an array with strides belongs to nobody.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ALL_DTYPES = ("float32", "float64", "float16", "bfloat16")
_NOBODYS, _UNWRITTEN, _WRITTEN = 0, 1, 2  # a byte's state
_library = ctypes.CDLL(os.environ["ROIDL_CUDA_LIBRARY"])


def _function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = getattr(_library, f"machine_{name}")
    function.restype, function.argtypes = result, arguments
    return function  # type: ignore[no-any-return]


_allocate = _function("allocate", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_release = _function("release", ctypes.c_int, ctypes.c_void_p)
_states = _function("states", ctypes.c_void_p, ctypes.c_void_p)


class machine:
    """What CuPy does not have: the machine's own functions."""

    own_allocations = _function("own_allocations", ctypes.c_long)
    context = _function("context", ctypes.c_int)
    contexts = _function("contexts", ctypes.c_uint)
    capture = _function("capture", None, ctypes.c_int)


_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class _Device:
    id = 0
    mem_info = (1 << 30, 1 << 30)

    def __init__(self, device: int = 0) -> None:
        assert device == 0

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def synchronize(self) -> None:
        """There is nothing to wait for."""


class _Stream:
    ptr = 0  # CUDA's default stream: the machine has no other


class cuda:
    """The part of `cupy.cuda` that is used."""

    Device = _Device

    class runtime:
        """The part of `cupy.cuda.runtime` that is used."""

        @staticmethod
        def getDeviceCount() -> int:
            """Return that there is one."""
            return 1

    @staticmethod
    def get_current_stream() -> _Stream:
        """Return the only one."""
        return _Stream()


class ndarray(np.ndarray[Any, Any]):
    """An array in device memory, which the host can look into here."""

    device = _Device()
    __dlpack_c_exchange_api__ = None  # NumPy's would say that it lies on the host

    def __dlpack_device__(self) -> tuple[int, int]:  # type: ignore[override]
        """Return CUDA's first device."""
        return (2, 0)

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Return what NumPy says of the memory, but for the device, and for bfloat16."""
        plain = self.view(np.ndarray)
        is_bfloat16 = plain.dtype.name == "bfloat16"
        capsule = (plain.view(np.int16) if is_bfloat16 else plain).__dlpack__()
        tensor = _get_pointer(capsule, b"dltensor")
        ctypes.c_int32.from_address(tensor + 8).value = 2
        if is_bfloat16:
            ctypes.c_uint8.from_address(tensor + 20).value = 4
        return capsule

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        _states_of(self[key]).fill(_WRITTEN)


def _states_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The states of an array's bytes: its shape, and one more axis.

    What NumPy has computed of arrays of the device lies on the host, and is written.
    """
    plain = array.view(np.ndarray)
    shape, strides = (*plain.shape, plain.itemsize), (*plain.strides, 1)
    first = _states(plain.__array_interface__["data"][0])
    if plain.size == 0 or first is None:
        return np.full(shape, _WRITTEN, np.uint8)
    low = sum(min(0, (n - 1) * step) for n, step in zip(plain.shape, plain.strides, strict=True))
    high = sum(max(0, (n - 1) * step) for n, step in zip(plain.shape, plain.strides, strict=True))
    memory = (ctypes.c_uint8 * (high - low + plain.itemsize)).from_address(first + low)
    return np.ndarray(shape, np.uint8, memory, -low, strides)


def _take(bytes_: int, state: int) -> np.ndarray[Any, Any]:
    """So many bytes of the device, for as long as an array refers to them."""
    address = _allocate(max(bytes_, 1), state)
    if address is None:
        raise MemoryError("the machine's device has no more memory")
    memory = (ctypes.c_char * max(bytes_, 1)).from_address(address)
    weakref.finalize(memory, _release, address)
    return np.frombuffer(memory, np.uint8)[:bytes_]


def empty(shape: Sequence[int] | int, dtype: Any = "float32") -> ndarray:
    """Return an array that nobody has written."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    count = int(np.prod(shape, dtype=np.int64))
    return _take(count * dtype.itemsize, _UNWRITTEN).view(dtype).reshape(shape).view(ndarray)


def asarray(array: Any, dtype: Any = None) -> ndarray:
    """Return an array of the device with these elements, and the strides of those on the host."""
    if isinstance(array, ndarray):
        return array
    source = np.asarray(array, dtype)
    if source.size == 0:
        return empty(source.shape, source.dtype)
    steps = list(zip(source.shape, source.strides, strict=True))
    low = sum(min(0, (n - 1) * step) for n, step in steps)
    high = sum(max(0, (n - 1) * step) for n, step in steps) + source.itemsize
    # An address that is not aligned to the elements stays so.
    shift = (source.__array_interface__["data"][0] + low) % 16
    memory = _take(shift + high - low, _NOBODYS)
    made = np.ndarray(source.shape, source.dtype, memory.data, shift - low, source.strides)
    result = made.view(ndarray)
    result[...] = source
    return result


def asnumpy(array: Any) -> np.ndarray[Any, Any]:
    """Return a copy in the host's memory; all of it must have been written."""
    if isinstance(array, ndarray):
        unwritten = int((_states_of(array) != _WRITTEN).sum())
        assert unwritten == 0, f"{unwritten} of {array.nbytes} bytes were never written"
    return np.array(np.asarray(array))


def zeros_like(array: ndarray) -> ndarray:
    """Return zeros of an array's shape and dtype."""
    return full(array.shape, 0, array.dtype)


def full(shape: Sequence[int] | int, value: Any, dtype: Any) -> ndarray:
    """Return an array of one value."""
    result = empty(shape, dtype)
    result[...] = value
    return result


def concatenate(arrays: Sequence[ndarray]) -> ndarray:
    """Return one array after the other."""
    return asarray(np.concatenate([asnumpy(array) for array in arrays]))
