"""torchvision's Mask R-CNN with this library's poolers, for its boxes and for its masks.

Run with torchvision installed: ``python examples/mask_rcnn.py``. The detector has random weights
(nothing is downloaded); the same one with torchvision's poolers computes the same training step and
the same detections for comparison. Then both poolers are compiled without a graph break, and
exported.
"""

from __future__ import annotations

from typing import Any

from roidl._command_line import Parser, one_line

PROG = "examples/mask_rcnn.py"

with one_line(PROG, __name__):
    import torch
    import torchvision

    import roidl.torch

POOLERS = ("box_roi_pool", "mask_roi_pool")


def swap_poolers(model: Any) -> None:
    """Replace a model's poolers by roidl's, with the same arguments."""
    for name in POOLERS:
        theirs = getattr(model.roi_heads, name)
        ours = roidl.torch.MultiScaleRoIAlign(
            theirs.featmap_names,
            theirs.output_size,
            theirs.sampling_ratio,
            canonical_scale=theirs.canonical_scale,
            canonical_level=theirs.canonical_level,
        )
        setattr(model.roi_heads, name, ours)


def detector(our_poolers: bool) -> Any:
    """A small detector with the same random weights every time.

    In float64: random weights amplify the last digit of float32.
    """
    torch.manual_seed(0)
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5, min_size=192, max_size=320
    )
    if our_poolers:
        swap_poolers(model)
    return model.double()


def training_step(our_poolers: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Losses of one step, and the weights after it."""
    model = detector(our_poolers).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 192, 256, generator=generator).double() for _ in range(2)]
    targets = [
        {
            "boxes": torch.tensor([[20.0, 30, 120, 150], [90, 40, 200, 170]]).double(),
            "labels": labels,
            "masks": (torch.rand(2, 192, 256, generator=generator) > 0.5).to(torch.uint8),
        }
        for labels in torch.tensor([[1, 2], [3, 4]])
    ]
    torch.manual_seed(2)  # for the sampler of proposals
    losses = model(images, targets)
    sum(losses.values()).backward()
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}, model.state_dict()


def inference(our_poolers: bool) -> dict[str, torch.Tensor]:
    """The detections in an image of noise, with masks."""
    model = detector(our_poolers).eval()
    model.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        image = torch.rand(3, 192, 256, generator=torch.Generator().manual_seed(3))
        (found,) = model([image.double()])
    return dict(found)


def compiled_and_exported() -> None:
    """Compile and export each pooler, with maps and boxes like the detector's."""
    theirs, ours = detector(our_poolers=False), detector(our_poolers=True)
    generator = torch.Generator().manual_seed(4)
    maps = {
        name: torch.rand(2, 8, side, 2 * side, generator=generator)
        for name, side in zip("0123", (48, 24, 12, 6), strict=True)
    }
    start = torch.rand(50, 2, generator=generator) * 100
    boxes = torch.cat([start, start + 4 + 150 * torch.rand(50, 2, generator=generator) ** 3], 1)
    arguments = (maps, [boxes[:20], boxes[20:]], [(192, 384), (180, 300)])
    for name in POOLERS:
        expected = getattr(theirs.roi_heads, name)(*arguments)
        pooler = getattr(ours.roi_heads, name)
        broken = torch._dynamo.explain(pooler)(*arguments).graph_break_count
        compiled = torch.compile(pooler, fullgraph=True)(*arguments)
        exported = torch.export.export(pooler, arguments).module()(*arguments)
        for result in (pooler(*arguments), compiled, exported):
            torch.testing.assert_close(result, expected)
        print(f"{name}: compiled with {broken} graph breaks, and exported; the results agree")


def main() -> None:
    """Compare torchvision's poolers with roidl's."""
    theirs, ours = training_step(our_poolers=False), training_step(our_poolers=True)
    for loss, value in theirs[0].items():
        print(f"  {loss:20} torchvision {value:.6f}  roidl {ours[0][loss]:.6f}")
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    print(f"  {len(ours[1])} weights after the step agree")
    found, our_found = inference(our_poolers=False), inference(our_poolers=True)
    assert len(found["boxes"]) > 0
    for key, values in found.items():
        torch.testing.assert_close(our_found[key], values, rtol=1e-7, atol=1e-7)
    print(f"  {len(found['boxes'])} detections with their masks agree")
    compiled_and_exported()


if __name__ == "__main__":
    with one_line(PROG):
        Parser(prog=PROG, description=(__doc__ or "").partition("\n")[0]).parse_args()
        main()
