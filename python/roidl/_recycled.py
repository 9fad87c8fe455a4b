"""Memory for large results in NumPy, used again once nobody holds a result any more.

The system clears every page that it hands out, which can take longer than to compute what goes
there.
"""

from __future__ import annotations

import functools
import mmap
import os
import weakref
from typing import Any

import numpy as np

_MADV_FREE = 8  # Linux's; Python knows the name only where it was built on a recent system

_kept: dict[int, mmap.mmap] = {}  # the longest unused first


@functools.cache
def _most() -> int:
    """Bytes to keep for results to come; the system may take them back whenever it runs short."""
    text = os.environ.get("ROIDL_KEEP_MB", "") or "512"
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"roidl: ROIDL_KEEP_MB must be an integer of at least 0, got {text!r}")
    return int(text) << 20


def _keep(memory: mmap.mmap) -> None:
    try:
        memory.madvise(_MADV_FREE)
    except OSError:
        return  # what the system cannot take back is not kept from it
    _kept[id(memory)] = memory
    while sum(map(len, list(_kept.values()))) > _most():
        _kept.pop(next(iter(list(_kept)), 0), None)


def _take(size: int) -> mmap.mmap:
    """The smallest that is kept, if it is not much too large; else a new one."""
    for memory in sorted(_kept.values(), key=len):
        # Whoever pops it has it, whatever other threads do meanwhile.
        if size <= len(memory) <= 2 * size and _kept.pop(id(memory), None) is not None:
            return memory
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def empty_bytes(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """`size` bytes that nothing else uses, from the beginning of a cache line."""
    if size <= _most():
        try:
            memory = _take(size)
        except OSError:
            _kept.clear()  # and NumPy says in its own words what there is no room for
        else:
            whole = np.frombuffer(memory, np.uint8)
            # Whatever looks at it, by DLPack too, holds this array: when it goes, they are gone.
            weakref.finalize(whole, _keep, memory).atexit = False
            return whole[:size]
    line = 64
    room = np.empty(size + line, np.uint8)
    start = -room.ctypes.data % line
    return room[start : start + size]
