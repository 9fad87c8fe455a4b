"""Non-maximum suppression in NumPy, for frameworks without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .regions import iou

Array = npt.NDArray[Any]


def suppress(boxes: Array, scores: Array, limit: float) -> Array:
    """Rows of boxes [K, 4] that no box of a higher score overlaps by more, best first."""
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[iou(boxes[best : best + 1], boxes[left])[0] <= limit]
    return np.array(kept, dtype=int)
