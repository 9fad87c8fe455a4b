"""Training, evaluation, and the comparison of the frameworks: what all three share."""

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
    """A framework cannot compute where it was asked to."""


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
    """Take steps, showing the mean loss of the last hundred; return the loss of each."""
    losses: list[float] = []
    wait = 0.2 if sys.stderr.isatty() else 10  # seconds; a log shall stay short
    with tqdm(range(steps), title, bar_format=BAR, mininterval=wait) as bar:
        for step in bar:
            losses.append(detector.step(make_batch(step, dtype)))
            if step % 20 == 19:
                bar.set_postfix(loss=f"{np.mean(losses[-100:]):.3f}", refresh=False)
    return np.array(losses)


class Evaluation(NamedTuple):
    """What a detector finds on the held-out scenes, and how well."""

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
    """How one framework sets out, and where it goes."""

    gradients: Weights  # of the first batch, to the first weights
    losses: Array  # of every step


def walk(framework: str, settings: Settings, steps: int) -> Path:
    """Take the first steps of a training that has `settings.steps`, from the first weights."""
    detector = make_detector(framework, settings, first_weights())
    gradients = detector.gradients(make_batch(0, settings.dtype))
    title = f"{framework}, {settings.dtype}"
    return Path(gradients, train(detector, steps, settings.dtype, title))


class Difference(NamedTuple):
    """The largest differences between frameworks, relative."""

    gradients: float  # of a layer, to the largest gradient in it
    losses: float


def difference(paths: Sequence[Path]) -> Difference:
    """How far the others are from the first."""
    first, *others = paths
    gradients = max(
        abs(other.gradients[name] - gradient).max() / abs(gradient).max()
        for other in others
        for name, gradient in first.gradients.items()
    )
    losses = max(abs(other.losses / first.losses - 1).max() for other in others)
    return Difference(float(gradients), float(losses))
