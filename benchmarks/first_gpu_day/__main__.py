"""The command line: runs the steps, and prints one page at the end."""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from . import summary
from .clock import Clock
from .records import PASSED
from .runner import Day
from .steps import BENCHMARK, ON_HOST, PACKAGE, SITE, WHEELS, WORK, Step, steps


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {PACKAGE}", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder for at most eight files")
    parser.add_argument(
        "--minutes",
        type=float,
        default=Clock.WHOLE,
        help="total; steps' limits scale with it",
    )
    parser.add_argument("--no-build", action="store_true", help="use the installed roidl")
    parser.add_argument(
        "--dry-run", action="store_true", help="without a GPU: tests/cuda_on_host runs the kernels"
    )
    return parser


def _variables(build: bool) -> dict[str, str]:
    python = [str(SITE)] if build else []
    python += filter(None, [os.environ.get("PYTHONPATH")])
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    found = {
        **os.environ,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": os.pathsep.join(python),
        "PYTHONUNBUFFERED": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # processes share the GPU
    }
    if WHEELS.is_dir():
        found["PIP_NO_INDEX"] = "1"
    return found


def _host_variables(said: str) -> dict[str, str]:
    """The variables in lines `export NAME=value` at the end of a step's output."""
    lines = [line for line in said.splitlines() if line.startswith("export ")]
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def _after(day: Day, step: Step, out: Path) -> None:
    """Set the variables that a step exports for later steps."""
    if step.name == ON_HOST and day.outcomes[ON_HOST] == PASSED:
        for name, value in _host_variables(day.log(step).read_text()).items():
            day.set(name, value)
    if step.name == BENCHMARK and (out / "benchmark.json").exists():
        command = (sys.executable, "-m", "benchmarks", "--report", str(out / "benchmark.json"))
        day.run(Step("benchmark's table", 20, command))


def _interrupted(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run all steps, also after failures, and print the summary."""
    parser = _parser()
    options = parser.parse_args()
    out: Path = options.out.resolve()
    if (out / "records.jsonl").exists():
        parser.error(f"OUT: {out} has the records of another day")
    out.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupted)
    build = not options.no_build
    day = Day(out, Clock(options.minutes), _variables(build))
    kind = "A dry run of the first day, without a GPU" if options.dry_run else "The first GPU day"
    title = f"{kind}: {datetime.datetime.now().isoformat(' ', 'minutes')}"
    page = out / "summary.md"
    try:
        cpus = len(os.sched_getaffinity(0))
        for step in steps(out, options.dry_run, build, cpus):
            day.run(step)
            _after(day, step, out)
            page.write_text(summary.page(out, title))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        day.close()
        page.write_text(summary.page(out, title))
        print("\n" + page.read_text(), flush=True)


if __name__ == "__main__":
    main()
