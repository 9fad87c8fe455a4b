"""benchmarks/first_gpu_day: time limits, the outcomes of steps, and the summary."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package

from benchmarks.first_gpu_day import records, runner, summary  # noqa: E402
from benchmarks.first_gpu_day.__main__ import _host_variables  # noqa: E402
from benchmarks.first_gpu_day.clock import Clock  # noqa: E402
from benchmarks.first_gpu_day.records import FAILED, PASSED, SKIPPED, STOPPED  # noqa: E402
from benchmarks.first_gpu_day.runner import Day  # noqa: E402
from benchmarks.first_gpu_day.steps import (  # noqa: E402
    AT_FIRST,
    BUILD,
    PACKAGE,
    SWITCHES,
    Step,
    files_with_rows,
    steps,
)


class Now:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


# Time ---------------------------------------------------------------------------------------------


def test_a_step_has_its_share_and_the_last_what_is_left() -> None:
    now = Now()
    clock = Clock(9, now)
    assert clock.allow(200) == 200
    now.seconds += 500
    assert clock.allow(200) == 40
    now.seconds += 39
    assert clock.allow(200) == 0  # no step is started with a second left
    now.seconds += 39
    assert clock.allow(200) == 0


def test_shares_scale_with_the_whole() -> None:
    assert Clock(90, Now()).allow(20) == 200
    assert Clock(4.5, Now()).allow(20) == 10


# Steps --------------------------------------------------------------------------------------------


def python(name: str, code: str, seconds: float = 60, **more: Any) -> Step:
    return Step(name, seconds, (sys.executable, "-c", code), **more)


@pytest.fixture
def day(tmp_path: Path) -> Day:
    return Day(tmp_path, Clock(9), {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)})


def outcomes(day: Day) -> dict[str, tuple[str, str]]:
    return {each["step"]: (each["outcome"], each["said"]) for each in records.read(day.records)}


def test_a_failing_step_is_told_and_the_next_ones_run(day: Day) -> None:
    day.run(python("one", "print('one thing'); print('another'); raise SystemExit(3)"))
    day.run(Step("two", 10, ("/nowhere/program",)))
    day.run(python("three", "print('fine')"))
    found = outcomes(day)
    assert found["one"] == (FAILED, "another")
    assert found["two"][0] == FAILED
    assert found["three"] == (PASSED, "fine")
    assert "one thing" in (day.records.parent / "log.txt").read_text()


def test_a_step_that_cannot_run_is_skipped_and_told_why(day: Day) -> None:
    day.run(python("build", "raise SystemExit(1)"))
    day.run(python("carried", "print('there')", unless="build"))
    day.run(python("needless", "", unless="carried"))
    day.run(python("smoke", "", after=("build", "carried")))
    day.run(python("after it", "", after=("build",)))
    day.run(python("sanitizer", "", needs=("no-such-sanitizer",)))
    found = outcomes(day)
    assert [found[name][0] for name in ("build", "carried", "smoke")] == [FAILED, PASSED, PASSED]
    assert found["needless"] == (SKIPPED, "carried passed")
    assert found["after it"] == (SKIPPED, "build has not passed")
    assert found["sanitizer"] == (SKIPPED, "there is no no-such-sanitizer")


# Both ignore interrupts; the pipe that the child writes to is closed when both have ended.
DEAF = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
if os.fork() == 0:
    file = open(sys.argv[1], "w")
    print("up", file=file, flush=True)
time.sleep(100)
"""


def test_a_step_is_stopped_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "GRACE", 0.2)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    step = Step("hangs", 60, (sys.executable, "-c", DEAF, str(fifo)))
    running = runner.Running(step, {}, tmp_path / "log.txt")
    with fifo.open("rb", buffering=0) as reader:  # waits for the child
        assert reader.read(3) == b"up\n"
        assert running.wait(0) == STOPPED
        assert reader.read(1) == b""


def test_a_step_ends_at_its_limit(tmp_path: Path) -> None:
    now = Now()
    day = Day(tmp_path, Clock(9, now), {"PATH": os.environ["PATH"], "PYTHONPATH": ""})
    now.seconds += 537.9  # of nine minutes two seconds are left
    begin = time.monotonic()
    day.run(python("long", "import time; time.sleep(100)"))
    assert 2 < time.monotonic() - begin < 50
    assert outcomes(day)["long"][0] == STOPPED


def test_a_step_aside_is_waited_for_by_the_one_that_needs_it(day: Day, tmp_path: Path) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    wait = f"while not os.path.exists({str(go)!r}): time.sleep(0.01)"
    code = f"import os, time\n{wait}\nprint('made')"
    day.run(python("makes", code, aside=True))
    day.run(python("meanwhile", f"open({str(go)!r}, 'w')"))
    day.run(python("uses", f"open({str(begun)!r}, 'w')", after=("makes",)))
    assert [each["step"] for each in records.read(day.records)] == ["meanwhile", "makes", "uses"]
    assert begun.exists()
    assert "made" in (tmp_path / "log-aside.txt").read_text()


def test_unneeded_background_steps_are_ended(day: Day) -> None:
    day.run(python("makes", "import time; time.sleep(100)", aside=True))
    day.close()
    assert outcomes(day)["makes"][0] == STOPPED


def test_the_steps_name_what_there_is(tmp_path: Path) -> None:
    from benchmarks import variants

    found = steps(tmp_path, dry_run=True, build=True, cpus=16)
    names = [step.name for step in found]
    assert len(set(names)) == len(names)
    for step in found:
        assert set(step.after) <= set(names[: names.index(step.name)]), step.name
    assert set(SWITCHES) <= set(variants.TRIALS)
    assert all(len(variants.TRIALS[name].values) == 2 for name in SWITCHES)
    (variation,) = [step for step in found if step.name == "variants"]
    options = variants.parser().parse_args(variation.command[3:])
    assert options.no_build
    (built,) = [step for step in found if step.name == "build variants"]
    assert variants.parser().parse_args(built.command[3:]).folder == options.folder


def test_tests_are_chosen_by_rows_and_by_name() -> None:
    found = {Path(file).name for file in files_with_rows(ROOT / "tests")}
    assert {"test_cuda.py", "test_torch_cuda.py", "test_jax_cuda.py", "test_roi_align.py"} <= found
    assert not {"test_cuda_kernels.py", "test_layers.py", "test_torch_compile.py"} & found
    # Tests that are selected first exist under one of the names.
    text = "".join((ROOT / "tests" / name).read_text() for name in found if "cuda" in name)
    assert len(re.findall(rf"def test_\w*({AT_FIRST.replace(' or ', '|')})", text)) >= 3


def test_the_machine_on_the_host_says_what_to_set() -> None:
    said = "compiling\nexport ROIDL_CUDA_LIBRARY=/a/b.so\nexport PYTHONPATH=/stand_ins\n"
    assert _host_variables(said) == {"ROIDL_CUDA_LIBRARY": "/a/b.so", "PYTHONPATH": "/stand_ins"}


# Records ------------------------------------------------------------------------------------------

TESTS = """
import pytest
def test_right(): pass
def test_wrong(): assert 1 == 2, "one is not two"
@pytest.mark.skip(reason="no such library")
def test_skipped(): pass
@pytest.fixture
def broken(): raise ValueError("no set-up")
def test_without_set_up(broken): pass
"""


def test_pytest_records_every_test(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    file = tmp_path / "records.jsonl"
    variables = {"PYTHONPATH": str(ROOT), records.FILE: str(file), records.STEP: "tests"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", f"{PACKAGE}.observer", "-c", "/dev/null"]
    environment = {**os.environ, **variables, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)  # another process records its reports
    subprocess.run([*command, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True)
    found = {each["check"].partition("::")[2]: each for each in records.read(file)}
    assert {name: each["outcome"] for name, each in found.items()} == {
        "test_right": PASSED,
        "test_wrong": FAILED,
        "test_skipped": SKIPPED,
        "test_without_set_up": FAILED,
    }
    assert "one is not two" in found["test_wrong"]["message"]
    assert "no such library" in found["test_skipped"]["message"]


def test_incomplete_line_is_no_record(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    records.append(file, {"step": "one"})
    with file.open("a") as opened:
        opened.write('{"step": "tw')
    assert records.read(file) == [{"step": "one"}]


# The page -----------------------------------------------------------------------------------------


def row(engine: str, workload: str, **more: Any) -> dict[str, Any]:
    where = {"engine": engine, "operation": "roi_align", "layout": "NCHW", "workload": workload}
    return {**where, "dtype": "float32", "error": 2e-7, **more}


def test_the_page_compares_like_with_like() -> None:
    rows = [
        row("roidl-torch", "W1", min=30e-6, graph=20e-6),
        row("torchvision", "W1", min=90e-6, graph=80e-6),
        row("roidl-torch", "W7", min=40e-6, graph=10e-6, error=3e-7),
        row("torchvision", "W7", min=360e-6),  # no graph, because it waits for the device
        row("torchvision", "W2", failure="out of memory"),
    ]
    text = summary.benchmark({"rows": rows, "left_out": {"someone": "is not there"}})
    assert "| roi_align | NCHW | 20 µs (4.0x) |  | 10 µs (9.0x) | 6.00 | 3e-07 |" in text
    assert "out of memory" in text
    assert "is not there" in text


def test_without_the_other_library_the_error_is_there() -> None:
    text = summary.benchmark({"rows": [row("roidl-torch", "W1", min=30e-6)]})
    assert "| roi_align | NCHW | 30 µs | nan | 2e-07 |" in text


def test_the_page_is_made_of_whatever_there_is(tmp_path: Path) -> None:
    assert summary.page(tmp_path, "Nothing").startswith("# Nothing\n")
    file = tmp_path / "records.jsonl"
    records.append(file, {"step": "tests", "outcome": FAILED, "seconds": 3.2, "said": "2 | failed"})
    for number in range(20):
        check = {"step": "tests", "check": f"test_{number}", "outcome": FAILED, "message": "no"}
        records.append(file, check)
    again = {"step": "tests", "check": "test_3", "outcome": PASSED, "message": ""}
    records.append(file, again)  # of a test whose teardown or worker failed before
    (tmp_path / "benchmark.json").write_text('{"rows": [')  # incomplete
    best = "# Variants\n\n## The best\n\nnever\n\n## Built\n\nwhat the compiler said\n"
    (tmp_path / "variants.md").write_text(best)
    text = summary.page(tmp_path, "A day")
    assert "| tests | failed | 3 | 2 ¦ failed |" in text
    assert "0 passed, 20 failed, 0 skipped" in text
    assert "and 8 more" in text
    assert "never" in text
    assert "what the compiler said" not in text


# All of it, without a GPU and with no time --------------------------------------------------------


def run_script(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "benchmarks/first_gpu_day.sh"), str(out), "--no-build", *options],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_ends_when_its_time_is_over_and_leaves_its_page(tmp_path: Path) -> None:
    done = run_script(tmp_path, "--minutes", "0.01")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "summary.md").read_text()
    assert page in done.stdout
    assert "no time is left" in page
    assert BUILD not in {each["step"] for each in records.read(tmp_path / "records.jsonl")}
    again = run_script(tmp_path)
    assert again.returncode == 2
    assert again.stderr.endswith(f"OUT: {tmp_path} has the records of another day\n")
