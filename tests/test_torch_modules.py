"""PyTorch's modules, as torchvision has them, and the tracers: TorchScript and torch.fx."""

from __future__ import annotations

import importlib
import io
import pickle
from typing import Any

import numpy as np
import pytest

import roidl

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

SIZE = (2, 3)


def features_tensor() -> Any:
    return torch.rand(2, 5, 7, 9, generator=torch.Generator().manual_seed(7))


def boxes_tensor() -> Any:
    corners = 12 * torch.rand(6, 4, generator=torch.Generator().manual_seed(8))
    images = torch.tensor([0.0, 1, 0, 1, 0, 1])
    return torch.cat([images[:, None], corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)


def call(op: str, input: Any, boxes: Any) -> Any:
    return getattr(ops, op)(input, boxes, SIZE, 0.5)


MODULES = [
    ("RoIAlign", (3, 0.5, 2, True), "(output_size=3, spatial_scale=0.5, sampling_ratio=2, "
                                    "aligned=True)"),
    ("RoIAlign", ((2, 3), 0.5, -1), "(output_size=(2, 3), spatial_scale=0.5, sampling_ratio=-1, "
                                    "aligned=False)"),
    ("RoIAlign", ([2, 3], 1, [1, 2]), "(output_size=[2, 3], spatial_scale=1, "
                                      "sampling_ratio=[1, 2], aligned=False)"),
    ("RoIAlign", (np.int64(3), np.float32(0.5), np.int32(2), np.True_),
     "(output_size=3, spatial_scale=0.5, sampling_ratio=2, aligned=True)"),
    ("RoIAlign", ((np.int64(2), 3), 0.5, 2, 1), "(output_size=(2, 3), spatial_scale=0.5, "
                                                "sampling_ratio=2, aligned=True)"),
    ("RoIPool", ([7, 7], 0.5), "(output_size=[7, 7], spatial_scale=0.5)"),
    ("RoIPool", (3, 0.5), "(output_size=3, spatial_scale=0.5)"),
    ("RoIPool", ((2, 3), 0.25), "(output_size=(2, 3), spatial_scale=0.25)"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("name", "arguments", "text"), MODULES)
def test_modules(name: str, arguments: Any, text: str) -> None:
    module = getattr(ops, name)(*arguments)
    assert repr(module) == name + text
    function = ops.roi_align if name == "RoIAlign" else ops.roi_pool
    x, boxes = features_tensor(), boxes_tensor()
    listed = [boxes[::2, 1:], boxes[1::2, 1:]]
    for given in (boxes, listed):
        assert torch.equal(module(x, rois=given), function(x, given, *arguments))

    scripted, file = torch.jit.script(module), io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    scripted = torch.jit.load(file)
    for given in (boxes, listed):
        assert torch.equal(scripted(x, given), module(x, given))
    y, z = (x.clone().requires_grad_() for _ in range(2))
    scripted(y, boxes).sum().backward()
    module(z, boxes).sum().backward()
    assert torch.equal(y.grad, z.grad)
    traced = torch.jit.trace(module, (x, boxes))
    assert torch.equal(traced(x, boxes[:4]), module(x, boxes[:4]))


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "error", "sentence"),
    [
        ("RoIAlign", {"mode": "mean"}, ValueError, "mode must be one of 'avg', 'max', 'max_onnx', "
                                                   "got 'mean'"),
        ("RoIPool", {"mode": "maximum"}, ValueError, "mode must be one of 'max', 'avg', "
                                                     "got 'maximum'"),
        ("RoIAlign", {"output_size": (1, 2, 3)}, ValueError, "output_size must be an integer or a "
                                                             "pair, got "),
        ("RoIPool", {"output_size": [7]}, ValueError, "output_size must be an integer or a pair, "
                                                      "got [7]"),
        ("RoIPool", {"output_size": 0}, ValueError, "output_size must be at least 1, got 0"),
        ("RoIAlign", {"spatial_scale": 0.0}, ValueError, "spatial_scale must be positive"),
        ("RoIPool", {"spatial_scale": float("nan")}, ValueError, "spatial_scale must be positive"),
        ("RoIAlign", {"sampling_ratio": (1, 2, 3)}, ValueError, "sampling_ratio must be an integer "
                                                                "or a pair, got "),
        ("RoIAlign", {"aligned": 2}, TypeError, "aligned must be True or False, got 2"),
    ],
)  # fmt: skip
def test_parameters_are_checked_by_constructors_and_by_calls(
    name: str, change: Any, error: type[Exception], sentence: str
) -> None:
    op = "roi_align" if name == "RoIAlign" else "roi_pool"
    options = {"output_size": 2, "spatial_scale": 1.0}
    options |= {"sampling_ratio": 2} if op == "roi_align" else {}
    with pytest.raises(error) as caught:
        getattr(ops, name)(**options | change)
    assert str(caught.value).startswith(f"{op}: {sentence}")
    module = getattr(ops, name)(**options)
    for attribute, value in change.items():
        setattr(module, attribute, value)
    x, boxes = features_tensor(), boxes_tensor()
    with pytest.raises(error) as caught:
        module(x, boxes)
    assert str(caught.value).startswith(f"{op}: {sentence}")
    scripted = torch.jit.script(module)
    with pytest.raises(RuntimeError) as raised:  # TorchScript knows no other kind
        scripted(x, boxes)
    assert f"{error.__name__}: {op}: {sentence}" in str(raised.value)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("output_size", [7, 7]), ("output_size", (2, 5)), ("mode", "max"), ("aligned", 1),
     ("sampling_ratio", [1, 2]), ("spatial_scale", 1)],
)  # fmt: skip
def test_attributes_that_are_changed_count_in_both_forms(attribute: str, value: Any) -> None:
    options: Any = {"output_size": 3, "spatial_scale": 0.5, "sampling_ratio": 2, "aligned": False}
    module, (x, boxes) = ops.RoIAlign(**options), (features_tensor(), boxes_tensor())
    setattr(module, attribute, value)
    expected = ops.roi_align(x, boxes, **options | {attribute: value})
    assert not torch.equal(expected, ops.roi_align(x, boxes, **options))
    assert torch.equal(module(x, boxes), expected)
    assert torch.equal(torch.jit.script(module)(x, boxes), expected)


def test_no_string_is_a_flag_in_either_form() -> None:
    with pytest.raises(TypeError, match="roi_align: aligned must be True or False, got 'max'"):
        ops.RoIAlign(2, 1.0, 2, "max")
    module = ops.RoIAlign(2, 1.0, 2)
    module.aligned = "max"
    with pytest.raises(TypeError, match="roi_align: aligned must be True or False, got 'max'"):
        module(features_tensor(), boxes_tensor())
    with pytest.raises(RuntimeError, match="'aligned' but instead found type 'str'"):
        torch.jit.script(module)


@pytest.mark.parametrize("module", [("RoIAlign", 2, 1.0, 2), ("RoIPool", 2, 1.0)])
def test_boxes_are_checked_in_both_forms(module: Any) -> None:
    name, *arguments = module
    eager, x = getattr(ops, name)(*arguments), features_tensor()
    scripted, rows = torch.jit.script(eager), boxes_tensor()
    corners = rows[:, 1:]
    for wrong, words in (
        ([corners], "a list of boxes must have one array per image (2), got 1"),
        ([corners] * 3, "a list of boxes must have one array per image (2), got 3"),
        ([corners, corners[:, :3]], "boxes[1] must have shape [L, 4], got [6, 3]"),
        ([corners, corners.to("meta")], "boxes must be on the device of the features"),
        (corners, "boxes must have shape [K, 5], got [6, 4]"),
        (rows + 1, "the batch index of row 1 is 2"),
        (rows * float("nan"), "row 0"),
    ):
        for call, error in ((eager, ValueError), (scripted, RuntimeError)):
            with pytest.raises(error) as caught:
                call(x, wrong)
            assert words in str(caught.value)
    # What eager calls take, scripted ones do: types that differ, images without boxes.
    for fine in ([corners.double(), corners.int()], [corners[:0], corners], [corners[:0]] * 2):
        assert torch.equal(scripted(x, fine), eager(x, fine))


# Tracers ------------------------------------------------------------------------------------------


def test_fx_sees_a_leaf() -> None:
    graph = torch.fx.symbolic_trace(lambda x, b: ops.roi_align(x + 1, b, SIZE, 0.5))
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"][1:] == [
        ops.roi_align
    ]
    x, boxes = features_tensor(), boxes_tensor()
    assert torch.equal(graph(x, boxes), call("roi_align", x + 1, boxes))
    listed = torch.fx.symbolic_trace(lambda x, a, b: roidl.roi_pool(x, [a, b], SIZE, 0.5))
    lists = boxes[:3, 1:], boxes[3:, 1:]
    assert torch.equal(listed(x, *lists), call("roi_pool", x, list(lists)))


def test_the_names_are_where_one_imports_them_from() -> None:
    for function in (ops.roi_align, ops.roi_pool):
        assert function.__module__ == "roidl.torch"
        assert pickle.loads(pickle.dumps(function)) is function
