"""RoIAlign against the oracle: modes, gradients, libraries, dtypes, layouts, forms of boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import roidl
from cases import ALIGN_CASES, Case, jump_case, random_boxes
from conftest import ALL_DTYPES, ROWS, Lib, NumpyArray, numpy_dtype
from trials import (
    BOX_DTYPES,
    BOX_FORMS,
    CHANNELS,
    Boxes,
    Float64,
    arrange,
    assert_close,
    channel_count,
    from_nchw,
    pairwise,
    to_nchw,
)

MODES = ("avg", "max", "max_onnx")


def features(shape: tuple[int, ...], dtype: str) -> NumpyArray:
    return np.random.default_rng(4).standard_normal(shape).astype(numpy_dtype(dtype))


class Trial(NamedTuple):
    """One set of arguments, for the operators of any library and for the oracle."""

    input: NumpyArray  # [N, C, H, W]
    boxes: Boxes
    output_size: tuple[int, int]
    rule: dict[str, Any]  # spatial_scale, sampling_ratio, aligned, mode
    layout: str

    def coordinates(self) -> oracle.Coordinate:
        double = "float64" in (self.input.dtype.name, self.boxes.dtype)
        return np.float64 if double else np.float32

    def gradient(self) -> NumpyArray:
        """A random gradient to the result, [K, C, PH, PW]."""
        shape = (len(self.boxes.rows), self.input.shape[1], *self.output_size)
        return np.random.default_rng(5).standard_normal(shape).astype(self.input.dtype)

    def options(self, lib: Lib) -> dict[str, Any]:
        return {"layout": self.layout, **self.rule, **self.boxes.arguments(lib)}

    def gradient_in(self, lib: Lib) -> Any:
        gradient = from_nchw(self.gradient(), self.layout)
        if self.boxes.form == "grouped":
            gradient = gradient.reshape(self.boxes.images, -1, *gradient.shape[1:])
        return lib.asarray(gradient)

    def input_in(self, lib: Lib) -> Any:
        return lib.asarray(from_nchw(self.input, self.layout))

    def check(self, lib: Lib, budget: float | None = None) -> None:
        self.check_forward(lib, budget)
        self.check_backward(lib, budget)
        if self.rule["mode"] != "max_onnx":
            self.check_backward_boxes(lib, budget)

    def check_forward(self, lib: Lib, budget: float | None) -> None:
        result: Any = roidl.roi_align(
            self.input_in(lib), output_size=self.output_size, **self.options(lib)
        )
        assert isinstance(result, lib.array)
        leading = (self.boxes.images, -1) if self.boxes.form == "grouped" else (-1,)
        assert len(result.shape) == len(leading) + 3
        expected = oracle.roi_align(
            self.input,
            self.boxes.rows,
            self.output_size,
            **self.rule,
            coordinates=self.coordinates(),
        )
        pooled = to_nchw(lib.to_numpy(result), self.layout)
        assert pooled.dtype == self.input.dtype
        assert_close(pooled, expected, budget)

    def check_backward(self, lib: Lib, budget: float | None) -> None:
        options = self.options(lib)
        if self.rule["mode"] != "avg":
            options["input"] = self.input_in(lib)
        shape = from_nchw(self.input, self.layout).shape
        result: Any = roidl.roi_align_backward(self.gradient_in(lib), input_shape=shape, **options)
        assert isinstance(result, lib.array)
        assert tuple(result.shape) == shape

        def expected(input: NumpyArray) -> Float64:
            return oracle.roi_align_backward(
                self.gradient(), input, self.boxes.rows, **self.rule, coordinates=self.coordinates()
            )

        got = to_nchw(lib.to_numpy(result), self.layout)
        assert got.dtype == self.input.dtype
        assert_close(got, self.unless_tied(got, expected), budget)

    def check_backward_boxes(self, lib: Lib, budget: float | None) -> None:
        result = roidl.roi_align_backward_boxes(
            self.gradient_in(lib), self.input_in(lib), **self.options(lib)
        )

        def expected(input: NumpyArray) -> Float64:
            return oracle.roi_align_backward_boxes(
                self.gradient(), input, self.boxes.rows, **self.rule, coordinates=self.coordinates()
            )[:, 1:]

        got = self.boxes.corners_of(lib, result)
        kept = self.boxes.dtype in ("float32", "float64")
        assert got.dtype == (self.boxes.dtype if kept else self.coordinates())
        # Differences of features cancel, so errors are an order of magnitude larger.
        budget = budget or (1e-13 if self.input.dtype == got.dtype == np.float64 else 1e-5)
        assert_close(got, self.unless_tied(got, expected), budget)

    def unless_tied(self, got: NumpyArray, expected: Callable[[NumpyArray], Float64]) -> Float64:
        """The expected gradient; where rounding may decide the maximum, both choices are right.

        Slightly larger and slightly smaller features show where that is the case.
        """
        exact = expected(self.input)
        wrong = np.abs(got - exact) > 1e-3 * np.abs(exact).max(initial=0)
        if self.rule["mode"] == "avg" or not wrong.any():
            return exact
        input = self.input.astype(np.float64)
        noise = 1e-6 * np.random.default_rng(6).uniform(-1, 1, input.shape)
        either = expected(input * (1 + noise)), expected(input * (1 - noise))
        low, high = np.minimum(*either), np.maximum(*either)
        tied = high - low > 1e-5 * np.abs(exact).max()
        assert np.count_nonzero(tied) <= 0.05 * tied.size
        return np.where(tied, np.clip(got.astype(np.float64), low, high), exact)


@pytest.mark.parametrize(
    ("case", "name", "mode", "dtype", "form", "box_dtype", "channels", "layout"),
    pairwise(
        ALIGN_CASES,
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
    shape = (images, channel_count(channels, dtype), height, width)
    boxes = arrange(case.boxes, form, box_dtype, images)
    rule = {
        "spatial_scale": case.spatial_scale,
        "sampling_ratio": case.sampling_ratio,
        "aligned": case.aligned,
        "mode": mode,
    }
    Trial(features(shape, dtype), boxes, case.output_size, rule, layout).check(lib)


@pytest.mark.parametrize("form", BOX_FORMS)
def test_every_form_of_boxes_has_every_dtype(lib: Lib, form: str) -> None:
    images = 1 if form == "single" else 3
    rows = random_boxes(np.random.default_rng(8), 5, images, 6, 9, 0.5)
    rows[:images, 0] = range(images)  # [N, L, 4] needs a box on every image
    for dtype in BOX_DTYPES:
        if dtype in lib.dtypes or "int" in dtype:
            boxes = arrange(rows, form, dtype, images)
            rule = {"spatial_scale": 0.5, "sampling_ratio": (2, 1), "aligned": True, "mode": "avg"}
            Trial(features((images, 2, 6, 9), "float32"), boxes, (1, 2), rule, "NCHW").check(lib)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64"])
def test_batch_indices_are_of_any_integer_type(dtype: str) -> None:
    input = features((3, 2, 6, 9), "float32")
    rows = random_boxes(np.random.default_rng(9), 8, 3, 6, 9, 1.0)
    corners, indices = rows[:, 1:].astype(np.float32), rows[:, 0].astype(dtype)
    expected = roidl.roi_align(input, rows.astype(np.float32), 2)
    got = roidl.roi_align(input, corners, 2, batch_indices=indices)
    np.testing.assert_array_equal(got, expected)


# The units of the kernels: blocks of channels, groups of 8 rows of bins, tiles of 16 cells of the
# map.
BLOCKS = [
    *(("float32", channels) for channels in (1, 3, 15, 16, 17, 33)),
    *(("float64", channels) for channels in (1, 7, 8, 9)),
    ("float16", 17),
    ("bfloat16", 16),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "channels"), BLOCKS)
def test_blocks(get_lib: Callable[[str], Lib], dtype: str, channels: int, mode: str) -> None:
    rows = random_boxes(np.random.default_rng(10), 3, 2, 21, 37, 0.25)
    boxes = arrange(rows, "rows", "float32", 2)
    rule = {"spatial_scale": 0.25, "sampling_ratio": (1, 2), "aligned": True, "mode": mode}
    for layout, size in (("NCHW", (14, 14)), ("NHWC", (9, 3))):
        input = features((2, channels, 21, 37), dtype)
        Trial(input, boxes, size, rule, layout).check(get_lib("numpy"))


@pytest.mark.each_instruction_set
@pytest.mark.parametrize(
    ("mode", "layout"), [("avg", "NCHW"), ("max", "NHWC"), ("max_onnx", "NCHW")]
)
def test_many_small_boxes_on_a_high_map(
    get_lib: Callable[[str], Lib], mode: str, layout: str
) -> None:
    """The ring buffer of packed rows is as high as the highest box, and wraps several times."""
    rng = np.random.default_rng(11)
    start = rng.uniform([-2, -2], [40, 70], (300, 2))
    rows = np.column_stack([rng.integers(0, 2, 300), start, start + rng.uniform(1, 7, (300, 2))])
    boxes = arrange(rows, "rows", "float32", 2)
    rule = {"spatial_scale": 1.0, "sampling_ratio": 1, "aligned": False, "mode": mode}
    input = features((2, 17, 70, 40), "float32")
    Trial(input, boxes, (2, 1), rule, layout).check(get_lib("numpy"))


@pytest.mark.each_instruction_set
@pytest.mark.parametrize("wrong", ["order", "fma"])
def test_order_of_operations_at_the_jump(wrong: Literal["order", "fma"]) -> None:
    """On a map of ones the result is the fraction of samples that are on the map.

    All boxes here have samples that another order of operations, or a contraction, would put on
    the other side of the border.
    """
    case = jump_case(wrong)
    _, height, width = case.map_shape
    grid = case.sampling_ratio
    assert isinstance(grid, int)
    real, bins = np.float32, case.output_size[0]
    boxes = case.boxes.astype(real)
    scale, half = real(case.spatial_scale), real(0.5)
    p, i = np.arange(bins, dtype=real)[:, None], np.arange(grid, dtype=real)

    def on_map(start: NumpyArray, end: NumpyArray, size: int) -> NumpyArray:
        low = (scale * start - half)[:, None, None]
        step = ((scale * end - half)[:, None, None] - low) / real(bins)
        position = (low + p * step) + ((i + half) * step) / real(grid)
        assert position.dtype == real
        inside: NumpyArray = (position >= -1) & (position <= size)
        count: NumpyArray = inside.sum(axis=-1)
        return count

    rows = on_map(boxes[:, 2], boxes[:, 4], height)
    columns = on_map(boxes[:, 1], boxes[:, 3], width)
    expected = rows[:, :, None] * columns[:, None, :] / grid**2
    ones = np.ones((case.map_shape[0], 1, height, width), real)
    got = roidl.roi_align(ones, boxes, bins, case.spatial_scale, grid, case.aligned)
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-6)


@pytest.mark.each_instruction_set
@pytest.mark.parametrize("mode", ["max", "max_onnx"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_first_of_equal_maxima_gets_the_gradient(mode: str, layout: str) -> None:
    """Few distinct features, and boxes in quarters of a cell, make sums exact and ties frequent."""
    rng = np.random.default_rng(12)
    input = rng.integers(-1, 1, (2, 18, 6, 7)).astype(np.float32)
    start = rng.integers(-8, 24, (40, 2))
    corners = np.column_stack([start, start + 4 * rng.integers(1, 6, (40, 2))]) / 4
    rows = np.column_stack([rng.integers(0, 2, 40), corners])
    boxes = rows.astype(np.float32)
    gradient = rng.integers(1, 9, (40, 18, 2, 2)).astype(np.float32)
    for aligned in (False, True):
        rule: dict[str, Any] = {"sampling_ratio": 2, "aligned": aligned, "mode": mode}
        pooled = roidl.roi_align(input, boxes, 2, **rule)
        np.testing.assert_array_equal(pooled, oracle.roi_align(input, rows, (2, 2), **rule))
        got = roidl.roi_align_backward(
            from_nchw(gradient, layout),
            boxes,
            from_nchw(input, layout).shape,
            input=from_nchw(input, layout),
            layout=layout,
            **rule,
        )
        expected = oracle.roi_align_backward(gradient, input, rows, **rule)
        np.testing.assert_array_equal(to_nchw(got, layout), expected)


# Hundreds of samples in a cell are not computed one by one: the rounding of those between the first
# and the last does not affect the result.
DENSE_BUDGET = 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ratio", [(1000, 1), (1, 1000), (300, 2)])
def test_dense_grids(
    get_lib: Callable[[str], Lib], ratio: tuple[int, int], mode: str, dtype: str
) -> None:
    corners = [(1.3, 2.2, 2.9, 3.1), (-2.5, -1.7, 1.2, 2.5), (4, 4, 3.2, 2.4), (5.1, 4.2, 9, 7.3)]
    boxes = arrange(np.array([(0, *box) for box in corners]), "rows", "float32", 1)
    rule = {"spatial_scale": 1.0, "sampling_ratio": ratio, "aligned": True, "mode": mode}
    trial = Trial(features((1, 2, 6, 7), dtype), boxes, (1, 1), rule, "NCHW")
    trial.check(get_lib("numpy"), DENSE_BUDGET)


def test_dense_grid_along_both_axes() -> None:
    """The mean of a linear map is its value at the centre of the bin."""
    y, x = np.mgrid[:6, :7]
    ramp = (3 * y + 5 * x + 1).astype(np.float32)[None, None]
    boxes = np.array([[0, 0.75, 0.5, 5.25, 4.5]], np.float32)
    got = roidl.roi_align(ramp, boxes, 2, sampling_ratio=1000)
    middle_y, middle_x = np.array([[1.5], [3.5]]), np.array([1.875, 4.125])
    np.testing.assert_allclose(got[0, 0], 3 * middle_y + 5 * middle_x + 1, rtol=DENSE_BUDGET)


@pytest.mark.each_instruction_set
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_windows_taller_than_what_is_kept_of_the_map(layout: str, dtype: str) -> None:
    """They are summed in parts, with more RoIs than there is room for partial sums."""
    rng = np.random.default_rng(12)
    input = features((1, 18, 60, 1300), dtype)
    input[0, 17, 31, 640] = np.nan
    start = rng.uniform((0, 0), (300, 30), (20, 2))
    boxes = np.column_stack(
        [np.zeros(20), start, start + rng.uniform((700, 20), (1000, 50), (20, 2))]
    )
    boxes[3, [2, 4]] = boxes[3, [4, 2]]  # upside down
    boxes[7] = [0, 9, 9, 12, 12]
    boxes[8] = [0, -900, -900, -800, -800]
    boxes = boxes.astype(np.float32)
    expected = oracle.roi_align(input.astype(np.float64), boxes, (33, 33), 1.0, 1, True)
    got = roidl.roi_align(
        from_nchw(input, layout), boxes, 33, sampling_ratio=1, aligned=True, layout=layout
    )
    assert_close(to_nchw(got, layout), expected)
    for k in range(20 if layout == "NCHW" else 0):  # other boxes in the call do not matter either
        alone = roidl.roi_align(input, boxes[[k]], 33, sampling_ratio=1, aligned=True)
        np.testing.assert_array_equal(alone[0], got[k])


@pytest.mark.each_instruction_set
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_arguments(get_lib: Callable[[str], Lib], data: st.DataObject) -> None:
    draw = data.draw
    images, channels = draw(st.integers(1, 3)), draw(st.sampled_from((1, 2, 16, 18)))
    height, width = draw(st.integers(1, 19)), draw(st.integers(1, 19))
    # Integers and halves put samples on pixels, and on the map's border.
    coordinate = st.one_of(st.floats(-40, 60, width=32), st.integers(-40, 60).map(lambda n: n / 2))
    corners = draw(st.lists(st.tuples(*[coordinate] * 4), max_size=4))
    rows = np.array([(i % images, *box) for i, box in enumerate(corners)]).reshape(-1, 5)
    rule = {
        "spatial_scale": draw(st.sampled_from((1.0, 0.5, 0.0625, 1 / 3, 1.7))),
        "sampling_ratio": draw(st.tuples(st.integers(-1, 3), st.integers(-1, 3))),
        "aligned": draw(st.booleans()),
        "mode": draw(st.sampled_from(MODES)),
    }
    trial = Trial(
        features((images, channels, height, width), draw(st.sampled_from(ALL_DTYPES))),
        arrange(rows, "rows", draw(st.sampled_from(("float32", "float64"))), images),
        draw(st.tuples(st.integers(1, 5), st.integers(1, 5))),
        rule,
        draw(st.sampled_from(("NCHW", "NHWC"))),
    )
    trial.check(get_lib("numpy"))
