"""The zoo: named boxes that are error-prone, on maps small enough for the oracle's loops.

Boxes are written in cells of the map and stored in pixels of the image, exactly representable in
float32, so that coordinate types differ in the rounding of operations only. Tests choose the number
of channels and the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Corners = tuple[float, float, float, float]  # x1, y1, x2, y2

N, H, W = 2, 11, 14  # the map of most cases; odd and even, and not square
NEAR_MAX = 3e38  # below float32's largest number, so that scaling by 2 overflows


@dataclass(frozen=True, eq=False)
class Case:
    """Boxes [K, 5] in float64 (read-only) and the arguments of the case.

    RoIPool ignores `sampling_ratio` and `aligned`.
    """

    name: str
    boxes: Float64
    map_shape: tuple[int, int, int]  # N, H, W
    output_size: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int | tuple[int, int]
    aligned: bool

    def __str__(self) -> str:
        return self.name


def _case(
    name: str,
    corners: Sequence[Corners],
    *,
    map_shape: tuple[int, int, int] = (N, H, W),
    output_size: tuple[int, int] = (2, 3),
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = 2,
    aligned: bool = True,
) -> Case:
    """A case from corners in cells of the map, dealt out to the images in turn."""
    cells = np.array(corners, dtype=np.float64)
    images = np.arange(len(cells)) % map_shape[0]
    # Clipped, because 3e38 cells exceed float32's range in pixels if the scale is below 1.
    pixels = np.clip(cells / spatial_scale, -NEAR_MAX, NEAR_MAX).astype(np.float32)
    boxes = np.column_stack([images, pixels]).astype(np.float64)
    boxes.setflags(write=False)
    return Case(name, boxes, map_shape, output_size, spatial_scale, sampling_ratio, aligned)


def _ulps(x: float, n: int) -> float:
    """The n-th float32 after x, before x for negative n."""
    found = np.float32(x)
    for _ in range(abs(n)):
        found = np.nextafter(found, np.float32(np.copysign(np.inf, n)))
    return float(found)


def random_boxes(
    rng: np.random.Generator, k: int, n: int, height: int, width: int, spatial_scale: float
) -> Float64:
    """K boxes [K, 5] in image pixels for a map of height x width cells, some partly outside.

    Sizes are log-uniform from a third of a cell to one and a half maps, centres on the map.
    """
    extent = np.array([width, height])
    centre = rng.uniform(0, 1, (k, 2)) * extent
    size = np.exp(rng.uniform(np.log(1 / 3), np.log(1.5 * np.maximum(extent, 1)), (k, 2)))
    cells = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    pixels = (cells / spatial_scale).astype(np.float32)
    return np.column_stack([rng.integers(0, n, k), pixels]).astype(np.float64)


# Boxes by their special property, in cells --------------------------------------------------------

ORDINARY: list[Corners] = [
    (1.3, 2.2, 7.9, 8.4),
    (0.6, 0.7, 13.1, 10.2),
    (4.25, 3.5, 6.75, 9.125),
    (9.7, 1.1, 12.2, 3.9),
]
ACROSS_THE_BORDER: list[Corners] = [
    (-3.3, 2.2, 4.1, 7.7),  # left, top, right, bottom, then two and four sides at once
    (2.4, -4.6, 8.8, 3.3),
    (10.2, 2.9, 17.7, 8.1),
    (3.1, 7.4, 9.9, 15.6),
    (-2.2, -3.7, 3.3, 4.4),
    (11.9, 8.2, 16.4, 13.3),
    (-5.5, -6.1, 20.3, 18.9),
]
OUTSIDE: list[Corners] = [
    (-9.7, 2.2, -3.1, 7.7),
    (2.4, -9.6, 8.8, -2.3),
    (17.2, 2.9, 23.7, 8.1),
    (3.1, 13.4, 9.9, 20.6),
    (-30.2, -30.7, -20.3, -20.4),
    (100.1, 200.2, 110.3, 220.4),
]
INTEGERS: list[Corners] = [(0, 0, 6, 4), (2, 1, 8, 5), (0, 0, W, H), (-2, -4, 4, 8), (8, 6, 14, 12)]
SAME_PIXELS: list[Corners] = [(3.2, 2.1, 6.9, 5.8)] * 9 + [(3.4, 2.3, 6.7, 5.5)] * 9
INVERTED: list[Corners] = [
    (9.3, 8.8, 2.1, 1.7),  # both ways, then along x only, then along y only
    (9.3, 1.7, 2.1, 8.8),
    (2.1, 8.8, 9.3, 1.7),
    (16.3, 13.1, -3.2, -4.4),
    (5.3, 4.4, 5.1, 4.2),  # by less than a bin
]
ZERO_SIZE: list[Corners] = [
    (4.3, 5.6, 4.3, 5.6),
    (7, 3, 7, 3),
    (0, 0, 0, 0),
    (-0.25, -0.25, -0.25, -0.25),
    (W, H, W, H),
    (2.3, 4.4, 9.9, 4.4),  # a line each way
    (6.6, 1.2, 6.6, 9.1),
]
TINY: list[Corners] = [
    (4.3, 5.6, 4.301, 5.601),
    (3.0, 2.0, _ulps(3, 1), _ulps(2, 1)),
    (0.5, 0.5, _ulps(0.5, 1), _ulps(0.5, 1)),
    (12.9, 9.9, 13.1, 10.1),
    (6.1, 2.2, 6.1003, 8.8),
]
# One ulp (three: `aligned` loses one) to either side of where a sample leaves the map.
JUMP = [(-1.0, n) for n in (-3, 0, 3)] + [(0.0, n) for n in (-3, 0, 3)]
JUMP_X = JUMP + [(edge, n) for edge in (W - 1.0, float(W)) for n in (-3, 0, 3)]
JUMP_Y = JUMP + [(edge, n) for edge in (H - 1.0, float(H)) for n in (-3, 0, 3)]
POINTS_AT_THE_JUMP: list[Corners] = [
    *((x, 4.7, x, 4.7) for edge, n in JUMP_X for x in [_ulps(edge + 0.5, n)]),
    *((6.2, y, 6.2, y) for edge, n in JUMP_Y for y in [_ulps(edge + 0.5, n)]),
]
# Not aligned, one bin, one sample: it is half a cell after the start of a box clamped to one cell.
CLAMPED_AT_THE_JUMP: list[Corners] = [
    *((x, 4.7, x, 4.7) for edge, n in JUMP_X for x in [_ulps(edge - 0.5, n)]),
    *((6.2, y, 6.2, y) for edge, n in JUMP_Y for y in [_ulps(edge - 0.5, n)]),
]
# Aligned, one bin, one sample per cell: samples at -1, 0, ... and ..., W - 1, W.
GRID_ON_THE_JUMP: list[Corners] = [
    (-1, -1, 2, 2),
    (W - 2, H - 2, W + 1, H + 1),
    (-1, -1, W + 1, H + 1),
    (-2, 3, W + 2, 5),
    (W + 1, H + 1, -1, -1),
]
CLAMPED_TO_ONE: list[Corners] = [
    (4.3, 5.6, 4.9, 6.1),
    (4.3, 5.6, 3.9, 9.7),
    (4.3, 5.6, 8.8, 2.2),
    (9.9, 8.8, 1.1, 2.2),
    (4.0, 5.0, 5.0, 6.0),  # exactly one: not clamped
    (4.0, 5.0, _ulps(5, -1), _ulps(6, -1)),
    (4.0, 5.0, _ulps(5, 1), _ulps(6, 1)),
    (-0.7, -0.9, -0.2, -0.3),
    (13.4, 10.4, 13.6, 10.6),
]
# Two bins high, five wide: sizes that are 0, 1, 2 samples per bin and one ulp to either side.
AT_THE_CEIL: list[Corners] = [
    (0.0, 0.0, _ulps(5.0 * g, n), _ulps(2.0 * g, -n)) for g in (1, 2, 3) for n in (-1, 0, 1)
]
HUGE: list[Corners] = [
    (-1e6, -1e6, 1e6, 1e6),
    (3.3, 2.2, 1e6, 1e6),
    (-1e6, -1e6, 8.8, 7.7),
    (-333333, 2.2, 666667, 7.7),  # in one direction
    (4.4, -7e5, 9.9, 3e5),
    (1e6, 1e6, 1.1e6, 1.1e6),  # and not here at all
    (-3e7, -2e8, 4e7, 1e8),  # cells are below an ulp
]
ENORMOUS: list[Corners] = [
    (-1e30, -1e30, 1e30, 1e30),
    (0, 0, 1e30, 1e30),
    (-1e30, -1e30, 5.5, 4.4),
    (3.3, -1e30, 8.8, 1e30),
    (-1e30, 2.2, 1e30, 7.7),
    (-1e12, -1e15, 2e12, 1e9),
    (1e30, 1e30, 1e31, 1e31),
]
OVERFLOWING: list[Corners] = [
    (-2 * NEAR_MAX, -2 * NEAR_MAX, 2 * NEAR_MAX, 2 * NEAR_MAX),
    (2.2, 3.3, 2 * NEAR_MAX, 2 * NEAR_MAX),
    (-2 * NEAR_MAX, -2 * NEAR_MAX, 5.5, 4.4),
    (2 * NEAR_MAX, 2 * NEAR_MAX, 2 * NEAR_MAX, 2 * NEAR_MAX),
    (2.2, -2 * NEAR_MAX, 9.9, 2 * NEAR_MAX),
    (2 * NEAR_MAX, 3.3, -2 * NEAR_MAX, 8.8),
]
# One box per sign of x.5, and the largest float32 below 0.5, which + 0.5 would round up to 1.
HALF_WAY: list[Corners] = [
    (0.5, 0.5, 4.5, 3.5),
    (1.5, 2.5, 6.5, 7.5),
    (-0.5, -1.5, 2.5, 3.5),
    (-2.5, -0.5, -0.5, 0.5),
    (_ulps(0.5, -1), _ulps(0.5, -1), _ulps(5.5, -1), _ulps(6.5, -1)),
    (_ulps(-0.5, 1), _ulps(-1.5, 1), _ulps(2.5, 1), _ulps(3.5, 1)),
    (12.5, 9.5, 13.5, 10.5),
    (13.5, 10.5, 14.5, 11.5),
]
# Extents 57, 114, 121: float32(extent / bins) * bins exceeds the extent, so that the last bin has
# one pixel more; 62 for 14 bins: an inner bin begins one earlier. Both maps are larger than that,
# so that it affects the result.
ROUNDED_QUOTIENT: list[Corners] = [
    *((x, 1, x + extent - 1, 8) for extent in (57, 62, 114, 121, 58) for x in (0, 5)),
    *((2, y, 9, y + extent - 1) for extent in (57, 62, 114, 121, 58) for y in (0, 4)),
]

_RNG = np.random.default_rng(20170320)
_MANY = random_boxes(_RNG, 40, 3, 9, 17, 1.0)
MANY: list[Corners] = [(x1, y1, x2, y2) for _, x1, y1, x2, y2 in _MANY.tolist()]


# Where the rounding decides -----------------------------------------------------------------------


def jump_case(wrong: Literal["order", "fma"] = "order", count: int = 32) -> Case:
    """Boxes with a sample that is on the map in the order of the definition and off it in another.

    The definition rounds (x1 + p * bw) + ((i + 1/2) * bw) / g after every step. `wrong` is the
    mistake of an implementation: "order" is (i + 1/2) * (bw / g), "fma" contracts
    x1 + p * bw. Every box returned has at least one sample that float32 puts on different sides
    of -1, H or W. Three samples per bin: with a power of two "order" would make no difference.
    """
    half, bins, grid, scale = np.float32(0.5), 7, 3, 0.25
    rng = np.random.default_rng(273)
    p = np.arange(bins, dtype=np.float32)[:, None]
    i = np.arange(grid, dtype=np.float32)
    rows: list[Corners] = []
    while len(rows) < count:
        along_x = bool(rng.integers(2))
        edge = float(rng.choice([-1, W if along_x else H]))
        extent = np.exp(rng.uniform(np.log(2), np.log(3 * W)))
        which = (rng.integers(bins) + (rng.integers(grid) + 0.5) / grid) / bins
        start = np.float32((edge - extent * which + 0.5) / scale)
        end = start + np.float32(extent / scale)

        low = start * np.float32(scale) - half
        step = ((end * np.float32(scale) - half) - low) / np.float32(bins)
        base = low + p * step
        right: npt.NDArray[Any] = base + ((i + half) * step) / np.float32(grid)
        if wrong == "order":
            other = base + (i + half) * (step / np.float32(grid))
        else:  # the product of two float32 is exact in float64
            contracted = np.float64(low) + p.astype(np.float64) * np.float64(step)
            other = contracted.astype(np.float32) + ((i + half) * step) / np.float32(grid)
        size = W if along_x else H
        if np.any(((right >= -1) & (right <= size)) != ((other >= -1) & (other <= size))):
            first, last = float(start) * scale, float(end) * scale
            rows.append((first, 2.6, last, 8.3) if along_x else (2.6, first, 10.3, last))
    return _case(
        f"jump_{wrong}", rows, output_size=(bins, bins), spatial_scale=scale, sampling_ratio=grid
    )


# The zoo ------------------------------------------------------------------------------------------

QUARTER, SIXTEENTH = 1 / 4, 1 / 16

ALIGN_CASES: list[Case] = [
    _case("ordinary", ORDINARY),
    _case("ordinary_unaligned", ORDINARY, aligned=False),
    _case("ordinary_adaptive", ORDINARY, sampling_ratio=-1, spatial_scale=QUARTER),
    _case("ordinary_adaptive_zero", ORDINARY, sampling_ratio=0, aligned=False, spatial_scale=2.0),
    _case("one_bin", ORDINARY, output_size=(1, 1), sampling_ratio=1, spatial_scale=SIXTEENTH),
    _case("one_bin_adaptive", ORDINARY, output_size=(1, 1), sampling_ratio=-1, aligned=False),
    _case("seven_by_seven", ORDINARY, output_size=(7, 7), spatial_scale=SIXTEENTH),
    _case("two_by_five", ORDINARY, output_size=(2, 5), sampling_ratio=3, spatial_scale=QUARTER),
    _case("fourteen_by_three", ORDINARY, output_size=(14, 3), sampling_ratio=4, aligned=False),
    _case("ratio_pair", ORDINARY, sampling_ratio=(1, 3), spatial_scale=2.0),
    _case("ratio_adaptive_along_y", ORDINARY, sampling_ratio=(-1, 2), aligned=False),
    _case("ratio_adaptive_along_x", ORDINARY, sampling_ratio=(4, 0), spatial_scale=QUARTER),
    _case("across_the_border", ACROSS_THE_BORDER, output_size=(3, 4)),
    _case("across_the_border_adaptive", ACROSS_THE_BORDER, sampling_ratio=-1, aligned=False),
    _case("outside", OUTSIDE, spatial_scale=QUARTER),
    _case("outside_adaptive", OUTSIDE, sampling_ratio=-1, aligned=False),
    _case("integers", INTEGERS, aligned=False),
    _case("integers_one_per_cell", INTEGERS, output_size=(1, 1), sampling_ratio=-1),
    _case("points_at_the_jump", POINTS_AT_THE_JUMP, output_size=(1, 1), sampling_ratio=1),
    _case("points_at_the_jump_in_bins", POINTS_AT_THE_JUMP, spatial_scale=QUARTER),
    _case(
        "clamped_at_the_jump",
        CLAMPED_AT_THE_JUMP,
        output_size=(1, 1),
        sampling_ratio=1,
        aligned=False,
    ),
    _case("grid_on_the_jump", GRID_ON_THE_JUMP, output_size=(1, 1), sampling_ratio=-1),
    _case("grid_on_the_jump_fixed", GRID_ON_THE_JUMP, output_size=(1, 1), sampling_ratio=3),
    _case("zero_size", ZERO_SIZE),
    _case("zero_size_adaptive", ZERO_SIZE, sampling_ratio=-1),
    _case("zero_size_half_adaptive", ZERO_SIZE, sampling_ratio=(2, -1)),
    _case("inverted", INVERTED, sampling_ratio=3),
    _case("inverted_adaptive", INVERTED, sampling_ratio=-1, spatial_scale=QUARTER),
    _case("inverted_half_adaptive", INVERTED, sampling_ratio=(-1, 2)),
    _case("tiny", TINY),
    _case("tiny_adaptive", TINY, sampling_ratio=-1, spatial_scale=SIXTEENTH),
    _case("clamped_to_one", CLAMPED_TO_ONE, aligned=False),
    _case("clamped_to_one_adaptive", CLAMPED_TO_ONE, sampling_ratio=-1, aligned=False),
    _case("at_the_ceil", AT_THE_CEIL, output_size=(2, 5), sampling_ratio=-1, aligned=False),
    _case(
        "at_the_ceil_quarter",
        AT_THE_CEIL,
        output_size=(2, 5),
        sampling_ratio=-1,
        aligned=False,
        spatial_scale=QUARTER,
    ),
    _case("huge", HUGE, sampling_ratio=3),
    _case("huge_adaptive", HUGE, sampling_ratio=-1),
    _case("huge_adaptive_unaligned", HUGE, output_size=(7, 7), sampling_ratio=-1, aligned=False),
    _case("enormous", ENORMOUS),
    _case("enormous_adaptive", ENORMOUS, sampling_ratio=-1, aligned=False),
    _case("overflowing", OVERFLOWING, spatial_scale=2.0),
    _case("overflowing_adaptive", OVERFLOWING, sampling_ratio=-1, spatial_scale=2.0),
    _case("same_pixels", SAME_PIXELS, spatial_scale=QUARTER),
    _case("many", MANY, map_shape=(3, 9, 17), sampling_ratio=-1),
    _case("one_pixel_map", [*ORDINARY, (-0.5, -0.5, 0.9, 0.8)], map_shape=(1, 1, 1)),
    _case("one_row_map", ORDINARY, map_shape=(1, 1, W), sampling_ratio=-1, aligned=False),
    _case("one_column_map", ORDINARY, map_shape=(1, H, 1), sampling_ratio=-1),
    jump_case(),
    jump_case("fma"),
]

POOL_CASES: list[Case] = [
    _case("ordinary", ORDINARY),
    _case("one_bin", ORDINARY, output_size=(1, 1), spatial_scale=QUARTER),
    _case("seven_by_seven", ORDINARY, output_size=(7, 7), spatial_scale=SIXTEENTH),
    _case("two_by_five", ORDINARY, output_size=(2, 5), spatial_scale=2.0),
    _case("fourteen_by_three", ORDINARY, output_size=(14, 3)),
    _case("across_the_border", ACROSS_THE_BORDER, output_size=(3, 4), spatial_scale=QUARTER),
    _case("outside", OUTSIDE),
    _case("integers", INTEGERS, output_size=(3, 4)),
    _case("half_way", HALF_WAY),
    _case("half_way_one_bin", HALF_WAY, output_size=(1, 1)),
    _case("half_way_quarter", HALF_WAY, output_size=(2, 5), spatial_scale=QUARTER),
    _case("half_way_double", HALF_WAY, output_size=(7, 7), spatial_scale=2.0),
    _case("inverted", INVERTED),
    _case("zero_size", ZERO_SIZE),
    _case("tiny", TINY, spatial_scale=SIXTEENTH),
    _case("huge", HUGE),
    _case("enormous", ENORMOUS, output_size=(7, 7)),
    _case("overflowing", OVERFLOWING, spatial_scale=2.0),
    _case("same_pixels", SAME_PIXELS, spatial_scale=QUARTER),
    _case("many", MANY, map_shape=(3, 9, 17), output_size=(3, 4)),
    _case("one_pixel_map", ORDINARY, map_shape=(1, 1, 1)),
    _case("rounded_quotient_7", ROUNDED_QUOTIENT, map_shape=(1, 130, 131), output_size=(7, 7)),
    _case("rounded_quotient_14", ROUNDED_QUOTIENT, map_shape=(1, 130, 131), output_size=(14, 14)),
]
