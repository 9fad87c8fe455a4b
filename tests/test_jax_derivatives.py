"""`roidl.jax` under every transformation of JAX that takes derivatives."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import oracle
from cases import random_boxes
from conftest import Lib, NumpyArray

jax = pytest.importorskip("jax")
jnp = jax.numpy
check_grads: Any = pytest.importorskip("jax.test_util").check_grads

SIZE = (2, 3)
SCALE = 0.5
RULE: dict[str, Any] = {"spatial_scale": SCALE, "sampling_ratio": 2, "aligned": True}


@pytest.fixture(autouse=True)
def lib(get_lib: Callable[[str], Lib]) -> Lib:
    """With 64-bit types, for differences."""
    return get_lib("jax")


RNG = np.random.default_rng(64)
FEATURES = RNG.standard_normal((2, 3, 7, 9))
ROWS = random_boxes(RNG, 4, 2, 7, 9, SCALE) + np.array([0, 0.013, 0.017, 0.019, 0.023])
GRADIENT = RNG.standard_normal((4, 3, *SIZE))
INDICES, CORNERS = ROWS[:, 0].astype(np.int32), ROWS[:, 1:]


def align(input: Any, corners: Any, mode: str = "avg") -> Any:
    """On corners alone: a batch index has no derivative."""
    from roidl.jax import roi_align

    return roi_align(input, corners, SIZE, mode=mode, batch_indices=INDICES, **RULE)


def pool(input: Any, mode: str) -> Any:
    from roidl.jax import roi_pool

    return roi_pool(input, ROWS, SIZE, SCALE, mode=mode)


def forward(input: NumpyArray, mode: str = "avg") -> NumpyArray:
    return oracle.roi_align(input, ROWS, SIZE, mode=mode, coordinates=np.float64, **RULE)


def backward(gradient: NumpyArray, input: NumpyArray = FEATURES, mode: str = "avg") -> NumpyArray:
    return oracle.roi_align_backward(
        gradient, input, ROWS, mode=mode, coordinates=np.float64, **RULE
    )


def backward_boxes(gradient: NumpyArray, input: NumpyArray = FEATURES, mode: str = "avg") -> Any:
    return oracle.roi_align_backward_boxes(
        gradient, input, ROWS, mode=mode, coordinates=np.float64, **RULE
    )


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


# By the oracle ------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.checkpoint])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradients_to_both(mode: str, transform: Any) -> None:
    def loss(input: Any, corners: Any) -> Any:
        return (transform(lambda x, c: align(x, c, mode))(input, corners) * GRADIENT).sum()

    value, (to_input, to_corners) = jax.value_and_grad(loss, argnums=(0, 1))(FEATURES, CORNERS)
    close(value, (forward(FEATURES, mode) * GRADIENT).sum())
    close(to_input, backward(GRADIENT, mode=mode))
    close(to_corners, backward_boxes(GRADIENT, mode=mode)[:, 1:])


@pytest.mark.parametrize("form", ["rows", "list", "grouped"])
def test_the_gradient_to_boxes_has_their_form(form: str) -> None:
    from roidl.jax import roi_align

    grouped = np.concatenate([CORNERS, CORNERS + 0.37]).reshape(2, 4, 4)
    rows = np.column_stack([np.repeat([0, 1], 4), grouped.reshape(8, 4)])
    boxes: Any = {"rows": rows, "list": [grouped[0], grouped[1]], "grouped": grouped}[form]
    weights = np.random.default_rng(65).standard_normal((8, 3, *SIZE))

    def loss(boxes: Any) -> Any:
        pooled = roi_align(FEATURES, boxes, SIZE, **RULE)
        return (pooled.reshape(weights.shape) * weights).sum()

    got = jax.jit(jax.grad(loss))(boxes)
    expected = oracle.roi_align_backward_boxes(
        weights, FEATURES, rows, coordinates=np.float64, **RULE
    )
    if form == "rows":
        close(got, expected)
    else:
        assert len(got) == 2
        close(np.concatenate(list(got)), expected[:, 1:])


def test_jacobians_and_hessian() -> None:
    """It is linear: its derivative along a pixel is what it makes of that pixel alone."""
    rows = ROWS * np.array([0, 0.5, 0.5, 0.5, 0.5])

    def planes(pixels: Any) -> Any:
        from roidl.jax import roi_align

        return roi_align(pixels.reshape(1, 1, 4, 5), rows, SIZE, **RULE)

    def loss(pixels: Any) -> Any:
        return (planes(pixels) ** 2).sum() / 2

    columns = [
        oracle.roi_align(pixel.reshape(1, 1, 4, 5), rows, SIZE, coordinates=np.float64, **RULE)
        for pixel in np.eye(20)
    ]
    matrix = np.stack(columns, axis=-1)
    pixels = FEATURES.ravel()[:20]
    close(jax.jacfwd(planes)(pixels), matrix)
    close(jax.jacrev(planes)(pixels), matrix)
    matrix = matrix.reshape(-1, 20)
    close(jax.hessian(loss)(pixels), matrix.T @ matrix)
    close(jax.jit(jax.jacrev(jax.grad(loss)))(pixels), matrix.T @ matrix)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_linearize_is_the_tangent(mode: str) -> None:
    tangent = np.random.default_rng(67).standard_normal(FEATURES.shape)
    value, along = jax.linearize(lambda x: align(x, CORNERS, mode), FEATURES)
    close(value, forward(FEATURES, mode))
    # <J t, g> = <t, J^T g>
    inner = (np.asarray(along(tangent)) * GRADIENT).sum()
    close(inner, (tangent * backward(GRADIENT, mode=mode)).sum())


def test_scan_map_and_custom_rules() -> None:
    def loss(input: Any) -> Any:
        def step(total: Any, each: Any) -> Any:
            corners, indices, weight = each
            from roidl.jax import roi_align

            pooled = roi_align(input, corners[None], SIZE, batch_indices=indices[None], **RULE)
            return total + (pooled * weight).sum(), None

        return jax.lax.scan(step, 0.0, (CORNERS, INDICES, GRADIENT))[0]

    close(jax.jit(jax.grad(loss))(FEATURES), backward(GRADIENT))
    images = jax.lax.map(lambda x: align(x, CORNERS), np.stack([FEATURES, 2 * FEATURES]))
    close(images, np.stack([forward(FEATURES), 2 * forward(FEATURES)]))

    doubled: Any = jax.custom_vjp(lambda x: align(x, CORNERS))
    doubled.defvjp(
        lambda x: (align(x, CORNERS), x),
        lambda x, g: (2 * jax.vjp(lambda x: align(x, CORNERS), x)[1](g)[0],),
    )
    close(jax.grad(lambda x: (doubled(x) * GRADIENT).sum())(FEATURES), 2 * backward(GRADIENT))


# By differences -----------------------------------------------------------------------------------


def test_differences_of_the_average_to_second_order() -> None:
    def loss(input: Any) -> Any:
        return (align(input, CORNERS) ** 2).sum()

    check_grads(loss, (FEATURES,), order=2, rtol=1e-5)
    check_grads(lambda x, c: align(x, c), (FEATURES, CORNERS), order=1, rtol=1e-5)


def test_mixed_second_derivatives_by_differences() -> None:
    def to_corners(input: Any, gradient: Any) -> Any:
        return jax.vjp(lambda c: align(input, c), CORNERS)[1](gradient)[0]

    def to_input(corners: Any, gradient: Any) -> Any:
        return jax.vjp(lambda x: align(x, corners), FEATURES)[1](gradient)[0]

    def along(input: Any, tangent: Any) -> Any:
        return jax.jvp(lambda c: align(input, c), (CORNERS,), (tangent,))[1]

    tangent = RNG.standard_normal(CORNERS.shape)
    for function, arguments in (
        (to_corners, (FEATURES, GRADIENT)),
        (along, (FEATURES, tangent)),
    ):
        check_grads(function, arguments, order=2, rtol=1e-5)  # bilinear
    check_grads(to_input, (CORNERS, GRADIENT), order=1, rtol=1e-5)


@pytest.mark.parametrize("mode", ["max", "max_onnx"])
def test_differences_of_the_max_modes(mode: str) -> None:
    def loss(input: Any) -> Any:
        return (align(input, CORNERS, mode) ** 2).sum()

    check_grads(loss, (FEATURES,), order=2, rtol=1e-5, eps=1e-6)
    if mode == "max":
        function = lambda c: align(FEATURES, c, mode)  # noqa: E731, it is an argument
        check_grads(function, (CORNERS,), order=1, modes=["rev"], rtol=1e-5, eps=1e-6)


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_differences_of_roi_pool(mode: str) -> None:
    def loss(input: Any) -> Any:
        return (pool(input, mode) ** 2).sum()

    check_grads(loss, (FEATURES,), order=2, rtol=1e-5, eps=1e-6)


def test_roi_pool_is_constant_in_the_boxes() -> None:
    from roidl.jax import roi_pool

    def loss(boxes: Any) -> Any:
        return roi_pool(FEATURES, boxes, SIZE, SCALE).sum()

    assert not np.any(jax.grad(loss)(ROWS))
    assert not np.any(jax.jvp(loss, (ROWS,), (ROWS,))[1])


# What there is not --------------------------------------------------------------------------------


def second_in_boxes(mode: str) -> Any:
    return jax.hessian(lambda c: align(FEATURES, c, mode).sum())(CORNERS)


def forward_of_max(mode: str) -> Any:
    return jax.jvp(lambda c: align(FEATURES, c, mode), (CORNERS,), (CORNERS,))


def mixed(mode: str) -> Any:
    to_corners = jax.grad(lambda c, x: align(x, c, mode).sum())
    return jax.grad(lambda x: to_corners(CORNERS, x).sum())(FEATURES)


def to_boxes(mode: str) -> Any:
    return jax.grad(lambda c: align(FEATURES, c, mode).sum())(CORNERS)


AVG_ONLY = "along the boxes are implemented for mode 'avg' only"


@pytest.mark.parametrize(
    ("derivative", "mode", "sentence"),
    [
        (second_in_boxes, "avg", "second derivatives along the boxes are not implemented"),
        (second_in_boxes, "max", AVG_ONLY),
        (forward_of_max, "max", AVG_ONLY),
        (mixed, "max", AVG_ONLY),
        (to_boxes, "max_onnx", "mode 'max_onnx' has no gradient to the boxes"),
    ],
)
def test_what_is_not_offered_is_refused(derivative: Any, mode: str, sentence: str) -> None:
    for transform in (lambda f: f, jax.jit):
        with pytest.raises(NotImplementedError, match=f"^roi_align: .*{re.escape(sentence)}"):
            transform(lambda: derivative(mode))()


def test_a_gradient_that_nobody_asks_for_is_not_computed() -> None:
    def loss(input: Any, corners: Any, mode: str = "max_onnx") -> Any:
        return align(input, corners, mode).sum()

    # With a gradient to the boxes max_onnx would have been refused.
    traced = str(jax.make_jaxpr(jax.grad(loss))(FEATURES, CORNERS))
    assert set(re.findall(r"roidl_\w+", traced)) == {"roidl_roi_align", "roidl_roi_align_backward"}
    traced = str(jax.make_jaxpr(jax.grad(lambda c: loss(FEATURES, c, "avg")))(CORNERS))
    assert "roidl_roi_align_backward_boxes" in traced
    assert not re.search(r"roidl_roi_align_backward\b", traced)
