"""Whether this process's CUDA context still works: after a fault in a kernel, nothing else does."""

from __future__ import annotations

import ctypes

FINE = (0, 3, 201)  # success; CUDA is not initialised, or has no context here: nothing was asked


def is_broken() -> bool:
    """What the driver says."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return driver.cuCtxSynchronize() not in FINE
