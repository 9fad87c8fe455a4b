"""PyTorch's module for a pyramid, as torchvision has it."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

# Two maps of an image of 12 x 12 pixels, and boxes of both levels.
SCALES = (1 / 2, 1 / 4)
RULE: Any = {"canonical_scale": 6, "canonical_level": 2}
BOXES = [[0, 1.1, 1.2, 5.3, 6.7], [1, 0.7, 1.3, 10.9, 9.1], [1, 2.2, 3.1, 8.4, 7.9]]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def small() -> tuple[list[Any], Any]:
    generator = torch.Generator().manual_seed(5)
    maps = [torch.rand(2, 2, side, side, generator=generator) for side in (6, 3)]
    return maps, torch.tensor(BOXES)


def test_the_module_is_torchvisions() -> None:
    pool: Any = ops.MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=6, canonical_level=2)
    text = "(featmap_names=['0', '1'], output_size=(2, 2), sampling_ratio=2)"
    assert repr(pool) == "MultiScaleRoIAlign" + text
    assert (pool.scales, pool.map_levels) == (None, None)
    maps, boxes = small()
    features = OrderedDict([("0", maps[0]), ("other", maps[0]), ("1", maps[1])])
    listed = [boxes[:1, 1:], boxes[1:, 1:]]
    out = pool(features, listed, [(11, 12), (12, 10)])
    assert pool.scales == list(SCALES)
    assert (pool.map_levels.k_min, pool.map_levels.k_max) == (1, 2)
    assert pool.map_levels(listed).tolist() == [0, 1, 0]
    assert torch.equal(out, ops.multiscale_roi_align(maps, boxes, 2, SCALES, 2, **RULE))
    # Scales are kept until they are taken away.
    assert torch.equal(pool(features, listed, [(1000, 1000)]), out)
    pool.scales = None
    with pytest.raises(ValueError, match="images list should not be empty"):
        pool(features, listed, [])
    one = ops.MultiScaleRoIAlign(["1"], (2, 3), 2, aligned=True, mode="max")
    assert repr(one).endswith("output_size=(2, 3), sampling_ratio=2, aligned=True, mode=max)")
    expected = ops.roi_align(maps[1], boxes, (2, 3), 1 / 4, 2, True, mode="max")
    assert torch.equal(one(features, listed, [(12, 12)]), expected)


def test_the_module_compiles_and_takes_maps_of_mixed_dtypes() -> None:
    torch._dynamo.reset()
    maps, boxes = small()
    listed = [boxes[:1, 1:], boxes[1:, 1:]]
    pool = ops.MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=6, canonical_level=2)
    fresh = ops.MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=6, canonical_level=2)
    features = {"0": maps[0].bfloat16(), "1": maps[1]}
    expected = pool(features, listed, [(12, 12)])
    assert expected.dtype == torch.bfloat16
    compiled = torch.compile(fresh, fullgraph=True)
    assert torch.equal(compiled(features, listed, [(12, 12)]), expected)
    assert torch.equal(compiled(features, listed, [(12, 12)]), expected)
