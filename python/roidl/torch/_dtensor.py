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
from ._arguments import OPERATORS, Operator
from ._library import OVERLOADS

Placements = list[Any]
Way = dict[str, Any]  # where a tensor lies, by its role


def _ways(operator: Operator, boxes_ndim: int, layout: int) -> list[Way]:
    first = layout == LAYOUTS["NCHW"]
    lead = boxes_ndim - 1  # axes of the pooled result before C, PH, PW
    rois = Shard(lead - 1)
    roles = ("maps", "pooled", "argmax", "boxes", "indices")
    everywhere: Way = dict.fromkeys(roles, Replicate())
    channels = Shard(lead + (0 if first else 2))
    by_channel = everywhere | {
        "maps": Shard(1 if first else 3),
        "pooled": channels,
        "argmax": channels,
        "result boxes": Partial(),
    }
    by_roi = dict.fromkeys(roles, rois) | {"maps": Replicate(), "result maps": Partial()}
    ways = [everywhere, by_roi]
    if not operator.row.family.channels_per_bin:  # of a shard, the bins would be others
        ways.append(by_channel)
    if boxes_ndim == 3:
        ways.append(dict.fromkeys(everywhere, Shard(0)))
    return ways


def _rule(operator: Operator) -> Callable[..., list[tuple[Placements, Placements]]]:
    def rule(*flat: Any) -> list[tuple[Placements, Placements]]:
        call = operator.unflat(flat)
        roles = [*operator.roles, "boxes", "indices"]
        allowed = []
        for way in _ways(operator, call.boxes.ndim, call.params.layout):
            optional, results = iter(call.make), []
            for write in operator.row.writes:
                made = not write.optional or next(optional)
                place = way.get(f"result {write.role}", way[write.role])
                results.append(place if made else Replicate())
            given = [
                None if tensor is None else way[role]
                for tensor, role in zip(flat, roles, strict=False)
            ]
            allowed.append((results, given + [None] * (len(flat) - len(given))))
        return allowed

    return rule


for _operator in OPERATORS.values():
    if not _operator.several:
        register_sharding(OVERLOADS[_operator.name])(_rule(_operator))
