"""The command line: `python -m benchmarks` in a clone."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from . import compare, report
from .case import ITEM_BYTES, LAYOUTS, OPERATIONS
from .process import ROOT
from .run import EngineSpec, Plan, run
from .workloads import ALL, WORKLOADS

FOLDER = Path(__file__).resolve().parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time RoIAlign and RoIPool in every library, each in its own process.",
    )
    parser.add_argument(
        "--workloads", nargs="+", choices=ALL, help="default: W1 to W8; on a GPU all"
    )
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--engines", nargs="+", default=["*"], help="names or patterns")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--dtypes", nargs="+", choices=ITEM_BYTES, default=list(ITEM_BYTES))
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1, and all CPUs")
    parser.add_argument(
        "--seconds", type=float, default=0.25, help="for the timings of one row (default: 0.25)"
    )
    parser.add_argument("--config", type=Path, default=FOLDER / "engines.toml")
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="ENVIRONMENT=PATH",
        help="interpreters of environments, before those in the configuration",
    )
    parser.add_argument("--gpu", action="store_true", help="on CUDA, by CUDA events and in graphs")
    parser.add_argument(
        "--loaded",
        action="store_true",
        help="time everything again while another process keeps each CPU busy",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmark.json"),
        help="the JSON file; the table goes beside it as .md, the plot as .png",
    )
    instead = parser.add_argument_group("instead of a run")
    instead.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"))
    instead.add_argument(
        "--report", type=Path, metavar="RESULTS.json", help="write its .md and .png again"
    )
    instead.add_argument(
        "--update-docs",
        type=Path,
        metavar="RESULTS.json",
        help="fill the marked blocks of README.md and docs/performance.md",
    )
    return parser


def _engines(options: argparse.Namespace) -> dict[str, EngineSpec]:
    config = tomllib.loads(options.config.read_text())
    pythons = {
        name: str(options.config.parent / Path(environment["python"]).expanduser())
        if "python" in environment
        else sys.executable
        for name, environment in config["environments"].items()
    }
    for override in options.python:
        name, _, path = override.partition("=")
        if name not in pythons:
            raise SystemExit(f"--python: no environment {name!r}, there are {', '.join(pythons)}")
        pythons[name] = os.path.abspath(Path(path).expanduser())  # a link stays one: it is the venv
    chosen = {
        name: EngineSpec(pythons[engine["environment"]], engine["class"])
        for name, engine in config["engines"].items()
        if any(fnmatch.fnmatch(name, pattern) for pattern in options.engines)
    }
    if not chosen:
        raise SystemExit(f"--engines: none of {', '.join(config['engines'])} matches")
    return chosen


def _read(file: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(file.read_text())
    return results


def _write_report(results: dict[str, Any], file: Path) -> None:
    file.with_suffix(".md").write_text(report.full(results))
    if results["device"] != "cpu":
        return  # what the plot shows are engines on CPU
    try:
        from . import plot
    except ImportError as error:
        print(f"no plot: {error}", file=sys.stderr)
        return
    if report.baseline(results) is None:
        print(f"no plot: none of {', '.join(report.BASELINES)} was there", file=sys.stderr)
        return
    plot.save(results, file.with_suffix(".png"))


def _update_docs(file: Path) -> None:
    results = _read(file)
    picture = file.resolve().with_suffix(".png").relative_to(ROOT)
    report.fill(ROOT / "README.md", report.readme_block(results, str(picture)))
    report.fill(ROOT / "docs/performance.md", report.page_block(results, f"../{picture}"))


def main() -> None:
    """Run the benchmark, or do what was asked for instead."""
    options = _parser().parse_args()
    if options.compare:
        print(compare.compare(*map(_read, options.compare)))
        return
    if options.report:
        _write_report(_read(options.report), options.report)
        return
    if options.update_docs:
        _update_docs(options.update_docs)
        return
    cpus = len(os.sched_getaffinity(0))
    threads = options.threads or sorted({1, cpus})
    if not 1 <= min(threads) <= max(threads) <= cpus:
        raise SystemExit(f"--threads: from 1 to the {cpus} CPUs of this process, got {threads}")
    plan = Plan(
        _engines(options),
        options.workloads or list(ALL if options.gpu else WORKLOADS),
        options.operations,
        options.layouts,
        options.dtypes,
        threads[:1] if options.gpu else threads,
        options.seconds,
        "cuda" if options.gpu else "cpu",
        options.loaded,
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)

    def save(results: dict[str, Any]) -> None:
        options.output.write_text(json.dumps(results, indent=1) + "\n")

    _write_report(run(plan, save), options.output)


if __name__ == "__main__":
    main()
