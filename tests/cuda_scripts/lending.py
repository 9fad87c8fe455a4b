"""Calls operators on arrays that claim to be on a GPU; prints the allocations as JSON."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from typing import Any

import numpy as np

from producers import Producer
from roidl import _core
from roidl._array_libraries import Device
from roidl._bridge import bridge
from roidl._params import RoiAlignParams, RoiPoolParams

ON_CUDA = 2  # DLPack's number
STREAM = 0x9ABC
ALIGN, POOL = RoiAlignParams(3, 3, 1.0, 2, 2, False, 0, 0), RoiPoolParams(3, 3, 1.0, 0, 0)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


class Array(Producer):
    """An array that claims to be on a GPU."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        super().__init__(np.zeros(shape, dtype), device_type=ON_CUDA)

    @property
    def address(self) -> int:
        address: int = self.array.ctypes.data
        return address

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any:
        assert stream == STREAM
        return super().__dlpack__()


class Scratch(Array):
    def release(self, address: int) -> None:
        super().release(address)
        say(freed=self.address)


def empty(shape: tuple[int, ...], dtype: str) -> Array:
    kind = Scratch if dtype == "uint8" else Array
    array = kind(shape, dtype)
    if kind is Scratch:
        say(made=array.address, size=shape[0])
    return array


def no_memory(shape: tuple[int, ...], dtype: str) -> Array:
    if dtype == "uint8":
        raise MemoryError("the pool is empty")
    return Array(shape, dtype)


def through_dlpack(device: Device, make: Any) -> None:
    """Calls of every operator of the array front end."""
    x, boxes, grad = (Array(shape, "float32") for shape in ((1, 2, 5, 5), (2, 5), (2, 2, 3, 3)))
    argmax, shape = Array((2, 2, 3, 3), "int32"), (1, 2, 5, 5)
    first = boxes, None, make, device, None
    _core.run("roi_align", ALIGN, *first, (x,), None)
    _core.run("roi_align_backward", ALIGN, *first, (grad, None, shape), None)
    _core.run("roi_align_backward_boxes", ALIGN, *first, (grad, x), None)
    _core.run("roi_pool", POOL, *first, (x, True), None)
    _core.run("roi_pool_backward", POOL, *first, (grad, argmax, shape), None)


def through_pytorch(shim: str, cuda_shim: str) -> None:
    ctypes.CDLL(cuda_shim)
    ctypes.CDLL(shim)
    library = ctypes.CDLL(bridge("torch"))
    library.roidl_torch_register.restype = ctypes.c_char_p
    problem = library.roidl_torch_register()
    assert problem is None, problem
    assert ctypes.CDLL(shim).call_roi_align() == 0


def again(library: str) -> None:
    """Calls that fail without the library or a device succeed once these are available."""
    os.environ["ROIDL_STAND_IN_IS_LATE"] = "1"
    x, boxes = Array((1, 2, 5, 5), "float32"), Array((2, 5), "float32")
    for _ in range(3):
        try:
            device = Device(STREAM, None, None)
            _core.run("roi_align", ALIGN, boxes, None, empty, device, None, (x,), None)
        except (NotImplementedError, RuntimeError) as error:
            say(error=str(error))
        if not os.path.exists(os.environ["ROIDL_CUDA_LIBRARY"]):
            shutil.copy(library, os.environ["ROIDL_CUDA_LIBRARY"])


match sys.argv[1]:
    case "again":
        again(sys.argv[2])
    case "dlpack":
        through_dlpack(Device(STREAM, None, empty), empty)
    case "no allocator":
        through_dlpack(Device(STREAM, None, None), empty)
    case "no memory":
        try:
            through_dlpack(Device(STREAM, None, no_memory), no_memory)
        except MemoryError as error:
            say(error=str(error))
    case _:
        through_pytorch(*sys.argv[2:])
