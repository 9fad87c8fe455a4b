"""The workloads: shapes, random boxes like those of detectors, and the bytes to move.

W1 to W9 are call sites of detectors, X1 to X7 extremes.

Boxes are log-uniform in size; 70 % are jittered around objects, as proposals are, 30 % anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .case import ITEM_BYTES, OPERATIONS, Array, Data

BOX_BYTES = 5 * 4
ARGMAX_BYTES = 4
OBJECTS = 12  # per image
AROUND_OBJECTS = 0.7


class Workload(NamedTuple):
    """A call site in a detector."""

    title: str
    batch: int
    channels: int
    maps: list[tuple[int, int]]  # height, width
    strides: list[int]  # image pixels per cell
    rois: int  # in the whole batch
    pixels: tuple[float, float]  # smallest and largest size of a box
    output_size: int
    sampling_ratio: int
    aligned: bool
    position_sensitive: bool = False  # the channels are those of the map, each for one bin

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.maps[0]
        return height * self.strides[0], width * self.strides[0]

    @property
    def cells(self) -> int:
        """The number of cells of all maps, images and channels."""
        planes = self.batch * self.channels
        return planes * sum(height * width for height, width in self.maps)

    @property
    def results(self) -> int:
        """Bins of all RoIs and channels."""
        return self.rois * self.pooled_channels * self.output_size**2

    @property
    def pooled_channels(self) -> int:
        """The number of channels of the result."""
        return self.channels // self.own_channels

    @property
    def own_channels(self) -> int:
        """The number of the map's channels for each channel of the result."""
        return self.output_size**2 if self.position_sensitive else 1

    @property
    def multiscale(self) -> bool:
        return len(self.maps) > 1

    def has(self, operation: str) -> bool:
        """Whether an operation is timed on it."""
        function = OPERATIONS[operation].function
        kinds = function.startswith("multiscale_"), function.startswith("ps_")
        return kinds == (self.multiscale, self.position_sensitive)


# For images of 800 x 1344 pixels, the size to which torchvision and detectron2 resize.
P2, P3, P4, P5 = (200, 336), (100, 168), (50, 84), (25, 42)
PYRAMID, STRIDES = [P2, P3, P4, P5], [4, 8, 16, 32]

WORKLOADS = {
    "W1": Workload("Faster R-CNN C4", 1, 1024, [P4], [16], 512, (32, 512), 7, 2, True),
    "W2": Workload("FPN box head", 2, 256, [P2], [4], 1000, (16, 224), 7, 2, True),
    "W3": Workload("FPN mask head", 2, 256, [P2], [4], 100, (16, 224), 14, 2, True),
    "W4": Workload("large boxes, adaptive", 1, 256, [P2], [4], 256, (100, 800), 7, 0, True),
    "W5": Workload("tiny call", 1, 64, [(32, 32)], [16], 4, (32, 256), 7, 2, True),
    "W6": Workload("pure overhead", 1, 1, [(8, 8)], [16], 1, (32, 64), 1, 2, True),
    # aligned is False because torchvision's MultiScaleRoIAlign does not have the parameter.
    "W7": Workload("FPN boxes, P2-P5", 2, 256, PYRAMID, STRIDES, 2000, (16, 640), 7, 2, False),
    "W8": Workload("FPN masks, P2-P5", 2, 256, PYRAMID, STRIDES, 200, (16, 640), 14, 2, False),
    "W9": Workload("R-FCN", 1, 490, [(38, 63)], [16], 300, (32, 512), 7, 2, True, True),
}


# Extreme shapes, at which no kernel should be disproportionately slow; timed on a GPU.
EXTREMES = {
    "X1": Workload("10,000 RoIs", 2, 256, [P2], [4], 10_000, (16, 224), 7, 2, True),
    "X2": Workload("one huge RoI", 1, 256, [P2], [4], 1, (799, 800), 7, 0, True),
    "X3": Workload("1 channel", 2, 1, [P2], [4], 1000, (16, 224), 7, 2, True),
    "X4": Workload("3 channels", 2, 3, [P2], [4], 1000, (16, 224), 7, 2, True),
    "X5": Workload("2048 channels", 1, 2048, [P5], [32], 300, (64, 640), 7, 2, True),
    "X6": Workload("28 x 28 bins", 2, 256, [P2], [4], 100, (16, 224), 28, 2, True),
    "X7": Workload("adaptive", 2, 256, [P2], [4], 1000, (16, 224), 7, 0, True),
}
ALL = WORKLOADS | EXTREMES


def _boxes(workload: Workload, image: int, count: int, random: np.random.Generator) -> Array:
    """Rows (image, x1, y1, x2, y2) inside the image."""
    smallest, largest = np.log(workload.pixels)
    height, width = workload.image_size

    def sizes(n: int) -> Array:
        return np.exp(random.uniform(smallest, largest, n))

    chosen = random.integers(OBJECTS, size=count)
    around = random.random(count) < AROUND_OBJECTS
    size = np.where(around, sizes(OBJECTS)[chosen] * random.lognormal(0, 0.15, count), sizes(count))
    size = np.clip(size, *workload.pixels)
    anywhere = random.random((count, 2)) * (height, width)
    object_centres = (random.random((OBJECTS, 2)) * (height, width))[chosen]
    jitter = random.normal(0, 0.1, (count, 2)) * size[:, None]
    centre = np.where(around[:, None], object_centres + jitter, anywhere)

    aspect = np.exp(random.uniform(-0.5, 0.5, count))
    sides = np.minimum(
        np.stack([size * np.sqrt(aspect), size / np.sqrt(aspect)], 1), (height, width)
    )
    start = np.clip(centre - sides / 2, 0, (height, width) - sides)
    end = start + sides
    rows = [np.full(count, image), start[:, 1], start[:, 0], end[:, 1], end[:, 0]]
    return np.stack(rows, 1).astype(np.float32)


def make_data(workload: Workload) -> Data:
    """The arrays of a workload, identical in every run."""
    random = np.random.default_rng(20261121)
    inputs = [
        random.standard_normal((workload.batch, workload.channels, *size), dtype=np.float32)
        for size in workload.maps
    ]
    each = workload.rois // workload.batch
    boxes = [_boxes(workload, image, each, random) for image in range(workload.batch)]
    bins = (workload.output_size, workload.output_size)
    shape = (workload.rois, workload.pooled_channels, *bins)
    grad = random.standard_normal(shape, dtype=np.float32)
    return Data(inputs, np.concatenate(boxes), grad)


def result_bytes(workload: Workload, operation: str) -> int:
    """The bytes of a float32 result, without an argmax."""
    if OPERATIONS[operation].backward:
        return ITEM_BYTES["float32"] * workload.cells
    return ITEM_BYTES["float32"] * workload.results


def bytes_to_move(workload: Workload, operation: str, dtype: str) -> int:
    """The bytes that any implementation reads and writes: all arguments and results, once each.

    Forward: maps, boxes, result. Backward: the result's gradient, boxes, the maps' gradient; also
    the maps for the max mode of RoIAlign, and the argmax for RoIPool. The pooler's step: both.
    """
    item = ITEM_BYTES[dtype]
    cells, results = workload.cells, workload.results
    total = (cells + results) * item + workload.rois * BOX_BYTES
    asked = OPERATIONS[operation]
    if operation == "pooler_step":
        return 2 * total
    if asked.backward and asked.function == "roi_pool":
        total += results * ARGMAX_BYTES
    if asked.backward and asked.function == "roi_align" and asked.mode != "avg":
        total += cells * item
    return total
