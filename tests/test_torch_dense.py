"""Tensors of PyTorch that no kernel reads are refused by what they are, in every argument."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import roidl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

X, G = torch.rand(2, 3, 8, 8), torch.ones(2, 3, 2, 2)
BOXES = torch.tensor([[0, 1.0, 1, 4, 4], [1, 1, 1, 5, 5]])
CORNERS, INDICES = BOXES[:, 1:].contiguous(), torch.tensor([0.0, 1.0])
SCALES = [1.0, 0.5]


def _nested(tensor: Any, **options: Any) -> Any:
    return torch.nested.nested_tensor([tensor[0], tensor[1]], **options)


# How a tensor is made, and what is said of it, with its name in place of {}
KINDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "quantised": (
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.quint8),
        "a quantised tensor (torch.quint8); pass {}.dequantize()",
    ),
    "quantised by channel": (
        lambda tensor: torch.quantize_per_channel(
            tensor, torch.ones(len(tensor)), torch.zeros(len(tensor)), 0, torch.qint8
        ),
        "a quantised tensor (torch.qint8); pass {}.dequantize()",
    ),
    "sparse": (
        lambda tensor: tensor.to_sparse(),
        "a sparse tensor (torch.sparse_coo); pass {}.to_dense()",
    ),
    "MKL-DNN": (
        lambda tensor: tensor.to_mkldnn(),
        "an MKL-DNN tensor (torch._mkldnn); pass {}.to_dense()",
    ),
    "nested": (_nested, "a nested tensor; pass torch.nested.to_padded_tensor({}, 0)"),
    "jagged": (
        lambda tensor: _nested(tensor, layout=torch.jagged),
        "a nested tensor; pass torch.nested.to_padded_tensor({}, 0)",
    ),
}


def _calls(spoil: Callable[[Any], Any]) -> list[tuple[str, str, Callable[[], Any]]]:
    """The operator, the argument that is spoilt, and the call."""
    from roidl import torch as ops

    kept = X.clone().requires_grad_()
    return [
        ("roi_align", "input", lambda: ops.roi_align(spoil(X), BOXES, 2)),
        ("roi_align", "input", lambda: ops.roi_align(spoil(X), [CORNERS, CORNERS], 2)),
        ("roi_align", "boxes", lambda: ops.roi_align(X, spoil(BOXES), 2)),
        ("roi_align", "boxes", lambda: ops.roi_align(kept, spoil(BOXES), 2)),
        ("roi_align", "boxes", lambda: roidl.roi_align(X.numpy(), spoil(BOXES), 2)),
        ("roi_align", "boxes[1]", lambda: ops.roi_align(X, [CORNERS, spoil(CORNERS)], 2)),
        ("roi_align", "out", lambda: roidl.roi_align(X, BOXES, 2, out=spoil(G))),
        ("roi_pool", "input", lambda: ops.roi_pool(spoil(X), BOXES, 2)),
        ("roi_align_backward", "boxes",
         lambda: roidl.roi_align_backward(G, spoil(BOXES), X.shape)),
        ("roi_align_backward", "input",
         lambda: roidl.roi_align_backward(G, BOXES, X.shape, mode="max", input=spoil(X))),
        ("multiscale_roi_align", "input[1]",
         lambda: ops.multiscale_roi_align([X, spoil(X)], BOXES, 2, SCALES)),
        ("multiscale_roi_align", "boxes",
         lambda: ops.multiscale_roi_align([X, X], spoil(BOXES), 2, SCALES)),
        ("multiscale_roi_align", "boxes[0]",
         lambda: ops.multiscale_roi_align([X, X], [spoil(CORNERS), CORNERS], 2, SCALES)),
        ("multiscale_roi_align_backward", "input[0]",
         lambda: roidl.multiscale_roi_align_backward(
             G, BOXES, [X.shape] * 2, SCALES, mode="max", inputs=[spoil(X), X])),
        ("assign_levels", "boxes", lambda: ops.assign_levels(spoil(BOXES), SCALES)),
        ("assign_levels", "boxes", lambda: roidl.assign_levels(spoil(BOXES), SCALES)),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_dense(kind: str) -> None:
    spoil, found = KINDS[kind]
    for op, name, function in _calls(spoil):
        said = found.format(name)
        if name == "boxes" and kind in ("nested", "jagged"):
            said = "a nested tensor; pass boxes.unbind()"
        sentence = re.escape(f"{op}: {name} must be dense, got {said}")
        with pytest.raises(TypeError, match=f"^{sentence}$"):
            function()


@pytest.mark.parametrize("kind", ["quantised", "sparse", "MKL-DNN", "nested"])
def test_tensors_of_one_axis_and_gradients(kind: str) -> None:
    from roidl import torch as ops

    spoil = KINDS[kind][0]
    indices = spoil(INDICES)
    calls: dict[str, Callable[[], Any]] = {
        "batch_indices": lambda: ops.roi_align(X, CORNERS, 2, batch_indices=indices),
        "levels": lambda: ops.multiscale_roi_align([X, X], BOXES, 2, SCALES, levels=indices),
        "counts": lambda: ops.multiscale_roi_align(
            [X, X], CORNERS[:, None], 2, SCALES, counts=indices
        ),
        "grad_output": lambda: torch.ops.roidl.roi_align_backward(
            spoil(G), None, BOXES, None, 2, 8, 8, False, 2, 2, 1.0, 2, 2, False, 0, 0
        ),
        "argmax": lambda: torch.ops.roidl.roi_pool_backward(
            G, spoil(G), BOXES, None, 2, 8, 8, False, 2, 2, 1.0, 0, 0
        ),
    }
    for name, function in calls.items():
        with pytest.raises(TypeError, match=f"^\\w+: {name} must be dense, got an? "):
            function()


def test_what_the_advice_gives_is_taken() -> None:
    from roidl import torch as ops

    expected = ops.roi_align(X, BOXES, 2)
    for kind in ("sparse", "MKL-DNN"):
        spoilt = KINDS[kind][0](BOXES)
        torch.testing.assert_close(ops.roi_align(X, spoilt.to_dense(), 2), expected)
    boxes = KINDS["quantised"][0](BOXES).dequantize()
    torch.testing.assert_close(ops.roi_align(X, boxes, 2), expected)
    nested = torch.nested.nested_tensor([CORNERS[:1], CORNERS[1:]])
    torch.testing.assert_close(ops.roi_align(X, nested.unbind(), 2), expected)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool])
def test_a_list_has_the_types_of_one_array(dtype: Any) -> None:
    from roidl import torch as ops

    boxes = [CORNERS, CORNERS.to(dtype)]
    name = str(dtype).removeprefix("torch.")
    sentence = f"roi_align: boxes must be of a float or integer type, got {name}"
    with pytest.raises(TypeError, match=f"^{sentence}$"):
        ops.roi_align(X, boxes, 2)
    with pytest.raises(TypeError, match=f"^multiscale_{sentence}$"):
        ops.multiscale_roi_align([X, X], boxes, 2, SCALES)


def test_a_subclass_without_behaviour_is_a_tensor() -> None:
    from roidl import torch as ops

    kind: Any = type("Kind", (torch.Tensor,), {})
    result: Any = ops.roi_align(X.as_subclass(kind), BOXES.as_subclass(kind), 2)
    assert type(result) is kind
    np.testing.assert_array_equal(result.as_subclass(torch.Tensor), ops.roi_align(X, BOXES, 2))
