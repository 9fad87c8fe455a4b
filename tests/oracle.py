"""The float64 oracle: every operator, forward and backward, as plain loops over its definition.

It is independent of `src/`, because no test would find a fault that both share. Arrays are NCHW;
`boxes` is always [K, 5] with valid batch indices and finite coordinates. Coordinates are rounded to
the type `coordinates` after every step; values and weights are float64.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Coordinate = type[np.float32] | type[np.float64]
BoxRule = tuple[float, bool, Coordinate]  # spatial_scale, aligned, coordinates
Tap = tuple[int, int, float]  # row, column, weight

GRID_LIMIT = 2**31 - 1  # samples per bin along an axis saturate here
EDGE_LIMIT = 2.0**30  # RoIPool clamps scaled coordinates to +- this, then rounds


# RoIAlign: where the samples fall -----------------------------------------------------------------
class Sample(NamedTuple):
    """A sample on the map along one axis, of value (1 - frac) * map[lo] + frac * map[hi]."""

    place: int  # among the samples of its bin
    lo: int
    hi: int
    frac: float
    moves: bool  # False where the position was clamped to the map: derivative zero
    by_start: float  # derivative of the position by the box's start, in cells per image pixel
    by_end: float  # and by its end


class Bin(NamedTuple):
    """The samples of one bin along one axis."""

    samples: list[Sample]  # only those on the map: a box of 1e6 pixels has 1e6 others
    first_off: int | None  # the first sample off the map; later ones have the same value, 0


class Cell(NamedTuple):
    """One bin of one RoI in both axes."""

    roi: int
    image: int
    row: int
    column: int
    y: Bin
    x: Bin
    samples: float  # on the map and off it


def _on_map(base: Any, step: Any, grid: int, size: int, real: Coordinate) -> dict[int, float]:
    """The samples of a bin that are on the map and their positions, by bisection."""

    def position(i: int) -> float:
        # The order is part of the definition: at -1 and at `size` an ulp moves a whole sample.
        return float(base + ((real(i) + real(0.5)) * step) / real(grid))

    if size == 0 or not np.isfinite(base):
        return {}
    # Positions are monotone in i (downwards in a mirrored box), so those on the map are a run.
    # Overflow makes infinities at its end, never a NaN, as base is finite.
    sign, lowest, highest = (1.0, -1.0, size) if step >= 0 else (-1.0, -size, 1.0)
    first = bisect_left(range(grid), lowest, key=lambda i: sign * position(i))
    last = bisect_right(range(grid), highest, key=lambda i: sign * position(i))
    return {i: position(i) for i in range(first, last)}


def _axis(
    start: float, end: float, bins: int, size: int, ratio: int, box_rule: BoxRule
) -> tuple[int, list[Bin]]:
    """Samples per bin, and the bins, of a box along one axis; no bins when there are no samples."""
    spatial_scale, aligned, real = box_rule
    scale, offset = real(spatial_scale), real(0.5 if aligned else 0.0)
    low = scale * real(start) - offset
    extent = (scale * real(end) - offset) - low
    clamped = not aligned and bool(extent < 1)  # at exactly 1 the end is still free to move
    if clamped:
        extent = real(1)
    step = extent / real(bins)
    grid = ratio
    if ratio <= 0:  # a NaN (inf - inf, of a box that overflowed when scaled) fails: no samples
        grid = math.ceil(min(float(step), GRID_LIMIT)) if step > 0 else 0
    if grid == 0:
        return 0, []

    found = []
    for p in range(bins):
        samples = []
        on_map = _on_map(low + real(p) * step, step, grid, size, real)
        for i, position in on_map.items():
            lo = math.floor(max(position, 0.0))
            inside = lo < size - 1
            lo, hi = (lo, lo + 1) if inside else (size - 1, size - 1)
            frac = max(position, 0.0) - lo if inside else 0.0
            along = (p + (i + 0.5) / grid) / bins
            s = float(scale)
            chain = (s, 0.0) if clamped else (s * (1 - along), s * along)
            samples.append(Sample(i, lo, hi, frac, inside and position >= 0, *chain))
        off_map = (i for i in range(min(grid, len(on_map) + 1)) if i not in on_map)
        found.append(Bin(samples, next(off_map, None)))
    return grid, found


def _cells(
    boxes: Array,
    map_size: tuple[int, int],
    output_size: tuple[int, int],
    sampling_ratio: int | tuple[int, int],
    box_rule: BoxRule,
) -> Iterator[Cell]:
    """All bins of all RoIs that have samples; what is not visited is zero, forward and backward."""
    ratios = (sampling_ratio,) * 2 if isinstance(sampling_ratio, int) else sampling_ratio
    for roi, (batch, x1, y1, x2, y2) in enumerate(np.asarray(boxes).astype(np.float64).tolist()):
        grid_y, ys = _axis(y1, y2, output_size[0], map_size[0], ratios[0], box_rule)
        grid_x, xs = _axis(x1, x2, output_size[1], map_size[1], ratios[1], box_rule)
        for row, y in enumerate(ys):
            for column, x in enumerate(xs):
                yield Cell(roi, int(batch), row, column, y, x, float(grid_y) * float(grid_x))


# RoIAlign: the values of samples ------------------------------------------------------------------
class Candidate(NamedTuple):
    """A sample of a bin, or in max_onnx one of its weighted corners."""

    value: Float64  # [C]
    taps: list[Tap]  # where its gradient goes
    at: tuple[Sample, Sample] | None  # None where the boxes get no gradient


def _lerp(lo: Float64, hi: Float64, frac: float) -> Float64:
    """Interpolate; taps of weight zero are skipped, so that a NaN or Inf there does not spread."""
    return lo if frac == 0 else (1 - frac) * lo + frac * hi


def _slopes(image: Float64, y: Sample, x: Sample) -> tuple[Float64, Float64]:
    """Derivatives [C] of a sample's value by its two coordinates."""
    a, b, c, d = image[y.lo, x.lo], image[y.lo, x.hi], image[y.hi, x.lo], image[y.hi, x.hi]
    by_y = _lerp(c - a, d - b, x.frac) if y.moves else np.zeros_like(a)
    by_x = _lerp(b - a, d - c, y.frac) if x.moves else np.zeros_like(a)
    return by_y, by_x


def _first_off(y: Bin, x: Bin) -> tuple[int, int] | None:
    """Place of the first sample, in row-major order, that is off the map in either axis."""
    if y.first_off == 0:
        return 0, 0
    if x.first_off is not None:
        return 0, x.first_off
    return None if y.first_off is None else (y.first_off, 0)


def _candidates(image: Float64, cell: Cell, mode: str) -> list[Candidate]:
    """The samples on the map in row-major order, with the first one off the map in its place."""
    zero = Candidate(np.zeros(image.shape[-1]), [], None)
    off = _first_off(cell.y, cell.x)
    found = []
    for y in cell.y.samples:
        line = _lerp(image[y.lo], image[y.hi], y.frac)  # along y first, then x
        for x in cell.x.samples:
            if off is not None and off < (y.place, x.place):
                found.append(zero)
                off = None
            taps = [
                (row, column, weight_y * weight_x)
                for row, weight_y in ((y.lo, 1 - y.frac), (y.hi, y.frac))
                for column, weight_x in ((x.lo, 1 - x.frac), (x.hi, x.frac))
            ]
            if mode == "max_onnx":
                for tap in taps:
                    corner = Candidate(tap[2] * image[tap[:2]], [tap], None)
                    found.append(zero if tap[2] == 0 else corner)
            else:
                value = _lerp(line[x.lo], line[x.hi], x.frac)
                found.append(Candidate(value, [tap for tap in taps if tap[2] != 0], (y, x)))
    return found if off is None else [*found, zero]


def _winners(candidates: list[Candidate]) -> Iterator[Candidate]:
    """The index of the maximum for each channel: the first NaN, else the first largest."""
    values = np.array([candidate.value for candidate in candidates])
    for first in values.argmax(axis=0):  # NumPy's argmax returns the first NaN, if there is one
        yield candidates[first]


def _pull(
    gradients: Float64, images: Float64, cells: Iterator[Cell], mode: str
) -> Iterator[tuple[Cell, Candidate, slice, Float64]]:
    """Distribute the output's gradient: yield (bin, receiver, its channels, gradient)."""
    for cell in cells:
        gradient = gradients[cell.roi, :, cell.row, cell.column]
        candidates = _candidates(images[cell.image], cell, mode)
        if mode == "avg":
            for candidate in candidates:
                yield cell, candidate, slice(None), gradient / cell.samples
        else:
            for c, winner in enumerate(_winners(candidates)):
                yield cell, winner, slice(c, c + 1), gradient[c : c + 1]


def _channels_last(maps: Array) -> Float64:
    """[N, C, H, W] of any float type as float64 [N, H, W, C], so that a pixel is one vector."""
    return np.ascontiguousarray(np.asarray(maps).astype(np.float64).transpose(0, 2, 3, 1))


def _check_mode(mode: str, *modes: str) -> None:
    if mode not in modes:
        raise ValueError(f"the oracle has no mode {mode!r} here, only {modes}")


def roi_align(
    input: Array,
    boxes: Array,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
    coordinates: Coordinate = np.float32,
) -> Float64:
    """RoIAlign, modes avg, max, max_onnx -> [K, C, PH, PW]."""
    _check_mode(mode, "avg", "max", "max_onnx")
    images = _channels_last(input)
    box_rule = (spatial_scale, aligned, coordinates)
    out = np.zeros((len(boxes), images.shape[3], *output_size))
    with np.errstate(all="ignore"):
        for cell in _cells(boxes, images.shape[1:3], output_size, sampling_ratio, box_rule):
            candidates = _candidates(images[cell.image], cell, mode)
            result = out[cell.roi, :, cell.row, cell.column]
            if mode == "avg":
                result[:] = sum(candidate.value for candidate in candidates) / cell.samples
            else:
                result[:] = [win.value[c] for c, win in enumerate(_winners(candidates))]
    return out


def roi_align_backward(
    grad_output: Array,
    input: Array,
    boxes: Array,
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
    coordinates: Coordinate = np.float32,
) -> Float64:
    """Gradient of `roi_align` to the input -> [N, C, H, W]."""
    _check_mode(mode, "avg", "max", "max_onnx")
    images, gradients = _channels_last(input), np.asarray(grad_output).astype(np.float64)
    map_size, output_size = images.shape[1:3], gradients.shape[2:]
    box_rule = (spatial_scale, aligned, coordinates)
    out = np.zeros_like(images)
    with np.errstate(all="ignore"):
        cells = _cells(boxes, map_size, output_size, sampling_ratio, box_rule)
        for cell, receiver, channels, gradient in _pull(gradients, images, cells, mode):
            for row, column, weight in receiver.taps:
                out[cell.image, row, column, channels] += weight * gradient
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def roi_align_backward_boxes(
    grad_output: Array,
    input: Array,
    boxes: Array,
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
    coordinates: Coordinate = np.float32,
) -> Float64:
    """Gradient of `roi_align`, modes avg and max, to the boxes -> [K, 5], 0 in the batch column."""
    _check_mode(mode, "avg", "max")
    images, gradients = _channels_last(input), np.asarray(grad_output).astype(np.float64)
    map_size, output_size = images.shape[1:3], gradients.shape[2:]
    box_rule = (spatial_scale, aligned, coordinates)
    out = np.zeros((len(boxes), 5))
    with np.errstate(all="ignore"):
        cells = _cells(boxes, map_size, output_size, sampling_ratio, box_rule)
        for cell, receiver, channels, gradient in _pull(gradients, images, cells, mode):
            if receiver.at is not None:
                y, x = receiver.at
                by_y, by_x = _slopes(images[cell.image, :, :, channels], y, x)
                dy, dx = gradient @ by_y, gradient @ by_x
                out[cell.roi, 1:] += dx * x.by_start, dy * y.by_start, dx * x.by_end, dy * y.by_end
    return out


# RoIPool ------------------------------------------------------------------------------------------
def _pool_axis(
    start: float, end: float, bins: int, size: int, spatial_scale: float, real: Coordinate
) -> list[tuple[int, int]]:
    """First and one past the last pixel of each bin of a box along one axis, clipped to the map."""

    def edge(coordinate: float) -> int:
        scaled = float(real(spatial_scale) * real(coordinate))
        scaled = min(max(scaled, -EDGE_LIMIT), EDGE_LIMIT)
        # Half away from zero. Not floor(|x| + 0.5): that sum rounds the float below 0.5 up to 1.
        whole = math.trunc(scaled)
        return whole + int(math.copysign(abs(scaled - whole) >= 0.5, scaled))

    first = edge(start)
    extent = max(edge(end) - first + 1, 1)
    quotient = real(extent) / real(bins)  # its rounding moves borders: extent 57 in 7 bins, ...

    def clip(pixel: int) -> int:
        return min(max(first + pixel, 0), size)

    return [
        (
            clip(math.floor(float(real(p) * quotient))),
            clip(math.ceil(float(real(p + 1) * quotient))),
        )
        for p in range(bins)
    ]


def _pool_bins(
    boxes: Array,
    map_size: tuple[int, int],
    output_size: tuple[int, int],
    spatial_scale: float,
    real: Coordinate,
) -> Iterator[tuple[int, int, int, int, slice, slice]]:
    """(RoI, image, row, column, pixels along y, along x) of every bin that is not empty."""
    for roi, (batch, x1, y1, x2, y2) in enumerate(np.asarray(boxes).astype(np.float64).tolist()):
        ys = _pool_axis(y1, y2, output_size[0], map_size[0], spatial_scale, real)
        xs = _pool_axis(x1, x2, output_size[1], map_size[1], spatial_scale, real)
        for row, (top, bottom) in enumerate(ys):
            for column, (left, right) in enumerate(xs):
                if top < bottom and left < right:
                    yield roi, int(batch), row, column, slice(top, bottom), slice(left, right)


def roi_pool(
    input: Array,
    boxes: Array,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    *,
    mode: str = "max",
    coordinates: Coordinate = np.float32,
) -> tuple[Float64, npt.NDArray[np.int32] | None]:
    """RoIPool, modes max, avg -> [K, C, PH, PW] and, for max, the argmax y * W + x, -1 if empty."""
    _check_mode(mode, "max", "avg")
    images = np.asarray(input).astype(np.float64)
    _, channels, height, width = images.shape
    out = np.zeros((len(boxes), channels, *output_size))
    argmax = np.full(out.shape, -1, dtype=np.int32)
    with np.errstate(all="ignore"):
        bins = _pool_bins(boxes, (height, width), output_size, spatial_scale, coordinates)
        for roi, image, row, column, ys, xs in bins:
            window = images[image, :, ys, xs]
            pixels = window.reshape(channels, window.shape[1] * window.shape[2])
            if mode == "avg":
                out[roi, :, row, column] = pixels.sum(axis=1) / pixels.shape[1]
                continue
            first = pixels.argmax(axis=1)  # the first NaN, else the first largest, row-major
            out[roi, :, row, column] = pixels[np.arange(channels), first]
            y, x = np.divmod(first, xs.stop - xs.start)
            argmax[roi, :, row, column] = (ys.start + y) * width + xs.start + x
    return out, argmax if mode == "max" else None


def roi_pool_backward(
    grad_output: Array,
    boxes: Array,
    argmax: npt.NDArray[np.int32] | None,
    input_shape: tuple[int, int, int, int],
    spatial_scale: float = 1.0,
    *,
    mode: str = "max",
    coordinates: Coordinate = np.float32,
) -> Float64:
    """Gradient of `roi_pool` to the input -> [N, C, H, W]; argmax is None for avg."""
    _check_mode(mode, "max", "avg")
    gradients = np.asarray(grad_output).astype(np.float64)
    height, width = input_shape[2:]
    out = np.zeros(input_shape)
    with np.errstate(all="ignore"):
        bins = _pool_bins(boxes, (height, width), gradients.shape[2:], spatial_scale, coordinates)
        for roi, image, row, column, ys, xs in bins:
            gradient = gradients[roi, :, row, column]
            if mode == "avg":
                pixels = out[image, :, ys, xs]
                pixels += gradient[:, None, None] / (pixels.shape[1] * pixels.shape[2])
                continue
            for c, where in enumerate(np.asarray(argmax)[roi, :, row, column].tolist()):
                out[image, c, where // width, where % width] += gradient[c]
    return out
