"""Several maps in one call: every box has the oracle's result on its own map."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import oracle
import roidl
from conftest import Lib, NumpyArray, numpy_dtype
from trials import assert_close, to_nchw

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
SIZE = (3, 2)


def level_by_definition(box: NumpyArray, scales: tuple[float, ...] = SCALES) -> int:
    """Equation 1 of the paper, with torchvision's epsilon, in float64."""
    x1, y1, x2, y2 = (float(value) for value in box)
    area = (x2 - x1) * (y2 - y1)
    if not area > 0:
        return 0
    level = math.floor(4 + math.log2(math.sqrt(area) / 224) + 1e-6)
    first, last = -math.log2(scales[0]), -math.log2(scales[-1])
    return int(min(max(level, first), last) - first)


def problem(dtype: str, layout: str = "NCHW", channels: int = 5) -> tuple[list[NumpyArray], Any]:
    """Maps of an image of 160 x 192 pixels, and boxes of every level."""
    generator = np.random.default_rng(7)
    maps = []
    for scale in SCALES:
        shape = (2, channels, int(160 * scale), int(192 * scale))
        values = generator.standard_normal(shape).astype(numpy_dtype(dtype))
        maps.append(values if layout == "NCHW" else values.transpose(0, 2, 3, 1))
    sizes = np.exp(generator.uniform(np.log(20), np.log(900), (24, 2)))
    centres = generator.uniform(0, 180, (24, 2))
    index = generator.integers(0, 2, (24, 1))
    rows = np.concatenate([index, centres - sizes / 2, centres + sizes / 2], axis=1)
    return maps, rows.astype(np.float32)


def by_level(boxes: NumpyArray, count: int = len(SCALES)) -> list[NumpyArray]:
    levels = np.array([level_by_definition(box[-4:]) for box in boxes])
    return [np.flatnonzero(levels == level) for level in range(count)]


# The rule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_levels_are_those_of_the_paper(dtype: str) -> None:
    sides = [1e-3, 10, 55.9, 111.9, 112, 112.1, 223.99, 224, 300, 447.9, 448, 1000, 1e4]
    boxes = np.array([[3, 5, 3 + side, 5 + side] for side in sides], dtype)
    expected = [level_by_definition(box) for box in boxes]
    assert len(set(expected)) == 4
    assert roidl.assign_levels(boxes, SCALES).tolist() == expected


def test_a_box_exactly_on_a_border_belongs_to_the_coarser_map() -> None:
    boxes = np.array([[0, 0, 112, 112], [0, 0, 224, 224], [0, 0, 448, 448]], np.float32)
    assert roidl.assign_levels(boxes, SCALES).tolist() == [1, 2, 3]


def test_a_box_without_area_belongs_to_the_finest_map() -> None:
    boxes = np.array([[5, 5, 5, 900], [9, 9, 1, 20], [0, 0, 0, 0]], np.float32)
    assert roidl.assign_levels(boxes, SCALES).tolist() == [0, 0, 0]


def test_levels_of_every_form_of_boxes() -> None:
    _, rows = problem("float32")
    expected = [level_by_definition(row[1:]) for row in rows]
    assert roidl.assign_levels(rows, SCALES).tolist() == expected
    assert roidl.assign_levels(rows[:, 1:], SCALES).tolist() == expected
    grouped = rows[:, 1:].reshape(2, 12, 4)
    assert roidl.assign_levels(grouped, SCALES).tolist() == [expected[:12], expected[12:]]
    first, second = roidl.assign_levels(list(grouped), SCALES)
    assert [*first, *second] == expected


def test_another_canonical_size() -> None:
    boxes = np.array([[0, 0, 100, 100], [0, 0, 49, 49]], np.float32)
    rule = {"canonical_scale": 50, "canonical_level": 3}
    assert roidl.assign_levels(boxes, SCALES, **rule).tolist() == [2, 0]


@pytest.mark.parametrize(
    "scales", [(1 / 8, 1 / 8, 1 / 16), (1 / 8, 1 / 16, 1 / 16), (1 / 16, 1 / 16), (1 / 4, 1 / 16)]
)
def test_of_equal_scales_the_index_is_the_level_less_that_of_the_first(scales: Any) -> None:
    """As in torchvision, so that the last of three maps, or the second of two, may be unused."""
    sides = [10, 60, 111, 113, 223, 225, 447, 449, 1e4]
    boxes = np.array([[0, 0, 0, side, side] for side in sides], np.float32)
    expected = [min(level_by_definition(box[1:], scales), len(scales) - 1) for box in boxes]
    assert len(set(expected)) == len(set(scales))
    assert roidl.assign_levels(boxes, scales).tolist() == expected
    maps = [np.full((1, 1, 5, 5), index, np.float32) for index, _ in enumerate(scales)]
    # Far off the maps all results are 0, so the common corner of all boxes is on the maps.
    pooled = roidl.multiscale_roi_pool(maps, boxes, 1, scales)
    assert pooled.ravel().tolist() == expected


# Results ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_is_that_of_each_box_on_its_map(mode: str, dtype: str, layout: str) -> None:
    maps, boxes = problem(dtype, layout)
    options: Any = {"sampling_ratio": 2, "aligned": True, "mode": mode}
    out = to_nchw(
        roidl.multiscale_roi_align(maps, boxes, SIZE, SCALES, layout=layout, **options), layout
    )
    coordinates = np.float64 if dtype == "float64" else np.float32
    for scale, features, rows in zip(SCALES, maps, by_level(boxes), strict=True):
        assert len(rows) > 0
        plain = to_nchw(features, layout)
        expected = oracle.roi_align(
            plain, boxes[rows], SIZE, scale, coordinates=coordinates, **options
        )
        assert_close(out[rows], expected)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradients_of_roi_align_go_to_the_box_and_its_map(mode: str, layout: str) -> None:
    maps, boxes = problem("float64", layout)
    options: Any = {"sampling_ratio": 2, "mode": mode}
    gradient = np.random.default_rng(3).standard_normal((len(boxes), 5, *SIZE))
    passed = gradient if layout == "NCHW" else gradient.transpose(0, 2, 3, 1)
    shapes = [features.shape for features in maps]
    inputs = maps if mode == "max" else None
    options_here = options | {"layout": layout}
    grads = roidl.multiscale_roi_align_backward(
        passed, boxes, shapes, SCALES, inputs=inputs, **options_here
    )
    to_boxes = roidl.multiscale_roi_align_backward_boxes(
        passed, maps, boxes, SCALES, **options_here
    )
    for scale, features, rows, grad in zip(SCALES, maps, by_level(boxes), grads, strict=True):
        plain = to_nchw(features, layout)
        expected = oracle.roi_align_backward(
            gradient[rows], plain, boxes[rows], scale, coordinates=np.float64, **options
        )
        assert_close(to_nchw(grad, layout), expected)
        expected = oracle.roi_align_backward_boxes(
            gradient[rows], plain, boxes[rows], scale, coordinates=np.float64, **options
        )
        assert_close(to_boxes[rows], expected)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_roi_pool_and_its_gradient_are_those_of_each_box_on_its_map(mode: str, layout: str) -> None:
    maps, boxes = problem("float32", layout)
    shapes = [features.shape for features in maps]
    result = roidl.multiscale_roi_pool(
        maps, boxes, SIZE, SCALES, mode=mode, layout=layout, return_argmax=mode == "max"
    )
    out, argmax = result if mode == "max" else (result, None)
    grads = roidl.multiscale_roi_pool_backward(
        out, boxes, argmax, shapes, SCALES, mode=mode, layout=layout
    )
    plain_out = to_nchw(out, layout)
    for scale, features, rows, grad in zip(SCALES, maps, by_level(boxes), grads, strict=True):
        plain = to_nchw(features, layout)
        expected, cells = oracle.roi_pool(plain, boxes[rows], SIZE, scale, mode=mode)
        assert_close(plain_out[rows], expected)
        if argmax is not None:
            assert cells is not None
            assert np.array_equal(to_nchw(argmax, layout)[rows], cells)
        expected = oracle.roi_pool_backward(
            plain_out[rows], boxes[rows], cells, plain.shape, scale, mode=mode
        )
        assert_close(to_nchw(grad, layout), expected)


def test_a_map_without_boxes_has_no_gradient() -> None:
    maps, _ = problem("float32")
    boxes = np.array([[0, 10, 10, 40, 40]], np.float32)
    gradient = np.ones((1, 5, *SIZE), np.float32)
    shapes = [features.shape for features in maps]
    grads = roidl.multiscale_roi_align_backward(gradient, boxes, shapes, SCALES)
    assert np.any(grads[0])
    assert not any(np.any(grad) for grad in grads[1:])


def test_given_levels_replace_the_rule() -> None:
    maps, boxes = problem("float32")
    levels = np.arange(len(boxes)) % 4
    out = roidl.multiscale_roi_align(maps, boxes, SIZE, SCALES, 2, levels=levels)
    for level, (features, scale) in enumerate(zip(maps, SCALES, strict=True)):
        rows = np.flatnonzero(levels == level)
        expected = oracle.roi_align(features, boxes[rows], SIZE, scale, 2)
        assert_close(out[rows], expected)


def test_padding_rows_are_never_read() -> None:
    maps, rows = problem("float32")
    boxes = rows[:, 1:].reshape(2, 12, 4).copy()
    counts = np.array([5, 0])
    boxes[0, 5:] = np.nan
    boxes[1] = np.inf
    out = roidl.multiscale_roi_align(maps, boxes, SIZE, SCALES, 2, counts=counts)
    expected = roidl.multiscale_roi_align(
        maps, boxes[0, :5], SIZE, SCALES, 2, batch_indices=np.zeros(5, np.int32)
    )
    assert np.array_equal(out[0, :5], expected)
    assert not np.any(out[0, 5:])
    assert not np.any(out[1])
    pooled, argmax = roidl.multiscale_roi_pool(
        maps, boxes, SIZE, SCALES, counts=counts, return_argmax=True
    )
    assert np.all(argmax[0, 5:] == -1)
    assert not np.any(pooled[1])
    gradient = np.ones_like(out)
    shapes = [features.shape for features in maps]
    grads = roidl.multiscale_roi_align_backward(gradient, boxes, shapes, SCALES, 2, counts=counts)
    alone = roidl.multiscale_roi_align_backward(
        gradient[0, :5], boxes[0, :5], shapes, SCALES, 2, batch_indices=np.zeros(5, np.int32)
    )
    for grad, other in zip(grads, alone, strict=True):
        assert np.array_equal(grad, other)
    to_boxes = roidl.multiscale_roi_align_backward_boxes(
        gradient, maps, boxes, SCALES, 2, counts=counts
    )
    assert np.any(to_boxes[0, :5])
    assert not np.any(to_boxes[0, 5:])
    assert not np.any(to_boxes[1])


def test_every_library_gets_its_own_arrays(lib: Lib) -> None:
    maps, boxes = problem("float32")
    expected = roidl.multiscale_roi_align(maps, boxes, SIZE, SCALES, 2)
    out = roidl.multiscale_roi_align(
        [lib.asarray(features) for features in maps], lib.asarray(boxes), SIZE, SCALES, 2
    )
    assert isinstance(out, lib.array)
    assert_close(lib.to_numpy(out), expected.astype(np.float64))
    assert isinstance(roidl.assign_levels(lib.asarray(boxes), SCALES), lib.array)


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    maps, boxes = problem("float32", channels=40)
    before = roidl.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            roidl.set_num_threads(threads)
            out = roidl.multiscale_roi_align(maps, boxes, 7, SCALES)
            shapes = [features.shape for features in maps]
            results.append([out, *roidl.multiscale_roi_align_backward(out, boxes, shapes, SCALES)])
    finally:
        roidl.set_num_threads(before)
    for others in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], others, strict=True))


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"scales": (1, 0.5)}, ValueError, "one number for each of the 4 maps, got 2"),
        ({"scales": (1,) * 9}, ValueError, "from 1 to 8 maps are understood, got 9"),
        ({"scales": SCALES[::-1]}, ValueError, "scales must not rise from map to map"),
        ({"scales": (0.5, 0.5, 0.25, 0.5)}, ValueError, "but scales[3] is 0.5 after 0.25"),
        ({"scales": (1, 0.5, 0.25, math.nan)}, ValueError, "scales must be positive and finite"),
        ({"scales": 0.5}, TypeError, "scales must be a list, got float"),
        ({"inputs": np.zeros((2, 5, 4, 4))}, TypeError, "inputs must be a list, got ndarray"),
        ({"canonical_scale": 0}, ValueError, "canonical_scale must be positive and finite, got 0"),
        ({"levels": np.full(24, 4)}, ValueError, "the level of row 0 is 4, but must be in [0, 4)"),
        ({"levels": np.zeros(3, int)}, ValueError, "levels must have shape [24], got [3]"),
        ({"levels": np.zeros(24)}, TypeError, "levels must be of an integer type, got float64"),
        ({"counts": np.zeros(2, int)}, ValueError, "boxes must have shape [N, L, 4] with counts"),
    ],
)
def test_mistakes_are_named(change: Any, error: type[Exception], words: str) -> None:
    maps, boxes = problem("float32")
    arguments = {"inputs": maps, "boxes": boxes, "output_size": SIZE, "scales": SCALES} | change
    with pytest.raises(error) as caught:
        roidl.multiscale_roi_align(**arguments)
    assert str(caught.value).startswith("multiscale_roi_align: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("position", "change", "words"),
    [
        (1, lambda a: a[:, :4], "input[1] must have shape [2, 5, 20, 24], got [2, 4, 20, 24]"),
        (2, lambda a: a[0], "input[2] must have shape [N, C, H, W], got [5, 10, 12]"),
        (3, lambda a: a.astype(np.float64), "input[3] must be float32 as input[0], got float64"),
        (0, lambda a: a.astype(int), "input[0] must be float16, bfloat16, float32 or float64"),
    ],
)
def test_maps_that_do_not_fit_are_named(position: int, change: Any, words: str) -> None:
    maps, boxes = problem("float32")
    maps[position] = change(maps[position])
    with pytest.raises((ValueError, TypeError)) as caught:
        roidl.multiscale_roi_align(maps, boxes, SIZE, SCALES)
    assert words in str(caught.value)


def test_counts_are_checked() -> None:
    maps, rows = problem("float32")
    boxes = rows[:, 1:].reshape(2, 12, 4)
    with pytest.raises(ValueError, match=r"counts must be in \[0, 12\], but image 1 has 13"):
        roidl.multiscale_roi_align(maps, boxes, SIZE, SCALES, counts=np.array([3, 13]))
