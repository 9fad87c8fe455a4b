"""Pictures for docs/fast_rcnn.md: a box on the cells, the pooled features, and the gradient.

The gradient is computed by `roi_align_backward` on NumPy arrays; every framework's gradient uses
the same kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import roidl

from .network import BINS, SAMPLES, STRIDE
from .pictures import COLOURS, MISSED, RIGHT, bare, rectangle, show
from .scenes import SIDE, Scene

Array = npt.NDArray[Any]

CELLS = SIDE // STRIDE
INK = "#222222"
SHOWN = 4  # channels


def _show_cells(axes: Axes, values: Array, colours: str, highest: float | None = None) -> None:
    """Draw a map [CELLS, CELLS] and the borders of its cells, in units of cells."""
    axes.imshow(
        values, cmap=colours, extent=(0, CELLS, CELLS, 0), vmin=0, vmax=highest,
        interpolation="nearest",
    )  # fmt: skip
    for at in range(CELLS + 1):
        axes.axhline(at, color="white", linewidth=0.2)
        axes.axvline(at, color="white", linewidth=0.2)
    bare(axes)


def rounded(box: Array) -> Array:
    """The cells [x1, y1, x2, y2) to which RoIPool rounds a box in pixels."""
    corners = np.floor(box / STRIDE + 0.5)
    return np.concatenate([corners[:2], np.maximum(corners[2:], corners[:2]) + 1])


def _zoom(axes: Axes, box: Array, margin: float) -> None:
    axes.set_xlim(box[0] - margin, box[2] + margin)
    axes.set_ylim(box[3] + margin, box[1] - margin)


def draw_cells(scene: Scene, features: Array, box: Array) -> Figure:
    """A box [4] on the scene, on the features [CELLS, CELLS, C], rounded, and with its samples."""
    figure = Figure(figsize=(11, 3.4), dpi=100, layout="constrained")
    picture, cells, pool, align = figure.subplots(1, 4)
    show(picture, scene.image)
    for at in range(0, SIDE, STRIDE):
        picture.axhline(at, color="white", linewidth=0.2)
        picture.axvline(at, color="white", linewidth=0.2)
    rectangle(picture, box, MISSED, width=2)
    picture.set_title(f"A box on {SIDE} x {SIDE} pixels")
    channel = features[..., _busiest(features, box)[0]]
    inside = box / STRIDE
    for axes in (cells, pool, align):
        _show_cells(axes, channel, "gray")
        rectangle(axes, inside, MISSED, width=2)
    cells.set_title(f"The same box on {CELLS} x {CELLS} cells")
    whole = rounded(box)
    rectangle(pool, whole, RIGHT, "--", width=2)
    pool.set_title("RoIPool: rounded to cells")
    steps = (np.arange(BINS * SAMPLES) + 0.5) / (BINS * SAMPLES)
    across = inside[0] + steps * (inside[2] - inside[0])
    down = inside[1] + steps * (inside[3] - inside[1])
    x, y = np.meshgrid(across, down)
    align.plot(x, y, ".", color=RIGHT, markersize=2.5)
    for at in range(BINS + 1):
        part = at / BINS
        align.vlines(inside[0] + part * (inside[2] - inside[0]), *inside[[1, 3]], MISSED, lw=0.6)
        align.hlines(inside[1] + part * (inside[3] - inside[1]), *inside[[0, 2]], MISSED, lw=0.6)
    align.set_title(f"RoIAlign: {BINS} x {BINS} bins, {SAMPLES} x {SAMPLES} samples each")
    for axes in (pool, align):
        _zoom(axes, whole, 0.6)
    for axes in (picture, cells, pool, align):
        axes.title.set_fontsize(9)
    return figure


def _busiest(features: Array, box: Array) -> Array:
    """The channels with most contrast in the cells of a box."""
    x1, y1, x2, y2 = rounded(box).astype(int)
    order: Array = np.argsort(-features[y1:y2, x1:x2].std(axis=(0, 1)))
    return order[:SHOWN]


def _align(features: Array, boxes: Array) -> Array:
    return np.asarray(
        roidl.roi_align(features, boxes, BINS, 1 / STRIDE, SAMPLES, aligned=True, layout="NHWC")
    )


def draw_pooled(features: Array, box: Array) -> Figure:
    """RoIPool and RoIAlign of a box [4] on features [CELLS, CELLS, C], by channel."""
    channels = _busiest(features, box)
    shown = np.ascontiguousarray(features[None, :, :, channels])
    boxes = np.array([[0, *box]], features.dtype)
    pooled = np.asarray(roidl.roi_pool(shown, boxes, BINS, 1 / STRIDE, layout="NHWC"))[0]
    aligned = _align(shown, boxes)[0]
    figure = Figure(figsize=(8, 6.2), dpi=100, layout="constrained")
    grid = figure.subplots(3, SHOWN)
    for column, channel in enumerate(channels):
        highest = shown[..., column].max()
        _show_cells(grid[0, column], shown[0, :, :, column], "gray", highest)
        rectangle(grid[0, column], box / STRIDE, MISSED)
        _zoom(grid[0, column], rounded(box), 0.6)
        grid[0, column].set_title(f"channel {channel}", fontsize=9)
        for row, result in ((1, pooled), (2, aligned)):
            image = result[:, :, column]
            grid[row, column].imshow(image, cmap="gray", vmin=0, vmax=highest)
            bare(grid[row, column])
    for axes, name in zip(grid[:, 0], ("features", "RoIPool", "RoIAlign"), strict=True):
        axes.set_ylabel(name, fontsize=11, color=INK)
    return figure


def gradients(boxes: Array) -> tuple[Array, Array]:
    """The gradient of the sum over all bins of RoIAlign, on a map of one channel.

    Returns
    -------
    alone [K, CELLS, CELLS], together [CELLS, CELLS]
        Of each of the boxes [K, 4], and of all in one call.
    """
    rows = np.concatenate([np.zeros((len(boxes), 1)), boxes], axis=1)
    ones = np.ones((len(boxes), 1, BINS, BINS))

    def gradient(chosen: slice) -> Array:
        result = roidl.roi_align_backward(
            ones[chosen], rows[chosen], (1, 1, CELLS, CELLS), 1 / STRIDE, SAMPLES, aligned=True
        )
        cells: Array = np.asarray(result)[0, 0]
        return cells

    alone = [gradient(slice(row, row + 1)) for row in range(len(boxes))]
    return np.stack(alone), gradient(slice(None))


def draw_gradients(boxes: Array) -> Figure:
    """Draw the gradient of each of the boxes [K, 4], and that of all together."""
    alone, together = gradients(boxes)
    figure = Figure(figsize=(3 * len(alone) + 3, 3.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(alone) + 1)
    reach = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]) / STRIDE
    for index, (axes, values) in enumerate(zip(panels, [*alone, together], strict=True)):
        _show_cells(axes, values, "inferno", together.max())
        chosen = [index] if index < len(alone) else range(len(alone))
        for row in chosen:
            rectangle(axes, boxes[row] / STRIDE, COLOURS[row % len(COLOURS)], width=2.4)
        _zoom(axes, reach, 1.5)
        name = f"box {index + 1} alone" if index < len(alone) else "all in one call"
        axes.set_title(f"{name}: {values.sum():.3g} in all", fontsize=10)
        for y, x in np.argwhere(values > 0):
            dark = values[y, x] < 0.6 * together.max()
            axes.text(
                x + 0.5, y + 0.5, f"{values[y, x]:.2g}", fontsize=7, ha="center", va="center",
                color="white" if dark else "black", clip_on=True,
            )  # fmt: skip
    apart = abs(alone.sum(axis=0) - together).max()
    figure.supxlabel(
        "Gradient of the sum of all bins to the cells. The last panel is the sum of the others: "
        f"no cell is off by more than {apart:.0e}.",
        fontsize=9,
    )
    return figure
