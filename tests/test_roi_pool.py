"""RoIPool against the oracle: modes, gradients, libraries, dtypes, layouts, forms of boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import roidl
from cases import POOL_CASES, Case, random_boxes
from conftest import ALL_DTYPES, ROWS, Lib, NumpyArray, numpy_dtype
from trials import (
    BOX_DTYPES,
    BOX_FORMS,
    CHANNELS,
    Boxes,
    arrange,
    assert_close,
    channel_count,
    from_nchw,
    pairwise,
    to_nchw,
)

MODES = ("max", "avg")


def features(shape: tuple[int, ...], dtype: str) -> NumpyArray:
    """Quarters from a small range, so that bins have several maxima, of which the first counts."""
    quarters = np.random.default_rng(21).integers(-40, 40, shape) / 4
    return quarters.astype(numpy_dtype(dtype))


def check(
    lib: Lib,
    input: NumpyArray,
    boxes: Boxes,
    output_size: tuple[int, int],
    spatial_scale: float,
    mode: str,
    layout: str,
) -> None:
    """Compare the forward result, argmax and gradient of one call with the oracle's."""
    double = "float64" in (input.dtype.name, boxes.dtype)
    rule: dict[str, Any] = {"spatial_scale": spatial_scale, "mode": mode}
    coordinates: oracle.Coordinate = np.float64 if double else np.float32
    expected, cells = oracle.roi_pool(
        input, boxes.rows, output_size, **rule, coordinates=coordinates
    )
    typed = lib.asarray(from_nchw(input, layout))
    options = {"layout": layout, **rule, **boxes.arguments(lib)}
    result = roidl.roi_pool(typed, output_size=output_size, return_argmax=mode == "max", **options)
    pooled, argmax = result if mode == "max" else (result, None)
    assert isinstance(pooled, lib.array)
    leading = (boxes.images, -1) if boxes.form == "grouped" else (-1,)
    assert len(pooled.shape) == len(leading) + 3
    got = to_nchw(lib.to_numpy(pooled), layout)
    assert got.dtype == input.dtype
    if cells is None:
        assert_close(got, expected)
    else:
        assert isinstance(argmax, lib.array)
        got_cells = to_nchw(lib.to_numpy(argmax), layout)
        assert got_cells.dtype == np.int32
        np.testing.assert_array_equal(got_cells, cells)
        np.testing.assert_array_equal(got.astype(np.float64), expected)

    gradient = np.random.default_rng(22).standard_normal(expected.shape).astype(input.dtype)
    expected = oracle.roi_pool_backward(
        gradient, boxes.rows, cells, input.shape, **rule, coordinates=coordinates
    )
    passed = from_nchw(gradient, layout).reshape(tuple(pooled.shape))
    result = roidl.roi_pool_backward(
        lib.asarray(passed), argmax=argmax, input_shape=tuple(typed.shape), **options
    )
    assert isinstance(result, lib.array)
    got = to_nchw(lib.to_numpy(result), layout)
    assert got.dtype == input.dtype
    assert_close(got, expected)


@pytest.mark.parametrize(
    ("case", "name", "mode", "dtype", "form", "box_dtype", "channels", "layout"),
    pairwise(
        POOL_CASES,
        {
            "lib": tuple(ROWS),
            "mode": MODES,
            "dtype": ALL_DTYPES,
            "form": BOX_FORMS,
            "box_dtype": BOX_DTYPES,
            "channels": CHANNELS,
            "layout": ("NCHW", "NHWC"),
        },
    ),
)
def test_zoo(
    get_lib: Callable[[str], Lib],
    case: Case,
    name: str,
    mode: str,
    dtype: str,
    form: str,
    box_dtype: str,
    channels: tuple[int, int],
    layout: str,
) -> None:
    lib = get_lib(name)
    if dtype not in lib.dtypes or box_dtype not in (*lib.dtypes, "int64", "int32", "uint8"):
        pytest.skip(f"{name} has no {dtype} or no {box_dtype}")
    images, height, width = case.map_shape
    images = 1 if form == "single" else images
    input = features((images, channel_count(channels, dtype), height, width), dtype)
    boxes = arrange(case.boxes, form, box_dtype, images)
    check(lib, input, boxes, case.output_size, case.spatial_scale, mode, layout)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_blocks(get_lib: Callable[[str], Lib], dtype: str, mode: str) -> None:
    """Sizes around the kernels' blocks of channels, groups of 8 rows of bins, tiles of 16 cells."""
    rows = random_boxes(np.random.default_rng(23), 6, 2, 21, 37, 0.25)
    boxes = arrange(rows, "rows", "float32", 2)
    for blocks in CHANNELS:
        input = features((2, channel_count(blocks, dtype), 21, 37), dtype)
        for layout, size in (("NCHW", (14, 14)), ("NHWC", (9, 3))):
            check(get_lib("numpy"), input, boxes, size, 0.25, mode, layout)


@pytest.mark.each_instruction_set
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_many_small_boxes_on_a_high_map(
    get_lib: Callable[[str], Lib], mode: str, layout: str
) -> None:
    """The ring buffer of packed rows is as high as the highest box, and wraps several times."""
    rng = np.random.default_rng(24)
    start = rng.uniform([-2, -2], [40, 70], (300, 2))
    rows = np.column_stack([rng.integers(0, 2, 300), start, start + rng.uniform(1, 7, (300, 2))])
    boxes = arrange(rows, "rows", "float32", 2)
    check(get_lib("numpy"), features((2, 17, 70, 40), "float32"), boxes, (2, 2), 1.0, mode, layout)


@pytest.mark.each_instruction_set
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize(
    ("channels", "height", "width"),
    [
        (3, 20, 4500),  # longer tiles, because rows are long
        (2, 700, 260),  # windows higher than what is summed at a time
        (70, 61, 37),  # several blocks of channels together, and a partial one
    ],
)
def test_gradient_on_maps_of_every_shape(
    channels: int, height: int, width: int, dtype: str, layout: str
) -> None:
    rng = np.random.default_rng(25)
    start = rng.uniform(-3, [width, height], (40, 2))
    size = rng.uniform(0, 30, (40, 2))
    size[::4] = rng.uniform(0.5, 1, (10, 2)) * [width, height]
    boxes = np.column_stack([np.zeros(40), start, start + size]).astype(np.float32)
    input = from_nchw(features((1, channels, height, width), dtype), layout)
    _, argmax = roidl.roi_pool(input, boxes, (5, 4), layout=layout, return_argmax=True)
    gradient = rng.standard_normal((40, channels, 5, 4)).astype(dtype)
    cells = to_nchw(argmax, layout)
    expected = np.zeros((channels, height * width))
    k, c, p, q = np.nonzero(cells >= 0)
    np.add.at(expected, (c, cells[k, c, p, q]), gradient[k, c, p, q].astype(np.float64))
    got = roidl.roi_pool_backward(
        from_nchw(gradient, layout), boxes, argmax, input.shape, layout=layout
    )
    assert_close(to_nchw(got, layout), expected.reshape(1, channels, height, width))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_an_argmax_of_another_box_is_named(layout: str) -> None:
    input = from_nchw(features((1, 18, 12, 9), "float32"), layout)
    boxes = np.array([[0, 1, 1, 4, 4], [0, 2, 6, 8, 10]], np.float32)
    pooled, argmax = roidl.roi_pool(input, boxes, 2, layout=layout, return_argmax=True)
    with pytest.raises(ValueError, match=r"argmax must be -1 or a cell of its box, got \d+"):
        roidl.roi_pool_backward(pooled, boxes, argmax[::-1], input.shape, layout=layout)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("cell", [5, 10**6])
def test_an_argmax_of_a_box_without_cells_is_named(cell: int, layout: str) -> None:
    shape = from_nchw(np.empty((1, 18, 12, 9)), layout).shape
    boxes = np.array([[0, 1000, 1000, 1010, 1010]], np.float32)
    gradient = from_nchw(np.ones((1, 18, 2, 2), np.float32), layout)
    none = np.full(gradient.shape, -1, np.int32)
    assert not roidl.roi_pool_backward(gradient, boxes, none, shape, layout=layout).any()
    with pytest.raises(ValueError, match=f"argmax must be -1 or a cell .*, got {cell}"):
        roidl.roi_pool_backward(gradient, boxes, none + 1 + cell, shape, layout=layout)


@pytest.mark.parametrize(
    ("extent", "bins", "pixel_more"),
    [(57, 7, True), (114, 7, True), (121, 7, True), (58, 7, False), (114, 14, True)],
)
def test_rounded_quotient(extent: int, bins: int, pixel_more: bool) -> None:
    """The last bin ends at ceil(bins * q): beyond the box where float32 rounds q up."""
    quotient = np.float32(extent) / np.float32(bins)
    assert (np.float32(bins) * quotient > extent) == pixel_more, "not the example it should be"
    start = 3
    ramp = np.arange(start + extent + 5, dtype=np.float32)
    last = start + extent - 1
    for input, corners in (
        (ramp[None, None, None, :], [start, 0, last, 0]),
        (ramp[None, None, :, None], [0, start, 0, last]),
    ):
        boxes = np.array([[0, *corners]], np.float32)
        size = (1, bins) if corners[0] == start else (bins, 1)
        pooled, argmax = roidl.roi_pool(input, boxes, size, return_argmax=True)
        assert pooled.max() == pooled[0, 0, -1, -1] == argmax[0, 0, -1, -1] == last + pixel_more
        mean = roidl.roi_pool(input, boxes, size, mode="avg")
        first = start + int(np.floor(np.float32(bins - 1) * quotient))
        assert mean[0, 0, -1, -1] == pytest.approx((first + last + pixel_more) / 2, rel=1e-6)


def test_quotient_in_double() -> None:
    """With float64 boxes q is rounded to float64, and 57 cells end where the box does."""
    assert 7 * (57 / 7) == 57
    ramp = np.arange(70, dtype=np.float32)[None, None, None]
    for dtype, last in ((np.float32, 60), (np.float64, 59)):
        boxes = np.array([[0, 3, 0, 59, 0]], dtype)
        assert roidl.roi_pool(ramp, boxes, (1, 7))[0, 0, 0, -1] == last


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_the_lowest_value_is_a_value(dtype: str) -> None:
    """-inf and the lowest finite number are maxima of their own bins; only empty bins are 0."""
    input = np.full((1, 2, 3, 3), -np.inf).astype(numpy_dtype(dtype))
    boxes = np.array([[0, 0, 0, 2, 2], [0, 5, 5, 8, 8]], np.float32)
    pooled, argmax = roidl.roi_pool(input, boxes, 1, return_argmax=True)
    np.testing.assert_array_equal(pooled[:, 0, 0, 0].astype(np.float64), [-np.inf, 0])
    np.testing.assert_array_equal(argmax[:, 1, 0, 0], [0, -1])


@pytest.mark.each_instruction_set
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_arguments(get_lib: Callable[[str], Lib], data: st.DataObject) -> None:
    draw = data.draw
    images, channels = draw(st.integers(1, 3)), draw(st.sampled_from((1, 2, 16, 18)))
    height, width = draw(st.integers(1, 19)), draw(st.integers(1, 19))
    # Halves are the ties of rounding.
    coordinate = st.one_of(st.floats(-40, 60, width=32), st.integers(-40, 60).map(lambda n: n / 2))
    corners = draw(st.lists(st.tuples(*[coordinate] * 4), max_size=6))
    rows = np.array([(i % images, *box) for i, box in enumerate(corners)]).reshape(-1, 5)
    check(
        get_lib("numpy"),
        features((images, channels, height, width), draw(st.sampled_from(ALL_DTYPES))),
        arrange(rows, "rows", draw(st.sampled_from(("float32", "float64"))), images),
        draw(st.tuples(st.integers(1, 9), st.integers(1, 9))),
        draw(st.sampled_from((1.0, 0.5, 0.0625, 1 / 3, 1.7))),
        draw(st.sampled_from(MODES)),
        draw(st.sampled_from(("NCHW", "NHWC"))),
    )


def test_gradients_of_overlapping_rois_add_up(lib: Lib) -> None:
    input = np.zeros((1, 1, 4, 5), np.float32)
    input[0, 0, 2, 3] = 7
    boxes = np.array(
        [[0, 0, 0, 4, 3], [0, 2, 1, 3, 3], [0, 3, 2, 3, 2], [0, 0, 0, 1, 1]], np.float32
    )
    typed, rows = lib.asarray(input), lib.asarray(boxes)
    _, argmax = roidl.roi_pool(typed, rows, 1, return_argmax=True)
    gradient = np.array([1, 10, 100, 1000], np.float32).reshape(4, 1, 1, 1)
    got = roidl.roi_pool_backward(lib.asarray(gradient), rows, argmax, input.shape)
    expected = np.zeros_like(input)
    expected[0, 0, 2, 3] = 111
    expected[0, 0, 0, 0] = 1000
    np.testing.assert_array_equal(lib.to_numpy(got), expected)


@pytest.mark.parametrize("scale", [1.0, 1e39, 1e308])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_zero_times_any_scale_is_zero(mode: str, scale: float) -> None:
    """This holds also for a scale beyond float32's range."""
    features = np.arange(63, dtype=np.float32).reshape(1, 1, 7, 9) + 1
    result = roidl.roi_pool(features, np.zeros((1, 5), np.float32), 1, scale, mode=mode)
    np.testing.assert_array_equal(result, [[[[1]]]])
