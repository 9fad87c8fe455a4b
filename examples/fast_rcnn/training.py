"""Training, evaluation, and the comparison of the frameworks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .evaluation import Detections, detect, mean_average_precision
from .network import Detector, Settings, Weights, first_weights
from .regions import make_batch
from .scenes import Scene, make_scene

Array = npt.NDArray[Any]

FRAMEWORKS = ("torch", "tensorflow", "jax")
HELD_OUT = 200  # scenes that are evaluated
OVERLAPS = (0.5, 0.75)
BAR = "{desc:<28}|{bar:20}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"


class NoDeviceError(Exception):
    """The framework cannot use the requested device."""


def make_detector(framework: str, settings: Settings, weights: Weights) -> Detector:
    """A framework's network with these weights; imports the framework.

    Raises
    ------
    NoDeviceError
        If it finds no GPU, and was asked for one.
    """
    module = importlib.import_module(f".{framework}_model", __package__)
    if settings.device == "cuda" and not module.finds_cuda():
        raise NoDeviceError(f"{framework} finds no GPU here")
    detector: Detector = module.Detector(settings, weights)
    return detector


def train(detector: Detector, steps: int, dtype: str, title: str) -> Array:
    """Train, and show the mean loss of the last hundred steps; return the loss of each."""
    losses: list[float] = []
    wait = 0.2 if sys.stderr.isatty() else 10  # seconds between updates; fewer in a log
    with tqdm(range(steps), title, bar_format=BAR, mininterval=wait) as bar:
        for step in bar:
            losses.append(detector.step(make_batch(step, dtype)))
            if step % 20 == 19:
                bar.set_postfix(loss=f"{np.mean(losses[-100:]):.3f}", refresh=False)
    return np.array(losses)


class Evaluation(NamedTuple):
    """The detections on the held-out scenes, and their precision."""

    scenes: Sequence[Scene]
    found: Sequence[Detections]
    precision: dict[float, float]  # mean average precision at an overlap

    def __str__(self) -> str:
        parts = (f"mAP@{least:g} {value:.3f}" for least, value in self.precision.items())
        return f"{', '.join(parts)} on {len(self.scenes)} held-out scenes"


def evaluate(detector: Detector, dtype: str, count: int = HELD_OUT) -> Evaluation:
    """Detect digits on the held-out scenes."""
    scenes = [make_scene("test", number) for number in range(count)]
    found = detect(detector, scenes, dtype)
    precision = {least: mean_average_precision(found, scenes, least) for least in OVERLAPS}
    return Evaluation(scenes, found, precision)


class Path(NamedTuple):
    """The first gradients and the losses of one framework."""

    gradients: Weights  # of the first batch at the initial weights
    losses: Array  # of every step


def walk(framework: str, settings: Settings, steps: int) -> Path:
    """Take the first steps of a training of `settings.steps` from the initial weights."""
    detector = make_detector(framework, settings, first_weights())
    gradients = detector.gradients(make_batch(0, settings.dtype))
    title = f"{framework}, {settings.dtype}"
    return Path(gradients, train(detector, steps, settings.dtype, title))


class Difference(NamedTuple):
    """The largest differences between frameworks, relative."""

    gradients: float  # relative to the largest gradient of a layer
    losses: float


def difference(paths: Sequence[Path]) -> Difference:
    """The differences of the others from the first."""
    first, *others = paths
    gradients = max(
        abs(other.gradients[name] - gradient).max() / abs(gradient).max()
        for other in others
        for name, gradient in first.gradients.items()
    )
    losses = max(abs(other.losses / first.losses - 1).max() for other in others)
    return Difference(float(gradients), float(losses))
