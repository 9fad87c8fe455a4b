"""torchvision's Faster R-CNN with this library's poolers: a training step and an inference.

Run with torchvision installed: ``python examples/faster_rcnn.py``. The detector has random weights
(nothing is downloaded); torchvision's own pooler computes the same step for comparison. Replaced
are first the pooler's operator, then the whole multi-level pooler.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from roidl._command_line import Parser, one_line

PROG = "examples/faster_rcnn.py"

with one_line(PROG, __name__):
    import torch
    import torchvision
    from torchvision.ops import poolers

    import roidl.torch


@contextlib.contextmanager
def our_roi_align() -> Iterator[None]:
    """Replace the operator, which torchvision's pooler looks up by this name."""
    theirs = poolers.roi_align
    poolers.roi_align = roidl.torch.roi_align
    try:
        yield
    finally:
        poolers.roi_align = theirs


def swap_pooler(model: Any) -> None:
    """Replace the pooler: one call for all levels instead of a loop over them."""
    theirs = model.roi_heads.box_roi_pool
    model.roi_heads.box_roi_pool = roidl.torch.MultiScaleRoIAlign(
        theirs.featmap_names,
        theirs.output_size,
        theirs.sampling_ratio,
        canonical_scale=theirs.canonical_scale,
        canonical_level=theirs.canonical_level,
    )


def detector(our_pooler: bool) -> Any:
    """A small detector with the same random weights every time."""
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5, min_size=192, max_size=320
    )
    if our_pooler:
        swap_pooler(model)
    return model


def training_step(our_pooler: bool = False) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses of one step, and the weights after it."""
    model = detector(our_pooler).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 192, 256, generator=generator) for _ in range(2)]
    targets = [
        {"boxes": torch.tensor([[20.0, 30, 120, 150], [90, 40, 200, 170]]), "labels": labels}
        for labels in torch.tensor([[1, 2], [3, 4]])
    ]
    torch.manual_seed(2)  # for the sampler of proposals
    losses = model(images, targets)
    sum(losses.values()).backward()
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}, model.state_dict()


def inference(our_pooler: bool = False) -> dict[str, torch.Tensor]:
    """The detections in an image of noise."""
    model = detector(our_pooler).eval()
    model.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        image = torch.rand(3, 192, 256, generator=torch.Generator().manual_seed(3))
        (found,) = model([image])
    return found


Step = tuple[dict[str, float], dict[str, torch.Tensor]]


def compare(name: str, ours: Step, our_found: Any, theirs: Step, found: Any) -> None:
    """Losses, all weights after the step, and detections."""
    print(name)
    for loss, value in theirs[0].items():
        print(f"  {loss:20} torchvision {value:.6f}  roidl {ours[0][loss]:.6f}")
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-5)
    for key, values in found.items():
        torch.testing.assert_close(our_found[key], values, rtol=1e-3, atol=1e-3)
    print(f"  {len(found['boxes'])} detections agree; so do {len(ours[1])} weights after the step")


def main() -> None:
    """Compare torchvision's pooler with roidl's."""
    theirs, found = training_step(), inference()
    with our_roi_align():
        ours, our_found = training_step(), inference()
    compare("roi_align", ours, our_found, theirs, found)
    ours, our_found = training_step(our_pooler=True), inference(our_pooler=True)
    compare("MultiScaleRoIAlign", ours, our_found, theirs, found)


if __name__ == "__main__":
    with one_line(PROG):
        Parser(prog=PROG, description=(__doc__ or "").partition("\n")[0]).parse_args()
        main()
