"""A feature pyramid in TensorFlow whose proposals are pooled from the level for their size.

It replaces the usual ``tf.image.crop_and_resize`` of TensorFlow's detectors by RoIAlign: features
NHWC, boxes in pixels of the image, everything in one ``tf.function``.

    python examples/tensorflow_fpn.py [--size 800] [--proposals 2000]
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np

from roidl._command_line import Parser, count, one_line

PROG = "examples/tensorflow_fpn.py"
PARSER = Parser(prog=PROG, description=(__doc__ or "").partition("\n")[0])
# P5 has a cell for every 32 pixels.
PARSER.add_argument("--size", type=count(32), default=800, help="height and width of the image")
PARSER.add_argument("--proposals", type=count(), default=2000)
# Before the import of TensorFlow, whose messages it suppresses.
OPTIONS = PARSER.parse_args(None if __name__ == "__main__" else [])

with one_line(PROG, __name__):
    import tensorflow as tf

    from roidl.tensorflow import assign_levels, multiscale_roi_align

LEVELS = (2, 3, 4, 5)  # P2 has strides of 4 pixels, P5 of 32
SCALES = [2.0**-level for level in LEVELS]
CHANNELS = 256
BINS = 7


class Pyramid(tf.Module):
    """C2 to C5 by strided convolutions, and from the top down P2 to P5 (arXiv:1612.03144)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)

        def kernel(size: int, inputs: int, outputs: int) -> tf.Variable:
            shape = size, size, inputs, outputs
            deviation = (2 / (size * size * inputs)) ** 0.5
            return tf.Variable(rng.normal(0, deviation, shape).astype(np.float32))

        widths = 3, 32, 64, 128, 256
        pairs = itertools.pairwise(widths)
        self.down = [kernel(4 if i == 0 else 3, *pair) for i, pair in enumerate(pairs)]
        self.lateral = [kernel(1, width, CHANNELS) for width in widths[1:]]
        self.smooth = [kernel(3, CHANNELS, CHANNELS) for _ in LEVELS]

    def __call__(self, images: tf.Tensor) -> list[tf.Tensor]:
        x, levels = images, []
        for i, weights in enumerate(self.down):
            x = tf.nn.relu(tf.nn.conv2d(x, weights, 4 if i == 0 else 2, "SAME"))
            levels.append(x)
        top: Any = None
        merged: list[Any] = []
        for x, weights in zip(reversed(levels), reversed(self.lateral), strict=True):
            x = tf.nn.conv2d(x, weights, 1, "SAME")
            if top is not None:
                x += tf.image.resize(top, tf.shape(x)[1:3], "nearest")
            merged.insert(0, x)
            top = x
        return [
            tf.nn.conv2d(x, weights, 1, "SAME")
            for x, weights in zip(merged, self.smooth, strict=True)
        ]


def pool(pyramid: list[tf.Tensor], boxes: tf.Tensor, mode: str) -> tf.Tensor:
    """[K, 7, 7, C] from boxes [K, 5]: four samples per bin, from the level for each box's size."""
    return multiscale_roi_align(pyramid, boxes, BINS, SCALES, 2, aligned=True, mode=mode)


def proposals(count: int, size: int, seed: int = 1) -> tf.Tensor:
    """Boxes [K, 5] of every size on one image."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(8), np.log(size), (count, 2)))
    low = rng.uniform(0, 1, (count, 2)) * (size - sides)
    boxes = np.concatenate([np.zeros((count, 1)), low, low + sides], 1)
    return tf.constant(boxes.astype(np.float32))


def main(size: int = 800, count: int = 2000) -> None:
    """Print the number of proposals of each level, and the time of a step in each mode."""
    model = Pyramid()
    images = tf.random.stateless_uniform([1, size, size, 3], [0, 0])
    boxes = proposals(count, size)

    @tf.function
    def step(images: tf.Tensor, boxes: tf.Tensor, mode: str) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            pooled = pool(model(images), boxes, mode)
            loss = tf.reduce_mean(pooled**2)
        return pooled, tape.gradient(loss, model.trainable_variables)

    levels = tf.math.bincount(assign_levels(boxes, SCALES), minlength=len(LEVELS)).numpy()
    print("boxes on P2 to P5:", *levels)
    for mode in ("max", "avg"):
        step(images, boxes, mode)  # traces
        start = time.perf_counter()
        pooled, gradients = step(images, boxes, mode)
        norm = tf.linalg.global_norm(gradients)
        seconds = time.perf_counter() - start
        shape = "x".join(map(str, pooled.shape))
        print(f"{mode}: {shape}, gradient {norm:.3g}, {seconds:.1f} s with the convolutions")


if __name__ == "__main__":
    with one_line(PROG):
        main(OPTIONS.size, OPTIONS.proposals)
