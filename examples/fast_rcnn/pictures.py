"""Pictures of a run: detections on held-out scenes, and the frameworks' losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .evaluation import Detections
from .regions import iou
from .scenes import SIDE, Scene
from .training import Evaluation, Path

Array = npt.NDArray[Any]

# From the palette of Okabe and Ito, which the colour-blind can tell apart.
RIGHT, WRONG, MISSED = "#56B4E9", "#D55E00", "#F0E442"
COLOURS = ("#0072B2", "#E69F00", "#CC79A7")
LEAST_SCORE = 0.5  # detections with lower scores are not drawn
ROWS, COLUMNS = 2, 4


def bare(axes: Axes) -> None:
    """Remove ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def rectangle(axes: Axes, box: Array, colour: str, style: str = "-", width: float = 1.4) -> None:
    """Draw a box x1, y1, x2, y2."""
    size = {"width": box[2] - box[0], "height": box[3] - box[1]}
    axes.add_patch(
        Rectangle(
            (box[0], box[1]), **size, fill=False, edgecolor=colour, linestyle=style, linewidth=width
        )
    )


def show(axes: Axes, image: Array) -> None:
    """Draw a scene in pixels."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(0, SIDE, SIDE, 0))
    bare(axes)


def _draw_detections(axes: Axes, scene: Scene, found: Detections) -> None:
    show(axes, scene.image)
    sure = found.scores >= LEAST_SCORE
    boxes, labels, scores = found.boxes[sure], found.labels[sure], found.scores[sure]
    same = labels[:, None] == scene.labels
    hits = (iou(boxes, scene.boxes) >= 0.5) & same
    for truth in scene.boxes[~hits.any(axis=0)]:
        rectangle(axes, truth, MISSED, "--")
    for box, label, score, hit in zip(boxes, labels, scores, hits.any(axis=1), strict=True):
        colour = RIGHT if hit else WRONG
        rectangle(axes, box, colour)
        axes.text(
            box[0], box[1] - 1, f"{label - 1}  {score:.2f}", color=colour, fontsize=7,
            fontweight="bold", va="bottom",
            path_effects=[patheffects.withStroke(linewidth=1.6, foreground="black")],
        )  # fmt: skip


def draw_detections(evaluation: Evaluation, title: str) -> Figure:
    """The first held-out scenes with their detections."""
    figure = Figure(figsize=(10, 5.6), dpi=100, layout="constrained")
    grid = figure.subplots(ROWS, COLUMNS)
    pairs = zip(evaluation.scenes, evaluation.found, strict=True)
    for axes, (scene, found) in zip(grid.flat, pairs, strict=False):
        _draw_detections(axes, scene, found)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        f"Detections of a probability of {LEAST_SCORE} or more. Blue: right digit, overlap 0.5 or "
        "more; red: not so; yellow, dashed: missed.",
        fontsize=9,
    )
    return figure


def draw_losses(paths: Mapping[str, Mapping[str, Path]]) -> Figure:
    """Plot the frameworks' losses over steps and their differences, by dtype and framework."""
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    losses, apart = figure.subplots(1, 2)
    first_dtype = next(iter(paths))
    for index, (framework, path) in enumerate(paths[first_dtype].items()):
        # The first line is wide, and the others are drawn on it.
        losses.plot(path.losses, label=framework, color=COLOURS[index], linewidth=(6, 3, 1)[index])
    losses.set(xlabel="step", ylabel="loss", title=f"Loss in {first_dtype}")
    losses.legend(frameon=False)
    for dtype, style in zip(paths, ("-", ":"), strict=False):
        (reference, first), *others = paths[dtype].items()
        for index, (framework, path) in enumerate(others, 1):
            distance = np.abs(path.losses / first.losses - 1)
            apart.semilogy(
                np.maximum(distance, 1e-17), style, color=COLOURS[index],
                label=f"{framework} and {reference}, {dtype}",
            )  # fmt: skip
    apart.set(xlabel="step", title="Relative difference of the losses (0 drawn as 1e-17)")
    apart.legend(frameon=False, fontsize=8)
    for axes in (losses, apart):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
