"""PyTorch on two processes: DTensor's shards, of which nothing is gathered, and DDP."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

SIZE = (2, 3)
CALLS: dict[str, Callable[..., Any]] = {
    "avg": lambda x, b: ops.roi_align(x, b, SIZE, 1.0, 2),
    "max": lambda x, b: ops.roi_align(x, b, SIZE, 1.0, 2, mode="max"),
    "pool": lambda x, b: ops.roi_pool(x, b, SIZE),
}


def _check_shards() -> None:
    from torch.distributed.tensor import (
        Partial,
        Replicate,
        Shard,
        distribute_tensor,
        init_device_mesh,
    )

    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    x = torch.rand(2, 4, 6, 6)
    rows = torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 3], [1, 0, 2, 4, 5], [0, 1, 1, 2, 2]])
    grouped = rows[:, 1:].reshape(2, 2, 4)
    # Where the input, the boxes, the result and the gradients to the input and the boxes lie.
    ways = (
        ("channels", rows, Shard(1), Replicate(), Shard(1), Shard(1), Partial()),
        ("RoIs", rows, Replicate(), Shard(0), Shard(0), Partial(), Shard(0)),
        ("images", rows, Shard(0), Replicate(), None, None, None),
        ("grouped images", grouped, Shard(0), Shard(0), Shard(0), Shard(0), Shard(0)),
        ("grouped RoIs", grouped, Replicate(), Shard(1), Shard(1), Partial(), Shard(1)),
    )
    for mode, call in CALLS.items():
        for name, boxes, to_input, to_boxes, result_at, input_at, boxes_at in ways:
            leaves = [x.clone().requires_grad_(), boxes.clone().requires_grad_()]
            expected = call(*leaves)
            (expected**2).sum().backward()
            shards = [
                distribute_tensor(tensor, mesh, [place]).requires_grad_()
                for tensor, place in ((x, to_input), (boxes, to_boxes))
            ]
            result = call(*shards)
            (result**2).sum().backward()
            case = f"{mode}, {name}"
            torch.testing.assert_close(result.full_tensor(), expected, msg=case)
            for shard, leaf in zip(shards, leaves, strict=True):
                torch.testing.assert_close(shard.grad.full_tensor(), leaf.grad, msg=case)
            if result_at is not None:
                assert result.placements == (result_at,), case
                assert shards[0].grad.placements == (input_at,), case
                assert mode == "pool" or shards[1].grad.placements == (boxes_at,), case
    shard = distribute_tensor(x, mesh, [Shard(1)])
    last = distribute_tensor(x.permute(0, 2, 3, 1), mesh, [Shard(3)])
    everywhere = distribute_tensor(rows, mesh, [Replicate()])
    result = ops.roi_align(last, everywhere, SIZE, layout="NHWC")
    assert result.placements == (Shard(3),)
    with pytest.raises(NotImplementedError, match=r"^multiscale_roi_pool: DTensors are not impl"):
        ops.multiscale_roi_pool([shard, shard], everywhere, SIZE, [1.0, 0.5])
    compiled = torch.compile(CALLS["avg"], backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(shard, everywhere).full_tensor(), CALLS["avg"](x, rows))


def _check_ddp(rank: int) -> None:
    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.features = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.pool = ops.RoIAlign(2, 1.0, 2)

        def forward(self, image: Any, boxes: Any) -> Any:
            return self.pool(self.features(image), boxes)

    torch.manual_seed(0)
    net = Net()
    boxes = torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 3]])
    images = [torch.rand(2, 3, 6, 6) for _ in range(2)]
    for image in images:
        (net(image, boxes).sum() / 2).backward()
    expected = net.features.weight.grad.clone()
    net.zero_grad()
    parallel = torch.nn.parallel.DistributedDataParallel(net)
    parallel(images[rank], boxes).sum().backward()
    torch.testing.assert_close(net.features.weight.grad, expected)


def _worker(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", rank=rank, world_size=2, init_method=f"file://{store}"
    )
    _check_shards()
    _check_ddp(rank)
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed")
def test_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_worker, (str(tmp_path / "store"),), nprocs=2)
