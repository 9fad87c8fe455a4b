"""`roidl.jax` under vmap: any of the arguments mapped, and no example sees another's images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import oracle
from cases import random_boxes
from conftest import Lib, NumpyArray
from trials import from_nchw

jax = pytest.importorskip("jax")
jnp = jax.numpy

SIZE = (2, 3)
RULE: dict[str, Any] = {"spatial_scale": 0.5, "sampling_ratio": 2}
EXAMPLES, N, L = 3, 2, 2
K = N * L

RNG = np.random.default_rng(71)
FEATURES = RNG.standard_normal((EXAMPLES, N, 3, 7, 9))
ROWS = np.stack([random_boxes(RNG, K, N, 7, 9, 0.5) for _ in range(EXAMPLES)])
WEIGHTS = RNG.standard_normal((EXAMPLES, K, 3, *SIZE))
FORMS = ("rows", "indices", "grouped", "single")


@pytest.fixture(autouse=True)
def lib(get_lib: Callable[[str], Lib]) -> Lib:
    return get_lib("jax")


def rows_of(form: str) -> NumpyArray:
    """[EXAMPLES, K, 5] that a form can say."""
    rows = ROWS.copy()
    if form == "grouped":
        rows[..., 0] = np.repeat(np.arange(N), L)
    elif form == "single":
        rows[..., 0] = 0
    return rows


def given_in(form: str, rows: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Boxes, and indices (which only one form looks at)."""
    indices = rows[..., 0].astype(np.int64)
    if form == "rows":
        return rows, indices
    corners = rows[..., 1:]
    return corners.reshape(EXAMPLES, N, L, 4) if form == "grouped" else corners, indices


def call(op: str, mode: str, form: str, layout: str = "NCHW") -> Callable[..., Any]:
    from roidl import jax as front_end

    options = RULE if op == "roi_align" else {"spatial_scale": 0.5}

    def pooled(input: Any, boxes: Any, indices: Any) -> Any:
        more = {"batch_indices": indices} if form == "indices" else {}
        result = getattr(front_end, op)(
            input, boxes, SIZE, mode=mode, layout=layout, **more, **options
        )
        return result.reshape((K, *result.shape[-3:]))

    return pooled


def expected_of(op: str, mode: str, features: NumpyArray, rows: NumpyArray) -> NumpyArray:
    if op == "roi_align":
        return oracle.roi_align(features, rows, SIZE, mode=mode, coordinates=np.float64, **RULE)
    return oracle.roi_pool(features, rows, SIZE, 0.5, mode=mode, coordinates=np.float64)[0]


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


# Which of input, boxes and indices are mapped; the others are the first example's.
MAPPED = [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1)]


@pytest.mark.parametrize(
    ("form", "mapped"),
    [(form, mapped) for form in FORMS for mapped in MAPPED if form == "indices" or any(mapped[:2])],
)
@pytest.mark.parametrize(("op", "mode"), [("roi_align", "avg"), ("roi_pool", "max")])
def test_any_of_the_arguments_may_be_mapped(
    op: str, mode: str, form: str, mapped: tuple[int, int, int]
) -> None:
    rows, features = rows_of(form), FEATURES[:, :1] if form == "single" else FEATURES
    boxes, indices = given_in(form, rows)
    arrays = [
        array if each else array[0]
        for array, each in zip((features, boxes, indices), mapped, strict=True)
    ]
    axes = tuple(0 if each else None for each in mapped)
    got = jax.vmap(call(op, mode, form), axes)(*arrays)
    for example in range(EXAMPLES):
        maps, places, images = (example if each else 0 for each in mapped)
        mine = rows[places].copy()
        mine[:, 0] = rows[images if form == "indices" else places, :, 0]
        close(got[example], expected_of(op, mode, features[maps], mine))


def test_the_mapped_axis_may_be_anywhere() -> None:
    function = call("roi_align", "avg", "rows", "NHWC")
    features = np.stack([from_nchw(each, "NHWC") for each in FEATURES], axis=2)
    got = jax.jit(jax.vmap(function, (2, 1, None), 1))(features, ROWS.transpose(1, 0, 2), 0)
    for example in range(EXAMPLES):
        expected = expected_of("roi_align", "avg", FEATURES[example], ROWS[example])
        close(got[:, example], from_nchw(expected, "NHWC"))


@pytest.mark.parametrize("mapped", [(1, 1, 1), (1, 0, 0), (0, 1, 0)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradients_of_every_example(mode: str, form: str, mapped: tuple[int, int, int]) -> None:
    rows, features = rows_of(form), FEATURES[:, :1] if form == "single" else FEATURES
    boxes, indices = given_in(form, rows)
    if form == "indices" and not mapped[2]:
        rows[:, :, 0] = rows[0, :, 0]
    function = call("roi_align", mode, form)

    def loss(input: Any, boxes: Any, indices: Any, weights: Any) -> Any:
        return (function(input, boxes, indices) * weights).sum()

    arrays = [
        array if each else array[0]
        for array, each in zip((features, boxes, indices), mapped, strict=True)
    ]
    axes = (*(0 if each else None for each in mapped), 0)
    gradient = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), axes))
    to_input, to_boxes = gradient(*arrays, WEIGHTS)
    for example in range(EXAMPLES):
        maps, places, _ = (example if each else 0 for each in mapped)
        arguments = WEIGHTS[example], features[maps], rows[places]
        options: dict[str, Any] = {"mode": mode, "coordinates": np.float64, **RULE}
        close(to_input[example], oracle.roi_align_backward(*arguments, **options))
        expected = oracle.roi_align_backward_boxes(*arguments, **options)
        if form != "rows":
            expected = expected[:, 1:].reshape(boxes.shape[1:])
        close(to_boxes[example], expected)


def test_mapped_twice_and_derived_in_between() -> None:
    """Second derivatives of every pair of an input and boxes: of half the square, A^T A t."""
    function = call("roi_align", "avg", "rows")

    def product(input: Any, boxes: Any, tangent: Any) -> Any:
        gradient = jax.grad(lambda x: (function(x, boxes, None) ** 2).sum() / 2)
        return jax.jvp(gradient, (input,), (tangent,))[1]

    pairs = jax.vmap(jax.vmap(product, (0, None, 0)), (None, 0, None))
    got = pairs(FEATURES, ROWS, FEATURES)
    for i, rows in enumerate(ROWS):
        for j, features in enumerate(FEATURES):
            forward = expected_of("roi_align", "avg", features, rows)
            expected = oracle.roi_align_backward(
                forward, features, rows, coordinates=np.float64, **RULE
            )
            close(got[i, j], expected)


# Batch indices ------------------------------------------------------------------------------------


def int_of(number: float) -> float:
    """The number, if int32 can hold it and it is whole."""
    return int(number) if abs(number) < 2**30 else np.nan


# Of another example's image, of none whatever the example, and no whole number
WRONG = (N, -1, N * EXAMPLES - 1, N * EXAMPLES, -7, 1000)


@pytest.mark.parametrize(
    ("form", "wrong"),
    [*(("indices", index) for index in WRONG), *(("rows", x) for x in (*WRONG, 0.5, np.nan, 1e30))],
)
def test_a_wrong_index_is_not_another_examples_image(form: str, wrong: float, lib: Lib) -> None:
    rows = rows_of(form)
    boxes, indices = given_in(form, rows)
    if form == "rows":
        boxes = boxes.copy()
        boxes[0, 1, 0] = wrong
    else:
        indices[0, 1] = wrong
    assert lib.run_time_errors is not None
    function = call("roi_align", "avg", form)
    for images in (FEATURES, FEATURES[0]):
        mapped = jax.vmap(function, (0 if images is FEATURES else None, 0, 0))
        said = f"{wrong}, but must" if wrong == int_of(wrong) else "no whole number"
        with pytest.raises(lib.run_time_errors, match=f"the batch index of row 1 is {said}"):
            np.asarray(mapped(images, boxes, indices))


def test_indices_of_half_precision_stay_exact() -> None:
    """600 images in all, where bfloat16 counts to 256 and float16 to 2048."""
    examples, images = 200, 3
    number = np.arange(examples * images, dtype=np.float32)
    features = (number[:, None, None, None] * np.ones((1, 4, 4), np.float32)).reshape(
        examples, images, 1, 4, 4
    )
    rows = np.array([[2, 0, 0, 4, 4], [0, 0, 0, 4, 4], [1, 0, 0, 4, 4]], ml_dtypes.bfloat16)

    def pooled(input: Any, boxes: Any) -> Any:
        from roidl.jax import roi_align

        return roi_align(input, boxes, 1, aligned=True).ravel()

    expected = number.reshape(examples, images)[:, [2, 0, 1]]
    for given in (rows, np.stack([rows] * examples)):
        got = jax.vmap(pooled, (0, None if given is rows else 0))(features, given)
        np.testing.assert_array_equal(got, expected)
