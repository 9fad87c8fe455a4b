"""`roidl.tensorflow` on several maps at once: by the oracle on each map, by differences, padded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import oracle
from conftest import ALL_DTYPES, Lib, NumpyArray, numpy_dtype
from trials import assert_close, from_nchw, to_nchw

SIZE = (2, 3)
SCALES = (1.0, 1 / 2, 1 / 4)
# Sides of 8 and of 16 pixels are the borders between the maps.
RULE: dict[str, Any] = {"canonical_scale": 8, "canonical_level": 1}
SAMPLES: dict[str, Any] = {"sampling_ratio": 2, "aligned": True}
STEP = 1e-6
# As in test_tensorflow_derivatives.py.
pytestmark = pytest.mark.filterwarnings("ignore:.* differentiated from outside")

RNG = np.random.default_rng(91)
MAPS = [RNG.standard_normal((2, 3, int(24 * scale), int(20 * scale))) for scale in SCALES]
SIDES = np.array([[5.1, 6.2], [9.1, 10.2], [18.3, 17.4], [7.3, 4.4], [11.2, 12.1], [21.1, 16.7]])
CORNER = RNG.uniform(0.1, 2.9, (6, 2))
CORNERS = np.concatenate([CORNER, CORNER + SIDES], axis=1)
LEVELS = np.array([0, 1, 2, 0, 1, 2])
INDICES = np.array([0, 0, 0, 1, 1, 1])
ROWS = np.column_stack([INDICES, CORNERS])
GRADIENT = RNG.standard_normal((6, 3, *SIZE))
# The same boxes by image, each image's followed by rows that hold none.
COUNTS = np.array([3, 3])
PADDED = np.full((2, 5, 4), np.nan)
PADDED[:, :3] = CORNERS.reshape(2, 3, 4)
MODES = [
    ("roi_align", "avg"),
    ("roi_align", "max"),
    ("roi_align", "max_onnx"),
    ("roi_pool", "max"),
    ("roi_pool", "avg"),
]
every_operator = pytest.mark.parametrize(("op", "mode"), MODES)


@pytest.fixture
def tf(get_lib: Callable[[str], Lib]) -> Any:
    get_lib("tensorflow")
    import tensorflow

    return tensorflow


def call(op: str, maps: Any, boxes: Any, layout: str = "NHWC", **more: Any) -> Any:
    import roidl.tensorflow

    function = getattr(roidl.tensorflow, f"multiscale_{op}")
    more = RULE | (SAMPLES if op == "roi_align" else {}) | more
    return function(maps, boxes, SIZE, SCALES, layout=layout, **more)


def in_layout(maps: list[NumpyArray], layout: str = "NHWC") -> list[NumpyArray]:
    return [from_nchw(each, layout) for each in maps]


def close(got: Any, expected: Any) -> None:
    expected = np.asarray(expected)
    assert np.any(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def expect(
    op: str, mode: str, dtype: str, levels: NumpyArray = LEVELS
) -> tuple[NumpyArray, list[NumpyArray], NumpyArray]:
    """The result, and for GRADIENT those to the maps and to the boxes, by the oracle."""
    real: Any = np.float64 if dtype == "float64" else np.float32
    kind = numpy_dtype(dtype)
    rows_of, gradient = ROWS.astype(real), GRADIENT.astype(kind)
    out, to_maps, to_boxes = np.zeros(GRADIENT.shape), [], np.zeros(ROWS.shape)
    for level, (features, scale) in enumerate(zip(MAPS, SCALES, strict=True)):
        rows = np.flatnonzero(levels == level)
        given = features.astype(kind), rows_of[rows], gradient[rows]
        x, boxes, g = given
        if op == "roi_align":
            options: dict[str, Any] = {"mode": mode, "coordinates": real} | SAMPLES
            out[rows] = oracle.roi_align(x, boxes, SIZE, scale, **options)
            to_maps.append(oracle.roi_align_backward(g, x, boxes, scale, **options))
            if mode != "max_onnx":
                to_boxes[rows] = oracle.roi_align_backward_boxes(g, x, boxes, scale, **options)
        else:
            out[rows], cells = oracle.roi_pool(x, boxes, SIZE, scale, mode=mode)
            to_maps.append(oracle.roi_pool_backward(g, boxes, cells, x.shape, scale, mode=mode))
    return out, to_maps, to_boxes


# By the oracle ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@every_operator
def test_values_and_gradients(op: str, mode: str, dtype: str, layout: str, tf: Any) -> None:
    kind = numpy_dtype(dtype)
    maps = [tf.constant(each.astype(kind)) for each in in_layout(MAPS, layout)]
    boxes = tf.constant(ROWS, tf.float64 if dtype == "float64" else tf.float32)
    gradient = tf.constant(from_nchw(GRADIENT, layout).astype(kind))
    expected = expect(op, mode, dtype)

    def pull(maps: Any, boxes: Any) -> Any:
        sources = maps if mode == "max_onnx" else [*maps, boxes]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            pooled = call(op, maps, boxes, layout, mode=mode)
        return pooled, *tape.gradient(pooled, sources, output_gradients=gradient)

    pulls = [pull(maps, boxes)]
    if dtype == "float32":
        pulls.append(tf.function(pull)(maps, boxes))
    for pooled, *grads in pulls:
        assert pooled.dtype == maps[0].dtype
        assert_close(to_nchw(pooled.numpy(), layout), expected[0])
        for grad, want in zip(grads[:3], expected[1], strict=True):
            assert_close(to_nchw(grad.numpy(), layout), want)
        for grad in grads[3:]:
            assert_close(grad.numpy(), expected[2], 1e-5)


def test_the_argmax_is_that_of_the_boxs_map(tf: Any) -> None:
    for way in (call, tf.function(call)):
        _, argmax = way("roi_pool", in_layout(MAPS), ROWS, return_argmax=True)
        assert argmax.shape == (6, *SIZE, 3)
        for level, (features, scale) in enumerate(zip(MAPS, SCALES, strict=True)):
            rows = np.flatnonzero(level == LEVELS)
            _, cells = oracle.roi_pool(features, ROWS[rows], SIZE, scale)
            np.testing.assert_array_equal(to_nchw(argmax.numpy(), "NHWC")[rows], cells)
    with pytest.raises(ValueError, match="multiscale_roi_pool: only mode 'max' has an argmax"):
        call("roi_pool", in_layout(MAPS), ROWS, mode="avg", return_argmax=True)


# Padding ------------------------------------------------------------------------------------------


@every_operator
def test_padding_gives_zeros_and_has_no_gradient(op: str, mode: str, tf: Any) -> None:
    weights = np.full((2, 5, *SIZE, 3), 1e3)
    weights[:, :3] = from_nchw(GRADIENT, "NHWC").reshape(2, 3, *SIZE, 3)
    expected, to_maps, to_boxes = expect(op, mode, "float64")
    sizes = [None] * 4
    traced: list[Any] = []

    def pull(maps: Any, boxes: Any, counts: Any) -> Any:
        traced.append(boxes.shape)
        sources = maps if mode == "max_onnx" else [*maps, boxes]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            pooled = call(op, maps, boxes, mode=mode, counts=counts)
            loss = tf.reduce_sum(pooled * weights)
        return pooled, *tape.gradient(loss, sources)

    signature = [
        [tf.TensorSpec(sizes, tf.float64)] * 3,
        tf.TensorSpec([None, None, 4], tf.float64),
        tf.TensorSpec([None], tf.int32),
    ]
    graph = tf.function(pull, input_signature=signature)
    maps = [tf.constant(each) for each in in_layout(MAPS)]
    given = maps, tf.constant(PADDED), tf.constant(COUNTS, tf.int32)
    for pooled, *grads in (pull(*given), graph(*given)):
        assert_close(to_nchw(pooled.numpy()[:, :3], "NHWC"), expected)
        assert not np.any(pooled[:, 3:])
        for grad, want in zip(grads[:3], to_maps, strict=True):
            assert_close(to_nchw(grad.numpy(), "NHWC"), want, 1e-12)
        for grad in grads[3:]:
            np.testing.assert_allclose(grad[:, :3], to_boxes[:, 1:].reshape(2, 3, 4), atol=1e-7)
            assert not np.any(grad[:, 3:])
    # The graph is the same for any counts.
    pooled, *grads = graph(maps, tf.constant(PADDED), tf.constant([0, 1]))
    assert len(traced) == 2
    assert not np.any(pooled[0])
    assert np.any(pooled[1, 0])
    assert not np.any(pooled[1, 1:])
    assert not any(np.any(grad[0]) for grad in grads)


def test_padding_has_no_tangent(tf: Any) -> None:
    boxes = tf.constant(PADDED)
    with tf.autodiff.ForwardAccumulator(boxes, tf.ones_like(boxes)) as accumulator:
        pooled = call("roi_align", in_layout(MAPS), boxes, counts=COUNTS)
    tangent = accumulator.jvp(pooled).numpy()
    assert np.all(np.isfinite(tangent))
    assert np.any(tangent[:, :3])
    assert not np.any(tangent[:, 3:])


# Derivatives of every order, by central differences -----------------------------------------------


class Problem:
    """A function of all maps and boxes, and directions to move them in."""

    def __init__(self, tf: Any, op: str, mode: str) -> None:
        rng = np.random.default_rng(92)
        self.tf, self.op, self.mode = tf, op, mode
        self.maps = [tf.constant(each) for each in in_layout(MAPS)]
        self.boxes = tf.constant(CORNERS)
        self.along_maps = [tf.constant(rng.standard_normal(each.shape)) for each in self.maps]
        self.along_boxes = tf.constant(rng.standard_normal(CORNERS.shape))
        self.weights = tf.constant(rng.standard_normal((6, *SIZE, 3)))

    def call(self, maps: Any, boxes: Any) -> Any:
        return call(self.op, maps, boxes, mode=self.mode, batch_indices=INDICES)

    def loss(self, maps: Any, boxes: Any) -> Any:
        return self.tf.reduce_sum(self.weights * self.call(maps, boxes) ** 2)

    def gradient(self, which: str, maps: Any, boxes: Any) -> Any:
        sources = maps if which == "maps" else boxes
        with self.tf.GradientTape() as tape:
            tape.watch(sources)
            loss = self.loss(maps, boxes)
        return tape.gradient(loss, sources)

    def slope(self, function: Callable[[Any, Any], Any], *along: str) -> list[Any]:
        """The derivative of a function, by central differences."""

        def moved(sign: int) -> list[Any]:
            maps = [
                x + sign * STEP * t if "maps" in along else x
                for x, t in zip(self.maps, self.along_maps, strict=True)
            ]
            boxes = self.boxes + sign * STEP * self.along_boxes * ("boxes" in along)
            return self.tf.nest.flatten(function(maps, boxes))  # type: ignore[no-any-return]

        return [(b - a) / (2 * STEP) for a, b in zip(moved(-1), moved(1), strict=True)]

    def forward(self, function: Callable[[Any, Any], Any], *along: str) -> list[Any]:
        """The same by forward mode."""
        primals = [getattr(self, name) for name in along]
        tangents = [getattr(self, f"along_{name}") for name in along]
        with self.tf.autodiff.ForwardAccumulator(primals, tangents) as accumulator:
            result = self.tf.nest.flatten(function(self.maps, self.boxes))
        return [accumulator.jvp(each) for each in result]

    def twice(self, first: Callable[[Any, Any], Any], direction: Any, second: str) -> list[Any]:
        """The gradient to maps or boxes of <first(maps, boxes), direction>."""
        source = getattr(self, second)
        with self.tf.GradientTape() as tape:
            tape.watch(source)
            parts = zip(
                self.tf.nest.flatten(first(self.maps, self.boxes)),
                self.tf.nest.flatten(direction),
                strict=True,
            )
            inner = self.tf.add_n([self.tf.reduce_sum(a * b) for a, b in parts])
        return self.tf.nest.flatten(tape.gradient(inner, source))  # type: ignore[no-any-return]


def all_close(got: list[Any], expected: list[Any]) -> None:
    for one, other in zip(got, expected, strict=True):
        close(one, other)


@every_operator
def test_along_the_maps(op: str, mode: str, tf: Any) -> None:
    p = Problem(tf, op, mode)
    first = p.slope(p.call, "maps")
    all_close(p.forward(p.call, "maps"), first)
    all_close(p.forward(tf.function(p.call), "maps"), first)

    def to_maps(maps: Any, boxes: Any) -> Any:
        return p.gradient("maps", maps, boxes)

    second = p.slope(to_maps, "maps")
    all_close(p.twice(to_maps, p.along_maps, "maps"), second)
    all_close(p.twice(tf.function(to_maps), p.along_maps, "maps"), second)
    all_close(p.forward(to_maps, "maps"), second)


def test_along_the_boxes(tf: Any) -> None:
    p = Problem(tf, "roi_align", "avg")

    def to_maps(maps: Any, boxes: Any) -> Any:
        return p.gradient("maps", maps, boxes)

    def to_boxes(maps: Any, boxes: Any) -> Any:
        return p.gradient("boxes", maps, boxes)

    all_close(p.forward(p.call, "boxes"), p.slope(p.call, "boxes"))
    all_close(p.forward(p.call, "maps", "boxes"), p.slope(p.call, "maps", "boxes"))
    all_close(p.forward(to_maps, "boxes"), p.slope(to_maps, "boxes"))
    all_close(p.forward(to_boxes, "maps"), p.slope(to_boxes, "maps"))
    all_close(p.twice(to_boxes, p.along_boxes, "maps"), p.slope(to_maps, "boxes"))
    all_close(p.twice(tf.function(to_boxes), p.along_boxes, "maps"), p.slope(to_maps, "boxes"))
    all_close(p.twice(to_maps, p.along_maps, "boxes"), p.slope(to_boxes, "maps"))


def test_third_order(tf: Any) -> None:
    """Of a cubic of a linear function."""
    p = Problem(tf, "roi_align", "avg")

    def slope_of(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def along(maps: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(maps)
                value = function(maps)
            pairs = zip(tape.gradient(value, maps), p.along_maps, strict=True)
            return tf.add_n([tf.reduce_sum(a * b) for a, b in pairs])

        return along

    got = slope_of(slope_of(slope_of(lambda maps: tf.reduce_sum(p.call(maps, p.boxes) ** 3))))
    close(got(p.maps), 6 * tf.reduce_sum(p.call(p.along_maps, p.boxes) ** 3))


def test_one_map_alone_may_be_differentiated(tf: Any) -> None:
    _, to_maps, _ = expect("roi_align", "avg", "float64")
    maps = [tf.constant(each) for each in in_layout(MAPS)]
    with tf.GradientTape() as tape:
        tape.watch(maps[1])
        pooled = call("roi_align", maps, ROWS)
    gradient = from_nchw(GRADIENT, "NHWC")
    got = tape.gradient(pooled, maps, output_gradients=gradient)
    assert got[0] is got[2] is None
    assert_close(to_nchw(got[1].numpy(), "NHWC"), to_maps[1])
    with tf.autodiff.ForwardAccumulator(maps[1], maps[1]) as accumulator:
        pooled = call("roi_align", maps, ROWS)
    tangent = accumulator.jvp(pooled).numpy()
    np.testing.assert_allclose(tangent[LEVELS == 1], pooled.numpy()[LEVELS == 1])
    assert not np.any(tangent[LEVELS != 1])


@pytest.mark.filterwarnings("ignore")
def test_jacobian_and_maps(tf: Any) -> None:
    p = Problem(tf, "roi_align", "avg")
    with tf.GradientTape() as tape:
        tape.watch(p.maps)
        pooled = p.call(p.maps, p.boxes)
    jacobian = tape.jacobian(pooled, p.maps)
    pairs = zip(jacobian, p.along_maps, strict=True)
    close(tf.add_n([tf.tensordot(j, t, 4) for j, t in pairs]), p.slope(p.call, "maps")[0])
    rows = tf.reshape(tf.constant(ROWS), [6, 1, 5])
    expected = tf.stack([call("roi_align", p.maps, row) for row in rows])
    for mapped in (tf.map_fn, tf.vectorized_map):
        got = mapped(
            lambda row: call("roi_align", p.maps, row),
            rows,
            **({"fn_output_signature": tf.float64} if mapped is tf.map_fn else {}),
        )
        np.testing.assert_array_equal(got, expected)
    batch = [tf.stack([x, t]) for x, t in zip(p.maps, p.along_maps, strict=True)]
    expected = tf.stack([p.call([each[i] for each in batch], p.boxes) for i in range(2)])
    got = tf.vectorized_map(lambda maps: p.call(list(maps), p.boxes), tuple(batch))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_roi_pool_stays_when_the_boxes_move(mode: str, tf: Any) -> None:
    p = Problem(tf, "roi_pool", mode)
    assert not np.any(p.gradient("boxes", p.maps, p.boxes))
    assert not np.any(p.forward(p.call, "boxes")[0])


# What is not offered ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("avg", "second derivatives along the boxes are not implemented"),
        ("max", "are implemented for mode 'avg' only"),
        ("max_onnx", "mode 'max_onnx' has no gradient to the boxes"),
    ],
)
def test_what_is_not_offered_is_refused(mode: str, sentence: str, tf: Any) -> None:
    p = Problem(tf, "roi_align", mode)

    def to_boxes(maps: Any, boxes: Any) -> Any:
        return p.gradient("boxes", maps, boxes)

    def twice() -> Any:
        return p.twice(to_boxes, p.along_boxes, "boxes")

    refused = [twice, tf.function(twice)]
    if mode != "avg":
        refused.append(lambda: p.forward(p.call, "boxes"))
        refused.append(lambda: p.forward(p.call, "maps", "boxes"))
    for attempt in refused:
        with pytest.raises(
            (NotImplementedError, tf.errors.UnimplementedError),
            match=rf"multiscale_roi_align: .*{sentence}",
        ):
            attempt()
