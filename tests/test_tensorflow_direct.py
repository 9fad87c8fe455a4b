"""TensorFlow, eager: the short way has the values, derivatives and sentences of the long one."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType
from typing import Any, get_type_hints

import numpy as np
import pytest

import oracle
import roidl
from cases import random_boxes
from conftest import NumpyArray
from operators import SIZE, every_operator, expect
from roidl import _ops
from trials import assert_close, from_nchw, to_nchw

tf: Any = pytest.importorskip("tensorflow")
ops: Any = importlib.import_module("roidl.tensorflow")  # must not be skipped when it is broken
direct: Any = importlib.import_module("roidl.tensorflow._direct")
operators: Any = importlib.import_module("roidl.tensorflow._operators")

N, C, H, W = 2, 5, 7, 9
RNG = np.random.default_rng(71)
ROWS = random_boxes(RNG, 6, N, H, W, 0.5)
ROWS[:, 0] = [0, 0, 0, 1, 1, 1]
FEATURES = RNG.standard_normal((N, C, H, W))


def long_way(op: str) -> Callable[..., Any]:
    function: Callable[..., Any] = ops._adapt(getattr(_ops, op), layout="NHWC")
    return function


@pytest.fixture
def shortened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators of the calls that go the short way."""
    taken: list[str] = []
    node_of = direct.node_of

    def record(op: str, *arguments: Any) -> Any:
        taken.append(op)
        return node_of(op, *arguments)

    monkeypatch.setattr(direct, "node_of", record)
    return taken


def features(dtype: Any = tf.float32) -> Any:
    return tf.constant(from_nchw(FEATURES, "NHWC"), dtype)


def rows(dtype: Any = tf.float32) -> Any:
    return tf.constant(ROWS, dtype)


# The same values ----------------------------------------------------------------------------------


def results(call: Callable[..., Any], op: str, mode: str, x: Any, boxes: Any) -> list[Any]:
    """Without a tape and with one, the argmax, the gradients, and a derivative by forward mode."""
    found = [call(x, boxes)]
    if op == "roi_pool" and mode == "max":
        found += call(x, boxes, return_argmax=True)
    real = boxes.dtype.is_floating and mode != "max_onnx"
    sources = [x, boxes] if real else [x]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(sources)
        pooled = call(x, boxes)
        taped = [pooled]
        if len(found) > 1:
            taped += call(x, boxes, return_argmax=True)
    weights = tf.cast(tf.reshape(tf.linspace(-1.0, 1, tf.size(pooled)), pooled.shape), x.dtype)
    found += [*taped, *tape.gradient(pooled, sources, output_gradients=weights)]
    with tf.autodiff.ForwardAccumulator(x, tf.cos(x)) as accumulator:
        pooled = call(x, boxes)
    return [*found, pooled, accumulator.jvp(pooled)]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@every_operator
def test_both_ways_give_the_same_bits(
    op: str, mode: str, layout: str, shortened: list[str]
) -> None:
    for dtype, box_dtype in (
        (tf.float32, tf.float32),
        (tf.float64, tf.int64),
        (tf.bfloat16, tf.float64),
        (tf.float16, tf.bfloat16),
    ):
        x = tf.constant(from_nchw(FEATURES, layout), dtype)
        table = rows(box_dtype)
        for boxes, indices in (
            (table, None),
            (table[:, 1:], tf.cast(table[:, 0], tf.int64)),
            (table[:, 1:], tf.cast(table[:, 0], tf.uint8)),
            (tf.reshape(table[:, 1:], [N, 3, 4]), None),
            (table[:0], None),
        ):
            options: Any = {"mode": mode, "layout": layout, "batch_indices": indices}
            ways = []
            for function in (getattr(ops, op), long_way(op)):
                before = len(shortened)

                call = functools.partial(function, output_size=SIZE, spatial_scale=0.5, **options)
                ways.append(results(call, op, mode, x, boxes))
                taken = shortened[before:]
                assert set(taken) == ({op} if function is getattr(ops, op) else set())
            for one, other in zip(*ways, strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)


@every_operator
def test_the_short_way_is_right(op: str, mode: str, shortened: list[str]) -> None:
    gradient = RNG.standard_normal((len(ROWS), C, *SIZE))
    expected = expect(op, mode, FEATURES, ROWS, gradient, spatial_scale=0.5, coordinates=np.float64)
    x, b = features(tf.float64), rows(tf.float64)
    options: Any = {"return_argmax": True} if expected.argmax is not None else {}
    sources = [x] if mode == "max_onnx" else [x, b]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        found = getattr(ops, op)(x, b, SIZE, 0.5, mode=mode, **options)
        pooled = found[0] if options else found
    assert shortened == [op]
    assert_close(to_nchw(pooled.numpy(), "NHWC"), expected.pooled)
    if options:
        np.testing.assert_array_equal(to_nchw(found[1].numpy(), "NHWC"), expected.argmax)
    g = tf.constant(from_nchw(gradient, "NHWC"))
    to_input, *to_boxes = tape.gradient(pooled, sources, output_gradients=g)
    assert_close(to_nchw(to_input.numpy(), "NHWC"), expected.grad_input)
    for to_box in to_boxes:
        wanted = np.zeros(ROWS.shape) if op == "roi_pool" else expected.grad_boxes
        assert_close(to_box.numpy(), wanted, 1e-5)


def test_arguments_in_every_way(shortened: list[str]) -> None:
    x, boxes = features(tf.float64), rows(tf.float64)
    both: dict[str, Any] = {"output_size": (1, 3), "spatial_scale": 0.5}
    for arguments, options, meant in (
        ((x, boxes, 2), {}, {"output_size": (2, 2)}),
        ((x, boxes), {"output_size": (2, 1)}, {"output_size": (2, 1)}),
        ((x, boxes, (1, 3), 0.5), {"sampling_ratio": (3, 1)}, {**both, "sampling_ratio": (3, 1)}),
        ((x, boxes, (1, 3), 0.5, (1, 3)), {}, {**both, "sampling_ratio": (1, 3)}),
        ((x, boxes, (1, 3), 0.5, 2, True), {}, {**both, "sampling_ratio": 2, "aligned": True}),
        ((x,), {"boxes": boxes, "aligned": True, **both}, {"aligned": True, **both}),
        ((), {"mode": "max", "boxes": boxes, "input": x, **both}, {"mode": "max", **both}),
    ):
        expected = oracle.roi_align(FEATURES, ROWS, coordinates=np.float64, **meant)
        found = ops.roi_align(*arguments, **options)
        assert_close(to_nchw(found.numpy(), "NHWC"), expected)
    assert shortened == ["roi_align"] * 7


def test_the_functions_of_roidl_on_tensors(shortened: list[str]) -> None:
    x, boxes = tf.constant(FEATURES), rows()
    for op in ("roi_align", "roi_pool"):
        expected = getattr(roidl, op)(FEATURES, ROWS.astype(np.float32), SIZE, 0.5)
        np.testing.assert_array_equal(getattr(roidl, op)(x, boxes, SIZE, 0.5, out=None), expected)
        assert shortened.pop() == op
        with pytest.raises(TypeError, match=f"{op}: out must be an array that can be written"):
            getattr(roidl, op)(x, boxes, SIZE, 0.5, out=x)
        with pytest.raises(TypeError, match=f"{op}: .* no out$"):
            getattr(ops, op)(x, boxes, SIZE, 0.5, out=None)
    assert shortened == []


# Parameters that look alike -----------------------------------------------------------------------


class Five(int):
    """An integer that Python's own test for equality takes for any other."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


ALIKE: dict[str, tuple[Any, ...]] = {
    "output_size": (1, True, 1.0, np.int64(1), np.float64(1), np.array(1), Fraction(1), (1, 1),
                    (1, True), (1.0, 1), [1, 1], np.array([1, 1]), "1", Five(1), 2**64 + 1),
    "spatial_scale": (1, True, 1.0, np.float32(1), np.array(1.0), Fraction(1), "1", b"1", 1j,
                      0.0, -0.0, 0, float("nan"), float("inf"), -1, 5e-324, 2.0**53, 2**53 + 1),
    "sampling_ratio": (2, 2.0, (2, 2), (2, 2.0), [2, 2], np.int8(2), np.float16(2), -1, 0, -0.0,
                       True, None, 2**32 + 2, -(2**63), -(2**64)),
    "aligned": (True, 1, 1.0, np.True_, np.array(True), False, 0, 0.0, -0.0, None, "", "no",
                np.ones(2), float("nan"), [], [0]),
    "mode": ("avg", np.str_("avg"), b"avg", "max", 0, False, ["avg"], None, "Avg"),
    "layout": ("NHWC", np.str_("NHWC"), "NCHW", 1, True, None),
    "return_argmax": (True, 1, 1.0, np.True_, False, 0, None, "no", np.ones(2)),
}  # fmt: skip


def outcome(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The results as bits, or the error and its sentence."""
    try:
        found = function(*arguments, **options)
    except (TypeError, ValueError, NotImplementedError, tf.errors.OpError) as error:
        return type(error), str(error)
    parts: list[NumpyArray] = [
        each.numpy() for each in (found if type(found) is tuple else [found])
    ]
    return [(part.dtype, part.shape, part.tobytes()) for part in parts]


@pytest.mark.parametrize("name", ALIKE)
def test_what_is_equal_is_not_taken_for_the_same(name: str, shortened: list[str]) -> None:
    """Each after all others, in both orders: whichever was there first."""
    op = "roi_pool" if name == "return_argmax" else "roi_align"
    long, short = long_way(op), getattr(ops, op)
    x, boxes = features(), rows()
    expected = []
    for value in ALIKE[name]:
        operators.node_of.cache_clear()
        expected.append(outcome(long, x, boxes, **{"output_size": 2, name: value}))
    assert shortened == []
    assert len({str(each) for each in expected}) > 1
    for order in (1, -1):
        operators.node_of.cache_clear()
        for value, wanted in [*zip(ALIKE[name], expected, strict=True)][::order] * 2:
            found = outcome(short, x, boxes, **{"output_size": 2, name: value})
            assert found == wanted, repr(value)
    assert shortened


# Mistakes, and what is unusual --------------------------------------------------------------------

MISTAKES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "no arguments": lambda f, x, b: f(),
    "too few": lambda f, x, b: f(x, b),
    "too many": lambda f, x, b: f(x, b, 2, 1.0, 2, False, "avg", "NHWC"),
    "twice": lambda f, x, b: f(x, b, 2, input=x),
    "unknown": lambda f, x, b: f(x, b, 2, size=3),
    "a size of 0": lambda f, x, b: f(x, b, 0),
    "a huge size": lambda f, x, b: f(x, b, 2**70),
    "a large size": lambda f, x, b: f(x, b, 2**40),
    "three sizes": lambda f, x, b: f(x, b, (1, 2, 3)),
    "a tensor for a size": lambda f, x, b: f(x, b, b),
    "a huge scale": lambda f, x, b: f(x, b, 2, 10**400),
    "three axes": lambda f, x, b: f(x[0], b, 2),
    "integers": lambda f, x, b: f(tf.cast(x, tf.int32), b, 2),
    "strings": lambda f, x, b: f(tf.fill([1, 2, 2, 1], "text"), b, 2),
    "boxes of strings": lambda f, x, b: f(x, tf.fill([3, 5], "text"), 2),
    "complex boxes": lambda f, x, b: f(x, tf.cast(b, tf.complex64), 2),
    "six columns": lambda f, x, b: f(x, tf.concat([b, b[:, :1]], 1), 2),
    "four columns": lambda f, x, b: f(x, b[:, 1:], 2),
    "indices besides": lambda f, x, b: f(x, b, 2, batch_indices=tf.cast(b[:, 0], tf.int64)),
    "too few indices": lambda f, x, b: f(x, b[:, 1:], 2, batch_indices=tf.zeros([2], tf.int64)),
    "indices that are none": lambda f, x, b: f(x, b[:, 1:], 2, batch_indices=b[:, 0]),
    "indices of strings": lambda f, x, b: f(x, b[:, 1:], 2, batch_indices=tf.fill([6], "text")),
    "an image that is not": lambda f, x, b: f(x, b + 7, 2),
    "no coordinate": lambda f, x, b: f(x, b * float("nan"), 2),
    "an argmax of means": lambda f, x, b: f(x, b, 2, mode="avg", return_argmax=True),
    "an argmax of means, and a size of 0": lambda f, x, b: f(
        x, b, 0, mode="avg", return_argmax=True
    ),
    "text": lambda f, x, b: f("text", b, 2),
    "out": lambda f, x, b: f(x, b, 2, out=x),
}


@pytest.mark.parametrize("op", ["roi_align", "roi_pool"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_both_ways_say_the_same_of_mistakes(mistake: str, op: str) -> None:
    make = MISTAKES[mistake]
    found = outcome(make, getattr(ops, op), features(), rows())
    assert isinstance(found[0], type), "no error"
    assert found == outcome(make, long_way(op), features(), rows())


UNUSUAL: dict[str, Callable[[Any, Any], Any]] = {
    "a variable": lambda x, b: (tf.Variable(x), b),
    "NumPy": lambda x, b: (x.numpy(), b),
    "boxes of NumPy": lambda x, b: (x, b.numpy()),
    "boxes in a variable": lambda x, b: (x, tf.Variable(b)),
    "a list": lambda x, b: (x, [b[:3, 1:], b[3:, 1:]]),
    "ragged": lambda x, b: (x, tf.RaggedTensor.from_row_lengths(b[:, 1:], [3, 3])),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_what_is_unusual_goes_the_long_way(kind: str, shortened: list[str]) -> None:
    x, b = UNUSUAL[kind](features(tf.float64), rows(tf.float64))
    for op in ("roi_align", "roi_pool"):
        found = getattr(ops, op)(x, b, SIZE, 0.5)
        expected = getattr(roidl, op)(FEATURES, ROWS, SIZE, 0.5)
        np.testing.assert_array_equal(to_nchw(found.numpy(), "NHWC"), expected)
    assert shortened == []


@pytest.mark.parametrize("name", ["roi_align", "roi_pool"])
def test_a_graph_has_a_node_of_eager_tensors(name: str, shortened: list[str]) -> None:
    x, b = features(), rows()
    for function in (getattr(ops, name), getattr(roidl, name)):
        graph = tf.function(functools.partial(function, x, b, SIZE, 0.5, layout="NHWC"))
        nodes = {each.type for each in graph.get_concrete_function().graph.get_operations()}
        assert nodes & {"RoidlRoiAlign", "RoidlRoiPoolArgmax"}
        assert shortened == []
        np.testing.assert_array_equal(graph(), function(x, b, SIZE, 0.5, layout="NHWC"))
        assert shortened == [name]
        shortened.clear()


@pytest.mark.parametrize("front_end", [ops, roidl], ids=["roidl.tensorflow", "roidl"])
@pytest.mark.parametrize("name", ["roi_align", "multiscale_roi_align", "assign_levels"])
def test_a_function_as_an_argument_of_a_graph(name: str, front_end: ModuleType) -> None:
    x, b = features(), rows()
    arguments: dict[str, Any] = {
        "roi_align": (x, b, 2),
        "multiscale_roi_align": ([x, x], b, 2, [1, 0.5]),
        "assign_levels": (b, [1, 0.5]),
    }
    graph = tf.function(lambda function: function(*arguments[name]))
    function = getattr(front_end, name)
    np.testing.assert_array_equal(graph(function), function(*arguments[name]))


def test_the_device_is_the_callers() -> None:
    x, b, soft = features(), rows(), tf.config.get_soft_device_placement()
    tf.config.set_soft_device_placement(False)
    try:
        with tf.device("CPU:0"):
            assert ops.roi_align(x, b, 2).device.endswith("CPU:0")
        with tf.device("GPU:77"), pytest.raises(tf.errors.InvalidArgumentError, match="GPU:77"):
            ops.roi_align(x, b, 2)
    finally:
        tf.config.set_soft_device_placement(soft)


def test_a_tensorflow_without_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    x, b = features(), rows()
    functions = ops.roi_align, ops.roi_pool
    expected: list[NumpyArray] = [function(x, b, 2).numpy() for function in functions]
    monkeypatch.setattr("roidl.tensorflow._operators.fast_path", None)
    for function, wanted in zip(functions, expected, strict=True):
        np.testing.assert_array_equal(function(x, b, 2), wanted)


@pytest.mark.parametrize("name", ops.__all__)
def test_annotations_can_be_resolved(name: str) -> None:
    """They are written in another module, where their names are known."""
    function = getattr(ops, name)
    hints = get_type_hints(function)
    assert set(hints) >= set(inspect.signature(function).parameters)
