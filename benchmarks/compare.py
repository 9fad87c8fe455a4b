"""Compares two files of results."""

from __future__ import annotations

import math
from typing import Any

from .case import OPERATIONS
from .report import Results, Row, differs, milliseconds, table, timed

KEY = ("operation", "workload", "engine", "layout", "dtype", "threads", "device")
NOISE = 0.05  # relative variation of the minimum between runs on an idle machine


def _by_key(results: Results) -> dict[tuple[Any, ...], Row]:
    return {tuple(row[name] for name in KEY): row for row in timed(results)}


def compare(before: Results, after: Results) -> str:
    """Markdown: for each engine the mean ratio of times, then every changed row."""
    old, new = _by_key(before), _by_key(after)
    shared = [key for key in old if key in new]
    parts = []
    for name in ("cpu", "cpus", "transparent_huge_pages"):
        a, b = before["machine"][name], after["machine"][name]
        if a != b:
            parts.append(f"Different machines: {name} is {a} in the first, {b} in the second.")

    ratios = {key: new[key]["min"] / old[key]["min"] for key in shared}
    engines = sorted({key[KEY.index("engine")] for key in shared})
    means = []
    for engine in engines:
        logs = [math.log(ratio) for key, ratio in ratios.items() if engine in key]
        means.append([engine, str(len(logs)), f"{math.exp(sum(logs) / len(logs)):.3f}"])
    if means:
        header = ["engine", "rows", "second ÷ first, geometric mean"]
        parts.append(table(header, means, 1))

    def changed(key: tuple[Any, ...]) -> bool:
        return abs(math.log(ratios[key])) > NOISE or differs(old[key]) != differs(new[key])

    cells = []
    for key in sorted(filter(changed, shared), key=lambda key: ratios[key]):
        operation, *others, device = map(str, key)
        cells.append(
            [OPERATIONS[operation].title, *others]
            + [milliseconds(side[key]["min"]) for side in (old, new)]
            + [f"{ratios[key]:.2f}"]
            + [f"{side[key]['error']:.0e}" for side in (old, new)]
            + [device]
        )
    header = ["operation", *KEY[1:-1], "first ms", "second ms", "ratio", "first error"]
    if cells:
        parts.append(table([*header, "second error", "device"], cells, 5))
    parts.append(f"{len(shared) - len(cells)} of {len(shared)} rows within {NOISE:.0%}.")
    for title, keys in (("first", old.keys() - new.keys()), ("second", new.keys() - old.keys())):
        if keys:
            parts.append(f"{len(keys)} rows only in the {title}.")
    return "\n\n".join(parts)
