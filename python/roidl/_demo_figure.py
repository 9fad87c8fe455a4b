"""The figure of `roidl demo`: a photograph with its regions, one pooled by both operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import roidl

from . import _demo_definition as definition
from ._demo_scene import BINS, Scene

Float32 = npt.NDArray[np.float32]

# From the palette of Okabe and Ito, which the colour-blind can tell apart.
CHOSEN, OTHER = "#F0E442", "#56B4E9"
INK = "#222222"
SMALL, LARGE = 9, 11


def _by(height: int, width: int) -> str:
    return f"{height} \N{MULTIPLICATION SIGN} {width}"


TITLES = (*(f"{_by(bins, bins)} bins" for bins in BINS), f"Gradient, {_by(BINS[0], BINS[0])}")


def _outline(width: float) -> list[patheffects.AbstractPathEffect]:
    return [patheffects.withStroke(linewidth=width, foreground="black")]


def _rectangle(axes: Axes, box: Any, color: str, style: str = "-") -> None:
    x1, y1, x2, y2 = box
    axes.add_patch(
        Rectangle(
            (x1, y1),
            x2 - x1,
            y2 - y1,
            fill=False,
            edgecolor=color,
            linewidth=1.4,
            linestyle=style,
            path_effects=_outline(2.4) if style == "-" else None,
        )
    )


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _photograph(axes: Axes, scene: Scene) -> None:
    width, height = scene.size
    axes.imshow(scene.picture, extent=(0, width, height, 0))
    for region in scene.regions:
        color = CHOSEN if region is scene.regions[0] else OTHER
        _rectangle(axes, region[1:], color)
        axes.annotate(
            region.name,
            (region.x1, region.y1),
            xytext=(2, -2),
            textcoords="offset points",
            va="top",
            color=color,
            fontsize=SMALL,
            fontweight="bold",
            path_effects=_outline(2.2),
        )
    axes.set_title("The photograph and its regions", fontsize=LARGE, color=INK)
    _bare(axes)


def _pool(features: Float32, boxes: Float32, scale: float) -> tuple[list[Float32], Float32]:
    """RoIPool of a region at each size, and its gradient [H, W] at the first size."""
    results = [roidl.roi_pool(features, boxes, bins, scale, return_argmax=True) for bins in BINS]
    first, argmax = results[0]
    grad = roidl.roi_pool_backward(np.ones_like(first), boxes, argmax, features.shape, scale)
    return [pooled for pooled, _ in results], grad[0].sum(axis=0)


def _align(features: Float32, boxes: Float32, scale: float) -> tuple[list[Float32], Float32]:
    """As `_pool`, for RoIAlign."""
    results = [roidl.roi_align(features, boxes, bins, scale, -1, True) for bins in BINS]
    ones = np.ones_like(results[0])
    grad = roidl.roi_align_backward(ones, boxes, features.shape, scale, -1, True)
    return results, grad[0].sum(axis=0)


def _rounded_box(box: Float32, map_size: tuple[int, int], scale: float) -> tuple[float, ...]:
    """The box as RoIPool rounds it, in pixels."""
    ys, xs = definition.pool_slices(box, map_size, BINS[0], scale)
    return (xs[0].start / scale, ys[0].start / scale, xs[-1].stop / scale, ys[-1].stop / scale)


def _heat_map(axes: Axes, scene: Scene, heat: Float32, scale: float) -> None:
    """Draw a gradient to a map over the photograph around the first region."""
    width, height = scene.size
    grey = scene.picture.mean(axis=2)
    axes.imshow(grey, cmap="gray", vmin=-0.8, vmax=1.2, extent=(0, width, height, 0))
    rows, columns = heat.shape
    axes.imshow(
        np.ma.masked_equal(heat, 0),
        cmap="inferno",
        vmin=0,
        alpha=0.85,
        extent=(0, columns / scale, rows / scale, 0),
        interpolation="nearest",
    )
    _, x1, y1, x2, y2 = scene.regions[0]
    _rectangle(axes, (x1, y1, x2, y2), CHOSEN)
    half = 0.62 * max(x2 - x1, y2 - y1)
    axes.set_xlim((x1 + x2) / 2 - half, (x1 + x2) / 2 + half)
    axes.set_ylim((y1 + y2) / 2 + half, (y1 + y2) / 2 - half)
    axes.set_xlabel(f"at most {heat.max():.3g} per cell", fontsize=SMALL, color=INK)


def draw(scene: Scene) -> Figure:
    """Draw the figure for the first region of a scene."""
    boxes = scene.boxes[:1]
    coarse, scale = scene.maps["filter bank"]
    colours = coarse[None, :3]
    rows, columns = coarse.shape[1:]

    figure = Figure(figsize=(9, 4.2), dpi=180)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    grid = figure.add_gridspec(2, 4, width_ratios=(2.2, 1, 1, 1))
    _photograph(figure.add_subplot(grid[:, 0]), scene)
    results = {
        "RoIPool, max": _pool(colours, boxes, scale),
        "RoIAlign, mean": _align(colours, boxes, scale),
    }
    for row, (name, (pooled, heat)) in enumerate(results.items()):
        panels = [figure.add_subplot(grid[row, column]) for column in (1, 2, 3)]
        for axes, image in zip(panels, pooled, strict=False):
            axes.imshow(image[0].transpose(1, 2, 0).clip(0, 1), interpolation="nearest")
        _heat_map(panels[-1], scene, heat, scale)
        if row == 0:
            rounded = _rounded_box(boxes[0], (rows, columns), scale)
            _rectangle(panels[-1], rounded, OTHER, "--")
        panels[0].set_ylabel(name, fontsize=LARGE, fontweight="bold", color=INK)
        for axes, title in zip(panels, TITLES, strict=True):
            _bare(axes)
            if row == 0:
                axes.set_title(title, fontsize=LARGE, color=INK)
    figure.supxlabel(
        f"Right: the region '{scene.regions[0].name}', pooled from a map of "
        f"{_by(columns, rows)} cells, and the gradient of the sum over its {_by(BINS[0], BINS[0])} "
        f"bins.\nDashed: the box as RoIPool rounds it to cells. RoIAlign does not round.",
        fontsize=SMALL,
        color=INK,
    )
    return figure
