"""Whether this process's CUDA context still works: after a fault in a kernel, nothing else does."""

from __future__ import annotations

import ctypes

FINE = (0, 3, 201)  # success; CUDA is not initialised; this thread has no context


def is_broken() -> bool:
    """The driver's status."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return driver.cuCtxSynchronize() not in FINE
