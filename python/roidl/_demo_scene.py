"""The input of the demo: a photograph, its regions, and its maps."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._command_line import CommandError

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

BINS = (7, 28)  # per axis: Mask R-CNN's box head takes 7, its masks have 28
STRIDE = 4  # pixels per cell of the coarse map, as in the finest level of a pyramid
LARGEST_SIDE = 1024  # larger pictures are reduced, and their boxes by spatial_scale


class Region(NamedTuple):
    """A named box, in pixels of the picture."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float


class Scene(NamedTuple):
    """A picture, its regions and its maps."""

    picture: Float32  # [H, W, 3] in 0..1
    size: tuple[int, int]  # width and height in pixels before any reduction, as the boxes
    regions: list[Region]
    maps: dict[str, tuple[Float32, float]]  # name to features [C, H, W] and their spatial_scale

    @property
    def boxes(self) -> Float32:
        return np.array([region[1:] for region in self.regions], dtype=np.float32)


# Besides the face, which the cascade finds; not on the pixel grid, like a network's boxes.
ASTRONAUT = [
    Region("orbiter", 352.4, 2.5, 458.6, 283.1),
    Region("patch", 133.6, 346.2, 207.9, 424.7),
    Region("helmet", 278.2, 340.6, 500.9, 510.3),
]


def parse_boxes(texts: Sequence[str]) -> list[Region]:
    """Regions from texts `x1,y1,x2,y2`; `set_scene` checks that they are on the picture."""
    regions = []
    for i, text in enumerate(map(str.strip, texts), 1):
        try:
            x1, y1, x2, y2 = (float(part) for part in text.split(","))
        except ValueError:
            raise CommandError(f"box {text!r} is not four numbers x1,y1,x2,y2") from None
        if not (x1 < x2 and y1 < y2 and math.isfinite(x2 - x1) and math.isfinite(y2 - y1)):
            raise CommandError(f"box {text!r} must be x1,y1,x2,y2 with x1 < x2 and y1 < y2")
        regions.append(Region(f"box {i}", x1, y1, x2, y2))
    return regions


def _check_inside(regions: Sequence[Region], width: int, height: int) -> None:
    for _, x1, y1, x2, y2 in regions:
        if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            raise CommandError(
                f"box {x1:g},{y1:g},{x2:g},{y2:g} is not inside the picture, "
                f"which is {width} x {height} pixels"
            )


def _skimage(part: str) -> Any:
    """A module of scikit-image, which the extra `demo` installs and which has no type hints."""
    return importlib.import_module(f"skimage.{part}")


def _read(path: str | None) -> tuple[Array, int, int, int]:
    """The picture as bytes [H, W, 3], its original width and height, and the reduction factor."""
    from PIL import Image, ImageOps  # both scikit-image and matplotlib require it

    if path is None:
        astronaut: Array = _skimage("data").astronaut()
        return astronaut, astronaut.shape[1], astronaut.shape[0], 1
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise CommandError(f"no such image file: {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CommandError(f"cannot read the image {path}: {error}") from None
    factor = math.ceil(max(image.size) / LARGEST_SIDE)
    return np.asarray(image.reduce(factor)), *image.size, factor


def _find_faces(picture: Array, width: int, height: int, factor: int) -> list[Region]:
    """The largest faces that scikit-image's LBP cascade finds, with a margin, in pixels."""
    shortest = min(picture.shape[:2])
    cascade = _skimage("feature").Cascade(_skimage("data").lbp_frontal_face_cascade_filename())
    found = cascade.detect_multi_scale(
        img=picture,
        scale_factor=1.2,
        step_ratio=1,
        min_size=(max(shortest // 8, 24),) * 2,
        max_size=(shortest,) * 2,
    )
    regions = []
    for i, face in enumerate(sorted(found, key=lambda face: -face["width"])[:3], 1):
        margin = face["width"] / 7  # the cascade's boxes end at the eyebrows and the lips
        left, top = (face["c"] - margin) * factor, (face["r"] - margin) * factor
        side = (face["width"] + 2 * margin) * factor
        regions.append(
            Region(
                "face" if i == 1 else f"face {i}",
                max(left, 0),
                max(top, 0),
                min(left + side, width),
                min(top + side, height),
            )
        )
    return regions


def _propose(
    path: str | None, picture: Array, width: int, height: int, factor: int
) -> list[Region]:
    faces = _find_faces(picture, width, height, factor)
    if path is None:
        return faces + ASTRONAUT
    return [
        *faces,
        Region("centre", 0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height),
        Region("corner", 0, 0, width / 3, height / 3),
    ]


def _filter_bank(picture: Float32) -> Float32:
    """Responses [6, H, W]: Gabor energy in four directions, edges, and blobs; each in -1..1."""
    filters = _skimage("filters")
    grey = _skimage("color").rgb2gray(picture)
    responses = [
        np.hypot(*filters.gabor(grey, frequency=0.2, theta=theta))
        for theta in np.arange(4) * math.pi / 4
    ]
    responses += [filters.sobel(grey), filters.laplace(filters.gaussian(grey, sigma=3))]
    return np.stack([r / max(np.abs(r).max(), 1e-6) for r in responses]).astype(np.float32)


def _coarse(features: Float32) -> Float32:
    """The mean over STRIDE x STRIDE pixels, padded by repeating the last row and column."""
    channels, height, width = features.shape
    pad = ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE))
    filled = np.pad(features, pad, mode="edge")
    blocks = filled.reshape(channels, -(-height // STRIDE), STRIDE, -(-width // STRIDE), STRIDE)
    return np.ascontiguousarray(blocks.mean(axis=(2, 4)))


def set_scene(path: str | None, regions: list[Region], step: Callable[[str], None]) -> Scene:
    """Read the picture, propose regions if none were given, make the maps, report every step."""
    step("reading the picture")
    pixels, width, height, factor = _read(path)
    _check_inside(regions, width, height)
    if not regions:
        step("looking for faces")
        regions = _propose(path, pixels, width, height, factor)
    step("filtering the picture")
    picture = (pixels / 255).astype(np.float32)
    channels = np.ascontiguousarray(picture.transpose(2, 0, 1))
    maps = {
        "picture": (channels, 1 / factor),
        # The first three channels are the colours, which the figure shows.
        "filter bank": (
            _coarse(np.concatenate([channels, _filter_bank(picture)])),
            1 / (factor * STRIDE),
        ),
    }
    return Scene(picture, (width, height), regions, maps)
