"""The effects of a process's first calls of roidl on the machine of CuPy's stand-in."""

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
COUNT = 300  # more than a call plans without a workspace


class OnSecondDevice(cupy.ndarray):  # type: ignore[misc]
    """An array that claims to be on the second device, an alias of the first."""

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
    """CuPy allocates all memory that kernels use."""
    for op, mode in OPERATORS:
        call(op, mode, *problem())
    assert cupy.machine.own_allocations() == 0


def contexts() -> None:
    """A call on another than the current device leaves only that device's context behind."""
    features, boxes, _ = (array.view(OnSecondDevice) for array in problem())
    out = cupy.empty((COUNT, 3, 2, 2)).view(OnSecondDevice)
    assert cupy.machine.context() == -1
    roidl.roi_align(features, boxes, 2, out=out)
    assert cupy.asnumpy(out.view(cupy.ndarray)).any()
    assert cupy.machine.context() == -1
    assert cupy.machine.contexts() == 0b10


def capture() -> None:
    """Kernels are loaded and configured for more shared memory during a capture."""
    arrays = problem()
    cupy.machine.capture(1)
    for op, mode in OPERATORS:
        call(op, mode, *arrays)
    cupy.machine.capture(0)


{"lending": lending, "contexts": contexts, "capture": capture}[sys.argv[1]]()
