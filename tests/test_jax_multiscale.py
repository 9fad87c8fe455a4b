"""`roidl.jax` on several maps at once: by the oracle on each map, by differences, and padded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import oracle
from conftest import Lib, NumpyArray, numpy_dtype
from trials import assert_close, from_nchw, to_nchw

jax = pytest.importorskip("jax")
jnp = jax.numpy
check_grads: Any = pytest.importorskip("jax.test_util").check_grads

SIZE = (2, 3)
SCALES = (1.0, 1 / 2, 1 / 4)
# Sides of 8 and of 16 pixels are the borders between the maps.
RULE: dict[str, Any] = {"canonical_scale": 8, "canonical_level": 1}
SAMPLES: dict[str, Any] = {"sampling_ratio": 2, "aligned": True}

RNG = np.random.default_rng(81)
MAPS = [RNG.standard_normal((2, 3, int(24 * scale), int(20 * scale))) for scale in SCALES]
SHAPES = [each.shape for each in MAPS]
SIDES = np.array([[5.1, 6.2], [7.3, 4.4], [9.1, 10.2], [11.2, 12.1], [18.3, 17.4], [21.1, 16.7]])
CORNER = RNG.uniform(0.1, 2.9, (6, 2))
CORNERS = np.concatenate([CORNER, CORNER + SIDES], axis=1)[[0, 2, 4, 1, 3, 5]]
INDICES = np.array([0, 1, 0, 1, 1, 0], np.int32)
ROWS = np.column_stack([INDICES, CORNERS])
LEVELS = np.array([0, 1, 2, 0, 1, 2])
GRADIENT = RNG.standard_normal((6, 3, *SIZE))
# The same boxes by image, each image's followed by rows that hold none.
COUNTS = np.array([3, 3])
PADDED = np.full((2, 5, 4), np.nan)
PADDED[0, :3], PADDED[1, :3] = CORNERS[INDICES == 0], CORNERS[INDICES == 1]
ORDER = np.argsort(INDICES, kind="stable")


@pytest.fixture(autouse=True)
def lib(get_lib: Callable[[str], Lib]) -> Lib:
    """With 64-bit types, for differences."""
    return get_lib("jax")


def align(maps: Any, corners: Any, mode: str = "avg", **more: Any) -> Any:
    """On corners alone: a batch index has no derivative."""
    from roidl.jax import multiscale_roi_align

    more = {"batch_indices": INDICES} | RULE | SAMPLES | more
    return multiscale_roi_align(maps, corners, SIZE, SCALES, mode=mode, **more)


def pool(maps: Any, boxes: Any, **more: Any) -> Any:
    from roidl.jax import multiscale_roi_pool

    return multiscale_roi_pool(maps, boxes, SIZE, SCALES, **RULE, **more)


def rows_by_level() -> list[NumpyArray]:
    return [np.flatnonzero(level == LEVELS) for level in range(len(SCALES))]


def in_layout(maps: list[NumpyArray], layout: str) -> list[NumpyArray]:
    return [from_nchw(each, layout) for each in maps]


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def expected_of_align(mode: str) -> tuple[NumpyArray, list[NumpyArray], NumpyArray]:
    """The result, and for GRADIENT those to the maps and to the corners, by the oracle."""
    out, to_maps, to_corners = np.zeros_like(GRADIENT), [], np.zeros_like(CORNERS)
    options: dict[str, Any] = {"mode": mode, "coordinates": np.float64} | SAMPLES
    for features, scale, rows in zip(MAPS, SCALES, rows_by_level(), strict=True):
        boxes, gradient = ROWS[rows], GRADIENT[rows]
        out[rows] = oracle.roi_align(features, boxes, SIZE, scale, **options)
        to_maps.append(oracle.roi_align_backward(gradient, features, boxes, scale, **options))
        if mode != "max_onnx":
            grad = oracle.roi_align_backward_boxes(gradient, features, boxes, scale, **options)
            to_corners[rows] = grad[:, 1:]
    return out, to_maps, to_corners


# By the oracle ------------------------------------------------------------------------------------


def test_the_boxes_are_of_the_levels_that_they_are_said_to_be_of() -> None:
    from roidl.jax import assign_levels

    assert np.array_equal(assign_levels(CORNERS, SCALES, **RULE), LEVELS)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.checkpoint])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["avg", "max", "max_onnx"])
def test_roi_align_and_its_gradients(mode: str, layout: str, transform: Any) -> None:
    def loss(maps: Any, corners: Any) -> Any:
        out = transform(lambda m, c: align(m, c, mode, layout=layout))(maps, corners)
        return (out * from_nchw(GRADIENT, layout)).sum(), out

    argnums = 0 if mode == "max_onnx" else (0, 1)
    maps = in_layout(MAPS, layout)
    grads, out = jax.grad(loss, argnums=argnums, has_aux=True)(maps, CORNERS)
    expected, to_maps, to_corners = expected_of_align(mode)
    close(to_nchw(np.asarray(out), layout), expected)
    if mode != "max_onnx":
        grads, to_boxes = grads
        close(to_boxes, to_corners)
    for grad, each in zip(grads, to_maps, strict=True):
        close(to_nchw(np.asarray(grad), layout), each)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_other_dtypes(dtype: str) -> None:
    maps = [each.astype(numpy_dtype(dtype)) for each in MAPS]
    rows = ROWS.astype(np.float32)
    out = jax.jit(lambda m, b: align(m, b, batch_indices=None))(maps, rows)
    assert out.dtype == dtype
    for features, scale, at in zip(maps, SCALES, rows_by_level(), strict=True):
        assert_close(
            np.asarray(out)[at], oracle.roi_align(features, rows[at], SIZE, scale, **SAMPLES)
        )


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_roi_pool_and_its_gradient(mode: str, layout: str) -> None:
    def loss(maps: Any) -> Any:
        out = pool(maps, ROWS, mode=mode, layout=layout)
        return (out * from_nchw(GRADIENT, layout)).sum(), out

    maps = in_layout(MAPS, layout)
    grads, out = jax.jit(jax.grad(loss, has_aux=True))(maps)
    out = to_nchw(np.asarray(out), layout)
    argmax = pool(maps, ROWS, layout=layout, return_argmax=True)[1] if mode == "max" else None
    for features, scale, rows, grad in zip(MAPS, SCALES, rows_by_level(), grads, strict=True):
        expected, cells = oracle.roi_pool(features, ROWS[rows], SIZE, scale, mode=mode)
        close(out[rows], expected)
        if argmax is not None:
            assert cells is not None
            assert np.array_equal(to_nchw(np.asarray(argmax), layout)[rows], cells)
        expected = oracle.roi_pool_backward(
            GRADIENT[rows], ROWS[rows], cells, features.shape, scale, mode=mode
        )
        close(to_nchw(np.asarray(grad), layout), expected)


def test_given_levels_replace_the_rule() -> None:
    levels = (LEVELS + 1) % 3
    out = jax.jit(lambda levels: align(MAPS, CORNERS, levels=levels))(levels)
    for level, (features, scale) in enumerate(zip(MAPS, SCALES, strict=True)):
        rows = np.flatnonzero(levels == level)
        expected = oracle.roi_align(
            features, ROWS[rows], SIZE, scale, coordinates=np.float64, **SAMPLES
        )
        close(np.asarray(out)[rows], expected)


def test_boxes_of_every_form() -> None:
    expected, _, _ = expected_of_align("avg")
    listed = [jnp.asarray(CORNERS[image == INDICES]) for image in range(2)]
    close(align(MAPS, ROWS, batch_indices=None), expected)
    close(align(MAPS, listed, batch_indices=None), expected[ORDER])
    grouped = align(MAPS, PADDED[:, :3], batch_indices=None)
    assert grouped.shape == (2, 3, 3, *SIZE)
    close(grouped.reshape(6, 3, *SIZE), expected[ORDER])


def test_a_single_map_is_a_list_of_one() -> None:
    from roidl.jax import multiscale_roi_align, roi_align

    def pooled(maps: Any) -> Any:
        return multiscale_roi_align(maps, ROWS, SIZE, SCALES[:1], **SAMPLES)

    expected, pull = jax.vjp(lambda x: roi_align(x, ROWS, SIZE, **SAMPLES), MAPS[0])
    out, pull_one = jax.vjp(pooled, MAPS[:1])
    assert np.array_equal(out, expected)
    assert np.array_equal(pull_one(GRADIENT)[0][0], pull(GRADIENT)[0])


# Padding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_padding_gives_zeros_and_has_no_gradient(mode: str) -> None:
    weights = np.full((2, 5, 3, *SIZE), 1e3)
    weights[:, :3] = GRADIENT[ORDER].reshape(2, 3, 3, *SIZE)

    def loss(maps: Any, boxes: Any, counts: Any) -> Any:
        out = align(maps, boxes, mode, batch_indices=None, counts=counts)
        return (out * weights).sum(), out

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    expected, to_maps, to_corners = expected_of_align(mode)
    grads, out = gradients(MAPS, PADDED, COUNTS)
    close(out[:, :3].reshape(6, 3, *SIZE), expected[ORDER])
    assert not np.any(out[:, 3:])
    for grad, each in zip(grads[0], to_maps, strict=True):
        close(grad, each)
    close(grads[1][:, :3].reshape(6, 4), to_corners[ORDER])
    assert not np.any(grads[1][:, 3:])
    # The program is compiled once for any counts.
    grads, out = gradients(MAPS, PADDED, np.array([0, 1]))
    assert gradients._cache_size() == 1
    assert not np.any(out[0])
    assert not np.any(out[1, 1:])
    assert np.any(out[1, 0])
    assert not any(np.any(grad[0]) for grad in grads[0])


def test_padding_has_no_tangent() -> None:
    tangents = (MAPS, np.ones_like(PADDED))
    function = lambda m, b: align(m, b, batch_indices=None, counts=COUNTS)  # noqa: E731, an argument
    tangent = np.asarray(jax.jvp(function, (MAPS, PADDED), tangents)[1])
    assert np.all(np.isfinite(tangent))
    assert np.any(tangent[:, :3])
    assert not np.any(tangent[:, 3:])


def test_padding_of_roi_pool() -> None:
    def loss(maps: Any) -> Any:
        out, argmax = pool(maps, PADDED, counts=COUNTS, return_argmax=True)
        return out.sum(), (out, argmax)

    grads, (out, argmax) = jax.jit(jax.grad(loss, has_aux=True))(MAPS)
    assert not np.any(out[:, 3:])
    assert np.all(np.asarray(argmax)[:, 3:] == -1)
    filled = np.count_nonzero(np.asarray(argmax) >= 0)
    assert sum(float(grad.sum()) for grad in grads) == filled > 0


# Derivatives --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_differences_along_the_maps_to_second_order(mode: str) -> None:
    check_grads(
        lambda maps: (align(maps, CORNERS, mode) ** 2).sum(), (MAPS,), order=2, rtol=1e-5, eps=1e-6
    )


def test_differences_along_the_boxes() -> None:
    check_grads(lambda c: align(MAPS, c), (CORNERS,), order=1, rtol=1e-5)
    check_grads(lambda m, c: align(m, c), (MAPS, CORNERS), order=1, rtol=1e-5)
    check_grads(lambda c: align(MAPS, c, "max"), (CORNERS,), 1, ["rev"], rtol=1e-5, eps=1e-6)


def test_mixed_second_derivatives_by_differences() -> None:
    def to_corners(maps: Any, gradient: Any) -> Any:
        return jax.vjp(lambda c: align(maps, c), CORNERS)[1](gradient)[0]

    def to_maps(corners: Any, gradient: Any) -> Any:
        return jax.vjp(lambda m: align(m, corners), MAPS)[1](gradient)[0]

    check_grads(to_corners, (MAPS, GRADIENT), order=2, rtol=1e-5)  # bilinear
    check_grads(to_maps, (CORNERS, GRADIENT), order=1, rtol=1e-5)


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_differences_of_roi_pool(mode: str) -> None:
    def loss(maps: Any) -> Any:
        return (pool(maps, ROWS, mode=mode) ** 2).sum()

    check_grads(loss, (MAPS,), order=2, rtol=1e-5, eps=1e-6)
    assert not np.any(jax.grad(lambda boxes: pool(MAPS, boxes, mode=mode).sum())(ROWS))


def test_one_map_alone_may_be_differentiated() -> None:
    _, to_maps, _ = expected_of_align("avg")

    def middle(features: Any) -> Any:
        return align([MAPS[0], features, MAPS[2]], CORNERS)

    close(jax.vjp(middle, MAPS[1])[1](GRADIENT)[0], to_maps[1])
    tangent = np.asarray(jax.jvp(middle, (MAPS[1],), (MAPS[1],))[1])
    close(tangent[LEVELS == 1], expected_of_align("avg")[0][LEVELS == 1])
    assert not np.any(tangent[LEVELS != 1])
    along = jax.linear_transpose(lambda maps: align(maps, CORNERS), MAPS)
    for grad, each in zip(along(GRADIENT)[0], to_maps, strict=True):
        close(grad, each)


@pytest.mark.parametrize(
    ("mode", "derivative", "sentence"),
    [
        ("avg", jax.hessian, "second derivatives along the boxes are not implemented"),
        ("max", jax.jacfwd, "along the boxes are implemented for mode 'avg' only"),
        ("max_onnx", jax.grad, "mode 'max_onnx' has no gradient to the boxes"),
    ],
)
def test_what_is_not_offered_is_refused(mode: str, derivative: Any, sentence: str) -> None:
    with pytest.raises(
        NotImplementedError, match=f"^multiscale_roi_align: .*{re.escape(sentence)}"
    ):
        derivative(lambda c: align(MAPS, c, mode).sum())(CORNERS)
