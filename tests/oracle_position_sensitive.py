"""The float64 oracle of the position-sensitive operators, from the definitions in `oracle`.

Bin (p, q) of channel c of the result reads channel (c * PH + p) * PW + q of the input.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import oracle


def _own_channels(all_channels: oracle.Float64) -> oracle.Float64:
    """[K, C, PH, PW] of the results of all channels for all bins, [K, C * PH * PW, PH, PW]."""
    height, width = all_channels.shape[2:]
    by_bin = all_channels.reshape(len(all_channels), -1, height, width, height, width)
    own: oracle.Float64 = np.einsum("kcpqpq->kcpq", by_bin)
    return own


def _for_all_channels(gradient: oracle.Array) -> oracle.Float64:
    """The transpose of `_own_channels`."""
    rois, channels, height, width = gradient.shape
    spread = np.zeros((rois, channels, height, width, height, width))
    for p in range(height):
        for q in range(width):
            spread[:, :, p, q, p, q] = gradient[:, :, p, q]
    return spread.reshape(rois, -1, height, width)


def ps_roi_align(
    input: oracle.Array,
    boxes: oracle.Array,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = -1,
    *,
    coordinates: oracle.Coordinate = np.float32,
) -> oracle.Float64:
    """-> [K, C, PH, PW] from [N, C * PH * PW, H, W]."""
    rule: Any = (output_size, spatial_scale, sampling_ratio, True)
    return _own_channels(oracle.roi_align(input, boxes, *rule, coordinates=coordinates))


def ps_roi_align_backward(
    gradient: oracle.Array, input: oracle.Array, boxes: oracle.Array, **rule: Any
) -> oracle.Float64:
    """-> [N, C * PH * PW, H, W]."""
    return oracle.roi_align_backward(
        _for_all_channels(gradient), input, boxes, aligned=True, **rule
    )


def ps_roi_align_backward_boxes(
    gradient: oracle.Array, input: oracle.Array, boxes: oracle.Array, **rule: Any
) -> oracle.Float64:
    """-> [K, 5], 0 in the batch column."""
    spread = _for_all_channels(gradient)
    return oracle.roi_align_backward_boxes(spread, input, boxes, aligned=True, **rule)


def _bins(
    start: float, end: float, count: int, size: int, scale: float, real: oracle.Coordinate
) -> list[tuple[int, int]]:
    """First and one past the last cell of each bin along one axis, clipped to [0, size]."""

    def edge(coordinate: float) -> int:
        with np.errstate(over="ignore"):
            scaled = float(real(scale) * real(coordinate))
        scaled = min(max(scaled, -oracle.EDGE_LIMIT), oracle.EDGE_LIMIT)
        whole = math.trunc(scaled)
        return whole + int(math.copysign(abs(scaled - whole) >= 0.5, scaled))

    first = edge(start)
    step = real(max(edge(end) - first, 1)) / real(count)
    edges = [
        (math.floor(float(real(p) * step)), math.ceil(float(real(p + 1) * step)))
        for p in range(count)
    ]
    return [(min(max(first + a, 0), size), min(max(first + b, 0), size)) for a, b in edges]


def ps_roi_pool_matrix(
    boxes: oracle.Array,
    map_size: tuple[int, int],
    output_size: tuple[int, int],
    spatial_scale: float,
    clip: str,
    real: oracle.Coordinate,
) -> oracle.Float64:
    """The weight of every cell for every bin: [K, PH, PW, H, W]."""
    sizes = [max(size - (clip == "torchvision"), 0) for size in map_size]
    weights = np.zeros((len(boxes), *output_size, *map_size))
    for roi, (_, x1, y1, x2, y2) in enumerate(np.asarray(boxes).astype(np.float64).tolist()):
        ys = _bins(y1, y2, output_size[0], sizes[0], spatial_scale, real)
        xs = _bins(x1, x2, output_size[1], sizes[1], spatial_scale, real)
        for p, (top, bottom) in enumerate(ys):
            for q, (left, right) in enumerate(xs):
                if top < bottom and left < right:
                    share = 1 / ((bottom - top) * (right - left))
                    weights[roi, p, q, top:bottom, left:right] = share
    return weights


def ps_roi_pool(
    input: oracle.Array,
    boxes: oracle.Array,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    clip: str = "torchvision",
    *,
    coordinates: oracle.Coordinate = np.float32,
) -> oracle.Float64:
    """-> [K, C, PH, PW] from [N, C * PH * PW, H, W]."""
    size = input.shape[2:]
    weights = ps_roi_pool_matrix(boxes, size, output_size, spatial_scale, clip, coordinates)
    by_bin = input.astype(np.float64).reshape(len(input), -1, *output_size, *size)
    pooled = np.zeros((len(boxes), by_bin.shape[1], *output_size))
    for k, image in enumerate(boxes[:, 0].astype(int)):
        pooled[k] = np.einsum("pqyx,cpqyx->cpq", weights[k], by_bin[image])
    return pooled


def ps_roi_pool_backward(
    gradient: oracle.Array,
    input: oracle.Array,
    boxes: oracle.Array,
    spatial_scale: float = 1.0,
    clip: str = "torchvision",
    *,
    coordinates: oracle.Coordinate = np.float32,
) -> oracle.Float64:
    """-> [N, C * PH * PW, H, W]."""
    bins, size = gradient.shape[2:], input.shape[2:]
    weights = ps_roi_pool_matrix(boxes, size, bins, spatial_scale, clip, coordinates)
    to_input = np.zeros((len(input), gradient.shape[1], *bins, *size))
    for k, image in enumerate(boxes[:, 0].astype(int)):
        to_input[image] += np.einsum("pqyx,cpq->cpqyx", weights[k], gradient[k].astype(np.float64))
    return to_input.reshape(input.shape)
