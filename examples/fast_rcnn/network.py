"""The network of all three frameworks: its layers, initial weights and settings.

Weights are NumPy arrays in TensorFlow's and JAX's order, [height, width, in, out] and [in, out];
a checkpoint (`save`, `load`) can be used in any framework.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from .regions import Batch
from .scenes import CLASSES

Array = npt.NDArray[Any]
Weights = dict[str, Array]

# Convolutions of 3 x 3 cells with a border of one zero, each followed by ReLU.
CONVOLUTIONS = {"conv1": 2, "conv2": 2, "conv3": 1, "conv4": 2, "conv5": 1}  # name: stride
CHANNELS = (1, 16, 32, 64, 128, 128)
STRIDE = 8  # pixels of the scene per cell of the features
BINS = 7
SAMPLES = 2  # per bin along each axis
HIDDEN = 128
DENSE = {
    "hidden": (BINS * BINS * CHANNELS[-1], HIDDEN),
    "scores": (HIDDEN, CLASSES + 1),
    "corrections": (HIDDEN, CLASSES * 4),
}
POOLS = {"align": "RoIAlign", "pool": "RoIPool"}


class Settings(NamedTuple):
    """The settings of a run."""

    pool: str = "align"  # a key of POOLS
    dtype: str = "float32"
    device: str = "cpu"  # or "cuda"
    # Few binary digits, because Keras keeps these in float32.
    rate: float = 1 / 32
    momentum: float = 7 / 8
    steps: int = 3000

    @property
    def decay_at(self) -> tuple[int, int]:
        """The steps at which the rate drops to an eighth, and to a sixty-fourth."""
        return self.steps * 7 // 10, self.steps * 9 // 10


class Detector(Protocol):
    """A network in one framework. Arguments and results are NumPy arrays."""

    def __init__(self, settings: Settings, weights: Weights) -> None: ...

    def step(self, batch: Batch) -> float:
        """Train on a batch; return its loss before the step."""

    def gradients(self, batch: Batch) -> Weights:
        """The gradient of the loss to every weight."""

    def features(self, images: Array) -> Array:
        """The features of images: [N, SIDE / STRIDE, SIDE / STRIDE, C]."""

    def predict(self, images: Array, boxes: Array) -> tuple[Array, Array]:
        """Probabilities [N, L, 1 + CLASSES], corrections [N, L, CLASSES, 4] of boxes [N, L, 4]."""

    def weights(self) -> Weights:
        """The current weights."""

    def suppress(self, boxes: Array, scores: Array, limit: float) -> Array:
        """Rows of boxes [K, 4] that no box of a higher score overlaps by more, best first."""


def first_weights(seed: int = 0) -> Weights:
    """Random weights: He's for layers before a ReLU, small for the other two; zero offsets."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        name: (3, 3, CHANNELS[index], CHANNELS[index + 1])
        for index, name in enumerate(CONVOLUTIONS)
    }
    small = {"scores": 0.01, "corrections": 0.001}
    weights: Weights = {}
    for name, shape in (shapes | DENSE).items():
        deviation = small[name] if name in small else np.sqrt(2 / np.prod(shape[:-1]))
        weights[name] = rng.normal(size=shape) * deviation
    offsets = {f"{name}_offset": np.zeros(array.shape[-1]) for name, array in weights.items()}
    return weights | offsets


def save(path: Path, weights: Weights, pool: str) -> None:
    """Write weights, and the name of their pooling, to an .npz file."""
    np.savez(path, allow_pickle=False, **weights, pool=np.array(pool))


def load(path: Path) -> tuple[Weights, str]:
    """The weights of an .npz file, and the name of their pooling.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or holds something else.
    """
    try:
        with np.load(path) as file:
            weights = dict(file)
    except (AttributeError, EOFError, TypeError, ValueError, BadZipFile):
        raise ValueError(f"{path} is not an .npz file of arrays") from None
    pool = str(weights.pop("pool", ""))
    shapes = {name: array.shape for name, array in first_weights().items()}
    wrong = {name for name in shapes.keys() | weights if name not in weights or name not in shapes}
    wrong |= {name for name in shapes.keys() - wrong if weights[name].shape != shapes[name]}
    if wrong or pool not in POOLS:
        what = f"weights of other shapes: {', '.join(sorted(wrong))}" if wrong else "no pooling"
        raise ValueError(f"{path} holds no weights of this network, but {what}")
    return weights, pool
