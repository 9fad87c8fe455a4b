"""Train a box head in plain JAX: features, RoIAlign, a small network that moves boxes onto squares.

Each image has one bright square. The head pools an initial box by RoIAlign and corrects it in two
stages (as Cascade R-CNN does): the second stage pools the box that the first has moved, and its
loss reaches the first through the gradient to the boxes.

    python examples/jax_box_head.py [--steps 300]
"""

from __future__ import annotations

from functools import partial
from typing import Any

from roidl._command_line import Parser, count, one_line

PROG = "examples/jax_box_head.py"

with one_line(PROG, __name__):
    import jax
    import jax.numpy as jnp

    from roidl.jax import roi_align

Array = Any
Params = dict[str, Array]

IMAGES, SIZE, CHANNELS, BINS = 16, 32, 8, 5
HIDDEN = 64
RATE = 3e-3


def make_params(key: Array) -> Params:
    """Weights: filters of the features, and a head of two layers."""
    keys = jax.random.split(key, 3)
    flat = BINS * BINS * CHANNELS
    return {
        "filters": jax.random.normal(keys[0], (5, 5, 1, CHANNELS)) / 5,
        "hidden": jax.random.normal(keys[1], (flat, HIDDEN)) * (2 / flat) ** 0.5,
        "shift": jax.random.normal(keys[2], (HIDDEN, 4)) * 0.01,
    }


def make_batch(key: Array) -> tuple[Array, Array, Array]:
    """Images [N, S, S, 1], the boxes of their squares [N, 1, 4], and initial boxes."""
    place, size, noise, error = jax.random.split(key, 4)
    start = jax.random.uniform(place, (IMAGES, 1, 2), minval=4, maxval=14)
    boxes = jnp.concatenate(
        [start, start + jax.random.uniform(size, (IMAGES, 1, 2), minval=8, maxval=14)], axis=-1
    )
    pixel = jnp.arange(SIZE) + 0.5
    inside = (pixel > boxes[..., :2, None]) & (pixel < boxes[..., 2:, None])  # [N, 1, (x, y), S]
    squares = inside[:, 0, 1, :, None] & inside[:, 0, 0, None, :]
    images = squares + 0.1 * jax.random.normal(noise, squares.shape)
    guesses = boxes + jax.random.uniform(error, boxes.shape, minval=-3, maxval=3)
    return images[..., None], boxes, guesses


def refine(params: Params, features: Array, boxes: Array) -> Array:
    """Pool the boxes [N, 1, 4], and move them by fractions of their size."""
    pooled = roi_align(features, boxes, BINS, sampling_ratio=2, aligned=True, layout="NHWC")
    hidden = jax.nn.relu(pooled.reshape(IMAGES, 1, -1) @ params["hidden"])
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes + hidden @ params["shift"] * jnp.concatenate([sizes, sizes], axis=-1)


def loss_of(params: Params, images: Array, boxes: Array, guesses: Array) -> Array:
    """The mean distance of the corners, in pixels, after either stage."""
    features = jax.lax.conv_general_dilated(
        images, params["filters"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    first = refine(params, features, guesses)
    second = refine(params, features, first)
    return (jnp.abs(first - boxes).mean() + jnp.abs(second - boxes).mean()) / 2


@partial(jax.jit, donate_argnums=(0, 1))
def train_step(params: Params, moments: Any, key: Array, step: int) -> tuple[Any, ...]:
    """One step of Adam on a fresh batch."""
    loss, gradient = jax.value_and_grad(loss_of)(params, *make_batch(key))
    first, second = moments
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, second, gradient)

    def move(parameter: Array, m: Array, v: Array) -> Array:
        m, v = m / (1 - 0.9**step), v / (1 - 0.99**step)
        return parameter - RATE * m / (jnp.sqrt(v) + 1e-8)

    return jax.tree.map(move, params, first, second), (first, second), loss


def main() -> None:
    """Train, and print the mean loss of every tenth of the steps."""
    parser = Parser(prog=PROG, description="Train a box head in plain JAX.")
    parser.add_argument("--steps", type=count(), default=300)
    steps = parser.parse_args().steps
    key = jax.random.key(0)
    params = make_params(key)
    moments = (jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))
    report, total = max(steps // 10, 1), 0.0
    for step in range(1, steps + 1):
        params, moments, loss = train_step(params, moments, jax.random.fold_in(key, step), step)
        total += float(loss)
        if step % report == 0:
            print(f"step {step:4d}  loss {total / report:.3f}")
            total = 0.0


if __name__ == "__main__":
    with one_line(PROG):
        main()
