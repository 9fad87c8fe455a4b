"""Gradients against central differences and adjointness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import oracle
import roidl
from cases import random_boxes
from conftest import NumpyArray
from operators import INFINITE_STEP, assert_infinite_inside, jvp_boxes_backward
from roidl import _core
from roidl._params import align_params
from trials import Float64, assert_close, from_nchw, to_nchw

H, W = 7, 9
SCALE = 0.5  # boxes are in image pixels of half a cell
STEP = 1e-6  # in image pixels

# Parameters of `boxes_like`: ranges of starts and sizes, in cells, and the arguments.
KINDS: dict[str, tuple[tuple[float, float], tuple[float, float], dict[str, Any]]] = {
    "inside": ((0, 3), (1.5, 4), {"sampling_ratio": 2, "aligned": True}),
    "inside_adaptive": ((0, 3), (1.5, 4), {"sampling_ratio": -1, "aligned": True}),
    "ratio_pair": ((0, 3), (1.5, 4), {"sampling_ratio": (3, 1), "aligned": False}),
    "larger_than_one": ((1, 4), (1.1, 3), {"sampling_ratio": 2, "aligned": False}),
    "clamped_to_one": ((1, 4), (0.1, 0.9), {"sampling_ratio": 2, "aligned": False}),
    "clamped_from_below_zero": ((1, 4), (-3, -0.5), {"sampling_ratio": -1, "aligned": False}),
    "tiny": ((1, 4), (0.01, 0.2), {"sampling_ratio": 2, "aligned": True}),
    "mirrored": ((4, 6), (-4, -1), {"sampling_ratio": 3, "aligned": True}),
    "across_the_start": ((-3, -0.8), (2, 5), {"sampling_ratio": 2, "aligned": True}),
    "across_the_end": ((4, 6), (4, 7), {"sampling_ratio": 2, "aligned": False}),
    "around_the_map": ((-3, -1), (12, 14), {"sampling_ratio": -1, "aligned": False}),
    "mirrored_across_both_ends": ((9, 11), (-14, -11), {"sampling_ratio": 4, "aligned": True}),
    "outside": ((12, 14), (1, 3), {"sampling_ratio": 2, "aligned": True}),
}
SIZE = (2, 3)


def positions(start: float, end: float, bins: int, ratio: int, aligned: bool) -> Float64:
    """The positions of a box's samples along an axis in float64; empty if it has none."""
    low = SCALE * start - 0.5 * aligned
    size = SCALE * (end - start)
    if not aligned:
        size = max(size, 1.0)
    grid = ratio if ratio > 0 else max(int(np.ceil(size / bins)), 0)
    return low + size / bins * ((np.arange(bins * grid) + 0.5) / max(grid, 1))


def away_from_kinks(box: Float64, rule: dict[str, Any]) -> bool:
    """Whether no sample is near a pixel or the border, and no size near a change of the rules."""
    ratios = np.broadcast_to(rule["sampling_ratio"], 2)
    for axis, bins in ((0, SIZE[1]), (1, SIZE[0])):
        start, end = box[axis], box[axis + 2]
        sizes = SCALE * (end - start) / np.array([1, bins])  # near 1 for the clamp, n for the grid
        where = positions(start, end, bins, int(ratios[1 - axis]), rule["aligned"])
        margins = np.concatenate([sizes, where])
        if np.abs(margins - np.round(margins)).min() < 1e-3:
            return False
    return True


def boxes_like(kind: str, count: int) -> tuple[NumpyArray, dict[str, Any]]:
    starts, sizes, rule = KINDS[kind]
    rng = np.random.default_rng(41)
    boxes: list[Float64] = []
    while len(boxes) < count:
        start = rng.uniform(*starts, 2)
        box = np.concatenate([start, start + rng.uniform(*sizes, 2)]) / SCALE
        if away_from_kinks(box, rule):
            boxes.append(box)
    rows = np.column_stack([rng.integers(0, 2, count), boxes])
    return rows, {"spatial_scale": SCALE, **rule}


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_by_central_differences(kind: str, mode: str) -> None:
    rng = np.random.default_rng(42)
    input = rng.standard_normal((2, 3, H, W))
    boxes, rule = boxes_like(kind, 6)
    rule["mode"] = mode
    gradient = rng.standard_normal((len(boxes), 3, *SIZE))
    got = roidl.roi_align_backward_boxes(gradient, input, boxes, **rule)
    expected = np.zeros_like(boxes)
    for column in range(1, 5):
        step = np.zeros(5)
        step[column] = STEP
        there = roidl.roi_align(input, boxes + step, SIZE, **rule)
        back = roidl.roi_align(input, boxes - step, SIZE, **rule)
        expected[:, column] = (gradient * (there - back)).sum(axis=(1, 2, 3)) / (2 * STEP)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7)
    assert np.any(expected) == (kind != "outside")


def differences(input: Float64, loss: Callable[[Float64], Float64]) -> Float64:
    """Central differences of the sum of `loss(input)`, pixel by pixel."""
    result = np.zeros_like(input)
    for index in np.ndindex(*input.shape):
        there, back = input.copy(), input.copy()
        there[index] += STEP
        back[index] -= STEP
        result[index] = (loss(there) - loss(back)).sum() / (2 * STEP)
    return result


@pytest.mark.parametrize("mode", ["avg", "max", "max_onnx"])
@pytest.mark.parametrize("kind", KINDS)
def test_input_by_central_differences(kind: str, mode: str) -> None:
    rng = np.random.default_rng(43)
    input = rng.standard_normal((2, 1, H, W))
    boxes, rule = boxes_like(kind, 5)
    rule["mode"] = mode
    gradient = rng.standard_normal((len(boxes), 1, *SIZE))
    got = roidl.roi_align_backward(gradient, boxes, input.shape, input=input, **rule)
    expected = differences(input, lambda x: gradient * roidl.roi_align(x, boxes, SIZE, **rule))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)
    assert np.any(expected) == (kind != "outside")


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_input_of_roi_pool_by_central_differences(mode: str) -> None:
    rng = np.random.default_rng(44)
    input = rng.standard_normal((2, 1, H, W))
    boxes = random_boxes(rng, 12, 2, H, W, SCALE)
    gradient = rng.standard_normal((len(boxes), 1, *SIZE))
    argmax = None
    if mode == "max":
        argmax = roidl.roi_pool(input, boxes, SIZE, SCALE, return_argmax=True)[1]
    got = roidl.roi_pool_backward(gradient, boxes, argmax, input.shape, SCALE, mode=mode)
    expected = differences(
        input, lambda x: gradient * roidl.roi_pool(x, boxes, SIZE, SCALE, mode=mode)
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("dtype", "budget"), [("float32", 1e-6), ("float64", 1e-14)])
@pytest.mark.parametrize(
    ("op", "mode"),
    [("align", "avg"), ("align", "max"), ("align", "max_onnx"), ("pool", "avg"), ("pool", "max")],
)
def test_adjoint(op: str, mode: str, dtype: str, budget: float, layout: str) -> None:
    """<A x, y> = <x, A^T y>: A is linear; in the max modes while the maxima stay in place."""
    rng = np.random.default_rng(45)
    boxes = random_boxes(rng, 60, 3, 33, 41, 0.25).astype(dtype)
    options: dict[str, Any] = {"spatial_scale": 0.25, "mode": mode, "layout": layout}
    for channels, size in ((35, (7, 7)), (9, (14, 3))):
        x = from_nchw(rng.standard_normal((3, channels, 33, 41)).astype(dtype), layout)
        y = from_nchw(rng.standard_normal((60, channels, *size)).astype(dtype), layout)
        if op == "align":
            pooled = roidl.roi_align(x, boxes, size, **options)
            back = roidl.roi_align_backward(y, boxes, x.shape, input=x, **options)
        elif mode == "avg":
            pooled = roidl.roi_pool(x, boxes, size, **options)
            back = roidl.roi_pool_backward(y, boxes, None, x.shape, **options)
        else:
            pooled, argmax = roidl.roi_pool(x, boxes, size, return_argmax=True, **options)
            back = roidl.roi_pool_backward(y, boxes, argmax, x.shape, **options)
        terms = pooled.astype(np.float64) * y, x * back.astype(np.float64)
        scale = max(np.abs(term).sum() for term in terms)
        assert abs(terms[0].sum() - terms[1].sum()) <= budget * scale


@pytest.mark.parametrize("channels", [3, 17])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_few_boxes_on_a_wide_map(dtype: str, layout: str, channels: int) -> None:
    """Most of the gradient is zero; the rest is summed by tiles and parts."""
    shape = (1, channels, 75, 2101)
    edges = np.array(
        [
            [3, 2, 40, 30],  # every column counts
            [100, 5, 900, 21],  # pairs of columns far apart
            [300, 8, 330, 24],  # in between, in the same rows
            [1990, 1, 2090, 74],  # in both parts of the map, and taller than the ring buffer
            [2070, 60, 2100, 20],  # upside down
            [1500, 40, 1560, 70],  # three columns of four
            [-50, -50, -20, -20],
        ],
        np.float32,
    )
    boxes = np.column_stack([np.zeros(len(edges), np.float32), edges])
    rng = np.random.default_rng(13)
    grad = rng.standard_normal((len(boxes), channels, 14, 11)).astype(dtype)
    expected = oracle.roi_align_backward(grad, np.zeros(shape), boxes, 1.0, 2, True)
    got = roidl.roi_align_backward(
        from_nchw(grad, layout),
        boxes,
        shape if layout == "NCHW" else (1, 75, 2101, channels),
        sampling_ratio=2,
        aligned=True,
        layout=layout,
    )
    assert_close(to_nchw(got, layout), expected)
    assert (to_nchw(got, layout)[expected == 0] == 0).all()


def test_derivative_along_a_ramp() -> None:
    """On a linear map the derivatives are known: per corner, also not aligned and clamped."""
    y, x = np.mgrid[:H, :W].astype(np.float64)
    ramp = (2 * x + 5 * y)[None, None]
    one = np.ones((1, 1, 1, 1))
    rule: dict[str, Any] = {"spatial_scale": SCALE, "sampling_ratio": 2}
    box = np.array([[0, 4.0, 3.0, 9.0, 8.0]])
    # The box's centre moves by half of a corner's step, times the scale.
    got = roidl.roi_align_backward_boxes(one, ramp, box, **rule)
    np.testing.assert_allclose(got, [[0, 0.5, 1.25, 0.5, 1.25]], rtol=1e-12)
    small = np.array([[0, 4.0, 3.0, 5.0, 8.0]])  # half a cell wide: clamped to one
    got = roidl.roi_align_backward_boxes(one, ramp, small, **rule)
    np.testing.assert_allclose(got, [[0, 1.0, 1.25, 0, 1.25]], rtol=1e-12)
    just_one = np.array([[0, 4.0, 3.0, 6.0, 8.0]])  # one cell wide: still free
    got = roidl.roi_align_backward_boxes(one, ramp, just_one, **rule)
    np.testing.assert_allclose(got, [[0, 0.5, 1.25, 0.5, 1.25]], rtol=1e-12)


@pytest.mark.parametrize("offset", [100.0, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("maps", [1, 2])
def test_constant_added_to_features_costs_no_precision(
    maps: int, mode: str, layout: str, dtype: str, offset: float
) -> None:
    """A constant added to all features does not change the slopes, to the last digit."""
    rng = np.random.default_rng(44)
    offset = min(offset, 1000.0) if dtype == "float16" else offset
    shapes = [(2, 17, 24, 30), (2, 17, 12, 15)][:maps]
    inputs = [(rng.standard_normal(s) * 8 + offset).astype(dtype) for s in shapes]
    boxes = np.array([[0, 4.0, 3.0, 41.3, 38.9], [1, 1.7, 2.2, 52.4, 39.1]], np.float32)
    gradient = rng.standard_normal((2, 17, 9, 9)).astype(dtype)
    # With one sample the position of the maximum does not depend on rounding.
    ratio = 2 if mode == "avg" else 1
    rule: dict[str, Any] = {"aligned": True, "sampling_ratio": ratio, "mode": mode}
    given = from_nchw(gradient, layout), [from_nchw(a, layout) for a in inputs]
    expected = np.zeros((2, 5))
    levels = np.array([0, maps - 1], np.int32)
    for k, level in enumerate(levels):
        expected[k] = oracle.roi_align_backward_boxes(
            gradient[k : k + 1].astype(np.float64),
            inputs[level].astype(np.float64),
            boxes[k : k + 1],
            spatial_scale=SCALE / (1 + level),
            **rule,
        )
    if maps == 1:
        got = roidl.roi_align_backward_boxes(
            given[0], given[1][0], boxes, spatial_scale=SCALE, layout=layout, **rule
        )
    else:
        got = roidl.multiscale_roi_align_backward_boxes(
            given[0], given[1], boxes, [SCALE, SCALE / 2], levels=levels, layout=layout, **rule
        )
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_jvp_boxes_keeps_precision(layout: str) -> None:
    """Compare with double precision, which the tests above compare with the definition."""
    rng = np.random.default_rng(45)
    input = from_nchw((rng.standard_normal((1, 17, 24, 30)) * 8 + 1e6).astype(np.float32), layout)
    boxes = np.array([[0, 4.0, 3.0, 41.3, 38.9]], np.float32)
    step = np.array([[0, 0.5, -0.25, 1.0, 0.75]], np.float32)
    pooled = from_nchw(np.empty((1, 17, 9, 9), np.float32), layout)
    results: list[Any] = []
    for dtype in (np.float32, np.float64):
        op = "roi_align_jvp_boxes"
        params = align_params(op, (9, 9), SCALE, 2, True, "avg", layout)
        result = pooled.astype(dtype)
        _core.run_operator(op, params, [input.astype(dtype), step], boxes, None, None, [result], 1)
        results.append(result)
    error = np.abs(results[0] - results[1]).max()
    assert error < 2e-6 * np.abs(results[1]).max()


def test_an_infinite_step_of_the_boxes_stays_where_they_are() -> None:
    result = np.zeros((1, 3, 16, 16), np.float32)
    jvp_boxes_backward(*INFINITE_STEP, result)
    assert_infinite_inside(result)
