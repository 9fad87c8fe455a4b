"""Boxes: overlap, proposals, the targets of a region, and how a correction moves a box.

Girshick, Fast R-CNN, arXiv:1504.08083, section 2.3; Girshick et al., R-CNN, arXiv:1311.2524,
appendix C for the correction t = (dx / w, dy / h, log dw, log dh).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .scenes import BACKGROUND, SIDE, Scene, make_scene

Array = npt.NDArray[Any]

IMAGES = 2  # per step
REGIONS = 64  # per image and step
POSITIVES = REGIONS // 4
POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.1

JITTERED = 10  # proposals around each digit
PROPOSALS = 128  # per image
# Scales of a correction's four numbers, which make them about equally large in training.
CORRECTION_SCALE = np.array([10.0, 10.0, 5.0, 5.0])


class Batch(NamedTuple):
    """The batch of one step, as NumPy arrays or a framework's."""

    images: Any  # [IMAGES, SIDE, SIDE, 1], as `prepare` makes them
    boxes: Any  # [IMAGES, REGIONS, 4], pixels
    labels: Any  # [IMAGES, REGIONS], int32; 0 is background
    corrections: Any  # [IMAGES, REGIONS, 4], scaled; 0 where the label is background


def prepare(images: Array) -> Array:
    """Grey pictures [N, H, W] as the network's input [N, H, W, 1], of mean about 0 and range 1."""
    prepared: Array = (images[..., None] - 0.25) * 4
    return prepared


def iou(boxes: Array, others: Array) -> Array:
    """Intersection over union of every box [K, 4] with every other [M, 4]: [K, M]."""
    first, second = boxes[:, None], others[None]
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (first, second)]
    # A box that was clipped at the border may be empty.
    ratio: Array = common / np.maximum(areas[0] + areas[1] - common, 1e-9)
    return ratio


def encode(boxes: Array, targets: Array) -> Array:
    """The scaled corrections [K, 4] that move boxes [K, 4] onto targets [K, 4]."""
    size, target_size = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    shift = (targets[:, :2] + targets[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    corrections = np.concatenate([shift / size, np.log(target_size / size)], axis=1)
    scaled: Array = corrections * CORRECTION_SCALE
    return scaled


def decode(boxes: Array, corrections: Array) -> Array:
    """Boxes [..., 4] moved by scaled corrections [..., 4], clipped to the scene."""
    corrections = corrections / CORRECTION_SCALE
    size = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + corrections[..., :2] * size
    half = size * np.exp(np.clip(corrections[..., 2:], -3, 3)) / 2
    moved: Array = np.clip(np.concatenate([centre - half, centre + half], axis=-1), 0, SIDE)
    return moved


def propose(rng: np.random.Generator, truth: Array) -> Array:
    """Candidates [PROPOSALS, 4]: jittered boxes of the digits, and random boxes."""
    truth = truth.repeat(JITTERED, axis=0)
    size = truth[:, 2:] - truth[:, :2]
    # Every second one is jittered twice as much, for near misses.
    spread = np.resize([[0.12], [0.24]], (len(truth), 1))
    centre = (truth[:, :2] + truth[:, 2:]) / 2 + rng.normal(size=size.shape) * spread * size
    half = size * np.exp(rng.normal(size=size.shape) * spread) / 2
    jittered = np.concatenate([centre - half, centre + half], axis=1)

    count = PROPOSALS - len(truth)
    half = np.exp(rng.uniform(np.log(8), np.log(64), size=(count, 2))) / 2
    centre = rng.uniform(0, SIDE, size=(count, 2))
    anywhere = np.concatenate([centre - half, centre + half], axis=1)
    # With at least 4 pixels on the scene no clipped box is empty.
    boxes = np.concatenate([jittered, anywhere])
    low = np.clip(boxes[:, :2], 0, SIDE - 4)
    return np.concatenate([low, np.clip(boxes[:, 2:], low + 4, SIDE)], axis=1)


def assign(boxes: Array, scene: Scene) -> tuple[Array, Array, Array]:
    """The targets of each box [K, 4], from the digit that it overlaps most.

    Returns
    -------
    overlap [K], labels [K], corrections [K, 4]
        Background with correction 0 where the overlap is below POSITIVE_IOU.
    """
    overlaps = iou(boxes, scene.boxes)
    nearest, overlap = overlaps.argmax(axis=1), overlaps.max(axis=1)
    positive = overlap >= POSITIVE_IOU
    labels = np.where(positive, scene.labels[nearest], BACKGROUND)
    corrections = np.where(positive[:, None], encode(boxes, scene.boxes[nearest]), 0)
    return overlap, labels, corrections


def sample(rng: np.random.Generator, overlap: Array) -> Array:
    """Rows [REGIONS] of a batch: up to POSITIVES hits, the rest near misses.

    Too few near misses are taken again; where there are none, the nearest of the others are.
    """
    hits = rng.permutation(np.flatnonzero(overlap >= POSITIVE_IOU))[:POSITIVES]
    misses = np.flatnonzero((overlap < POSITIVE_IOU) & (overlap >= NEGATIVE_IOU))
    if len(misses) == 0:
        misses = np.argsort(np.where(overlap < POSITIVE_IOU, -overlap, np.inf))[:1]
    wanted = REGIONS - len(hits)
    misses = np.resize(rng.permutation(misses), wanted)
    return np.concatenate([hits, misses])


def make_batch(step: int, dtype: str, seed: int = 0) -> Batch:
    """The batch of a step, from scenes of its own; reproducible."""
    rng = np.random.default_rng([seed, step])
    rows = []
    for number in range(IMAGES * step, IMAGES * (step + 1)):
        scene = make_scene("train", number)
        boxes = propose(rng, scene.boxes)
        overlap, labels, corrections = assign(boxes, scene)
        chosen = sample(rng, overlap)
        rows.append((scene.image, boxes[chosen], labels[chosen], corrections[chosen]))
    images, boxes, labels, corrections = (np.stack(each) for each in zip(*rows, strict=True))
    return Batch(
        prepare(images).astype(dtype),
        boxes.astype(dtype),
        labels.astype(np.int32),
        corrections.astype(dtype),
    )
