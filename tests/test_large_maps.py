"""Maps that are larger than the kernels' ring buffers, with all kinds of boxes.

The oracle's loops would take too long: here the average is computed by its definition as a matrix
along each axis, and the maxima have few samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

import oracle
import roidl
from conftest import NumpyArray
from roidl import _core
from roidl._params import align_params
from trials import Float64, assert_close, from_nchw, to_nchw

SIZE = (7, 5)


class Map(NamedTuple):
    """A map, and the samples per bin that cover every cell of the longer axis."""

    channels: int
    height: int
    width: int
    dense: tuple[int, int]


# With src/cpu/tuning.h: `tall` has more rows than the ring buffer, although they are short; rows of
# `wide` are longer than what is summed at a time; windows of `large` are too large to be read in
# place.
MAPS = {
    "tall": Map(17, 2700, 20, (400, 2)),
    "wide": Map(3, 40, 9000, (3, 1300)),
    "large": Map(18, 290, 340, (3, 2)),
}


def corners(height: int, width: int) -> Float64:
    """Boxes that are not mirrored, or mirrored in x, y or both; on the map or partly off it."""
    relative = np.array(
        [
            [0.05, 0.02, 0.93, 0.97],
            [-0.11, 0.01, 0.42, 1.13],
            [0.21, -0.14, 1.17, 0.96],
        ]
    )
    turns = relative[:, [0, 1, 2, 3, 2, 1, 0, 3, 0, 3, 2, 1, 2, 3, 0, 1]].reshape(-1, 4)
    noise = np.random.default_rng(51).uniform(-0.01, 0.01, turns.shape)
    boxes = (turns + noise) * np.array([width, height] * 2)
    return np.column_stack([np.zeros(len(boxes)), boxes]).astype(np.float32).astype(np.float64)


def matrices(low: float, high: float, bins: int, size: int, grid: int) -> list[Float64]:
    """The weight of each cell in each bin (aligned, scale 1), and its derivatives by both edges."""
    one, half = np.float32(1), np.float32(0.5)
    start, end = np.float32(low) - half, np.float32(high) - half
    step = (end - start) / np.float32(bins)
    p, i = np.arange(bins, dtype=np.float32)[:, None], np.arange(grid, dtype=np.float32)
    position = (start + p * step) + ((i + half) * step) / np.float32(grid)
    on_map = (position >= -one) & (position <= np.float32(size))
    clipped = np.maximum(position, 0)
    inside = np.floor(clipped) < size - 1
    cell = np.where(inside, np.floor(clipped), size - 1).astype(int)
    right = np.where(inside, clipped - cell, 0).astype(np.float64)
    slope = np.where(inside & (position >= 0), 1.0, 0.0)
    along = (p.astype(np.float64) + (i + 0.5) / grid) / bins
    rows = np.broadcast_to(np.arange(bins)[:, None], cell.shape)
    found = []
    for left_part, right_part in (
        (1 - right, right),
        (-slope * (1 - along), slope * (1 - along)),
        (-slope * along, slope * along),
    ):
        matrix = np.zeros((bins, size + 1))
        np.add.at(matrix, (rows[on_map], cell[on_map]), left_part[on_map] / grid)
        np.add.at(matrix, (rows[on_map], cell[on_map] + 1), right_part[on_map] / grid)
        found.append(matrix[:, :size])
    return found


class Problem(NamedTuple):
    """The arrays of a problem, in NCHW."""

    input: NumpyArray
    tangent: NumpyArray
    gradient: NumpyArray
    boxes: NumpyArray
    direction: NumpyArray
    dense: tuple[int, int]

    def axes(self, k: int) -> tuple[list[Float64], list[Float64]]:
        _, x1, y1, x2, y2 = self.boxes[k].tolist()
        height, width = self.input.shape[2:]
        return (
            matrices(y1, y2, SIZE[0], height, self.dense[0]),
            matrices(x1, x2, SIZE[1], width, self.dense[1]),
        )


@cache
def problem(name: str) -> Problem:
    here = MAPS[name]
    rng = np.random.default_rng(52)
    boxes = corners(here.height, here.width).astype(np.float32)
    shape = (1, here.channels, here.height, here.width)
    direction = rng.standard_normal(boxes.shape).astype(np.float32)
    direction[:, 0] = 0
    return Problem(
        rng.standard_normal(shape, dtype=np.float32),
        rng.standard_normal(shape, dtype=np.float32),
        rng.standard_normal((len(boxes), here.channels, *SIZE), dtype=np.float32),
        boxes,
        direction,
        here.dense,
    )


# Averages by definition ---------------------------------------------------------------------------


@cache
def averages(name: str) -> dict[str, Float64]:
    """The expected average and its derivatives, by operator."""
    given = problem(name)
    image, gradients = given.input[0].astype(np.float64), given.gradient.astype(np.float64)
    direction = given.direction.astype(np.float64)
    pooled, along = np.zeros_like(gradients), np.zeros_like(gradients)
    to_input, from_direction = np.zeros_like(image), np.zeros_like(image)
    to_boxes = np.zeros((len(given.boxes), 5))
    for k, gradient in enumerate(gradients):
        (y, y1, y2), (x, x1, x2) = given.axes(k)
        _, dx1, dy1, dx2, dy2 = direction[k]
        rows, rows1, rows2 = y @ image, y1 @ image, y2 @ image
        dy, dx = dy1 * y1 + dy2 * y2, dx1 * x1 + dx2 * x2
        pooled[k] = rows @ x.T
        along[k] = (dy1 * rows1 + dy2 * rows2) @ x.T + rows @ dx.T
        to_input += y.T @ (gradient @ x)
        from_direction += dy.T @ (gradient @ x) + y.T @ (gradient @ dx)
        slopes = rows @ x1.T, rows1 @ x.T, rows @ x2.T, rows2 @ x.T
        to_boxes[k, 1:] = [(gradient * slope).sum() for slope in slopes]
    return {
        "roi_align": pooled,
        "roi_align_backward": to_input[None],
        "roi_align_backward_boxes": to_boxes,
        "roi_align_jvp_boxes": along,
        "roi_align_jvp_boxes_backward": from_direction[None],
    }


# The operators ------------------------------------------------------------------------------------

FEW = (3, 2)  # samples, for the maxima


def run(op: str, mode: str, name: str, layout: str) -> list[NumpyArray]:
    """The results of an operator."""
    given = problem(name)
    x, tangent, gradient = (from_nchw(array, layout) for array in given[:3])
    boxes, direction = given.boxes, given.direction
    samples = given.dense if mode == "avg" else FEW
    align: dict[str, Any] = {"sampling_ratio": samples, "aligned": True}
    rest: dict[str, Any] = {"mode": mode, "layout": layout}
    match op:
        case "roi_align":
            return [roidl.roi_align(x, boxes, SIZE, **align, **rest)]
        case "roi_align_backward":
            return [roidl.roi_align_backward(gradient, boxes, x.shape, input=x, **align, **rest)]
        case "roi_align_backward_boxes":
            return [roidl.roi_align_backward_boxes(gradient, x, boxes, **align, **rest)]
        case "roi_pool":
            result = roidl.roi_pool(x, boxes, SIZE, return_argmax=mode == "max", **rest)
            return list(result) if mode == "max" else [result]
        case "roi_pool_backward":
            argmax = pooled_cells(name, layout) if mode == "max" else None
            return [roidl.roi_pool_backward(gradient, boxes, argmax, x.shape, **rest)]
    params = align_params(op, SIZE, 1.0, samples, True, mode, layout)
    leader, other, shape = {
        "roi_align_jvp": (tangent, x, None),
        "roi_align_jvp_boxes": (x, direction, None),
        "roi_align_jvp_boxes_backward": (gradient, direction, x.shape),
    }[op]
    out = np.empty_like(gradient if shape is None else x)
    threads = roidl.get_num_threads()
    _core.run_operator(op, params, [leader, other], boxes, None, shape, [out], threads)
    return [out]


@cache
def pooled_cells(name: str, layout: str) -> NumpyArray:
    return run("roi_pool", "max", name, layout)[1]


@pytest.fixture(autouse=True)
def _the_number_of_threads_is_restored() -> Iterator[None]:
    before = roidl.get_num_threads()
    yield
    roidl.set_num_threads(before)


def of_any_threads(op: str, mode: str, name: str, layout: str) -> list[NumpyArray]:
    """The results of an operator with one thread; three threads must give the same bits."""
    roidl.set_num_threads(1)
    results = run(op, mode, name, layout)
    roidl.set_num_threads(3)
    for result, same in zip(results, run(op, mode, name, layout), strict=True):
        assert result.tobytes() == same.tobytes()
    return results


every_map = pytest.mark.parametrize("name", MAPS)
every_layout = pytest.mark.parametrize("layout", ["NCHW", "NHWC"])


@every_layout
@every_map
@pytest.mark.parametrize(
    "op",
    [
        "roi_align",
        "roi_align_backward",
        "roi_align_backward_boxes",
        "roi_align_jvp_boxes",
        "roi_align_jvp_boxes_backward",
    ],
)
def test_averages(op: str, name: str, layout: str) -> None:
    (result,) = of_any_threads(op, "avg", name, layout)
    if op == "roi_align_backward_boxes":
        return assert_close(result, averages(name)[op], 1e-5)
    return assert_close(to_nchw(result, layout), averages(name)[op], 2e-6)


@every_layout
@every_map
@pytest.mark.parametrize(
    ("op", "mode"),
    [
        ("roi_align", "max"),
        ("roi_align", "max_onnx"),
        ("roi_align_backward", "max"),
        ("roi_align_backward", "max_onnx"),
        ("roi_align_backward_boxes", "max"),
    ],
)
def test_maxima_of_samples(op: str, mode: str, name: str, layout: str) -> None:
    (result,) = of_any_threads(op, mode, name, layout)
    expected = maxima(op, mode, name)
    if op == "roi_align_backward_boxes":
        return assert_close(result, expected, 1e-5)
    return assert_close(to_nchw(result, layout), expected)


@cache
def maxima(op: str, mode: str, name: str) -> Float64:
    given = problem(name)
    operator: Callable[..., Float64] = getattr(oracle, op)
    arrays: tuple[Any, ...] = (given.input, given.boxes, SIZE)
    if op != "roi_align":
        arrays = (given.gradient, given.input, given.boxes)
    return operator(*arrays, 1.0, FEW, True, mode=mode)


@every_layout
@every_map
@pytest.mark.parametrize("mode", ["max", "max_onnx"])
def test_tangents_of_maxima(mode: str, name: str, layout: str) -> None:
    """<J t, g> = <t, J^T g>, where J^T is the oracle's."""
    given = problem(name)
    (result,) = of_any_threads("roi_align_jvp", mode, name, layout)
    there = to_nchw(result, layout) * given.gradient.astype(np.float64)
    back = given.tangent * maxima("roi_align_backward", mode, name)
    assert abs(there.sum() - back.sum()) <= 1e-7 * np.abs(there).sum()


@every_layout
@every_map
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_roi_pool(mode: str, name: str, layout: str) -> None:
    given = problem(name)
    results = of_any_threads("roi_pool", mode, name, layout)
    pooled, argmax = pooled_by_definition(mode, name)
    assert_close(to_nchw(results[0], layout), pooled)
    if argmax is not None:
        np.testing.assert_array_equal(to_nchw(results[1], layout), argmax)
    (back,) = of_any_threads("roi_pool_backward", mode, name, layout)
    expected = oracle.roi_pool_backward(
        given.gradient, given.boxes, argmax, given.input.shape, mode=mode
    )
    assert_close(to_nchw(back, layout), expected)


@cache
def pooled_by_definition(mode: str, name: str) -> tuple[Float64, NumpyArray | None]:
    given = problem(name)
    return oracle.roi_pool(given.input, given.boxes, SIZE, mode=mode)
