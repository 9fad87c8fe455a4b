"""The error column: part of every result against tests/oracle.py, the definition in float64."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .case import OPERATIONS, Array, Data
from .workloads import Workload

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
oracle: Any = importlib.import_module("oracle")
oracle_position_sensitive: Any = importlib.import_module("oracle_position_sensitive")

SAMPLES = 10_000  # the oracle's limit for one result: about 0.2 s
CHANNELS = 4
CANONICAL_SCALE, CANONICAL_LEVEL = 224, 4  # of feature pyramid networks, arXiv:1612.03144


def levels_of(boxes: Array, workload: Workload) -> Array:
    """The level of each box, by the rule of torchvision and detectron2."""
    area = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])
    level = np.floor(CANONICAL_LEVEL + np.log2(np.sqrt(area) / CANONICAL_SCALE) + 1e-6)
    first = int(np.log2(workload.strides[0]))
    last = int(np.log2(workload.strides[-1]))
    found: Array = np.clip(level, first, last).astype(int) - first
    return found


def checked_rois(workload: Workload, boxes: Array) -> list[int]:
    """RoIs spread over the list, as many as `SAMPLES` allows; at least one."""
    order = np.random.default_rng(1).permutation(len(boxes))
    strides = np.array(workload.strides)[levels_of(boxes, workload)]
    grid = float(workload.sampling_ratio)
    chosen: list[int] = []
    visited = 0.0
    for roi in order.tolist():
        x1, y1, x2, y2 = boxes[roi, 1:] / strides[roi]
        samples = grid**2 * workload.output_size**2 if grid > 0 else (x2 - x1) * (y2 - y1) * 1.3
        if chosen and visited + samples > SAMPLES:
            break
        chosen.append(roi)
        visited += samples
    return sorted(chosen)


def checked_channels(workload: Workload) -> list[int]:
    """The first channel of the result, the last, and some between, so that all kinds of blocks are
    covered."""
    count = min(CHANNELS, workload.pooled_channels)
    return [int(channel) for channel in np.linspace(0, workload.pooled_channels - 1, count)]


def _map_channels(workload: Workload, channels: list[int]) -> list[int]:
    """The channels of the map that these channels of the result are pooled from."""
    own = workload.own_channels
    return [channel * own + i for channel in channels for i in range(own)]


def compared_channels(workload: Workload, operation: str, channels: list[int]) -> list[int]:
    """The channels of what an operation returns that these channels of the result belong to."""
    return _map_channels(workload, channels) if OPERATIONS[operation].backward else channels


def _rounded(array: Array, dtype: str) -> Array:
    stored: Any = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    return array.astype(stored).astype(np.float64)


def expected(
    workload: Workload,
    operation: str,
    dtype: str,
    data: Data,
    rois: list[int],
    channels: list[int],
) -> list[Array]:
    """The expected results of a worker: one array, or for a gradient one for each map."""
    asked = OPERATIONS[operation]
    boxes = data.boxes[rois]
    own = _map_channels(workload, channels)
    inputs = [_rounded(features[:, own], dtype) for features in data.inputs]
    grad = _rounded(data.grad[rois][:, channels], dtype)
    bins = (workload.output_size, workload.output_size)
    scales = [1 / stride for stride in workload.strides]
    if asked.function == "roi_pool":
        result, argmax = oracle.roi_pool(inputs[0], boxes, bins, scales[0])
        if not asked.backward:
            return [result]
        shape: Any = inputs[0].shape
        return [oracle.roi_pool_backward(grad, boxes, argmax, shape, scales[0])]

    if workload.position_sensitive:
        rule: dict[str, Any] = {"spatial_scale": scales[0]}
        if asked.function == "ps_roi_align":
            rule["sampling_ratio"] = workload.sampling_ratio
        if asked.backward:
            gradient = getattr(oracle_position_sensitive, f"{asked.function}_backward")
            return [gradient(grad, inputs[0], boxes, **rule)]
        return [getattr(oracle_position_sensitive, asked.function)(inputs[0], boxes, bins, **rule)]

    levels = levels_of(boxes, workload) if workload.multiscale else np.zeros(len(boxes), int)
    sampling = (workload.sampling_ratio, workload.aligned)
    pooled = np.zeros((len(boxes), len(channels), *bins))
    gradients = []
    for level, (features, scale) in enumerate(zip(inputs, scales, strict=True)):
        here = levels == level
        how = (scale, *sampling)
        if asked.backward:
            gradients.append(
                oracle.roi_align_backward(grad[here], features, boxes[here], *how, mode=asked.mode)
            )
        else:
            pooled[here] = oracle.roi_align(features, boxes[here], bins, *how, mode=asked.mode)
    return gradients if asked.backward else [pooled]


def error(got: list[Array], wanted: list[Array]) -> float:
    """The largest difference, relative to the largest value of the result."""
    if [part.shape for part in got] != [part.shape for part in wanted]:
        raise ValueError(
            f"shapes {[part.shape for part in got]}, expected {[part.shape for part in wanted]}"
        )
    difference = max(
        float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(got, wanted, strict=True)
    )
    return difference / max(float(np.abs(part).max()) for part in wanted)
