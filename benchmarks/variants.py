"""The command line `python -m benchmarks.variants`: times other constants of cuda/tuning.h.

There is one library for each other value (builds.py), and one engine for each library, so that one
run of the benchmark times all of them in turns.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from roidl._command_line import Parser, check_output, count, make_folder, one_line
from roidl._command_line import seconds as positive

from . import builds, report
from .builds import Variant
from .case import ITEM_BYTES, LAYOUTS, OPERATIONS
from .process import ROOT
from .report import Results, Row
from .run import EngineSpec, Plan, run
from .workloads import ALL

PROG = "python -m benchmarks.variants"
ENGINE = "benchmarks.engines.roidl_torch:Torch"
DEFAULT, AGAIN = "default", "default, again"  # the same library twice: the noise of the ratios
KEY = ("operation", "workload", "layout", "dtype")
ALIGN, POOL = "roi_align", "roi_pool"
BACKWARD = (f"{ALIGN}_backward", f"{POOL}_backward")
WORKLOADS = ("W1", "W2", "W3", "W4", "W5")


class Trial(NamedTuple):
    """Other values of a constant, and the operations and layouts that it affects."""

    values: Sequence[str]
    operations: Sequence[str] = (ALIGN, POOL, *BACKWARD)
    layouts: Sequence[str] = LAYOUTS
    dtypes: Sequence[str] = tuple(ITEM_BYTES)


FORWARD, GRADIENT = (ALIGN, POOL), (f"{ALIGN}_backward",)
ROWS = ("NCHW",)
TRIALS = {
    "BLOCK_PLANS": Trial(("0", "2"), (ALIGN, *BACKWARD)),  # of W5: never; twice as many blocks
    "ORDERED_ROIS": Trial(("64", "0"), FORWARD, ROWS),  # W3 has 100 RoIs; never
    "ROWS_CHANNELS": Trial(("4",), (ALIGN,), ROWS),
    "ROWS_ITEMS": Trial(("56", "80"), FORWARD, ROWS),
    "ROWS_ROIS": Trial(("8", "16"), (ALIGN,), ROWS),
    "ROWS_SLAB": Trial(("16", "32"), (ALIGN,), ROWS),
    "ROWS_MIN_BLOCKS": Trial(("2",), (ALIGN,), ROWS),
    "POOL_MAX_CHANNELS": Trial(("2",), (POOL,), ROWS),
    "POOL_MAX_ROIS": Trial(("8", "32"), (POOL,), ROWS),
    "POOL_MAX_SLAB": Trial(("16",), (POOL,), ROWS),
    "POOL_MAX_MIN_BLOCKS": Trial(("2", "4"), (POOL,), ROWS),
    "OVERLAP_ROIS": Trial(("1", "0"), BACKWARD),  # always, never
    "GATHER_CHUNKS": Trial(("4", "16"), BACKWARD),
    "GATHER_LOADS": Trial(("2", "8"), BACKWARD),
    "GATHER_COLUMNS": Trial(("4",), GRADIENT),
    "WIDE_TILES": Trial(("1", "0"), GRADIENT),  # nearly always, never
    "GATHER_MIN_BLOCKS": Trial(("2", "4"), GRADIENT, dtypes=("float32",)),
    "GATHER_HALF_MIN_BLOCKS": Trial(("2", "4"), GRADIENT, dtypes=("float16", "bfloat16")),
    "POOL_MAX_GATHER_MIN_BLOCKS": Trial(("2", "4"), (f"{POOL}_backward",)),
}


def _trial(text: str) -> tuple[str, Trial]:
    name, _, values = text.partition("=")
    known = TRIALS.get(name, Trial(()))
    if name not in builds.defaults():
        there = ", ".join(builds.defaults())
        raise argparse.ArgumentTypeError(f"cuda/tuning.h has no {name!r}, only {there}")
    if values:
        known = known._replace(values=tuple(values.split(",")))
    if not all(value.replace(".", "").isalnum() for value in known.values) or not known.values:
        raise argparse.ArgumentTypeError(f"{name}: one or more values, as in {name}=1,2,4")
    return name, known


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = Parser(
        prog=PROG,
        description="Time the CUDA kernels with other numbers.",
    )
    found.add_argument(
        "--vary",
        nargs="+",
        type=_trial,
        metavar="NAME=1,2,4",
        default=list(TRIALS.items()),
        help="constants without ROIDL_TUNE_, one at a time; default: the values of TRIALS",
    )
    found.add_argument("--workloads", nargs="+", choices=ALL, default=list(WORKLOADS))
    found.add_argument(
        "--operations", nargs="+", choices=OPERATIONS, default=[ALIGN, POOL, *BACKWARD]
    )
    found.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    found.add_argument("--dtypes", nargs="+", choices=ITEM_BYTES, default=["float32"])
    found.add_argument("--seconds", type=positive, default=0.05, help="time for each row")
    cpus = len(os.sched_getaffinity(0))
    found.add_argument("--jobs", type=count(), default=cpus, help="concurrent compilers")
    found.add_argument(
        "--folder", type=Path, default=ROOT / "build/variants", help="folder of the libraries"
    )
    how = found.add_mutually_exclusive_group()
    how.add_argument("--build-only", action="store_true", help="needs no GPU")
    how.add_argument("--no-build", action="store_true", help="measure the libraries in the folder")
    found.add_argument(
        "--output",
        type=Path,
        default=Path("variants.json"),
        help="the table is written beside it",
    )
    return found


def variants(trials: dict[str, Trial]) -> Iterator[Variant]:
    """The variants to build besides the default, each with one changed constant."""
    there = builds.defaults()
    for name, trial in trials.items():
        for value in trial.values:
            if value != there[name]:
                yield Variant(name, value)


def engines(made: dict[str, Any], folder: Path, trials: dict[str, Trial]) -> dict[str, EngineSpec]:
    """One engine for each library that was built."""
    found = {}
    for name, about in made.items():
        trial = trials.get(about["constant"])
        if "failure" in about or not (trial or name == DEFAULT):
            continue
        library = {"ROIDL_CUDA_LIBRARY": str((folder / about["library"]).resolve())}
        spec = EngineSpec(sys.executable, ENGINE, library)
        if trial:
            spec = spec._replace(
                operations=trial.operations, layouts=trial.layouts, dtypes=trial.dtypes
            )
        else:
            found[AGAIN] = spec
        found[name] = spec
    return found


def seconds(row: Row) -> float:
    """The device's time if it was measured in a graph, else the call's."""
    return float(row["graph"] if "graph" in row else row["min"])


def mean(ratios: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _ratios(results: Results) -> dict[str, dict[tuple[str, ...], float]]:
    """Time ÷ the default's time, by engine and case."""
    rows = report.timed(results)
    base = {tuple(row[k] for k in KEY): seconds(row) for row in rows if row["engine"] == DEFAULT}
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for row in rows:
        key = tuple(row[k] for k in KEY)
        if key in base:
            found.setdefault(row["engine"], {})[key] = seconds(row) / base[key]
    return found


def _error(results: Results, names: Sequence[str], key: tuple[str, ...]) -> str:
    rows = [
        row
        for row in report.timed(results)
        if row["engine"] in names and tuple(row[k] for k in KEY) == key
    ]
    worst = max(rows, key=lambda row: float(row["error"]))
    return f"{worst['error']:.0e}" + "~" * report.differs(worst)


def _built(made: dict[str, Any]) -> str:
    """The compiler's report on the float32 kernels of each library."""
    cells = []
    base = made[DEFAULT].get("kernels", {})
    for name, about in made.items():
        if "failure" in about:
            cells.append([name, "", "", f"not built: {about['failure']}"])
            continue
        there = about["kernels"]
        spilling = sum(memory > 0 for _, memory in there.values())
        moved = [
            f"{base[kernel][0]} → {registers}"
            for kernel, (registers, _) in there.items()
            if kernel in base and base[kernel][0] != registers
        ]
        words = ", ".join(sorted(set(moved))) + (f"; {spilling} spill" if spilling else "")
        most = max((registers for registers, _ in there.values()), default=0)
        cells.append([name, str(about["files"]), str(most), words])
    header = ["library", "files compiled", "most registers", "registers that changed; spills"]
    return report.table(header, cells, 4)


def full(results: Results) -> str:
    """The tables, as Markdown."""
    made, ratios = results["variants"], _ratios(results)
    parts = ["# Variants of the CUDA kernels", report.machine(results), report.notes(results)]
    summary = []
    for constant, default in results["defaults"].items():
        names = [name for name in made if made[name]["constant"] == constant and name in ratios]
        if not names:
            continue
        keys = list(dict.fromkeys(key for name in names for key in ratios[name]))
        base = {tuple(row[k] for k in KEY): row for row in report.timed(results, engine=DEFAULT)}
        cells = [
            [*(OPERATIONS[key[0]].title, *key[1:]), f"{seconds(base[key]) * 1e6:.1f}"]
            + [f"{ratios[name][key]:.2f}" if key in ratios[name] else "" for name in names]
            + [_error(results, [DEFAULT, *names], key)]
            for key in keys
        ]
        means = {name: mean(list(ratios[name].values())) for name in names}
        best = min(names, key=lambda name: means[name])
        won = means[best] < 1
        told = ", ".join(f"{made[name]['value']}: {means[name]:.3f}" for name in names)
        worst = max(ratios[best].values()) if won else 1
        value = made[best]["value"] if won else default
        summary.append([constant, default, value, told, f"{worst:.2f}"])
        header = [*KEY, f"{default}: µs", *(made[name]["value"] for name in names), "error"]
        parts.append(f"## {constant}: time ÷ the default's\n\n{report.table(header, cells, 4)}")
    if AGAIN in ratios:
        control = ratios[AGAIN].values()
        parts.append(
            f"The default against itself, what these ratios are worth: {mean(list(control)):.3f}, "
            f"from {min(control):.2f} to {max(control):.2f}."
        )
    header = ["number", "default", "best", "geometric means of the ratios", "worst of the best"]
    parts += [f"## The best\n\n{report.table(header, summary, 5)}", f"## Built\n\n{_built(made)}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def measure(
    manifest: dict[str, Any], trials: dict[str, Trial], options: argparse.Namespace, device: str
) -> Results:
    """Run, and write the JSON and the tables after every group."""
    plan = Plan(
        engines(manifest["variants"], options.folder, trials),
        options.workloads,
        options.operations,
        options.layouts,
        options.dtypes,
        [1],
        options.seconds,
        device,
    )

    def save(results: Results) -> None:
        results.update(variants=manifest["variants"], defaults=builds.defaults())
        options.output.write_text(json.dumps(results, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(full(results))

    return run(plan, save)


def _do(options: argparse.Namespace) -> None:
    trials = dict(options.vary)
    make_folder(options.folder)
    check_output(options.output, ".json")
    manifest = (
        builds.read(options.folder)
        if options.no_build
        else builds.build(variants(trials), options.folder, options.jobs)
    )
    if options.build_only:
        print(_built(manifest["variants"]))
        return
    print(full(measure(manifest, trials, options, "cuda")))


def main() -> None:
    """Build and measure the variants, and report the best values."""
    with one_line(PROG):
        _do(parser().parse_args())


if __name__ == "__main__":
    main()
