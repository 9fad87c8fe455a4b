"""Run by test_jax.py with few XLA threads: calls that request more threads of roidl."""

import os

import jax
import numpy as np

import roidl
from roidl.jax import roi_align

CPUS = os.cpu_count() or 1
roidl.set_num_threads(CPUS + 50)


def threads_of_the_process() -> int:
    return len(os.listdir("/proc/self/task"))


rng = np.random.default_rng(63)
features = rng.standard_normal((2, 64, 50, 60), dtype=np.float32)
corners = rng.uniform(0, 20, (200, 2))
rows = np.column_stack([rng.integers(0, 2, 200), corners, corners + rng.uniform(5, 30, (200, 2))])
boxes = rows.astype(np.float32)
(jax.numpy.asarray(features) + 1).block_until_ready()
before = threads_of_the_process()


def many(x: jax.Array, b: jax.Array) -> list[jax.Array]:
    # Independent of each other, so that XLA may run them at the same time.
    return [roi_align(x + i, b, 7) - i for i in range(6)]


results = [jax.jit(many)(features, boxes) for _ in range(3)]
jax.block_until_ready(results)
# XLA has at most one thread per CPU, and roidl uses at most as many as XLA.
assert threads_of_the_process() - before < max(CPUS, 2), (before, threads_of_the_process())
expected = roidl.roi_align(features, boxes, 7)
for result in jax.tree.leaves(results):
    np.testing.assert_allclose(result, expected, atol=1e-4)
print("fine")
