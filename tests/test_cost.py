"""Time and memory of a call are bounded by the boxes' windows and by the arrays."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import NumpyArray
from operators import call, check, every_operator, expect
from trials import from_nchw

Shape = tuple[int, ...]

# Longer than every ring, band, and set of columns of the kernels.
TALL, WIDE = (1, 1, 5_000, 1), (1, 1, 1, 5_000)


def long_boxes(shape: Shape, turned: bool) -> NumpyArray:
    """Boxes as long as the map: from end to end, shifted, shorter at both ends; or mirrored."""
    height, width = shape[2:]
    boxes = np.array(
        [
            [0, 0, 0, width, height],
            [0, 0.3 * width, 0.3 * height, 1.2 * width, 1.2 * height],
            [0, 0.9 * width, 0.9 * height, width, height],
            [0, -0.4 * width, -0.4 * height, 0.1 * width + 1, 0.1 * height + 1],
        ],
        np.float32,
    )
    return boxes[:, [0, 3, 4, 1, 2]] if turned else boxes


@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
@every_operator
def test_long_maps(op: str, mode: str, shape: Shape, dtype: str, layout: str, turned: bool) -> None:
    """The parts into which the kernels cut long maps add up to the definition."""
    rng = np.random.default_rng(7)
    input = rng.standard_normal(shape).astype(dtype)
    boxes = long_boxes(shape, turned)
    size = (5, 1) if shape == TALL else (1, 5)
    gradient = rng.standard_normal((len(boxes), 1, *size)).astype(dtype)
    options: dict[str, Any] = {}
    if op == "roi_align":
        long = 300 if turned else -1
        ratio = (long, 1) if shape == TALL else (1, long)
        options = {"aligned": turned, "sampling_ratio": ratio}
    expected = expect(op, mode, input, boxes, gradient, **options)
    pooled = from_nchw(input, layout), boxes, from_nchw(gradient, layout)
    check(call(op, mode, *pooled, layout=layout, **options), expected, layout)


@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize("long", [0, 1], ids=["tall", "wide"])
@every_operator
def test_tables_of_long_maps(op: str, mode: str, long: int, turned: bool) -> None:
    """Maps so long that tables are made for each part of the map.

    All operators are linear in the features, except for the positions of maxima. (If the cost were
    quadratic in the map's length, this would take minutes.)
    """
    cells = 300_000
    shape = (1, 1, 1, cells) if long else (1, 1, cells, 1)
    rng = np.random.default_rng(8)
    input = rng.standard_normal(shape)
    boxes = long_boxes(shape, turned)
    size = (1, 5) if long else (5, 1)
    gradient = rng.standard_normal((len(boxes), 1, *size))
    options: dict[str, Any] = {}
    if op == "roi_align":
        many = cells // 5 if turned else -1
        options = {"aligned": turned, "sampling_ratio": (1, many) if long else (many, 1)}
    results = call(op, mode, input, boxes, gradient, **options)
    there = np.vdot(results.pooled, gradient)
    np.testing.assert_allclose(np.vdot(input, results.grad_input), there, rtol=1e-8)


# Memory ----------------------------------------------------------------------------------------

LONG = 1 << 26


def allow_memory(mb: int) -> None:
    """Limit the growth of the process's address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def stays_small() -> None:
    """Small boxes on maps of 2^26 rows or columns, or of as many images, all views of one cell."""
    roidl.set_num_threads(1)
    allow_memory(256)
    cell = np.ones((1, 1, 1, 1), np.float32)
    for shape in ((1, 1, 1, LONG), (1, 1, LONG, 1), (LONG, 1, 1, 1), (1, 1, 8, LONG)):
        far = np.minimum(np.array(shape[2:]) - 1, LONG - 8)
        boxes = np.array([[0, 0, 0, 1, 1], [shape[0] - 1, far[1], far[0], far[1] + 4, far[0] + 4]])
        for layout in ("NCHW", "NHWC"):
            same = np.broadcast_to(cell, shape)  # from_nchw would copy it
            input = same.transpose(0, 2, 3, 1) if layout == "NHWC" else same
            gradient = np.ones((2, 1, 1, 1))
            for mode in ("avg", "max", "max_onnx"):
                out = roidl.roi_align(input, boxes, 1, mode=mode, layout=layout)
                assert (out > 0).all()
                if mode != "max_onnx":
                    grad = gradient.astype(np.float32)
                    roidl.roi_align_backward_boxes(grad, input, boxes, mode=mode, layout=layout)
            for mode in ("avg", "max"):
                if shape[2] * shape[3] < 1 << 31:
                    out = roidl.roi_pool(input, boxes, 1, mode=mode, layout=layout)
                    assert (out == 1).all()


def gradients_stay_small() -> None:
    """Gradients to a long map need little memory besides it, in every layout and dtype."""
    roidl.set_num_threads(1)
    for shape in ((1, 1, 1, 1 << 22), (1, 1, 1 << 22, 1)):
        for dtype in (np.float16, np.float32):
            input, grad = np.ones(shape, dtype), np.ones((1, 1, 1, 1), dtype)
            end = (9, 0) if shape[2] == 1 else (0, 9)
            boxes = np.array([[0, end[0] / 2, end[1] / 2, *end]], np.float32)
            out, argmax = np.empty_like(input), np.array([[[[6]]]], np.int32)
            allow_memory(64)
            for layout in ("NCHW", "NHWC"):
                same = [from_nchw(a, layout) for a in (input, grad, out, argmax)]
                for mode in ("avg", "max", "max_onnx"):
                    roidl.roi_align_backward(
                        same[1],
                        boxes,
                        same[0].shape,
                        mode=mode,
                        input=same[0],
                        layout=layout,
                        out=same[2],
                    )
                roidl.roi_pool_backward(
                    same[1], boxes, same[3], same[0].shape, layout=layout, out=same[2]
                )
                assert out.reshape(-1)[6] == 1
                assert np.count_nonzero(out) == 1
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


@pytest.mark.parametrize("name", ["stays_small", "gradients_stay_small"])
def test_scratch_is_bounded_by_windows(name: str) -> None:
    command = [sys.executable, __file__, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# Nothing ---------------------------------------------------------------------------------------

MANY = 1 << 36


@every_operator
def test_results_without_elements_read_no_boxes(op: str, mode: str) -> None:
    """Results without elements do not count images: these would take hours and terabytes."""
    box = np.array([0, 0, 0, 4, 4], np.float32)
    boxes = np.broadcast_to(box, (MANY, 5))
    input = np.broadcast_to(np.float32(1), (1, 0, 8, 8))
    gradient = np.broadcast_to(np.float32(1), (MANY, 0, 2, 2))
    forward = roidl.roi_align if op == "roi_align" else roidl.roi_pool
    assert forward(input, boxes, 2, mode=mode).shape == gradient.shape
    several = roidl.multiscale_roi_align if op == "roi_align" else roidl.multiscale_roi_pool
    assert several([input, input], boxes, 2, [1.0, 0.5], mode=mode).shape[0] == MANY

    def backward(gradient: NumpyArray, boxes: NumpyArray, shape: Shape) -> Any:
        if op == "roi_align":
            some = np.broadcast_to(np.float32(1), shape)
            return roidl.roi_align_backward(gradient, boxes, shape, mode=mode, input=some)
        where = None if mode == "avg" else np.broadcast_to(np.int32(0), gradient.shape)
        return roidl.roi_pool_backward(gradient, boxes, where, shape, mode=mode)

    assert backward(gradient, boxes, input.shape).shape == input.shape
    for shape in ((10**9, 1, 0, 0), (10**9, 0, 5, 5), (10**9, 1, 5, 0)):
        none = np.zeros((0, shape[1], 2, 2), np.float32)
        assert backward(none, boxes[:0], shape).shape == shape
        many = np.broadcast_to(np.float32(1), (MANY, shape[1], 2, 2))
        assert backward(many, boxes, shape).shape == shape
    # A gradient without contributions from boxes is zero.
    none = np.zeros((0, 3, 2, 2), np.float32)
    assert not backward(none, boxes[:0], (2, 3, 5, 5)).any()


def test_boxes_get_no_gradient_without_channels() -> None:
    boxes = np.array([[0, 0, 0, 4, 4]] * 3, np.float32)
    gradient, input = np.ones((3, 0, 2, 2), np.float32), np.ones((1, 0, 8, 8), np.float32)
    got = roidl.roi_align_backward_boxes(gradient, input, boxes)
    np.testing.assert_array_equal(got, np.zeros((3, 5)))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
