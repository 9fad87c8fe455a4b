"""torchvision's own detectors with our pooler in the place of theirs: the same detections.

They need torchvision, which the other tests do without; their weights are random.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("torchvision")
detection: Any = importlib.import_module("torchvision.models.detection")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

pytestmark = pytest.mark.slow

DETECTORS = (
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_resnet50_fpn",
)


def detector(name: str) -> Any:
    """In float64, with maps and scores of ordinary size, which random weights do not give."""
    torch.manual_seed(0)
    make, options = getattr(detection, name), {"min_size": 160, "max_size": 240}
    model = make(weights=None, weights_backbone=None, box_score_thresh=0.0, **options)

    def standardised(module: Any, given: Any, maps: Any) -> Any:
        return {name: map / map.std() for name, map in maps.items()}

    model.backbone.register_forward_hook(standardised)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight *= 100
        model.roi_heads.box_predictor.bbox_pred.weight *= 10
    return model.eval().double()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_detects_the_same_with_our_pooler(name: str) -> None:
    model, generator = detector(name), torch.Generator().manual_seed(1)
    sizes = (120, 170), (150, 90)
    images = [torch.rand(3, *size, generator=generator, dtype=torch.float64) for size in sizes]
    theirs = model.roi_heads.box_roi_pool
    ours = ops.MultiScaleRoIAlign(theirs.featmap_names, theirs.output_size, theirs.sampling_ratio)
    assert repr(ours) == repr(theirs)
    with torch.no_grad():
        expected = model(images)
        model.roi_heads.box_roi_pool = ours
        found = model(images)
    assert ours.scales == theirs.scales
    for ends in ("k_min", "k_max", "s0", "lvl0"):
        assert getattr(ours.map_levels, ends) == getattr(theirs.map_levels, ends)
    for one, other in zip(expected, found, strict=True):
        assert one["scores"].std() > 0.001
        assert torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(other["scores"], one["scores"], rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(other["boxes"], one["boxes"], rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("module", ["RoIAlign", "RoIPool", "MultiScaleRoIAlign"])
def test_constructors_attributes_and_repr_are_torchvisions(module: str) -> None:
    theirs: Any = importlib.import_module("torchvision.ops")
    several = module == "MultiScaleRoIAlign"
    ratio = (2,) if module != "RoIPool" else ()
    for size in (7, (3, 2), [3, 2]):
        arguments = (["0", "1"], size, 2) if several else (size, 0.5, *ratio)
        one, other = getattr(theirs, module)(*arguments), getattr(ops, module)(*arguments)
        assert repr(one) == repr(other)
        for name, value in vars(one).items():
            assert getattr(other, name) == value, name
