"""roidl.tensorflow: forms of calls, gradients of the tape, shapes, errors; eager and in graphs."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import ALL_DTYPES, Lib
from operators import SIZE, expect, small_problem
from operators import every_operator as each_operator
from trials import assert_close, from_nchw, to_nchw

OPTIONS: dict[str, Any] = {"spatial_scale": 0.8}
BOXES = np.array([[0, 1.1, 0.8, 6.2, 5.4], [1, 2.3, 1.1, 7.8, 4.9], [0, 0.6, 0.7, 3.3, 6.1]])
CORNERS, IMAGES = BOXES[:, 1:].astype(np.float32), BOXES[:, 0].astype(np.int64)
FEATURES = np.random.default_rng(51).standard_normal((2, 7, 9, 3), dtype=np.float32)


@pytest.fixture
def tf(get_lib: Callable[[str], Lib]) -> Any:
    get_lib("tensorflow")
    import tensorflow

    return tensorflow


@pytest.fixture
def rt(tf: Any) -> Any:
    import roidl.tensorflow

    return roidl.tensorflow


# Values and gradients -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@each_operator
def test_gradients_of_the_tape(
    op: str, mode: str, dtype: str, layout: str, tf: Any, rt: Any
) -> None:
    input, boxes, gradient = small_problem(dtype)
    real: Any = np.float64 if dtype == "float64" else np.float32
    expected = expect(op, mode, input, boxes, gradient, coordinates=real, **OPTIONS)
    x = tf.constant(from_nchw(input, layout))
    g = tf.constant(from_nchw(gradient, layout))
    b = tf.constant(boxes)
    sources = [x] if mode == "max_onnx" else [x, b]

    def pull(x: Any, b: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(sources)
            pooled = getattr(rt, op)(x, b, SIZE, layout=layout, mode=mode, **OPTIONS)
        return pooled, *tape.gradient(pooled, sources, output_gradients=g)

    pulls = [pull(x, b)]
    if dtype == "float32":  # sources are the arguments in a graph
        sources = [tf.identity(each) for each in sources]

        def traced(*given: Any) -> Any:
            sources[:] = given
            return pull(given[0], given[1] if len(given) > 1 else b)

        pulls.append(tf.function(traced)(*sources))
    for pooled, to_input, *to_boxes in pulls:
        assert pooled.dtype == to_input.dtype == x.dtype
        assert_close(to_nchw(pooled.numpy(), layout), expected.pooled)
        assert_close(to_nchw(to_input.numpy(), layout), expected.grad_input)
        for to_box in to_boxes:
            wanted = np.zeros(boxes.shape) if op == "roi_pool" else expected.grad_boxes
            assert_close(to_box.numpy(), wanted, 1e-5)


def test_the_layout_is_nhwc_unless_said_otherwise(tf: Any, rt: Any) -> None:
    x, b = tf.constant(FEATURES), tf.constant(BOXES, tf.float32)
    for name in ("roi_align", "roi_pool"):
        ours, general = getattr(rt, name), getattr(roidl, name)
        np.testing.assert_array_equal(ours(x, b, 2), general(x, b, 2, layout="NHWC"))
        parameters = inspect.signature(ours).parameters
        assert parameters["layout"].default == "NHWC"
        assert list(parameters) == [
            each for each in inspect.signature(general).parameters if each != "out"
        ]
        assert (ours.__name__, ours.__module__) == (name, "roidl.tensorflow")
        with pytest.raises(TypeError, match=f"^{name}: .* no out$"):
            ours(x, b, 2, out=x)


@pytest.mark.parametrize("name", ["roi_align", "roi_pool"])
def test_the_examples_run(name: str, rt: Any) -> None:
    tests = doctest.DocTestFinder(recurse=False).find(getattr(rt, name), name, globs={})
    assert sum(len(test.examples) for test in tests) > 0
    runner = doctest.DocTestRunner()
    for test in tests:
        assert "[N, H, W, C] (or [N, C, H, W])" in (test.docstring or "")
        assert " out :" not in (test.docstring or "")
        runner.run(test)
    assert runner.failures == 0


# Forms of boxes -----------------------------------------------------------------------------------

ORDER = np.argsort(IMAGES, kind="stable")  # a list has the boxes image by image


def forms(tf: Any) -> dict[str, Any]:
    listed = [CORNERS[n == IMAGES] for n in range(2)]
    lengths = [len(part) for part in listed]
    return {
        "list": [tf.constant(part) for part in listed],
        "list of two types": [tf.constant(listed[0], tf.float64), tf.constant(listed[1])],
        "list of NumPy": listed,
        "ragged": tf.RaggedTensor.from_row_lengths(CORNERS[ORDER], lengths),
        "ragged constant": tf.ragged.constant([part.tolist() for part in listed]),
        "rows of NumPy": BOXES[ORDER].astype(np.float32),
        "variable": tf.Variable(BOXES[ORDER].astype(np.float32)),
    }


FORMS = (
    "list", "list of two types", "list of NumPy", "ragged", "ragged constant", "rows of NumPy",
    "variable",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_boxes(form: str, tf: Any, rt: Any) -> None:
    boxes = forms(tf)[form]
    expected = roidl.roi_align(FEATURES, BOXES[ORDER].astype(np.float32), 2, layout="NHWC")
    np.testing.assert_allclose(rt.roi_align(FEATURES, boxes, 2), expected, rtol=1e-6, atol=1e-6)

    pooled = tf.function(lambda x: rt.roi_align(x, boxes, 2))(tf.constant(FEATURES))
    np.testing.assert_allclose(pooled, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["list", "ragged"])
def test_forms_whose_sizes_come_late(form: str, tf: Any, rt: Any) -> None:
    row = tf.TensorSpec([None, 4])
    ragged = tf.RaggedTensorSpec([None, None, 4], ragged_rank=1)
    spec = [row, row] if form == "list" else ragged

    signature = [tf.TensorSpec([None] * 4), spec]
    graph = tf.function(lambda x, b: rt.roi_align(x, b, 2), input_signature=signature)
    boxes = forms(tf)[form]
    expected = roidl.roi_align(FEATURES, BOXES[ORDER].astype(np.float32), 2, layout="NHWC")
    np.testing.assert_array_equal(graph(tf.constant(FEATURES), boxes), expected)
    with pytest.raises(tf.errors.InvalidArgumentError, match="one array per image"):
        graph(tf.constant(np.concatenate([FEATURES, FEATURES])), boxes)


def test_gradients_reach_every_part_of_a_list(tf: Any, rt: Any) -> None:
    rows = tf.constant(BOXES[ORDER].astype(np.float32))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(rows)
        parts = tf.split(rows[:, 1:], [2, 1])
        ragged = tf.RaggedTensor.from_row_lengths(rows[:, 1:], [2, 1])
        losses = [tf.nn.l2_loss(rt.roi_align(FEATURES, b, 2)) for b in (rows, parts, ragged)]
    expected, *others = (tape.gradient(loss, rows) for loss in losses)
    assert np.any(expected.numpy())
    for other in others:
        np.testing.assert_allclose(other, expected, rtol=1e-6, atol=1e-7)


def test_boxes_of_integers_have_no_gradient(tf: Any, rt: Any) -> None:
    x, b = tf.constant(FEATURES), tf.constant(BOXES.astype(np.int32))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, b])
        pooled = rt.roi_align(x, b, 2)
    assert tape.gradient(pooled, b) is None
    expected = roidl.roi_align_backward(
        np.ones(pooled.shape, np.float32), b.numpy(), x.shape, layout="NHWC"
    )
    np.testing.assert_allclose(tape.gradient(pooled, x), expected, atol=1e-6)


def test_normalised_boxes(tf: Any, rt: Any) -> None:
    """The line of docs/tensorflow.md that brings crop_and_resize's boxes into ours."""
    height, width = 70, 90  # of the image
    normalised = tf.constant([[0.1, 0.2, 0.7, 0.9]])  # y1, x1, y2, x2
    boxes = tf.gather(normalised, [1, 0, 3, 2], axis=-1) * [width, height, width, height]
    np.testing.assert_allclose(boxes, [[18, 7, 81, 49]], rtol=1e-6)


# Shapes -------------------------------------------------------------------------------------------

STATIC = [
    ((None, None, None, None), (None, 5), "NHWC", (None, 2, 3, None)),
    ((None, None, None, 8), (None, 5), "NHWC", (None, 2, 3, 8)),
    ((2, 7, 9, 8), (4, 5), "NHWC", (4, 2, 3, 8)),
    ((None, 8, None, None), (None, 6, 4), "NCHW", (None, 6, 8, 2, 3)),
    ((2, None, None, None), (2, None, 4), "NHWC", (2, None, 2, 3, None)),
    (None, (3, 5), "NCHW", (3, None, 2, 3)),
    (None, None, "NHWC", None),
]


@pytest.mark.parametrize(("input", "boxes", "layout", "expected"), STATIC)
@pytest.mark.parametrize("op", ["roi_align", "roi_pool"])
def test_what_is_known_of_shapes(
    op: str, input: Any, boxes: Any, layout: str, expected: Any, tf: Any, rt: Any
) -> None:
    seen: list[Any] = []

    def graph(x: Any, b: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, b])
            pooled = getattr(rt, op)(x, b, SIZE, layout=layout)
        to_input, to_boxes = tape.gradient(pooled, [x, b])
        seen.extend([x.shape, b.shape, pooled.shape, to_input.shape, to_boxes.shape])
        return pooled

    signature = [tf.TensorSpec(input), tf.TensorSpec(boxes)]
    tf.function(graph, input_signature=signature).get_concrete_function()
    x_shape, b_shape, *found = (shape.as_list() if shape.rank else None for shape in seen)
    assert found == [list(expected) if expected else None, x_shape, b_shape]


def test_a_graph_takes_every_size(tf: Any, rt: Any) -> None:
    signature = [tf.TensorSpec([None] * 4), tf.TensorSpec([None, 5])]
    graph = tf.function(lambda x, b: rt.roi_align(x, b, SIZE), input_signature=signature)
    rng = np.random.default_rng(52)
    for n, h, w, c, k in ((1, 4, 5, 2, 1), (2, 9, 3, 17, 5), (0, 4, 4, 1, 0), (1, 0, 3, 2, 2)):
        x = rng.standard_normal((n, h, w, c), dtype=np.float32)
        b = np.array([[0, 0.5, 0.5, 3, 3]] * k, np.float32).reshape(k, 5)
        expected = roidl.roi_align(x, b, SIZE, layout="NHWC")
        np.testing.assert_array_equal(graph(tf.constant(x), tf.constant(b)), expected)


# Mistakes -----------------------------------------------------------------------------------------

BAD_SHAPES: list[tuple[Any, Any, str]] = [
    ((7, 9, 3), (4, 5), r"input must have shape \[N, H, W, C\], got \[7, 9, 3\]"),
    ((2, 7, 9, 3), (4, 6), r"boxes must have shape \[K, 5\], got \[4, 6\]$"),
    ((2, 7, 9, 3), (4, 4), r"boxes must have shape \[K, 5\], got \[4, 4\]; .* batch_indices"),
    ((2, 7, 9, 3), (3, 5, 4), r"boxes must have shape \[2, 5, 4\] .*, got \[3, 5, 4\]"),
    ((None, None, None, 3), (None, 6), r"boxes must have shape \[K, 5\], .*\[None, 6\]"),
    ((2, None, None, 3), (3, None, 4), r"boxes must have shape \[2, .*\[3, None, 4\]"),
]


@pytest.mark.parametrize(("input", "boxes", "sentence"), BAD_SHAPES)
def test_wrong_shapes_are_told_while_tracing(
    input: Any, boxes: Any, sentence: str, tf: Any, rt: Any
) -> None:
    signature = [tf.TensorSpec(input), tf.TensorSpec(boxes)]
    graph = tf.function(lambda x, b: rt.roi_align(x, b, 2), input_signature=signature)
    with pytest.raises(ValueError, match=f"roi_align: {sentence}"):
        graph.get_concrete_function()


@pytest.mark.parametrize("dtype", ["string", "complex64", "int32", "bool"])
def test_wrong_types_are_told(dtype: str, tf: Any, rt: Any) -> None:
    b = tf.constant(BOXES, tf.float32)
    wrong = tf.fill([2, 7, 9, 3], tf.cast(1, dtype) if dtype != "string" else "text")
    for call in (rt.roi_pool, tf.function(rt.roi_pool)):
        with pytest.raises(TypeError, match=f"roi_pool: .* got {dtype}"):
            call(wrong, b, 2)
    if dtype != "int32":
        with pytest.raises(TypeError, match=f"roi_pool: .* got {dtype}"):
            rt.roi_pool(FEATURES, wrong[0, 0, :, :], 2)


WRONG_VALUES: dict[str, tuple[float, str]] = {
    "NaN": (np.nan, "boxes must be finite, but x1 of row 1 is nan"),
    "infinity": (np.inf, "boxes must be finite, but x1 of row 1 is inf"),
}


@pytest.mark.parametrize("value", WRONG_VALUES)
def test_wrong_values_are_told_when_they_are_there(value: str, tf: Any, rt: Any) -> None:
    number, sentence = WRONG_VALUES[value]
    boxes = BOXES.astype(np.float32)
    boxes[1, 1] = number
    for call in (rt.roi_align, tf.function(rt.roi_align)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"roi_align: {sentence}"):
            call(FEATURES, boxes, 2)


def test_ragged_boxes_of_another_form(tf: Any, rt: Any) -> None:
    three = tf.ragged.constant([[[1.0, 2, 3]], [[1.0, 2, 3]]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have 4 coordinates"):
        rt.roi_align(FEATURES, three, 2)
    deep = tf.ragged.constant([[[[1.0, 2, 3, 4]]], [[[1.0, 2, 3, 4]]]])
    with pytest.raises(ValueError, match="roi_align: boxes must be ragged in one axis"):
        rt.roi_align(FEATURES, deep, 2)
    one = tf.RaggedTensor.from_row_lengths(CORNERS, [3])
    with pytest.raises(ValueError, match=r"one array per image \(2\), got 1"):
        rt.roi_align(FEATURES, one, 2)


def test_jit_compile_is_refused_in_our_words(tf: Any, rt: Any) -> None:
    compiled = tf.function(lambda x, b: rt.roi_align(x, b, 2), jit_compile=True)
    with pytest.raises(NotImplementedError, match="roi_align: there is no XLA kernel"):
        compiled(tf.constant(FEATURES), tf.constant(BOXES, tf.float32))
