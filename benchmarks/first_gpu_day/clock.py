"""The time of the whole: when it ends, and what each step may take of it."""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST = 2.0  # seconds with which a step is worth starting


class Clock:
    """Steps' seconds are those of a whole of `WHOLE` minutes, and scale with it."""

    WHOLE = 9.0

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._scale = now, minutes / self.WHOLE
        self._begin = now()
        self._end = self._begin + 60 * minutes

    @property
    def passed(self) -> float:
        return self._now() - self._begin

    def allow(self, seconds: float) -> float:
        """What a step may take that asks for so many seconds; 0 if it is not worth starting."""
        allowed = min(seconds * self._scale, self._end - self._now())
        return allowed if allowed >= LEAST else 0
