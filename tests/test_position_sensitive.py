"""Position-sensitive RoIAlign and RoIPool against the oracle, in every library; their gradients."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import oracle
import oracle_position_sensitive as definition
import roidl
from cases import ALIGN_CASES, POOL_CASES, Case
from conftest import ALL_DTYPES, ROWS, Lib, NumpyArray, numpy_dtype
from roidl import _core
from roidl._params import PsRoiAlignParams
from trials import BOX_FORMS, Boxes, arrange, assert_close, from_nchw, pairwise, to_nchw

BOX_DTYPES = ("float32", "float64", "int32")
OTHER_BOXES = ("int32", "int64")


def problem(case: Case, dtype: str, form: str, box_dtype: str) -> tuple[NumpyArray, Boxes]:
    """Features of two channels for every bin, and the boxes."""
    images = 1 if form == "single" else case.map_shape[0]
    channels = 2 * case.output_size[0] * case.output_size[1]
    shape = (images, channels, *case.map_shape[1:])
    input = np.random.default_rng(4).standard_normal(shape).astype(numpy_dtype(dtype))
    rows = case.boxes.copy()
    rows[:, 0] %= images
    return input, arrange(rows, form, box_dtype, images)


def coordinates(input: NumpyArray, boxes: Boxes) -> oracle.Coordinate:
    return np.float64 if "float64" in (input.dtype.name, boxes.dtype) else np.float32


def gradient_for(input: NumpyArray, boxes: Boxes, size: tuple[int, int]) -> NumpyArray:
    shape = (len(boxes.rows), input.shape[1] // (size[0] * size[1]), *size)
    return np.random.default_rng(5).standard_normal(shape).astype(input.dtype)


def passed(lib: Lib, gradient: NumpyArray, boxes: Boxes, layout: str) -> Any:
    gradient = from_nchw(gradient, layout)
    if boxes.form == "grouped":
        gradient = gradient.reshape(boxes.images, -1, *gradient.shape[1:])
    return lib.asarray(gradient)


FACTORS = {
    "lib": tuple(ROWS),
    "dtype": ALL_DTYPES,
    "form": BOX_FORMS,
    "box_dtype": BOX_DTYPES,
    "layout": ("NCHW", "NHWC"),
}
NAMES = ("case", "name", "dtype", "form", "box_dtype", "layout")


def unless_unknown(lib: Lib, dtype: str, box_dtype: str) -> None:
    if dtype not in lib.dtypes or box_dtype not in (*lib.dtypes, *OTHER_BOXES):
        pytest.skip(f"{lib.name} has no {dtype} or {box_dtype}")


@pytest.mark.parametrize(NAMES, pairwise(ALIGN_CASES, FACTORS))
def test_align(
    get_lib: Callable[[str], Lib],
    case: Case,
    name: str,
    dtype: str,
    form: str,
    box_dtype: str,
    layout: str,
) -> None:
    lib = get_lib(name)
    unless_unknown(lib, dtype, box_dtype)
    input, boxes = problem(case, dtype, form, box_dtype)
    size = case.output_size
    rule: Any = {"spatial_scale": case.spatial_scale, "sampling_ratio": case.sampling_ratio}
    real: Any = {"coordinates": coordinates(input, boxes)}
    features = lib.asarray(from_nchw(input, layout))
    given = {"layout": layout, **rule, **boxes.arguments(lib)}
    pooled: Any = roidl.ps_roi_align(features, output_size=size, **given)
    assert isinstance(pooled, lib.array)
    got = to_nchw(lib.to_numpy(pooled), layout)
    assert got.dtype == input.dtype
    assert_close(got, definition.ps_roi_align(input, boxes.rows, size, **rule, **real))

    gradient = gradient_for(input, boxes, size)
    grad = passed(lib, gradient, boxes, layout)
    shape = from_nchw(input, layout).shape
    result: Any = roidl.ps_roi_align_backward(grad, input_shape=shape, **given)
    expected = definition.ps_roi_align_backward(gradient, input, boxes.rows, **rule, **real)
    assert_close(to_nchw(lib.to_numpy(result), layout), expected, 2e-6)

    to_boxes: Any = roidl.ps_roi_align_backward_boxes(grad, features, **given)
    wanted = definition.ps_roi_align_backward_boxes(gradient, input, boxes.rows, **rule, **real)[
        :, 1:
    ]
    found = boxes.corners_of(lib, to_boxes).astype(np.float64)
    assert np.abs(found - wanted).max(initial=0) <= 2e-5 * np.abs(wanted).max(initial=0) + 1e-30


@pytest.mark.parametrize(NAMES, pairwise(POOL_CASES, FACTORS))
@pytest.mark.parametrize("clip", ["torchvision", "map"])
def test_pool(
    get_lib: Callable[[str], Lib],
    case: Case,
    name: str,
    dtype: str,
    form: str,
    box_dtype: str,
    layout: str,
    clip: str,
) -> None:
    lib = get_lib(name)
    unless_unknown(lib, dtype, box_dtype)
    input, boxes = problem(case, dtype, form, box_dtype)
    size, given = case.output_size, boxes.arguments(lib)
    given |= {"layout": layout, "spatial_scale": case.spatial_scale, "clip": clip}
    rule: Any = {"spatial_scale": case.spatial_scale, "clip": clip}
    rule["coordinates"] = coordinates(input, boxes)
    pooled: Any = roidl.ps_roi_pool(
        lib.asarray(from_nchw(input, layout)), output_size=size, **given
    )
    expected = definition.ps_roi_pool(input, boxes.rows, size, **rule)
    assert_close(to_nchw(lib.to_numpy(pooled), layout), expected, 2e-6)

    gradient = gradient_for(input, boxes, size)
    expected = definition.ps_roi_pool_backward(gradient, input, boxes.rows, **rule)
    grad = passed(lib, gradient, boxes, layout)
    shape = from_nchw(input, layout).shape
    result: Any = roidl.ps_roi_pool_backward(grad, input_shape=shape, **given)
    assert_close(to_nchw(lib.to_numpy(result), layout), expected, 2e-6)


OPERATORS = ("ps_roi_align", "ps_roi_pool")


@pytest.mark.parametrize("op", OPERATORS)
def test_the_channels_are_a_multiple_of_the_bins(op: str) -> None:
    boxes = np.zeros((1, 5), np.float32)
    sentence = f"{op}: input must have a multiple of 6 channels, as many as there are bins, got 7"
    with pytest.raises(ValueError, match=sentence):
        getattr(roidl, op)(np.zeros((1, 7, 4, 4), np.float32), boxes, (2, 3))


def test_a_clip_that_there_is_not_is_named() -> None:
    features, boxes = np.zeros((1, 4, 4, 4), np.float32), np.zeros((1, 5), np.float32)
    with pytest.raises(ValueError, match="ps_roi_pool: clip must be one of 'torchvision', 'map'"):
        roidl.ps_roi_pool(features, boxes, 2, clip="none")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_results_are_the_same_bits_for_any_number_of_threads(dtype: str, layout: str) -> None:
    rng = np.random.default_rng(1)
    shape = (2, 80, 30, 40) if layout == "NCHW" else (2, 30, 40, 80)
    input = rng.standard_normal(shape).astype(numpy_dtype(dtype))
    corners = np.sort(rng.uniform(0, 40, (400, 2, 2)), axis=1).reshape(400, 4)
    boxes = np.column_stack([rng.integers(0, 2, 400), corners]).astype(np.float32)
    before, results = roidl.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            roidl.set_num_threads(threads)
            pooled = roidl.ps_roi_align(input, boxes, (4, 5), 1.0, 2, layout=layout)
            rule: Any = {"layout": layout, "sampling_ratio": 2}
            back = roidl.ps_roi_align_backward(pooled, boxes, shape, **rule)
            to_boxes = roidl.ps_roi_align_backward_boxes(pooled, input, boxes, **rule)
            results.append([each.tobytes() for each in (pooled, back, to_boxes)])
    finally:
        roidl.set_num_threads(before)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("op", OPERATORS)
def test_a_cell_outside_a_box_is_not_read(op: str) -> None:
    input = np.full((1, 4, 9, 9), np.nan, np.float32)
    input[:, :, 2:7, 2:7] = 1
    boxes = np.array([[0, 3, 3, 6, 6]], np.float32)
    assert (getattr(roidl, op)(input, boxes, 2) == 1).all()


@pytest.mark.parametrize("op", OPERATORS)
def test_modules_are_the_functions(op: str) -> None:
    torch = pytest.importorskip("torch")
    ours = importlib.import_module("roidl.torch")
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "ps_roi_align": (ours.PSRoIAlign, {"sampling_ratio": 2}),
        "ps_roi_pool": (ours.PSRoIPool, {"clip": "map"}),
    }
    kind, options = kinds[op]
    module = kind((2, 3), 0.5, **options)
    input, boxes = torch.randn(2, 12, 9, 9), [torch.tensor([[1.0, 2, 15, 13]])] * 2
    expected = getattr(ours, op)(input, boxes, (2, 3), 0.5, **options)
    assert torch.equal(module(input, boxes), expected)
    assert torch.equal(torch.jit.script(module)(input, boxes), expected)
    assert repr(module).startswith(f"{kind.__name__}(output_size=(2, 3), spatial_scale=0.5")


KERAS = """
import keras, numpy as np, roidl, roidl.keras, tempfile
features = np.random.default_rng(0).standard_normal((2, 9, 9, 12)).astype("float32")
boxes = np.array([[[1, 2, 15, 13]], [[0, 0, 9, 16]]], "float32")
for layer, function, options in (
    (roidl.keras.PSRoIAlign, roidl.ps_roi_align, {"sampling_ratio": 2}),
    (roidl.keras.PSRoIPool, roidl.ps_roi_pool, {"clip": "map"}),
):
    made = layer((2, 3), 0.5, data_format="channels_last", **options)
    got = keras.ops.convert_to_numpy(made(features, boxes))
    wanted = function(features, boxes, (2, 3), 0.5, layout="NHWC", **options)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    inputs = keras.Input((9, 9, 12)), keras.Input((1, 4))
    model = keras.Model(inputs, made(*inputs))
    assert model.output_shape == (None, 1, 2, 3, 2)
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder + "/model.keras")
        again = keras.models.load_model(folder + "/model.keras")
    np.testing.assert_allclose(again.predict([features, boxes], verbose=0), wanted, rtol=1e-6)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_layers_of_keras(backend: str) -> None:
    pytest.importorskip("keras")
    pytest.importorskip(backend)
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", KERAS], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def gradients_of(name: str, op: str, input: NumpyArray, boxes: NumpyArray) -> list[NumpyArray]:
    """Of the sum of squares, to the input and the boxes, as a framework takes them."""
    rule: Any = {"output_size": (2, 3), "spatial_scale": 0.5}
    if op == "ps_roi_align":
        rule["sampling_ratio"] = 2
    if name == "torch":
        torch = pytest.importorskip("torch")
        operator = getattr(importlib.import_module("roidl.torch"), op)
        given = [torch.from_numpy(each).requires_grad_() for each in (input, boxes)]
        quickly: Any = {"dynamic": True, "backend": "aot_eager"}
        compiled = torch.compile(lambda x, b: (operator(x, b, **rule) ** 2).sum(), **quickly)
        compiled(*given).backward()
        return [each.grad.numpy() for each in given]
    if name == "jax":
        jax = pytest.importorskip("jax")
        operator = getattr(importlib.import_module("roidl.jax"), op)
        loss = jax.jit(jax.grad(lambda x, b: (operator(x, b, **rule) ** 2).sum(), (0, 1)))
        return [np.asarray(each) for each in loss(input, boxes)]
    tf = pytest.importorskip("tensorflow")
    operator = getattr(importlib.import_module("roidl.tensorflow"), op)
    x, b = tf.constant(input), tf.constant(boxes)

    def gradient(x: Any, b: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, b])
            loss = tf.reduce_sum(operator(x, b, layout="NCHW", **rule) ** 2)
        return tape.gradient(loss, [x, b])

    return [each.numpy() for each in tf.function(gradient)(x, b)]


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("name", ["torch", "jax", "tensorflow"])
def test_gradients_of_frameworks(name: str, op: str) -> None:
    rng = np.random.default_rng(2)
    input = rng.standard_normal((2, 12, 9, 9)).astype(np.float32)
    boxes = np.array([[0, 1, 2, 15.3, 13], [1, 0.4, 0, 9, 16.2], [1, 3, 3, 12, 9]], np.float32)
    rule: Any = {"spatial_scale": 0.5}
    if op == "ps_roi_align":
        rule["sampling_ratio"] = 2
    pooled = getattr(roidl, op)(input, boxes, (2, 3), **rule)
    expected = getattr(roidl, f"{op}_backward")(2 * pooled, boxes, input.shape, **rule)
    to_boxes = np.zeros_like(boxes)
    if op == "ps_roi_align":
        to_boxes = roidl.ps_roi_align_backward_boxes(2 * pooled, input, boxes, **rule)
    got = gradients_of(name, op, input, boxes)
    np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[1], to_boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_directions_of_the_boxes(lib: Lib, dtype: str) -> None:
    if dtype not in lib.dtypes or not lib.writable:
        pytest.skip(f"{lib.name} cannot be written to, or has no {dtype}")
    rng = np.random.default_rng(6)
    params = PsRoiAlignParams(2, 3, 0.5, 2, 2, 0)
    boxes = np.array([[0, 1, 2, 15.3, 13], [1, 0.4, 0, 9, 16.2], [1, 3, 3, 12, 9]], np.float32)
    step = rng.standard_normal((3, 5)).astype(np.float32)
    shape, pooled = (2, 12, 9, 9), (3, 2, 2, 3)
    for op, first, made in (
        ("ps_roi_align_jvp_boxes", shape, pooled),
        ("ps_roi_align_jvp_boxes_backward", pooled, shape),
    ):
        given = rng.standard_normal(first).astype(numpy_dtype(dtype))
        results = []
        for asarray, kind in ((lambda array: array, np.float64), (lib.asarray, given.dtype)):
            out = asarray(np.zeros(made, kind))
            reads = [asarray(given.astype(kind)), asarray(step)]
            shapes = shape if made == shape else None
            _core.run_operator(op, params, reads, asarray(boxes), None, shapes, [out], 1)
            results.append(out)
        assert_close(lib.to_numpy(results[1]), results[0], 5e-6)
