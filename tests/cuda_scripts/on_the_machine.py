"""What a process that calls roidl for the first time does to the machine of CuPy's stand-in."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import cupy
import numpy as np

import roidl
from operators import OPERATORS, call

ON_CUDA = 2
RNG = np.random.default_rng(3)
COUNT = 300  # more than what a call plans without memory


class OnSecondDevice(cupy.ndarray):  # type: ignore[misc]
    """Says that it lies on the second device, which is the first by another number."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return ON_CUDA, 1

    def __dlpack__(self, **options: Any) -> Any:
        capsule = super().__dlpack__(**options)
        address = cupy._get_pointer(capsule, b"dltensor")
        ctypes.c_int32.from_address(address + 12).value = 1
        return capsule


def problem() -> tuple[Any, Any, Any]:
    features = RNG.standard_normal((1, 3, 12, 13), np.float32)
    corners = RNG.uniform(0, 6, (COUNT, 2))
    boxes = np.column_stack([np.zeros(COUNT), corners, corners + RNG.uniform(1, 6, (COUNT, 2))])
    grad = RNG.standard_normal((COUNT, 3, 2, 2), np.float32)
    return cupy.asarray(features), cupy.asarray(boxes.astype(np.float32)), cupy.asarray(grad)


def lending() -> None:
    """CuPy lends all that kernels use."""
    for op, mode in OPERATORS:
        call(op, mode, *problem())
    assert cupy.machine.own_allocations() == 0


def contexts() -> None:
    """Of a call on a device that is not the current one nothing is left but its own context."""
    features, boxes, _ = (array.view(OnSecondDevice) for array in problem())
    out = cupy.empty((COUNT, 3, 2, 2)).view(OnSecondDevice)
    assert cupy.machine.context() == -1
    roidl.roi_align(features, boxes, 2, out=out)
    assert cupy.asnumpy(out.view(cupy.ndarray)).any()
    assert cupy.machine.context() == -1
    assert cupy.machine.contexts() == 0b10


def capture() -> None:
    """Kernels are loaded, and allowed more shared memory, although a stream is captured."""
    arrays = problem()
    cupy.machine.capture(1)
    for op, mode in OPERATORS:
        call(op, mode, *arrays)
    cupy.machine.capture(0)


{"lending": lending, "contexts": contexts, "capture": capture}[sys.argv[1]]()
