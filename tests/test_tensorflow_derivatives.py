"""Derivatives of roidl.tensorflow of every order and mode, against central differences."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conftest import Lib
from operators import every_operator as each_operator

STEP = 1e-6
NAN_IS_SAID = "this is part of a function that is differentiated from outside"
# Where boxes are what a graph was given, a warning says which gradient there would be NaN.
pytestmark = pytest.mark.filterwarnings(f"ignore:.*{NAN_IS_SAID}")
BOXES = np.array([[0, 1.13, 0.77, 6.21, 5.43], [1, 2.31, 1.12, 7.77, 4.9], [0, 0.6, 0.7, 3.3, 6.1]])
MODES = ("avg", "max", "max_onnx")
each_mode = pytest.mark.parametrize("mode", MODES)
OPTIONS: dict[str, Any] = {"spatial_scale": 0.8, "sampling_ratio": 2, "aligned": True}


class Problem:
    """A function of features and boxes with everything that its derivatives are taken along."""

    def __init__(self, tf: Any, op: str, mode: str) -> None:
        import roidl.tensorflow

        rng = np.random.default_rng(61)
        self.tf, function = tf, getattr(roidl.tensorflow, op)
        options = OPTIONS if op == "roi_align" else {"spatial_scale": 0.8}
        self.call: Callable[[Any, Any], Any] = lambda x, b: function(
            x, b, (2, 3), mode=mode, **options
        )
        self.x = tf.constant(rng.standard_normal((2, 7, 9, 2)))
        self.b = tf.constant(BOXES)
        self.along_x = tf.constant(rng.standard_normal(self.x.shape))
        along_b = rng.standard_normal(self.b.shape)
        along_b[:, 0] = 0  # the images stay
        self.along_b = tf.constant(along_b)
        self.weights = tf.constant(rng.standard_normal((3, 2, 3, 2)))

    def loss(self, x: Any, b: Any) -> Any:
        return self.tf.reduce_sum(self.weights * self.call(x, b) ** 2)

    def slope(self, function: Callable[[Any, Any], Any], along_x: Any, along_b: Any) -> Any:
        """The derivative of a function along a direction, by central differences."""
        x, b, dx, db = self.x, self.b, STEP * along_x, STEP * along_b
        return (function(x + dx, b + db) - function(x - dx, b - db)) / (2 * STEP)

    def to_input(self, x: Any, b: Any) -> Any:
        with self.tf.GradientTape() as tape:
            tape.watch(x)
            loss = self.loss(x, b)
        return tape.gradient(loss, x)

    def to_boxes(self, x: Any, b: Any) -> Any:
        with self.tf.GradientTape() as tape:
            tape.watch(b)
            loss = self.loss(x, b)
        return tape.gradient(loss, b)

    def forward(self, function: Callable[[Any, Any], Any], **along: Any) -> Any:
        """The derivative of a function along x, b or both, by forward mode."""
        primals = [getattr(self, name) for name in along]
        with self.tf.autodiff.ForwardAccumulator(primals, [*along.values()]) as accumulator:
            result = function(self.x, self.b)
        return accumulator.jvp(result)

    def twice(self, first: Callable[[Any, Any], Any], direction: Any, second: str) -> Any:
        """The gradient to x or to b of <first(x, b), direction>."""
        source = getattr(self, second)
        with self.tf.GradientTape() as tape:
            tape.watch(source)
            inner = self.tf.reduce_sum(first(self.x, self.b) * direction)
        return tape.gradient(inner, source)


@pytest.fixture
def tf(get_lib: Callable[[str], Lib]) -> Any:
    get_lib("tensorflow")
    import tensorflow

    return tensorflow


def close(got: Any, expected: Any) -> None:
    assert np.any(expected.numpy())
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-7)


# Along the input ----------------------------------------------------------------------------------


@each_operator
def test_along_the_input(op: str, mode: str, tf: Any) -> None:
    p = Problem(tf, op, mode)
    still = tf.zeros_like(p.b)
    first = p.slope(p.call, p.along_x, still)
    close(p.forward(p.call, x=p.along_x), first)
    close(p.forward(p.call, x=p.along_x, b=still), first)
    close(p.forward(tf.function(p.call), x=p.along_x), first)
    second = p.slope(p.to_input, p.along_x, still)
    close(p.twice(p.to_input, p.along_x, "x"), second)
    close(p.twice(tf.function(p.to_input), p.along_x, "x"), second)
    close(p.forward(p.to_input, x=p.along_x), second)
    quadratic = tf.reduce_sum(second * p.along_x)
    close(p.forward(lambda x, b: p.forward(p.loss, x=p.along_x), x=p.along_x), quadratic)


@each_operator
def test_jacobian(op: str, mode: str, tf: Any) -> None:
    p = Problem(tf, op, mode)
    with tf.GradientTape() as tape:
        tape.watch(p.x)
        pooled = p.call(p.x, p.b)
    jacobian = tape.jacobian(pooled, p.x)
    close(tf.tensordot(jacobian, p.along_x, 4), p.slope(p.call, p.along_x, tf.zeros_like(p.b)))


def test_third_order(tf: Any) -> None:
    """Of a cubic of a linear function: the derivatives of derivatives are as good as the first."""
    p = Problem(tf, "roi_align", "avg")

    def cubic(x: Any) -> Any:
        return tf.reduce_sum(p.call(x, p.b) ** 3)

    def slope_of(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def along(x: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = function(x)
            return tf.reduce_sum(tape.gradient(value, x) * p.along_x)

        return along

    got = slope_of(slope_of(slope_of(cubic)))(p.x)
    close(got, 6 * tf.reduce_sum(p.call(p.along_x, p.b) ** 3))


# Along the boxes ----------------------------------------------------------------------------------


def test_along_the_boxes(tf: Any) -> None:
    p = Problem(tf, "roi_align", "avg")
    still = tf.zeros_like(p.x)
    close(p.forward(p.call, b=p.along_b), p.slope(p.call, still, p.along_b))
    both = p.slope(p.call, p.along_x, p.along_b)
    close(p.forward(p.call, x=p.along_x, b=p.along_b), both)
    close(p.forward(p.to_input, b=p.along_b), p.slope(p.to_input, still, p.along_b))
    close(p.forward(p.to_boxes, x=p.along_x), p.slope(p.to_boxes, p.along_x, tf.zeros_like(p.b)))
    mixed = p.slope(p.to_input, still, p.along_b)
    close(p.twice(p.to_boxes, p.along_b, "x"), mixed)
    close(p.twice(tf.function(p.to_boxes), p.along_b, "x"), mixed)
    mixed = p.slope(p.to_boxes, p.along_x, tf.zeros_like(p.b))
    close(p.twice(p.to_input, p.along_x, "b"), mixed)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_jacobian_of_the_boxes(mode: str, tf: Any) -> None:
    p = Problem(tf, "roi_align", mode)
    with tf.GradientTape() as tape:
        tape.watch(p.b)
        pooled = p.call(p.x, p.b)
    jacobian = tape.jacobian(pooled, p.b)
    close(tf.tensordot(jacobian, p.along_b, 2), p.slope(p.call, tf.zeros_like(p.x), p.along_b))


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_roi_pool_stays_when_the_boxes_move(mode: str, tf: Any) -> None:
    p = Problem(tf, "roi_pool", mode)
    zero = tf.zeros_like(p.b)
    np.testing.assert_array_equal(p.to_boxes(p.x, p.b), zero)
    np.testing.assert_array_equal(tf.function(p.to_boxes)(p.x, p.b), zero)
    moved = p.forward(p.call, b=p.along_b)
    np.testing.assert_array_equal(moved, tf.zeros_like(moved))


# What is not offered ------------------------------------------------------------------------------

NOT_TWICE = "roi_align: second derivatives along the boxes are not implemented"
AVG_ONLY = "roi_align: forward mode and second derivatives along the boxes are implemented for mode"
NOT_ONNX = "roi_align: mode 'max_onnx' has no gradient to the boxes"


def refused(tf: Any, sentence: str, call: Callable[[], Any]) -> None:
    with pytest.raises((NotImplementedError, tf.errors.UnimplementedError), match=sentence):
        call()


@each_mode
def test_second_derivatives_along_the_boxes_are_refused(mode: str, tf: Any) -> None:
    p = Problem(tf, "roi_align", mode)
    second = {"avg": NOT_TWICE, "max": AVG_ONLY, "max_onnx": NOT_ONNX}[mode]

    def twice() -> Any:
        return p.twice(p.to_boxes, p.along_b, "b")

    refused(tf, second, twice)
    refused(tf, second, tf.function(twice))
    if mode == "avg":  # a function does not say what its gradient is needed for
        with pytest.warns(UserWarning, match=f"{NOT_TWICE}; {NAN_IS_SAID}"):
            got = p.twice(tf.function(p.to_boxes), p.along_b, "b")
        assert np.isnan(got).all()
    if mode != "avg":
        mixed = NOT_ONNX if mode == "max_onnx" else AVG_ONLY
        refused(tf, mixed, lambda: p.twice(p.to_input, p.along_x, "b"))
        refused(tf, mixed, lambda: p.twice(p.to_boxes, p.along_b, "x"))
        refused(tf, mixed, lambda: p.forward(p.call, b=p.along_b))
        refused(tf, mixed, lambda: p.forward(p.call, x=p.along_x, b=p.along_b))


def test_a_gradient_that_is_not_there(tf: Any) -> None:
    """An eager tape knows what is asked for; so does one in a graph; from outside, it is NaN.

    There, nothing is said where nothing flows back along the boxes.
    """
    p = Problem(tf, "roi_align", "max_onnx")
    refused(tf, NOT_ONNX, lambda: p.to_boxes(p.x, p.b))
    refused(tf, NOT_ONNX, lambda: tf.function(p.to_boxes)(p.x, p.b))
    loss = tf.function(p.loss)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([p.x, p.b])
        with pytest.warns(UserWarning, match=f"{NOT_ONNX}; {NAN_IS_SAID}.* tf.stop_gradient"):
            value = loss(p.x, p.b)
    assert np.isnan(tape.gradient(value, p.b)).all()
    close(tape.gradient(value, p.x), p.to_input(p.x, p.b))

    stopped = tf.function(lambda x, b: p.loss(x, tf.stop_gradient(b)))
    with warnings.catch_warnings(), tf.GradientTape(persistent=True) as tape:
        warnings.simplefilter("error")
        tape.watch([p.x, p.b])
        value = stopped(p.x, p.b)
    assert tape.gradient(value, p.b) is None
    close(tape.gradient(value, p.x), p.to_input(p.x, p.b))


# TensorFlow's ways to differentiate ---------------------------------------------------------------


@each_operator
def test_recompute_grad(op: str, mode: str, tf: Any) -> None:
    p = Problem(tf, op, mode)
    again = tf.recompute_grad(lambda x: p.loss(x, p.b))
    with tf.GradientTape() as tape:
        tape.watch(p.x)
        value = again(p.x)
    np.testing.assert_array_equal(tape.gradient(value, p.x), p.to_input(p.x, p.b))


@pytest.mark.filterwarnings("ignore")
def test_maps(tf: Any) -> None:
    p = Problem(tf, "roi_align", "avg")
    rows = tf.reshape(p.b, [3, 1, 5])
    expected = tf.stack([p.call(p.x, row) for row in rows])
    np.testing.assert_array_equal(tf.map_fn(lambda row: p.call(p.x, row), rows), expected)
    np.testing.assert_array_equal(tf.vectorized_map(lambda row: p.call(p.x, row), rows), expected)
    batch = tf.stack([p.x, p.along_x])
    expected = tf.stack([p.to_input(x, p.b) for x in batch])
    mapped = tf.vectorized_map(lambda x: p.to_input(x, p.b), batch)
    np.testing.assert_allclose(mapped, expected, rtol=1e-12)
