"""DTensor: in which ways the operators' tensors may be sharded, so that nothing is gathered.

By channels, by RoIs, and by images where the boxes are grouped by image; a gradient that many
shards contribute to is a partial sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from .._params import LAYOUTS
from ._library import OPERATORS, OVERLOADS, Operator

Placements = list[Any]
Way = dict[str, Any]  # where a tensor lies, by the part that it plays


def _ways(operator: Operator, boxes_ndim: int, layout: int) -> list[Way]:
    first = layout == LAYOUTS["NCHW"]
    lead = boxes_ndim - 1  # axes of the pooled result before C, PH, PW
    rois = Shard(lead - 1)
    everywhere: Way = dict.fromkeys(("map", "pooled", "boxes", "indices"), Replicate())
    by_channel = everywhere | {
        "map": Shard(1 if first else 3),
        "pooled": Shard(lead + (0 if first else 2)),
        "result boxes": Partial(),
    }
    by_roi = everywhere | {"pooled": rois, "boxes": rois, "indices": rois, "result map": Partial()}
    ways = [everywhere, by_channel, by_roi]
    if boxes_ndim == 3:
        ways.append(dict.fromkeys(everywhere, Shard(0)))
    return ways


def _rule(operator: Operator) -> Callable[..., list[tuple[Placements, Placements]]]:
    def rule(*flat: Any) -> list[tuple[Placements, Placements]]:
        call = operator.unflat(flat)
        tensors = [operator.leader[1], "boxes", "indices"]
        if operator.other is not None:
            tensors.append(operator.other[1])
        allowed = []
        for way in _ways(operator, call.boxes.ndim, call.params.layout):
            result = way.get(f"result {operator.result}", way[operator.result])
            results = [result]
            if operator.name == "roi_pool":
                results.append(result if call.extra[0] else Replicate())
            given = [
                None if tensor is None else way[part]
                for tensor, part in zip(flat, tensors, strict=False)
            ]
            allowed.append((results, given + [None] * (len(flat) - len(given))))
        return allowed

    return rule


for _name, _operator in OPERATORS.items():
    register_sharding(OVERLOADS[_name])(_rule(_operator))
