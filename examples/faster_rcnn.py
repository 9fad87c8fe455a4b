"""torchvision's Faster R-CNN with this library's RoIAlign: a training step and an inference.

Run with torchvision installed: ``python examples/faster_rcnn.py``. The detector has random weights
(nothing is downloaded); torchvision's own operator computes the same step for comparison.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torchvision
from torchvision.ops import poolers

import roidl.torch


@contextlib.contextmanager
def our_roi_align() -> Iterator[None]:
    """The swap: torchvision's pooler looks its operator up by this name."""
    theirs = poolers.roi_align
    poolers.roi_align = roidl.torch.roi_align
    try:
        yield
    finally:
        poolers.roi_align = theirs


def detector() -> Any:
    """A small detector with the same random weights every time."""
    torch.manual_seed(0)
    return torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5, min_size=192, max_size=320
    )


def training_step() -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses of one step, and the weights after it."""
    model = detector().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 192, 256, generator=generator) for _ in range(2)]
    targets = [
        {"boxes": torch.tensor([[20.0, 30, 120, 150], [90, 40, 200, 170]]), "labels": labels}
        for labels in torch.tensor([[1, 2], [3, 4]])
    ]
    torch.manual_seed(2)  # the sampler of proposals draws
    losses = model(images, targets)
    sum(losses.values()).backward()
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}, model.state_dict()


def inference() -> dict[str, torch.Tensor]:
    """Whatever it finds in an image of noise."""
    model = detector().eval()
    model.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        image = torch.rand(3, 192, 256, generator=torch.Generator().manual_seed(3))
        (found,) = model([image])
    return found


def main() -> None:
    """Compare torchvision's operator with ours."""
    losses, weights = training_step()
    found = inference()
    with our_roi_align():
        our_losses, our_weights = training_step()
        our_found = inference()
    for name, loss in losses.items():
        print(f"{name:20} torchvision {loss:.6f}  roidl {our_losses[name]:.6f}")
    torch.testing.assert_close(our_losses, losses)
    torch.testing.assert_close(our_weights, weights, rtol=1e-4, atol=1e-5)
    for name, values in found.items():
        torch.testing.assert_close(our_found[name], values, rtol=1e-3, atol=1e-3)
    print(f"{len(found['boxes'])} detections agree; so do {len(weights)} weights after the step")


if __name__ == "__main__":
    main()
