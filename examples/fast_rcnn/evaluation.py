"""Evaluation: detections on held-out scenes, and their mean average precision.

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, as in its
development kit: the area under the monotone envelope of precision over recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .network import Detector
from .regions import decode, iou, prepare, propose
from .scenes import CLASSES, Scene

Array = npt.NDArray[Any]

LEAST_SCORE = 0.05
SAME = 0.3  # overlap above which two detections of a class count as one digit
AT_ONCE = 10  # scenes in a call


class Detections(NamedTuple):
    """The detections on one scene, best first."""

    boxes: Array  # [K, 4], pixels
    labels: Array  # [K], 1 to CLASSES
    scores: Array  # [K], probabilities


def _select(detector: Detector, boxes: Array, scores: Array, corrections: Array) -> Detections:
    """The detections among proposals [L, 4] with their scores and corrections of every class."""
    found = []
    for label in range(1, CLASSES + 1):
        rows = np.flatnonzero(scores[:, label] >= LEAST_SCORE)
        moved = decode(boxes[rows], corrections[rows, label - 1])
        kept = detector.suppress(moved, scores[rows, label], SAME) if len(rows) else rows
        found += [(scores[rows[row], label], label, moved[row]) for row in kept]
    found.sort(key=lambda each: -each[0])
    return Detections(
        np.array([box for _, _, box in found]).reshape(-1, 4),
        np.array([label for _, label, _ in found], int),
        np.array([score for score, _, _ in found]),
    )


def detect(detector: Detector, scenes: Sequence[Scene], dtype: str) -> list[Detections]:
    """Detect digits: score proposals, correct them, and suppress duplicates."""
    found: list[Detections] = []
    for start in range(0, len(scenes), AT_ONCE):
        part = scenes[start : start + AT_ONCE]
        boxes = np.stack(
            [
                propose(np.random.default_rng([1, start + index]), scene.boxes)
                for index, scene in enumerate(part)
            ]
        ).astype(dtype)
        images = prepare(np.stack([scene.image for scene in part])).astype(dtype)
        scores, corrections = detector.predict(images, boxes)
        found += [_select(detector, *each) for each in zip(boxes, scores, corrections, strict=True)]
    return found


def average_precision(hits: Array, truths: int) -> float:
    """The area under precision over recall, of detections best first.

    Parameters
    ----------
    hits : bool array [K]
        Whether each detection found a truth that no better one had found.
    truths : int
        How many there were to find.
    """
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    return float(highest[hits].sum() / truths)


def _hits(found: Detections, scene: Scene, label: int, least: float) -> tuple[Array, Array]:
    """Scores of a scene's detections of a class, and which are hits; each truth is hit once."""
    boxes, scores = found.boxes[found.labels == label], found.scores[found.labels == label]
    truths = scene.boxes[scene.labels == label]
    hits = np.zeros(len(boxes), bool)
    taken = np.zeros(len(truths), bool)
    if len(truths):
        overlaps = iou(boxes, truths)
        for row in np.argsort(-scores, kind="stable"):
            nearest = overlaps[row].argmax()
            hits[row] = overlaps[row, nearest] >= least and not taken[nearest]
            taken[nearest] |= hits[row]
    return scores, hits


def mean_average_precision(
    found: Sequence[Detections], scenes: Sequence[Scene], least: float
) -> float:
    """The mean over the classes of the average precision; a hit overlaps its truth by `least`."""
    precisions = []
    for label in range(1, CLASSES + 1):
        pairs = [_hits(*each, label, least) for each in zip(found, scenes, strict=True)]
        scores, hits = (np.concatenate(each) for each in zip(*pairs, strict=True))
        truths = sum(int((scene.labels == label).sum()) for scene in scenes)
        if truths:
            precisions.append(average_precision(hits[np.argsort(-scores, kind="stable")], truths))
    return float(np.mean(precisions))
