"""A flag is True, False, NumPy's bool, 0 or 1 in every front end; other values are errors."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import Lib
from producers import arrays_of, call, every_argument

FLAGS = [
    (True, np.True_, 1, np.int8(1), np.array(True)),
    (False, np.False_, 0, np.uint64(0), np.array(0)),
]
NO_FLAGS: list[Any] = [
    *("false", "", b"\x01", None, 2, -1, 1.0, np.float32(0), [], [True], {}, NotImplemented),
    *(np.array([True]), np.array(["true"]), np.int64(2)),
]
ALIGN = ("roi_align", "roi_align_backward", "roi_align_backward_boxes")

FEATURES = np.random.default_rng(3).standard_normal((1, 2, 8, 8), dtype=np.float32)
BOXES = np.array([[0, 0.3, 1, 6, 5]], np.float32)


def _refusal(op: str, name: str, value: Any) -> str:
    return f"^{op}: {name} must be True or False, got {re.escape(repr(value))}"


def _arguments(op: str, lib: Lib) -> dict[str, Any]:
    arguments = every_argument(op)
    arguments.pop("out", None)
    return arguments | {name: lib.asarray(each) for name, each in arrays_of(arguments).items()}


def _ways(lib: Lib) -> list[Callable[..., Any]]:
    """The functions that take a library's arrays as (input, boxes, size, scale, ratio, aligned)."""
    name = lib.name.removesuffix("_cuda")
    modules: list[Any] = [roidl]
    if name in ("torch", "jax", "tensorflow"):
        modules.append(importlib.import_module(f"roidl.{name}"))

    def several(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, b, size, scale, *more: function([x], b, size, [scale], *more)

    return [function for module in modules for function in (
        module.roi_align, several(module.multiscale_roi_align)
    )]  # fmt: skip


def test_valid_flags(lib: Lib) -> None:
    x, boxes = lib.asarray(FEATURES), lib.asarray(BOXES)
    for way in _ways(lib):
        results = []
        for values in FLAGS:
            first, *others = [lib.to_numpy(way(x, boxes, 2, 0.5, 2, value)) for value in values]
            for other in others:
                np.testing.assert_array_equal(other, first)
            results.append(first)
        assert not np.array_equal(results[0], results[1])


@pytest.mark.parametrize("value", NO_FLAGS, ids=repr)
def test_invalid_flags(value: Any, lib: Lib) -> None:
    x, boxes = lib.asarray(FEATURES), lib.asarray(BOXES)
    for way in _ways(lib):
        with pytest.raises(TypeError, match=_refusal("(multiscale_)?roi_align", "aligned", value)):
            way(x, boxes, 2, 0.5, 2, value)
    for op in ALIGN:
        with pytest.raises(TypeError, match=_refusal(op, "aligned", value)):
            call(op, **_arguments(op, lib) | {"aligned": value})
    with pytest.raises(TypeError, match=_refusal("roi_pool", "return_argmax", value)):
        roidl.roi_pool(x, boxes, 2, return_argmax=value)
    with pytest.raises(TypeError, match=_refusal("multiscale_roi_pool", "return_argmax", value)):
        roidl.multiscale_roi_pool([x], boxes, 2, [1.0], return_argmax=value)


def test_mode_as_sixth_argument_is_refused(lib: Lib) -> None:
    """A string is refused as sixth argument, where mmcv has the pooling mode."""
    x, boxes = lib.asarray(FEATURES), lib.asarray(BOXES)
    for way in _ways(lib):
        sentence = "aligned must be True or False, got 'max'; the pooling mode is mode="
        with pytest.raises(TypeError, match=f"^(multiscale_)?roi_align: {sentence}$"):
            way(x, boxes, 7, 1 / 16, 2, "max")


@pytest.mark.parametrize("value", ["yes", None, 2])
def test_whether_boxes_are_checked(value: Any) -> None:
    before = roidl.get_check_boxes()
    with pytest.raises(TypeError, match=_refusal("set_check_boxes", "check", value)):
        roidl.set_check_boxes(value)
    assert roidl.get_check_boxes() is before
    for flag in (np.True_, 1):
        roidl.set_check_boxes(flag)  # type: ignore[arg-type]
        assert roidl.get_check_boxes()
        roidl.set_check_boxes(before)


# While a framework traces -------------------------------------------------------------------------


def test_in_a_compiled_function_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    from roidl.torch import roi_align

    x, boxes = torch.from_numpy(FEATURES), torch.from_numpy(BOXES)

    def pooled(x: Any, flag: Any) -> Any:
        return roi_align(x, boxes, 2, 0.5, 2, flag)

    def by_size(x: Any) -> Any:
        return pooled(x, x.shape[2] > 7)

    def tried(x: Any, flag: Any) -> Any:
        try:
            return pooled(x, flag)
        except TypeError as error:
            return str(error)

    compiled = torch.compile(pooled, backend="eager", fullgraph=True)
    for flag in (True, 1, np.int64(1), False, 0):
        torch.testing.assert_close(compiled(x, flag), pooled(x, bool(flag)))
    torch.compiler.reset()
    dynamic = torch.compile(by_size, backend="eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(dynamic(x), pooled(x, True))
    height = {2: torch.export.Dim("height", min=8)}
    module = type("Module", (torch.nn.Module,), {"forward": lambda self, x: by_size(x)})()
    exported = torch.export.export(module, (x,), dynamic_shapes=(height,))
    torch.testing.assert_close(exported.module()(x), pooled(x, True))
    refused = torch.compile(tried, backend="eager")(x, "max")
    assert refused.endswith("got 'max'; the pooling mode is mode=")


def test_in_a_graph_of_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    from roidl.tensorflow import roi_align

    x, boxes = tf.constant(FEATURES), tf.constant(BOXES)

    def graph(flag: Any) -> Any:
        return tf.function(lambda x: roi_align(x, boxes, 2, 0.5, 2, flag))(x)

    for flag in (np.True_, 1, True):
        np.testing.assert_array_equal(graph(flag), roi_align(x, boxes, 2, 0.5, 2, True))
    with pytest.raises(TypeError, match="aligned must be True or False, got 'max'"):
        graph("max")


def test_flags_of_a_keras_layer() -> None:
    pytest.importorskip("keras")
    from roidl.keras import MultiScaleRoIAlign, RoIAlign

    for value in ("max", None, 2):
        with pytest.raises(TypeError, match=_refusal("roi_align", "aligned", value)):
            RoIAlign(2, 0.5, 2, value)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=_refusal("multiscale_roi_align", "aligned", value)):
            MultiScaleRoIAlign(2, [0.5], 2, value)  # type: ignore[arg-type]
    layer = RoIAlign(2, 0.5, 2, np.True_)  # type: ignore[arg-type]
    assert layer.get_config()["aligned"] is True
