"""Memory for large NumPy results, which is recycled after the last reference to a result is gone.

The system clears every newly mapped page, which can take longer than computing the result.
"""

from __future__ import annotations

import functools
import mmap
import os
import weakref
from typing import Any

import numpy as np

_MADV_FREE = 8  # Linux's value; Python has the name only if it was built on a recent system

_kept: dict[int, mmap.mmap] = {}  # by id, the least recently used first


@functools.cache
def _max_kept_bytes() -> int:
    """How many bytes to keep for later results; the system may take them back at any time."""
    text = os.environ.get("ROIDL_KEEP_MB", "") or "512"
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"roidl: ROIDL_KEEP_MB must be an integer of at least 0, got {text!r}")
    return int(text) << 20


def _keep(memory: mmap.mmap) -> None:
    try:
        memory.madvise(_MADV_FREE)
    except OSError:
        return  # memory that the system could not take back is not kept
    _kept[id(memory)] = memory
    while sum(map(len, list(_kept.values()))) > _max_kept_bytes():
        _kept.pop(next(iter(list(_kept)), 0), None)


def _take(size: int) -> mmap.mmap:
    """The smallest kept memory of `size` to 2 * `size` bytes, or else new memory."""
    for memory in sorted(_kept.values(), key=len):
        # `pop` is atomic: of several threads only one gets the memory.
        if size <= len(memory) <= 2 * size and _kept.pop(id(memory), None) is not None:
            return memory
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def empty_bytes(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An uninitialised array of `size` bytes, aligned to a cache line."""
    if size <= _max_kept_bytes():
        try:
            memory = _take(size)
        except OSError:
            _kept.clear()  # there is no room; NumPy below succeeds or raises its own MemoryError
        else:
            whole = np.frombuffer(memory, np.uint8)
            # Every view, and every DLPack capsule, keeps this array alive until it is gone itself.
            weakref.finalize(whole, _keep, memory).atexit = False
            return whole[:size]
    line = 64
    room = np.empty(size + line, np.uint8)
    start = -room.ctypes.data % line
    return room[start : start + size]
