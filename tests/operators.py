"""Every operator with its gradients: called on arrays of any library, and by the oracle."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import oracle
import roidl
from cases import random_boxes
from conftest import NumpyArray, numpy_dtype
from roidl import _core
from roidl._params import align_params
from trials import assert_close, to_nchw

SIZE = (2, 3)
OPERATORS = (
    ("roi_align", "avg"),
    ("roi_align", "max"),
    ("roi_align", "max_onnx"),
    ("roi_pool", "max"),
    ("roi_pool", "avg"),
)
every_operator = pytest.mark.parametrize(
    ("op", "mode"), OPERATORS, ids=[f"{op}-{mode}" for op, mode in OPERATORS]
)


class Results(NamedTuple):
    pooled: Any
    argmax: Any
    grad_input: Any
    grad_boxes: Any


def call(op: str, mode: str, input: Any, boxes: Any, gradient: Any, **options: Any) -> Results:
    """The operator and its gradients, on arrays of any library and layout."""
    options["mode"] = mode
    outs = {name: options.pop(name, None) for name in ("pooled", "grad_input")}
    shape, layout = tuple(input.shape), options.get("layout", "NCHW")
    size = tuple(gradient.shape)[-2:] if layout == "NCHW" else tuple(gradient.shape)[-3:-1]
    argmax = grad_boxes = None
    if op == "roi_align":
        pooled = roidl.roi_align(input, boxes, size, out=outs["pooled"], **options)
        if mode != "max_onnx":
            grad_boxes = roidl.roi_align_backward_boxes(gradient, input, boxes, **options)
        grad_input = roidl.roi_align_backward(
            gradient, boxes, shape, input=input, out=outs["grad_input"], **options
        )
    else:
        pooled = roidl.roi_pool(
            input, boxes, size, return_argmax=mode == "max", out=outs["pooled"], **options
        )
        if mode == "max":
            pooled, argmax = pooled
        grad_input = roidl.roi_pool_backward(
            gradient, boxes, argmax, shape, out=outs["grad_input"], **options
        )
    return Results(pooled, argmax, grad_input, grad_boxes)


def expect(
    op: str, mode: str, input: NumpyArray, boxes: NumpyArray, gradient: NumpyArray, **options: Any
) -> Results:
    """The expected results of `call`, from NCHW arrays."""
    options["mode"] = mode
    size = gradient.shape[2:]
    argmax = grad_boxes = None
    if op == "roi_align":
        pooled = oracle.roi_align(input, boxes, size, **options)
        if mode != "max_onnx":
            grad_boxes = oracle.roi_align_backward_boxes(gradient, input, boxes, **options)
        grad_input = oracle.roi_align_backward(gradient, input, boxes, **options)
    else:
        pooled, argmax = oracle.roi_pool(input, boxes, size, **options)
        grad_input = oracle.roi_pool_backward(gradient, boxes, argmax, input.shape, **options)
    return Results(pooled, argmax, grad_input, grad_boxes)


def check(results: Results, expected: Results, layout: str = "NCHW") -> None:
    assert_close(to_nchw(results.pooled, layout), expected.pooled)
    assert_close(to_nchw(results.grad_input, layout), expected.grad_input)
    if expected.argmax is not None:
        np.testing.assert_array_equal(to_nchw(results.argmax, layout), expected.argmax)
    if expected.grad_boxes is not None:
        # Differences of several Inf are Inf or NaN, depending on the order of sums.
        finite = np.isfinite(expected.grad_boxes)
        np.testing.assert_array_equal(np.isfinite(results.grad_boxes), finite)
        assert_close(
            np.where(finite, results.grad_boxes, 0), np.where(finite, expected.grad_boxes, 0), 1e-5
        )


def small_problem(dtype: str) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Input, boxes and gradient; the channels are a block and a partial one."""
    rng = np.random.default_rng(31)
    input = rng.standard_normal((2, 18, 7, 9)).astype(numpy_dtype(dtype))
    boxes = random_boxes(rng, 4, 2, 7, 9, 1.0).astype(np.float32)
    return input, boxes, rng.standard_normal((4, 18, *SIZE)).astype(numpy_dtype(dtype))


# A gradient, its box, and a direction of it in which the derivative of every sample is infinite.
INFINITE_STEP = (
    np.random.default_rng(5).standard_normal((1, 3, 2, 2)).astype(np.float32),
    np.array([[0, 5.2, 5.2, 8.7, 8.7]], np.float32),
    np.array([[0, 0, np.inf, 0, 0]], np.float32),
)


def jvp_boxes_backward(gradient: Any, boxes: Any, step: Any, result: Any) -> None:
    """Compute the gradient to the input of the derivative along a step of the boxes."""
    op = "roi_align_jvp_boxes_backward"
    params = align_params(op, gradient.shape[2:], 1.0, 2, True, "avg", "NCHW")
    _core.run_operator(op, params, [gradient, step], boxes, None, result.shape, [result], 1)


def assert_infinite_inside(result: NumpyArray) -> None:
    """With INFINITE_STEP only the rows and columns that bins touch are infinite or NaN."""
    touched = np.zeros((16, 16), bool)
    touched[5:9, 5:9] = True  # samples from 5.14 to 7.76
    assert not np.isfinite(result[:, :, touched]).any()
    assert np.isfinite(result[:, :, ~touched]).all()
