"""PyTorch on CUDA: what fake tensors show of it anywhere, and what a GPU shows where one is."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import Lib

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken
fake_tensor: Any = importlib.import_module("torch._subclasses.fake_tensor")

SCALES = (1 / 2, 1 / 4)
RULE: Any = {"canonical_scale": 6, "canonical_level": 2}
BOXES = [[0, 1.1, 1.2, 5.3, 6.7], [1, 0.7, 1.3, 10.9, 9.1], [1, 2.2, 3.1, 8.4, 7.9]]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def features(device: str, dtype: Any = None) -> list[Any]:
    """Two maps of an image of 12 x 12 pixels."""
    generator = torch.Generator().manual_seed(5)
    dtype = dtype or torch.float32
    return [
        torch.rand(2, 2, side, side, generator=generator).to(device, dtype).requires_grad_()
        for side in (6, 3)
    ]


def boxes_on(device: str, dtype: Any = None) -> Any:
    return torch.tensor(BOXES, dtype=dtype or torch.float32).to(device)


def pooled(maps: list[Any], boxes: Any) -> list[Any]:
    """By every public operator."""
    corners = boxes.narrow(1, 1, 4)  # an index does not work on a fake tensor without CUDA
    listed = [corners.narrow(0, 0, 1), corners.narrow(0, 1, boxes.shape[0] - 1)]
    return [
        ops.roi_align(maps[0], boxes, 2, 1 / 2),
        ops.roi_align(maps[0], listed, 2, 1 / 2, mode="max"),
        ops.roi_pool(maps[0], boxes, 2, 1 / 2),
        ops.multiscale_roi_align(maps, boxes, 2, SCALES, **RULE),
        ops.multiscale_roi_pool(maps, boxes, 2, SCALES, **RULE),
    ]


# Without a GPU ------------------------------------------------------------------------------------
# Reading a number of a fake tensor, as a synchronisation would, is an error. Of autograd there is
# nothing: a PyTorch without CUDA ends the process when it makes a node for such a tensor.


@pytest.fixture
def fake() -> Iterator[Any]:
    with fake_tensor.FakeTensorMode() as mode:
        yield mode


def fakes(device: str = "cuda") -> tuple[list[Any], Any]:
    return [torch.rand(2, 2, side, side, device=device) for side in (6, 3)], torch.rand(
        3, 5, device=device
    )


@pytest.mark.usefixtures("fake")
def test_nothing_reads_the_data_of_tensors_on_cuda() -> None:
    maps, boxes = fakes("cuda:1")
    results = pooled(maps, boxes)
    assert {(str(result.device), tuple(result.shape)) for result in results} == {
        ("cuda:1", (3, 2, 2, 2))
    }
    levels = ops.assign_levels(boxes, SCALES, **RULE)
    assert (levels.device, levels.shape) == (boxes.device, (3,))


@pytest.mark.usefixtures("fake")
def test_derivatives_on_cuda_are_there() -> None:
    maps, boxes = fakes()
    gradient = torch.rand(3, 2, 2, 2, device="cuda")
    align, none = (2, 2, 1.0, 2, 2, False, 0, 0), (None, None, None)
    pyramid = (SCALES, 6.0, 2.0, 2, 2, 2, 2, False, 0, 0)
    sizes = (2, [6, 6, 3, 3], [False, False])
    single, many = (
        torch.ops.roidl.roi_align_backward(gradient, None, boxes, None, 2, 6, 6, False, *align),
        torch.ops.roidl.multiscale_roi_align_backward(gradient, [], boxes, *none, *sizes, *pyramid),
    )
    for grad, map in zip([single, *many], [maps[0], *maps], strict=True):
        assert (grad.device, grad.shape) == (map.device, map.shape)
    for to_boxes in (
        torch.ops.roidl.roi_align_backward_boxes(gradient, maps[0], boxes, None, *align),
        torch.ops.roidl.multiscale_roi_align_backward_boxes(gradient, maps, boxes, *none, *pyramid),
    ):
        assert (to_boxes.device, to_boxes.shape) == (boxes.device, boxes.shape)


@pytest.mark.usefixtures("fake")
def test_tensors_on_two_devices_are_named() -> None:
    maps, boxes = fakes()
    words = "roi_align: boxes must be on the device of the features, cuda:0, got cpu:0"
    with pytest.raises(ValueError, match=f"^{words}"):
        ops.roi_align(maps[0], fakes("cpu")[1], 2)
    with pytest.raises(ValueError, match=f"^multiscale_{words}"):
        ops.multiscale_roi_align(maps, fakes("cpu")[1], 2, SCALES)
    words = "boxes must be on the device of the features, cuda:1, got cuda:0"
    with pytest.raises(ValueError, match=f"^roi_align: {words}"):
        ops.roi_align(fakes("cuda:1")[0][0], boxes, 2)


class Model(torch.nn.Module):  # type: ignore[misc]
    """All operators."""

    def forward(self, maps: Any, boxes: Any) -> Any:
        return pooled(maps, boxes)


@pytest.mark.usefixtures("fake")
def test_graphs_for_cuda_are_captured() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    maps, boxes = fakes()
    rows = {0: torch.export.Dim("K", min=3)}  # the list has one of 1 and one of K - 1
    program = torch.export.export(Model(), (maps, boxes), dynamic_shapes=([None, None], rows))
    for graph in (program.graph, make_fx(pooled)(maps, boxes).graph):
        called = {str(node.target) for node in graph.nodes if "roidl" in str(node.target)}
        operators = {name.split(".")[1] for name in called}
        assert operators == {
            "multiscale_" * m + op for m in (0, 1) for op in ("roi_align", "roi_pool")
        }


# On a GPU -----------------------------------------------------------------------------------------


@pytest.fixture
def cuda(get_lib: Callable[[str], Lib]) -> Lib:
    return get_lib("torch_cuda")


def losses(maps: list[Any], boxes: Any) -> Any:
    return sum((result**2).sum() for result in pooled(maps, boxes))


def gradients(maps: list[Any], boxes: Any) -> list[Any]:
    return list(torch.autograd.grad(losses(maps, boxes), maps))


@pytest.mark.usefixtures("cuda")
def test_results_and_gradients_are_those_on_the_cpu() -> None:
    there = features("cuda"), boxes_on("cuda")
    here = features("cpu"), boxes_on("cpu")
    for run in (pooled, gradients):
        for one, other in zip(run(*there), run(*here), strict=True):
            torch.testing.assert_close(one.cpu(), other)


@pytest.mark.usefixtures("cuda")
def test_gradients_of_every_order() -> None:
    maps, boxes = features("cuda", torch.float64), boxes_on("cuda", torch.float64)
    first: Any = {"check_forward_ad": True}
    for place in range(len(pooled(maps, boxes))):

        def one(*maps: Any, place: int = place) -> Any:
            return pooled(list(maps), boxes)[place]

        assert torch.autograd.gradcheck(one, tuple(maps), **first)
        assert torch.autograd.gradgradcheck(lambda *a, one=one: one(*a) ** 2, tuple(maps))


@pytest.mark.usefixtures("cuda")
def test_vmap_is_the_loop() -> None:
    boxes, many = boxes_on("cuda"), torch.rand(4, 2, 2, 6, 6, device="cuda")
    got = torch.vmap(torch.func.grad(lambda x: ops.roi_align(x, boxes, 2).square().sum()))(many)
    for each, x in zip(got, many, strict=True):
        x.requires_grad_()
        torch.testing.assert_close(
            each, *torch.autograd.grad(ops.roi_align(x, boxes, 2).square().sum(), x)
        )


@pytest.mark.usefixtures("cuda")
def test_compiled() -> None:
    torch._dynamo.reset()
    maps, boxes = features("cuda"), boxes_on("cuda")
    compiled = torch.compile(losses, fullgraph=True, dynamic=True)
    for count in (3, 2, 1):
        grads = torch.autograd.grad(compiled(maps, boxes[:count]), maps)
        for one, other in zip(grads, gradients(maps, boxes[:count]), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("cuda")
def test_on_a_stream_and_captured_in_a_graph() -> None:
    maps, boxes = features("cuda"), boxes_on("cuda")
    expected = gradients(maps, boxes)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):  # as PyTorch asks, before a capture
            got = gradients(maps, boxes)
    side.synchronize()
    assert all(map(torch.equal, got, expected))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients(maps, boxes)
    for one in captured:
        one.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, captured, expected))


FIRST_CALL_IS_CAPTURED = """
import torch
from roidl import torch as ops
torch.manual_seed(3)
x = torch.rand(2, 8, 30, 40, device="cuda")
boxes = torch.tensor([[0, 1.0, 1, 20, 16], [1, 3, 2, 39, 29]] * 160, device="cuda")
def run(x, boxes):
    x = x.detach().requires_grad_()
    pooled = [ops.roi_align(x, boxes, 7, 1.0, n, mode=mode) for n, mode in ((2, "avg"), (1, "max"))]
    pooled.append(ops.roi_pool(x, boxes, 7))
    return [*pooled, *torch.autograd.grad(sum((each ** 2).sum() for each in pooled), x)]
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    captured = run(x, boxes)
graph.replay()
torch.cuda.synchronize()
for one, other in zip(captured, run(x.cpu(), boxes.cpu()), strict=True):
    torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4)
print("fine")
"""


@pytest.mark.usefixtures("cuda")
def test_the_first_call_of_a_process_may_be_captured() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL_IS_CAPTURED], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fine"]


@pytest.mark.usefixtures("cuda")
def test_no_context_is_made_on_another_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    script = """
import torch
from roidl import torch as ops
x, boxes = torch.rand(1, 2, 9, 9, device="cuda:1"), torch.rand(1, 5, device="cuda:1")
ops.roi_align(x, boxes.zero_(), 2)
print(torch._C._cuda_hasPrimaryContext(0), torch.cuda.current_device())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "0"]


@pytest.mark.usefixtures("cuda")
def test_nothing_waits_and_all_is_deterministic() -> None:
    maps, boxes = features("cuda"), boxes_on("cuda")
    torch.use_deterministic_algorithms(True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = [gradients(maps, boxes) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.usefixtures("cuda")
def test_bad_boxes_give_zeros_unless_values_are_checked() -> None:
    maps, boxes = features("cuda"), boxes_on("cuda")
    boxes[1, 0] = 2
    for result in (*pooled(maps, boxes)[:1], *pooled(maps, boxes)[2:]):
        assert not result[1].any()
        assert result[0].any()
    roidl.set_check_boxes(True)
    try:
        with pytest.raises(ValueError, match=r"^roi_align: the batch index of row 1 is 2,"):
            ops.roi_align(maps[0], boxes, 2)
    finally:
        roidl.set_check_boxes(False)


@pytest.mark.usefixtures("cuda")
def test_another_device_than_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    results = [gradients(features(f"cuda:{i}"), boxes_on(f"cuda:{i}")) for i in (0, 1)]
    for one, other in zip(*results, strict=True):
        assert other.device.index == 1
        np.testing.assert_array_equal(one.cpu().numpy(), other.cpu().numpy())


@pytest.mark.usefixtures("cuda")
def test_autocast_keeps_the_storage_of_features() -> None:
    maps, boxes = features("cuda", torch.float16), boxes_on("cuda")
    with torch.autocast("cuda"):
        result = ops.roi_align(maps[0], boxes, 2)
    assert result.dtype == torch.float16
    assert torch.equal(result, ops.roi_align(maps[0], boxes, 2))
