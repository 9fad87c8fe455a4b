"""Reads and sets the floating-point mode of this thread, through the C library's fenv_t."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from typing import NamedTuple


class Mode(NamedTuple):
    """The bits in x86's MXCSR and the x87's control word, or in aarch64's FPCR."""

    mxcsr: int
    x87: int
    fpcr: int


# The modes that programs set; "trapping" raises SIGFPE for all exceptions of feenableexcept except
# inexact results, which Python itself has.
MODES = {
    "flushed": Mode(0x1F80 | 0x8040, 0x37F, 1 << 24),
    "upward": Mode(0x1F80 | 0x4000, 0x37F | 0x800, 1 << 22),
    "downward": Mode(0x1F80 | 0x2000, 0x37F | 0x400, 2 << 22),
    "toward_zero": Mode(0x1F80 | 0x6000, 0x37F | 0xC00, 3 << 22),
    "trapping": Mode(0x1100, 0x37F, 0),
    "all_at_once": Mode(0x1100 | 0x6000 | 0x8040, 0x37F | 0xC00, 1 << 24 | 3 << 22),
}

_MACHINE = platform.machine()
SUPPORTED = _MACHINE in ("x86_64", "AMD64", "aarch64")
_libm = ctypes.CDLL("libm.so.6") if SUPPORTED else None


def _words() -> ctypes.Array[ctypes.c_uint32]:
    words = (ctypes.c_uint32 * 8)()  # fenv_t has 32 bytes on x86-64, 8 on aarch64
    assert _libm is not None
    assert _libm.fegetenv(words) == 0
    return words


def current() -> tuple[int, ...]:
    """The mode, without the exception flags."""
    words = _words()
    if _MACHINE == "aarch64":
        return (words[0],)
    return words[7] & ~0x3F, words[0] & 0xF3F


@contextlib.contextmanager
def mode(name: str) -> Iterator[None]:
    """Set a mode within a block, which should have only the call under test: Python is affected."""
    asked, words = MODES[name], _words()
    before = _words()
    if _MACHINE == "aarch64":
        words[0] = asked.fpcr
    else:
        words[0] = words[0] & ~0xFFFF | asked.x87
        words[7] = asked.mxcsr
    assert _libm is not None
    _libm.fesetenv(words)
    try:
        yield
    finally:
        _libm.fesetenv(before)
