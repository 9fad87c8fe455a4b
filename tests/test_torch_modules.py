"""PyTorch's modules, as torchvision has them, and the tracers: TorchScript and torch.fx."""

from __future__ import annotations

import importlib
import io
import pickle
from typing import Any

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
