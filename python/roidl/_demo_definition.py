"""The demo's own float64 definition of average RoIAlign and max RoIPool, forward and gradient.

It follows the papers and is independent of the compiled core, which it checks: RoIAlign as dense
matrices Wy F Wx^T, RoIPool as slices. Coordinates are float32, rounded after every step as in the
core, because rounding can move a sample or a bin; everything else is float64.
`features` are [C, H, W], a box is (x1, y1, x2, y2), results are [K, C, bins, bins].
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def _align_weights(start: float, end: float, size: int, bins: int, scale: float) -> Float64:
    """The weight of each cell [size] in each bin [bins] along one axis; aligned, adaptive."""
    low = np.float32(start) * np.float32(scale) - np.float32(0.5)
    step = (np.float32(end) * np.float32(scale) - np.float32(0.5) - low) / np.float32(bins)
    samples = max(math.ceil(step), 0)
    p = np.arange(bins, dtype=np.float32)[:, None]
    i = np.arange(samples, dtype=np.float32)
    at = (low + p * step) + ((i + np.float32(0.5)) * step) / np.float32(max(samples, 1))
    on_map = (at >= -1) & (at <= size)
    at = np.clip(at, 0, size - 1).astype(np.float64)
    # The weights of linear interpolation: 1 at a cell's centre, 0 at its neighbours' centres.
    hats = np.maximum(1 - np.abs(at[..., None] - np.arange(size)), 0) * on_map[..., None]
    weights: Float64 = hats.sum(axis=1) / max(samples, 1)
    return weights


def _align_matrices(
    box: Float32, map_size: tuple[int, int], bins: int, scale: float
) -> tuple[Float64, Float64]:
    """Wy [bins, H] and Wx [bins, W] of a box; the number of samples adapts to its size."""
    x1, y1, x2, y2 = box
    height, width = map_size
    return (
        _align_weights(y1, y2, height, bins, scale),
        _align_weights(x1, x2, width, bins, scale),
    )


def roi_align(features: Float32, boxes: Float32, bins: int, scale: float) -> Float64:
    """RoIAlign, aligned and adaptive -> [K, C, bins, bins]."""
    weights = [_align_matrices(box, features.shape[1:], bins, scale) for box in boxes]
    return np.stack([wy @ features.astype(np.float64) @ wx.T for wy, wx in weights])


def roi_align_backward(
    grad: Float32, boxes: Float32, shape: tuple[int, int, int], scale: float
) -> Float64:
    """The gradient of `roi_align` to its features -> shape [C, H, W]."""
    total = np.zeros(shape)
    for box, grad_of_box in zip(boxes, grad.astype(np.float64), strict=True):
        wy, wx = _align_matrices(box, shape[1:], grad.shape[-1], scale)
        total += wy.T @ grad_of_box @ wx
    return total


def _rounded(x: np.float32) -> int:
    """Round half away from zero; exact, because the sum is float64."""
    return math.trunc(float(x) + math.copysign(0.5, x))


def _pool_slices(start: float, end: float, size: int, bins: int, scale: float) -> list[slice]:
    first = _rounded(np.float32(scale) * np.float32(start))
    extent = max(_rounded(np.float32(scale) * np.float32(end)) - first + 1, 1)
    quotient = np.float32(extent) / np.float32(bins)

    def clip(cell: int) -> int:
        return min(max(first + cell, 0), size)

    return [
        slice(
            clip(math.floor(np.float32(p) * quotient)),
            clip(math.ceil(np.float32(p + 1) * quotient)),
        )
        for p in range(bins)
    ]


def pool_slices(
    box: Float32, map_size: tuple[int, int], bins: int, scale: float
) -> tuple[list[slice], list[slice]]:
    """The cells of each bin of a box, along y and along x."""
    x1, y1, x2, y2 = box
    height, width = map_size
    return (
        _pool_slices(y1, y2, height, bins, scale),
        _pool_slices(x1, x2, width, bins, scale),
    )


def roi_pool(
    features: Float32, boxes: Float32, bins: int, scale: float
) -> tuple[Float64, npt.NDArray[np.int32]]:
    """RoIPool, max -> [K, C, bins, bins], and the argmax y * W + x of each, -1 for an empty bin."""
    channels, height, width = features.shape
    pooled = np.zeros((len(boxes), channels, bins, bins))
    argmax = np.full(pooled.shape, -1, dtype=np.int32)
    cells = np.arange(height * width, dtype=np.int32).reshape(height, width)
    for k, box in enumerate(boxes):
        rows, columns = pool_slices(box, (height, width), bins, scale)
        for p, ys in enumerate(rows):
            for q, xs in enumerate(columns):
                if cells[ys, xs].size:
                    window = features[:, ys, xs].reshape(channels, -1)
                    pooled[k, :, p, q] = window.max(axis=1)
                    argmax[k, :, p, q] = cells[ys, xs].ravel()[window.argmax(axis=1)]
    return pooled, argmax


def roi_pool_backward(
    grad: Float32, argmax: npt.NDArray[np.int32], shape: tuple[int, int, int]
) -> Float64:
    """The gradient of `roi_pool` to its features -> shape [C, H, W]."""
    channels, height, width = shape
    total = np.zeros((channels, height * width))
    taken = argmax >= 0
    channel = np.broadcast_to(np.arange(channels)[:, None, None], argmax.shape)
    np.add.at(total, (channel[taken], argmax[taken]), grad[taken].astype(np.float64))
    return total.reshape(shape)
