"""The summary of a run, as one page of Markdown."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from .records import FAILED, PASSED, SKIPPED, Record, read

MOST = 12  # failures listed for each kind
THEIRS, OURS = "torchvision", "roidl-torch"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of text columns."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "¦") for cell in row) + " |" for row in lines
    )


def _steps(found: list[Record]) -> str:
    rows = [
        [each["step"], each["outcome"], f"{each['seconds']:.0f}", each["said"][:100]]
        for each in found
        if "check" not in each
    ]
    return table(["step", "outcome", "s", "last words"], rows)


def _checks(found: list[Record]) -> list[str]:
    """For each step the number of passed checks, the failures, and the reasons of skips."""
    by_step: dict[str, dict[str, Record]] = {}
    for each in found:
        if "check" in each:
            before = by_step.setdefault(each["step"], {}).get(each["check"])
            if before is None or before["outcome"] != FAILED:  # failures stay
                by_step[each["step"]][each["check"]] = each
    parts = []
    for step, checks in by_step.items():
        counts = Counter(each["outcome"] for each in checks.values())
        told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in (PASSED, FAILED, SKIPPED))
        lines = [f"**{step}**: {told}"]
        failed = [each for each in checks.values() if each["outcome"] == FAILED]
        lines += [f"- {each['check']}: {each['message'][-200:]}" for each in failed[:MOST]]
        if len(failed) > MOST:
            lines.append(f"- and {len(failed) - MOST} more, in records.jsonl")
        skipped = Counter(each["message"] for each in checks.values() if each["outcome"] == SKIPPED)
        lines += [f"- skipped, {count}: {why}" for why, count in skipped.most_common(3)]
        parts.append("\n".join(lines))
    return parts


def _json(file: Path) -> dict[str, Any]:
    """The JSON data of a file; empty if it is missing or incomplete."""
    try:
        read_from: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return read_from


def _device_seconds(row: Record) -> float:
    return float(row["graph"] if "graph" in row else row["min"])


def benchmark(results: dict[str, Any]) -> str:
    """A row for each operation and layout: torchvision's time ÷ roidl's by workload, errors."""
    rows = results.get("rows", [])
    lines: dict[tuple[str, str], dict[str, dict[str, Record]]] = {}
    for row in rows:
        if "min" in row:
            line = lines.setdefault((row["operation"], row["layout"]), {})
            line.setdefault(row["workload"], {})[row["engine"]] = row
    workloads = sorted({row["workload"] for row in rows})
    cells = []
    for (operation, layout), line in lines.items():
        ratios, errors, shown = [], [], []
        for workload in workloads:
            ours, theirs = line.get(workload, {}).get(OURS), line.get(workload, {}).get(THEIRS)
            if ours is None:
                shown.append("")
                continue
            errors.append(float(ours["error"]))
            micro = f"{_device_seconds(ours) * 1e6:.0f} µs"
            if theirs is not None:
                # If one of them has no graph, both are timed by events.
                both = "graph" in ours and "graph" in theirs
                key = "graph" if both else "min"
                ratios.append(theirs[key] / ours[key])
                micro += f" ({ratios[-1]:.1f}x)"
            shown.append(micro)
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
        error = f"{max(errors):.0e}" if errors else ""
        cells.append([operation, layout, *shown, f"{mean:.2f}", error])
    parts = []
    if cells:
        header = ["operation", "layout", *workloads, "mean", "largest error"]
        parts += ["## roidl, device time (times faster than torchvision), float32"]
        parts += [table(header, cells)]
    failures = [row for row in rows if "failure" in row]
    parts += [
        f"- {row['engine']} {row['operation']} {row['workload']} {row['layout']}: "
        f"{row['failure'][:200]}"
        for row in failures[:MOST]
    ]
    left_out = results.get("left_out", {}).items()
    parts += [f"- {name} did not run: {why[:200]}" for name, why in left_out]
    return "\n\n".join(parts)


def _variants(out: Path) -> str:
    """The section with the best values from the tables of benchmarks.variants."""
    file = out / "variants.md"
    text = file.read_text() if file.exists() else ""
    _, heading, rest = text.partition("## The best")
    return heading + rest.partition("\n## ")[0].rstrip() if heading else ""


def page(out: Path, title: str) -> str:
    """The summary of the files in the folder."""
    found = read(out / "records.jsonl")
    parts = [f"# {title}", _steps(found), *_checks(found)]
    parts += [benchmark(_json(out / "benchmark.json")), _variants(out)]
    return "\n\n".join(part for part in parts if part) + "\n"
