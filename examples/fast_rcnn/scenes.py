"""Scenes: scikit-learn's handwritten digits on scikit-image's photographs, with boxes and labels.

Nothing is downloaded: both libraries carry these in their packages. A scene depends on its split
and number only, so that every framework and every run sees the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from skimage import color, data
from skimage.transform import resize
from sklearn.datasets import load_digits

Array = npt.NDArray[Any]
Split = Literal["train", "test"]

SIDE = 128  # of a scene, in pixels
CLASSES = 10
BACKGROUND = 0  # the label of the background; digit d has label d + 1
SMALLEST, LARGEST = 16, 56  # the longer side of a digit, in pixels
MOST_DIGITS = 7
DIM = 0.6  # factor of the photograph's brightness
INK = (0.65, 1.0)  # brightness of a digit
OVERLAP = 0.2  # at most this part of a digit's box may lie in another's

# The splits share no digits and no photographs.
DIGITS: dict[Split, slice] = {"train": slice(0, 1297), "test": slice(1297, None)}
PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "train": ("astronaut", "brick", "camera", "coffee", "grass", "moon", "hubble_deep_field"),
    "test": ("chelsea", "gravel", "rocket"),
}


def _resize(image: Array, shape: tuple[int, int]) -> Array:
    stretch: Any = resize  # it has no types
    result: Array = stretch(image, shape, order=1, anti_aliasing=False)
    return result


class Scene(NamedTuple):
    """A grey picture and the digits on it."""

    image: Array  # [SIDE, SIDE], 0 black to 1 white
    boxes: Array  # [G, 4]: x1, y1, x2, y2 in pixels
    labels: Array  # [G], 1 to CLASSES


@cache
def _photographs(split: Split) -> list[Array]:
    pictures = [getattr(data, name)() for name in PHOTOGRAPHS[split]]
    return [color.rgb2gray(picture) if picture.ndim == 3 else picture / 255 for picture in pictures]


@cache
def _digits(split: Split) -> list[tuple[Array, int]]:
    """Ink, 0 to 1, cut to the rows and columns that have any; and the digit."""
    digits = load_digits()
    found = []
    for image, digit in zip(
        digits.images[DIGITS[split]], digits.target[DIGITS[split]], strict=True
    ):
        ys, xs = np.nonzero(image >= 4)  # of 16; less is the blur around a stroke
        cut = image[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] / 16
        found.append((cut, int(digit)))
    return found


def _background(rng: np.random.Generator, split: Split) -> Array:
    photographs = _photographs(split)
    picture = photographs[rng.integers(len(photographs))]
    height, width = picture.shape
    side = int(rng.integers(SIDE, min(height, width) + 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    cut: Array = _resize(picture[top : top + side, left : left + side], (SIDE, SIDE))
    return cut[:, ::-1] if rng.random() < 0.5 else cut


def _overlaps(box: Array, boxes: list[Array]) -> bool:
    for other in boxes:
        size = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        smaller = min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2]))
        if (size > 0).all() and np.prod(size) > OVERLAP * smaller:
            return True
    return False


def _place(rng: np.random.Generator, shape: tuple[int, int], boxes: list[Array]) -> Array | None:
    """A box for a digit of this shape; None if the scene is too full."""
    height, width = shape
    longer = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
    size = np.array([width, height]) / max(height, width) * longer
    size = np.rint(np.maximum(size, SMALLEST / 4))
    for _ in range(20):
        start = rng.integers(0, SIDE - size, endpoint=True)
        box = np.concatenate([start, start + size])
        if not _overlaps(box, boxes):
            return box
    return None


def make_scene(split: Split, number: int) -> Scene:
    """The scene with this number; reproducible."""
    rng = np.random.default_rng([number, split == "test"])
    image = DIM * _background(rng, split)
    digits = _digits(split)
    boxes: list[Array] = []
    labels = []
    for _ in range(rng.integers(3, MOST_DIGITS, endpoint=True)):
        ink, digit = digits[rng.integers(len(digits))]
        ink_shape = (ink.shape[0], ink.shape[1])
        box = _place(rng, ink_shape, boxes)
        if box is None:
            continue
        x1, y1, x2, y2 = box.astype(int)
        mask = _resize(ink, (y2 - y1, x2 - x1))
        under = image[y1:y2, x1:x2]
        tone = rng.uniform(*INK)
        image[y1:y2, x1:x2] = under + mask * (tone - under)
        boxes.append(box)
        labels.append(digit + 1)
    return Scene(image, np.array(boxes, float), np.array(labels))
