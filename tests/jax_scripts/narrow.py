"""Run by test_jax.py without 64-bit types, JAX's default."""

import jax
import numpy as np
import pytest

from roidl.jax import assign_levels, multiscale_roi_align, roi_align

assert not jax.config.read("jax_enable_x64")
image = np.arange(2.0)[:, None, None, None] * np.ones((2, 1, 4, 4))  # float64, NumPy's default
boxes = np.array([[1.0, 1.0, 3.0, 3.0]] * 2)


def pooled(indices: list[int]) -> jax.Array:
    result: jax.Array = roi_align(image, boxes, 1, batch_indices=np.array(indices, np.int64))
    return result.ravel()


assert pooled([1, 0]).dtype == np.float32
assert pooled([1, 0]).tolist() == [1.0, 0.0]
for wrong in (2**32, 2**40 + 1, -(2**32)):  # its lower half is a valid index
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="batch index of row 1 is "):
        pooled([1, wrong]).block_until_ready()

gradient = jax.jit(jax.grad(lambda x, b: roi_align(x, [b, b], 1).sum(), argnums=(0, 1)))
to_image, to_boxes = gradient(image.astype(np.float16), boxes)
assert to_image.dtype == np.float16
assert to_boxes.dtype == np.float32

levels = np.array([0, 2**32], np.int64)
with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="level of row 1 is "):
    multiscale_roi_align([image], [boxes[:1]] * 2, 1, [1], levels=levels).block_until_ready()
borders = np.array([[0, 0, side, side] for side in (111.99, 112, 224, 448)])
assert assign_levels(borders, [1 / 4, 1 / 8, 1 / 16, 1 / 32]).tolist() == [0, 1, 2, 3]
print("fine")
