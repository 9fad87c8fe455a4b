"""Values that are not arrays: shapes of inputs, and other objects of array libraries."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import Lib
from producers import call, every_argument

SHAPE = (2, 3, 7, 9)
GRAD = np.ones((1, 3, 2, 2), np.float32)
BOXES = np.array([[1, 1.0, 1, 5, 5]], np.float32)
ARGMAX = np.full(GRAD.shape, 20, np.int32)


def _backward(lib: Lib, shape: Any) -> dict[str, Callable[[], Any]]:
    """A call of each operator that takes the shape of its input."""
    grad, boxes, argmax = map(lib.asarray, (GRAD, BOXES, ARGMAX))
    one, scales = [shape], [1.0]
    return {
        "roi_align_backward": lambda: roidl.roi_align_backward(grad, boxes, shape),
        "roi_pool_backward": lambda: roidl.roi_pool_backward(grad, boxes, argmax, shape),
        "multiscale_roi_align_backward": lambda: roidl.multiscale_roi_align_backward(
            grad, boxes, one, scales
        )[0],
        "multiscale_roi_pool_backward": lambda: roidl.multiscale_roi_pool_backward(
            grad, boxes, argmax, one, scales
        )[0],
    }


def _shapes(lib: Lib) -> list[Any]:
    numbers = np.array(SHAPE)
    shapes = [lib.asarray(np.zeros(SHAPE, np.float32)).shape, SHAPE, list(SHAPE), numbers]
    shapes += [list(numbers), tuple(np.int32(size) for size in SHAPE), lib.asarray(numbers)]
    return shapes


def test_a_shape_is_a_shape_in_every_library(lib: Lib) -> None:
    for shape in _shapes(lib):
        for function in _backward(lib, shape).values():
            assert tuple(function().shape) == SHAPE


@pytest.mark.parametrize("other", ["torch", "tensorflow", "jax"])
def test_a_shape_of_another_library(other: str, get_lib: Callable[[str], Lib]) -> None:
    for shape in _shapes(get_lib(other)):
        for function in _backward(get_lib("numpy"), shape).values():
            assert function().shape == SHAPE


def test_invalid_shapes(lib: Lib) -> None:
    wrong = [None, 7, "2379", (2, 3, 7.5, 9), (2, None, 7, 9), object(), np.zeros((2, 2))]
    if lib.name == "tensorflow":
        import tensorflow as tf

        wrong += [tf.TensorShape(None), tf.TensorShape([None, 3, 7, 9])]
    for shape in wrong:
        for op, function in _backward(lib, shape).items():
            name = r"input_shapes\[0\]" if op.startswith("multi") else "input_shape"
            sentence = f"^{op}: {name} must be four integers, got {re.escape(repr(shape))}$"
            with pytest.raises(TypeError, match=sentence):
                function()


class Shaped:
    """A gradient with an unusual shape attribute."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("was asked for its elements")


BACKWARD = ("roi_align_backward", "roi_align_backward_boxes", "roi_pool_backward")


@pytest.mark.parametrize("shape", [(1, 3, None, 2), (1, 3, 2, "2"), 4, "1322"], ids=repr)
@pytest.mark.parametrize("op", BACKWARD)
def test_a_gradient_whose_shape_is_none(op: str, shape: Any) -> None:
    arguments = every_argument(op) | {"grad_output": Shaped(shape)}
    sentence = f"^{op}: grad_output must have a shape of integers, got {re.escape(repr(shape))}$"
    with pytest.raises(TypeError, match=sentence):
        call(op, **arguments)


@pytest.mark.parametrize("op", BACKWARD)
def test_a_gradient_that_does_not_say_its_shape(op: str) -> None:
    class Moody:
        @property
        def shape(self) -> Any:
            raise RuntimeError("not today")

    with pytest.raises(TypeError, match=f"^{op}: grad_output must be an array .*, got Moody$"):
        call(op, **every_argument(op) | {"grad_output": Moody()})


def _things(name: str) -> list[Any]:
    if name == "torch":
        torch = pytest.importorskip("torch")
        return [
            torch.float32,
            torch.device("cpu"),
            torch.nn.Identity(),
            torch.Tensor,
            torch.strided,
        ]
    if name == "tensorflow":
        tf = pytest.importorskip("tensorflow")
        return [tf.float32, tf.TensorShape([1, 2]), tf.Tensor]
    if name == "jax":
        jax = pytest.importorskip("jax")
        return [jax.numpy.float32, jax.devices()[0], jax.ShapeDtypeStruct((1, 2), "float32")]
    return [np.float32, np.dtype("float32"), np.ndarray]


def _calls(lib: Lib, thing: Any) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Calls with an object in the place of each array."""
    x, boxes = lib.asarray(np.zeros(SHAPE, np.float32)), lib.asarray(BOXES)
    grad, corners = lib.asarray(GRAD), lib.asarray(BOXES[:, 1:])
    return [
        ("roi_align", (thing, boxes, 2), {}),
        ("roi_align", (x, thing, 2), {}),
        ("roi_align", (x, [thing, thing], 2), {}),
        ("roi_align", (x, corners, 2), {"batch_indices": thing}),
        ("roi_pool", (thing, boxes, 2), {}),
        ("roi_align_backward", (grad, thing, SHAPE), {}),
        ("multiscale_roi_align", ([thing], boxes, 2, [1.0]), {}),
        ("multiscale_roi_align", ([x], thing, 2, [1.0]), {}),
        ("multiscale_roi_align", ([x], boxes, 2, [1.0]), {"levels": thing}),
    ]


@pytest.mark.parametrize("name", ["numpy", "torch", "tensorflow", "jax"])
def test_other_objects_of_a_library_are_not_arrays(name: str, lib: Lib) -> None:
    for thing in _things(name):
        for op, arguments, more in _calls(lib, thing):
            with pytest.raises((TypeError, ValueError), match=f"^{op}: .* must be "):
                getattr(roidl, op)(*arguments, **more)
