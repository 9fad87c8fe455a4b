"""What the programs of tests/saved/ were made with."""

from __future__ import annotations

from typing import Any

import numpy as np

_RNG = np.random.default_rng(22)
FEATURES = _RNG.standard_normal((2, 3, 8, 10), dtype=np.float32)
BOXES = np.array([[0, 1.3, 2.1, 12.2, 9.7], [1, 0, 0, 19, 15], [1, 7.7, 3.2, 9, 12.9]], np.float32)
ALIGN: dict[str, Any] = {
    "output_size": (2, 3),
    "spatial_scale": 0.5,
    "sampling_ratio": 2,
    "aligned": True,
}
POOL: dict[str, Any] = {"output_size": (2, 3), "spatial_scale": 0.5}
SCALES = [0.5, 0.25]
