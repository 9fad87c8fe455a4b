"""The steps, the most important first, with the seconds that each may take in nine minutes.

Their limits add up to more than nine minutes, but they are expected to take less; the last ones get
the remaining time.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / ".wheels"  # for machines without a network
WORK = ROOT / "build/first_gpu_day"
TOOLS, SITE, HOST = WORK / "tools", WORK / "site", WORK / "host"
VARIANTS = ROOT / "build/variants"
PACKAGE = "benchmarks.first_gpu_day"

BUILD, CARRIED, ON_HOST = "build", "carried build", "build for the host"
BUILD_VARIANTS, VARY, BENCHMARK = "build variants", "variants", "benchmark"
# Switches for benchmarks.variants that each disable a kernel, with two other values each.
SWITCHES = ("ORDERED_ROIS", "OVERLAP_ROIS", "WIDE_TILES", "BLOCK_PLANS")

PIP = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--upgrade")
CMAKE = ("ROIDL_CUDA=ON", "ROIDL_CUDA_ARCHITECTURES=90-real")
TESTED = "cupy or torch_cuda or jax_cuda or test_cuda"  # for pytest -k: libraries, files
AT_FIRST = "capture or first_call or context or command_buffers"
WITHOUT_GPU = ("test_cuda_kernels.py", "test_cuda_on_host.py")  # these need no GPU


class Step(NamedTuple):
    """A step: one command in its own process group."""

    name: str
    seconds: float
    command: Sequence[str]
    needs: Sequence[str] = ()  # programs that must be installed
    after: Sequence[str] = ()  # steps, at least one of which must have passed
    unless: str = ""  # skipped if this step passed
    tools: bool = False  # has the packages of TOOLS on its path
    aside: bool = False  # runs concurrently; its seconds are how long the next step waits for it


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _distribution(wheel: Path) -> str:
    return wheel.name.split("-")[0].lower()


def _wheels(wheels: list[Path]) -> list[Step]:
    """Wheels to install: all build requirements, and other packages that this Python lacks."""
    missing = [str(wheel) for wheel in wheels if not _is_installed(_distribution(wheel))]
    found = []
    if wheels:
        command = (*PIP, "--target", str(TOOLS), *map(str, wheels))
        found.append(Step("carried tools", 30, command))
    if missing:
        found.append(Step("carried packages", 30, (*PIP, "--target", str(SITE), *missing)))
    return found


def _builds(carried: list[Path]) -> list[Step]:
    options = [part for option in CMAKE for part in ("-C", f"cmake.define.{option}")]
    where = ("--no-build-isolation", "--target", str(SITE))
    found = [Step(BUILD, 200, (*PIP, "-v", *where, *options, str(ROOT)), tools=True)]
    for wheel in carried[-1:]:
        command = (*PIP, "--target", str(SITE), str(wheel))
        found.append(Step(CARRIED, 20, command, unless=BUILD))
    return found


def files_with_rows(tests: Path) -> list[str]:
    """The test files that use the fixture `lib`, or test CUDA; importing the others takes time."""
    return [
        str(file.relative_to(ROOT))
        for file in sorted(tests.glob("test_*.py"))
        if file.name not in WITHOUT_GPU
        and ("cuda" in file.name or re.search(r"\b(lib|get_lib)\b", file.read_text()))
    ]


def _pytest(selected: str, workers: int) -> tuple[str, ...]:
    options = ["-q", "-p", f"{PACKAGE}.observer", "-p", "no:cacheprovider", "--tb=short"]
    if workers and _is_installed("pytest-xdist"):
        options += ["-n", str(workers)]  # xdist replaces a worker after a fault
    if _is_installed("pytest-timeout"):
        options += ["--timeout=60", "--timeout-method=thread"]
    return _python("-m", "pytest", *options, "-k", selected, *files_with_rows(ROOT / "tests"))


def _sanitizer(tool: str, *smoke: str) -> tuple[str, ...]:
    sanitizer = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9")
    return (*sanitizer, "--print-limit", "20", *_python(*smoke))


def steps(out: Path, dry_run: bool, build: bool, cpus: int) -> list[Step]:
    """All steps; a dry run also builds the machine that runs the kernels on the CPU."""
    wheels = sorted(WHEELS.glob("*.whl"))
    carried = [wheel for wheel in wheels if _distribution(wheel) == "roidl"]
    tools = [wheel for wheel in wheels if wheel not in carried]
    query = "--query-gpu=name,driver_version,memory.total"
    found = [Step("machine", 15, ("nvidia-smi", query, "--format=csv,noheader"), ("nvidia-smi",))]
    found += [Step("compiler", 10, ("nvcc", "--version"), ("nvcc",))]
    built: tuple[str, ...] = ()
    if build:
        builds = _builds(carried)
        found += _wheels(tools) + builds
        built = tuple(step.name for step in builds)
    if dry_run:
        command = _python("-m", "tests.cuda_on_host", str(HOST))
        found.append(Step(ON_HOST, 120, command, after=built))
    few, workers = min(8, cpus), min(8, cpus)
    folder = ("--folder", str(VARIANTS))
    vary = ("-m", "benchmarks.variants", "--vary", *SWITCHES, *folder)
    smoke = ("-m", f"{PACKAGE}.smoke")
    engines = ("--gpu", "--engines", "roidl-torch", "torchvision")
    ours = (*engines, "--python", f"torchvision={sys.executable}", "--dtypes", "float32")
    workloads = ("--workloads", *(f"W{number}" for number in range(1, 9)))
    benchmark = str(out / "benchmark.json")
    gpu = [
        Step("smoke, CuPy", 40, _python(*smoke, "cupy")),
        Step(
            BUILD_VARIANTS,
            60,
            _python(*vary, "--build-only", "--jobs", str(few)),
            ("nvcc", "ninja"),
            aside=True,
        ),
        Step("smoke, PyTorch", 40, _python(*smoke, "torch_cuda")),
        Step("capture, fresh process", 60, _pytest(f"({TESTED}) and ({AT_FIRST})", 2)),
        Step("tests", 150, _pytest(f"({TESTED}) and not ({AT_FIRST})", workers)),
        *(
            Step(tool, 60, _sanitizer(tool, *smoke, "cupy", "--few"), ("compute-sanitizer",))
            for tool in ("memcheck", "racecheck")
        ),
        Step(
            BENCHMARK,
            130,
            _python("-m", "benchmarks", *ours, *workloads, "--seconds=0.05", "--output", benchmark),
        ),
        Step(
            VARY,
            120,
            _python(
                *(*vary, "--no-build", "--workloads", "W1", "W2", "W3"),
                *("--seconds=0.03", "--output", str(out / "variants.json")),
            ),
            after=(BUILD_VARIANTS,),
        ),
    ]
    return found + [step._replace(after=step.after or built) for step in gpu]
