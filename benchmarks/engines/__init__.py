"""The base class of engines, each of which calls one library. Only workers import this package."""

from __future__ import annotations

import ctypes
import gc
import resource
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..case import Array, Case, Data

Call = Callable[[], Any]


class Engine:
    """Base of all engines; a new one needs `operations`, `packages`, `prepare` and `to_numpy`.

    Parameters
    ----------
    threads : int
        Threads that a call may use. The process has as many CPUs, but most libraries need the
        number as a setting.
    device : {"cpu", "cuda"}
    """

    operations: ClassVar[Sequence[str]]  # keys of case.OPERATIONS
    packages: ClassVar[Sequence[str]]  # distributions whose versions are recorded
    layouts: ClassVar[Sequence[str]] = ("NCHW", "NHWC")
    dtypes: ClassVar[Sequence[str]] = ("float32",)
    devices: ClassVar[Sequence[str]] = ("cpu",)
    note: ClassVar[str] = ""  # a remark for readers of the table

    def __init__(self, threads: int, device: str) -> None:
        self.threads = threads
        self.device = device

    def offers(self, operation: str, dtype: str) -> bool:
        """Whether to time this operation on this dtype."""
        return operation in self.operations and dtype in self.dtypes

    def prepare(self, case: Case, data: Data) -> Call:
        """Copy the data into arrays of the library; the call returns a fresh result each time.

        Raises
        ------
        NotImplementedError
            If the library has no such call.
        """
        raise NotImplementedError

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        """The result as float32 NCHW: one array, or one per map."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        return {package: version(package) for package in self.packages}

    def time(self, call: Call, count: int) -> list[float]:
        """Seconds of each of `count` calls; freeing the result is not counted."""
        times = []
        gc.disable()
        for _ in range(count):
            start = time.perf_counter()
            result = call()
            end = time.perf_counter()
            del result
            times.append(end - start)
        gc.enable()
        return times

    def in_graph(self, call: Call) -> dict[str, Any]:
        """The seconds of a call in a CUDA graph, as "graph", and its number of "kernels"; empty if
        the engine has no graphs."""
        return {}

    def first_call(self, call: Call) -> tuple[Any, float, int]:
        """The result of a call, its seconds, and the peak growth of the process in bytes."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # or the call uses memory that others have freed
        before = _resident("VmRSS")
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        except OSError:  # forbidden in some containers: then the peak since the start
            is_reset = False
        else:
            is_reset = True
        start = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - start
        if is_reset:
            peak = _resident("VmHWM")
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return result, seconds, max(peak - before, 0)

    def bandwidth(self, elements: int) -> float:
        """Bytes per second, read and written, of a copy of `count` float32 on the device."""
        raise NotImplementedError


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def arranged(array: Array, layout: str) -> Array:
    """A new float32 array in C order, its axes in the order of `layout`."""
    return np.array(array if layout == "NCHW" else array.transpose(0, 2, 3, 1), order="C")


def as_nchw(array: Array, layout: str) -> Array:
    """The reverse of `arranged`, without a copy."""
    return array if layout == "NCHW" else array.transpose(0, 3, 1, 2)
