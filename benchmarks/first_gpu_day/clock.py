"""The time limit of the run, and of each step."""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST = 2.0  # seconds: with less left no step is started


class Clock:
    """Scales the steps' seconds, which are given for a run of `WHOLE` minutes."""

    WHOLE = 9.0

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._scale = now, minutes / self.WHOLE
        self._begin = now()
        self._end = self._begin + 60 * minutes

    @property
    def passed(self) -> float:
        return self._now() - self._begin

    def allow(self, seconds: float) -> float:
        """The limit of a step of nominally so many seconds; 0 if too little time is left."""
        allowed = min(seconds * self._scale, self._end - self._now())
        return allowed if allowed >= LEAST else 0
