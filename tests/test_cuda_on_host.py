"""The CUDA kernels, executed on the CPU by tests/cuda_on_host: the rows of CuPy, with every access
to memory checked.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cuda_on_host.build import ROOT, build, environment, is_possible, objects
from cuda_on_host.mutants import MUTANTS, Mutant, build_mutant, patched

TESTS = Path(__file__).parent
# The tests with rows of CuPy, in two parts of about equal time.
PARTS = (
    ("test_cuda.py",),
    (
        *("test_cuda_types.py", "test_cuda_multiscale.py", "test_dlpack.py", "test_errors.py"),
        *(
            "test_libraries.py",
            "test_memory.py",
            "test_multiscale.py",
            "test_position_sensitive.py",
        ),
        "test_roi_align.py",
        *("test_roi_pool.py", "test_scratch.py", "test_winners.py"),
    ),
)

pytestmark = pytest.mark.skipif(
    not is_possible() or "ROIDL_CUDA_LIBRARY" in os.environ,
    reason="it needs x86-64, g++ and binutils, and that no other CUDA library is asked for",
)


@pytest.fixture(scope="session")
def library() -> Path:
    return build(ROOT / "build" / "cuda_on_host")


class Report(NamedTuple):
    """The faults found by the machine, and the number of launches of each kernel."""

    faults: list[str]
    launches: dict[str, int]


def read(report: Path) -> Report:
    found = Report([], {})
    for line in report.read_text().splitlines() if report.exists() else ():
        kind, count, name = line.split("\t")
        if kind == "kernel":
            found.launches[name] = found.launches.get(name, 0) + int(count)
        elif int(count) > 0:
            found.faults.append(name)
    return found


class Run:
    """A pytest process whose CUDA device is the machine."""

    def __init__(self, library: Path, report: Path, *arguments: str, **options: object) -> None:
        asked = ",".join(f"{name}={value}" for name, value in options.items())
        variables = environment(library) | {
            "ROIDL_CUDA_ON_HOST": f"report={report},{asked}".rstrip(",")
        }
        pytest_ = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
        self.report = report
        self.process = subprocess.Popen(
            [*pytest_, "--require-front-ends=cupy", *arguments],
            env=os.environ | variables,
            cwd=TESTS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> tuple[int, str, Report]:
        said = self.process.communicate()[0]
        return self.process.returncode, said, read(self.report)


def run_rows(library: Path, folder: Path, **options: object) -> Iterator[Report]:
    """Run all parts concurrently."""
    runs = [
        Run(library, folder / f"report{i}", "-k", "cupy", *part, **options)
        for i, part in enumerate(PARTS)
    ]
    for ended in [run.end() for run in runs]:
        status, said, report = ended
        assert status == 0, said[-10_000:]
        assert report.faults == []
        assert re.search(r"\d+ passed", said) is not None
        yield report


def test_the_rows_of_cupy_pass_on_the_machine(library: Path, tmp_path: Path) -> None:
    launches: dict[str, int] = {}
    for report in run_rows(library, tmp_path, races=1, schedule=2):
        for name, count in report.launches.items():
            launches[name] = launches.get(name, 0) + count
    assert len(launches) > 100
    assert [name for name, count in launches.items() if count == 0] == []  # all kernels have run


# The switches of cuda/tuning.h, and the names of the kernels that each disables.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("switch", "kernel"),
    [
        ("BLOCK_PLANS", r"BlockPlan|Gather<.*BoxGeometry"),
        ("ORDERED_ROIS", "OrderRois"),
        ("OVERLAP_ROIS", "FindOverlaps"),
        ("WIDE_TILES", r"AverageGradient<[^<>]*true>"),
    ],
)
def test_a_variant_can_be_left_out(switch: str, kernel: str, library: Path, tmp_path: Path) -> None:
    without = build(tmp_path, flags=(f"-DROIDL_TUNE_{switch}=0",))
    found = [
        re.search(kernel, subprocess.check_output(("nm", "-C", built), text=True))
        for built in (library, without)
    ]
    assert found[0] is not None
    assert found[1] is None
    for _ in run_rows(without, tmp_path):
        pass


# Other devices with their real numbers of multiprocessors, so that most calls are small.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "multiprocessors", "schedule"),
    [("H200", 132, 3), ("A100", 8, 0), ("A100", 108, 4), ("T4", 8, 1), ("T4", 40, 5)],
)
def test_on_other_devices_and_in_other_orders(
    device: str, multiprocessors: int, schedule: int, library: Path, tmp_path: Path
) -> None:
    options = {"device": device, "multiprocessors": multiprocessors, "schedule": schedule}
    for _ in run_rows(library, tmp_path, races=1, **options):
        pass


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_made(mutant: Mutant) -> None:
    assert patched(mutant) != (ROOT / "cuda" / mutant.header).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found(mutant: Mutant, library: Path, tmp_path: Path) -> None:
    made = build_mutant(mutant, objects(library.parent), tmp_path)
    tests = (mutant.file, "-x", "-k", f"cupy and {mutant.tests}")
    status, said, _ = Run(made, tmp_path / "report", *tests, races=mutant.races, schedule=2).end()
    assert status == 1, said[-3000:]  # tests have failed
    assert re.search(mutant.said, said) is not None, said[-3000:]


def test_only_intrinsics_has_non_standard_cpp() -> None:
    own = re.compile(r"\b(asm|threadIdx|__syncthreads|__\w+_sync|__builtin_\w+|__CUDA_ARCH__)\b")
    for path in sorted((ROOT / "cuda").iterdir()):
        found = own.findall(path.read_text())
        assert (found != []) == (path.name == "intrinsics.cuh"), path.name
