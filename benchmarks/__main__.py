"""The command line: `python -m benchmarks` in a clone."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roidl._command_line import (
    CommandError,
    Parser,
    check_output,
    count,
    one_line,
    read_json,
    seconds,
)

from . import compare, report
from .case import ITEM_BYTES, LAYOUTS, OPERATIONS
from .process import ROOT
from .run import FORMAT, EngineSpec, Plan, run
from .workloads import ALL, WORKLOADS

PROG = "python -m benchmarks"
FOLDER = Path(__file__).resolve().parent


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROG,
        description="Time RoIAlign and RoIPool in every library, each in its own process.",
    )
    parser.add_argument(
        "--workloads", nargs="+", choices=ALL, help="default: W1 to W9; all with --gpu"
    )
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--engines", nargs="+", default=["*"], help="names or patterns")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--dtypes", nargs="+", choices=ITEM_BYTES, default=list(ITEM_BYTES))
    parser.add_argument("--threads", nargs="+", type=count(), help="default: 1, and all CPUs")
    parser.add_argument(
        "--seconds", type=seconds, default=0.25, help="time for each row (default: 0.25)"
    )
    parser.add_argument("--config", type=Path, default=FOLDER / "engines.toml")
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="ENVIRONMENT=PATH",
        help="interpreters of environments, instead of those in --config",
    )
    parser.add_argument("--gpu", action="store_true", help="time on CUDA, by events and in graphs")
    parser.add_argument(
        "--loaded",
        action="store_true",
        help="also time all rows while other processes keep all CPUs busy",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmark.json"),
        help="the JSON file; the table and the plot are written beside it",
    )
    group = parser.add_argument_group("instead of a run")
    instead = group.add_mutually_exclusive_group()
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


def _config(file: Path) -> dict[str, Any]:
    """Environments and engines, by name.

    Raises
    ------
    CommandError
        If the file cannot be read, or lacks something.
    """
    try:
        config = tomllib.loads(file.read_text())
        environments, engines = dict(config["environments"]), dict(config["engines"])
        for engine in engines.values():
            environments[engine["environment"]].get("python", "").strip()
            engine["class"].strip()
    except OSError as error:
        raise CommandError(f"--config: cannot read {file}: {error.strerror}") from None
    except KeyError as error:
        raise CommandError(f"--config: {file} has no {error}") from None
    except (AttributeError, TypeError):
        raise CommandError(f"--config: {file} has no tables of environments and engines") from None
    except ValueError as error:
        raise CommandError(f"--config: {file} is not a TOML file: {error}") from None
    return config


def _engines(options: argparse.Namespace) -> dict[str, EngineSpec]:
    config = _config(options.config)
    pythons = {
        name: str(options.config.parent / Path(environment["python"]).expanduser())
        if "python" in environment
        else sys.executable
        for name, environment in config["environments"].items()
    }
    for override in options.python:
        name, _, path = override.partition("=")
        if name not in pythons:
            raise CommandError(f"--python: no environment {name!r}, there are {', '.join(pythons)}")
        if not path:
            raise CommandError(f"--python: ENVIRONMENT=PATH, got {override!r}")
        pythons[name] = os.path.abspath(Path(path).expanduser())  # links stay: they make the venv
    chosen = {
        name: EngineSpec(pythons[engine["environment"]], engine["class"])
        for name, engine in config["engines"].items()
        if any(fnmatch.fnmatch(name, pattern) for pattern in options.engines)
    }
    if not chosen:
        raise CommandError(f"--engines: none of {', '.join(config['engines'])} matches")
    return chosen


def _read(file: Path) -> dict[str, Any]:
    results: dict[str, Any] = read_json(file)
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise CommandError(f"{file} holds no results of this benchmark, format {FORMAT}")
    return results


@contextmanager
def _reading(*files: Path) -> Iterator[None]:
    """Raise a CommandError for a file whose results are incomplete."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        names = " or ".join(map(str, files))
        what = f"{type(error).__name__}: {error}"
        raise CommandError(f"{names} holds no results of this benchmark ({what})") from None


def _write_report(results: dict[str, Any], file: Path) -> None:
    file.with_suffix(".md").write_text(report.full(results))
    if results["device"] != "cpu":
        return  # the plot shows engines on CPU only
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
    if not file.resolve().is_relative_to(ROOT):
        raise CommandError(f"--update-docs: {file} is not in this clone, where pages can show it")
    if report.baseline(results) is None:
        names = " nor ".join(report.BASELINES)
        raise CommandError(f"--update-docs: {file} has neither {names} to compare with")
    picture = file.resolve().with_suffix(".png").relative_to(ROOT)
    report.fill(ROOT / "README.md", report.readme_block(results, str(picture)))
    report.fill(ROOT / "docs/performance.md", report.page_block(results, f"../{picture}"))


def _do(options: argparse.Namespace) -> None:
    if options.compare:
        with _reading(*options.compare):
            print(compare.compare(*map(_read, options.compare)))
        return
    if options.report:
        with _reading(options.report):
            _write_report(_read(options.report), options.report)
        return
    if options.update_docs:
        with _reading(options.update_docs):
            _update_docs(options.update_docs)
        return
    cpus = len(os.sched_getaffinity(0))
    threads = options.threads or sorted({1, cpus})
    if not 1 <= min(threads) <= max(threads) <= cpus:
        raise CommandError(f"--threads: from 1 to the {cpus} CPUs of this process, got {threads}")
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
    check_output(options.output, ".json")

    def save(results: dict[str, Any]) -> None:
        options.output.write_text(json.dumps(results, indent=1) + "\n")

    _write_report(run(plan, save), options.output)


def main() -> None:
    """Run the benchmark, or compare, report or update the docs from earlier results."""
    with one_line(PROG):
        _do(_parser().parse_args())


if __name__ == "__main__":
    main()
