"""Arrays in host memory that say they are on a CUDA device: for kernels run on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from conftest import Lib, NumpyArray, numpy_dtype
from producers import Producer
from roidl._libraries import LIBRARIES, Device, Library

STREAM = 0x1234  # of no use on the host; every array must be asked for it


_EXPORTED: dict[int, Array] = {}


class Array(Producer):
    """A NumPy array, exported as one of CUDA device 0."""

    def __init__(self, array: NumpyArray) -> None:
        super().__init__(array, device_type=2)
        self.asked: list[Any] = []  # for which stream

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any:
        assert stream == STREAM
        self.asked.append(stream)
        return super().__dlpack__(stream=stream, max_version=max_version)

    def manage(self, managed: Any) -> int:
        address = super().manage(managed)
        _EXPORTED[address] = self  # what was exported outlives the array that it was exported from
        return address

    def release(self, address: int) -> None:
        super().release(address)
        del _EXPORTED[address]

    def __getitem__(self, rows: Any) -> Array:
        return Array(self.array[rows])


def _join(boxes: list[Array], wide: bool) -> tuple[Array, Array]:
    rows = [each.array.astype(np.float64 if wide else np.float32) for each in boxes]
    images = np.repeat(np.arange(len(rows), dtype=np.int32), [len(each) for each in rows])
    joined = np.concatenate(rows) if rows else np.empty((0, 4), np.float32)
    return Array(joined), Array(images)


LIBRARIES["emulated"] = Library(
    prepare=lambda op, array: array,
    adopt=lambda op, result, like: Array(result),
    empty=lambda shape, dtype, like: Array(np.full(shape, 77, numpy_dtype(dtype))),
    device=lambda like: Device(STREAM, _join),
    cast=lambda array, dtype: Array(array.array.astype(dtype)),
)


def to_numpy(array: Array) -> NumpyArray:
    return array.array


def library() -> Lib:
    return Lib("emulated", Array, to_numpy, Array, pyramids=False)
