"""Run by test_jax.py with an XLA of few threads: calls that ask for more of our own."""

import jax
import numpy as np

import roidl
from roidl.jax import roi_align

roidl.set_num_threads(4)
rng = np.random.default_rng(63)
features = rng.standard_normal((2, 64, 50, 60), dtype=np.float32)
corners = rng.uniform(0, 20, (200, 2))
rows = np.column_stack([rng.integers(0, 2, 200), corners, corners + rng.uniform(5, 30, (200, 2))])
boxes = rows.astype(np.float32)
expected = roidl.roi_align(features, boxes, 7)


def many(x: jax.Array, b: jax.Array) -> list[jax.Array]:
    # Independent of each other, so that XLA may run them at the same time.
    return [roi_align(x + i, b, 7) - i for i in range(6)]


for _ in range(3):
    for result in jax.jit(many)(features, boxes):
        np.testing.assert_allclose(result, expected, atol=1e-4)
print("fine")
