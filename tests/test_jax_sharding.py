"""`roidl.jax` over several devices: what is divided stays so, and what has to meet does so once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from test_jax import run_script

jax = pytest.importorskip("jax")

NOTHING: dict[str, int] = {}
ONE_SUM = {"all-reduce": 1}
# Collectives in the compiled program, and the part of each result that one of 4 x 2 devices has.
EXPECTED: dict[str, tuple[dict[str, int], list[list[int]]]] = {
    "forward": (NOTHING, [[8, 2, 3, 3]]),
    "forward NHWC": (NOTHING, [[8, 3, 3, 2]]),
    "forward max": (NOTHING, [[8, 2, 3, 3]]),
    "forward indices": (NOTHING, [[8, 2, 3, 3]]),
    "to input": (ONE_SUM, [[2, 2, 9, 11]]),
    "to input max": (ONE_SUM, [[2, 2, 9, 11]]),
    "to boxes": (ONE_SUM, [[8, 5]]),
    "pool": (NOTHING, [[8, 2, 3, 3]]),
    "pool to input": (ONE_SUM, [[2, 2, 9, 11]]),
    "images": (NOTHING, [[1, 8, 2, 3, 3]]),
    "images to input": (NOTHING, [[1, 2, 9, 11]]),
    "odd": (NOTHING, [[15, 2, 3, 3]]),
    "images of all regions": ({"all-gather": 1}, [[16, 8, 3, 3]]),
    "shard_map": (NOTHING, [[8, 2, 3, 3]]),
    "shard_map to both": ({"all-reduce": 2}, [[2, 2, 9, 11], [8, 5]]),
    "maps": (NOTHING, [[8, 2, 3, 3]]),
    "maps to both": ({"all-reduce": 3}, [[2, 2, 9, 11], [2, 2, 5, 6], [8, 5]]),
    "maps of images, padded": (NOTHING, [[1, 8, 2, 3, 3]]),
    "maps of images, padded, to maps": (NOTHING, [[1, 2, 9, 11], [1, 2, 5, 6]]),
    "maps, padded, rows divided": ({"all-gather": 2}, [[2, 8, 2, 3, 3]]),  # boxes and levels
}
# From JAX 0.7 on.
EXPLICIT: dict[str, tuple[dict[str, int], list[list[int]]]] = {
    "explicit": (NOTHING, [[8, 2, 3, 3]]),
    "explicit to both": ({"all-reduce": 2}, [[2, 2, 9, 11], [8, 5]]),
    "explicit maps to both": ({"all-reduce": 3}, [[2, 2, 9, 11], [2, 2, 5, 6], [8, 5]]),
    "explicit images": (NOTHING, [[1, 8, 2, 3, 3]]),
    "explicit images of all regions": (NOTHING, [[1, 8, 9, 11]]),
}


@pytest.mark.parametrize("partitioner", ["shardy", "gspmd"])
def test_what_is_divided_stays_divided(partitioner: str) -> None:
    out = run_script(
        "sharding.py", "--xla_force_host_platform_device_count=8", arguments=[partitioner]
    )
    found: dict[str, Any] = {}
    for line in out.splitlines():
        report = json.loads(line)
        found[report["case"]] = (report["counts"], report["shards"])
    assert found == EXPECTED | (EXPLICIT if hasattr(jax.sharding, "reshard") else {})
