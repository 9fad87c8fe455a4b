"""How often the benchmark times a call, tested with a fake clock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package

from benchmarks import engines, run  # noqa: E402
from benchmarks.case import Case, Data  # noqa: E402
from benchmarks.process import WorkerError  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402
from benchmarks.workloads import ALL, make_data  # noqa: E402

BUDGET = 0.25
NOW = [0.0]


def later(seconds: float) -> None:
    NOW[0] += seconds


def resident(field: str) -> int:
    later(1)
    return 0


class Fake(engines.Engine):
    """An engine whose calls take the given seconds, in order; the last value repeats."""

    operations = ("roi_align",)
    packages = ()
    takes: Sequence[float] = ()

    def prepare(self, case: Case, data: Data) -> engines.Call:
        takes = iter(self.takes)
        last = [0.0]

        def call() -> Any:
            last[0] = next(takes, last[0])
            later(last[0])
            return np.ones((len(data.boxes), 1, 1, 1), np.float32)

        return call

    def to_numpy(self, result: Any, case: Case) -> list[Any]:
        return [result]


class Fleet:
    """One worker, in this process."""

    def __init__(self) -> None:
        self._worker = Worker(f"{__name__}:Fake", 1, "cpu")
        self.calls = 0

    def ask(self, engine: str, order: str, **arguments: Any) -> Any:
        if order == "time":
            self.calls += arguments["count"]
        return getattr(self._worker, order)(**arguments)

    def competitors(self, operation: str) -> Iterator[run.Competitor]:
        yield run.Competitor("fake", "NCHW", "float32")


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only calls advance, and 3 s of extra work around a first call."""
    NOW[0] = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: NOW[0])
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("gc.collect", lambda: later(1))
    monkeypatch.setattr(engines, "_resident", resident)


Measure = Callable[..., dict[str, Any]]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measure:
    """The row of a call that takes the given seconds."""

    def row_of(*takes: float, loaded: bool = False) -> dict[str, Any]:
        monkeypatch.setattr(Fake, "takes", takes)
        workload = ALL["W6"]
        data = make_data(workload)
        data.save(tmp_path)
        group = run.Group("W6", "roi_align", workload, data, tmp_path, [0], [0])
        plan = run.Plan({}, [], [], [], [], [1], BUDGET, "cpu", loaded)
        fleet: Any = Fleet()
        ones = [np.ones((1, 1, 1, 1), np.float32)]
        (row,) = run._run_group(fleet, group, plan, lambda dtype: ones)
        return row

    return row_of


@pytest.mark.parametrize(
    ("seconds", "timings"),
    [(2.0, 3), (0.2, 7), (0.03, 8), (0.019, 50), (0.004, 62), (1e-6, 7000)],
)
def test_duration_decides_number_of_timings(seconds: float, timings: int, measure: Measure) -> None:
    row = measure(seconds)
    assert "failure" not in row
    assert row["timings"] == timings
    assert row["min"] == pytest.approx(seconds)


def test_setup_of_first_call_is_not_timed() -> None:
    _, seconds, _ = engines.Engine(1, "cpu").first_call(lambda: later(0.5))
    assert seconds == pytest.approx(0.5)


@pytest.mark.parametrize("first", [0.2, 0.5, 20.0])
def test_one_time_costs_are_not_counted(first: float, measure: Measure) -> None:
    row = measure(first, 2e-4)
    assert row["timings"] >= 0.99 * BUDGET / 2e-4
    assert row["min"] == row["median"] == pytest.approx(2e-4)


def test_a_call_that_was_slow_for_a_while_gets_the_timings_that_it_lacks(measure: Measure) -> None:
    slow = [0.5] * 2  # the first, and the one that calibrates
    assert measure(*slow, 1e-3)["timings"] >= 0.99 * BUDGET / 1e-3
    # Before the last round: warm-up calls and timed calls.
    assert measure(*slow, *[0.09] * 12, 5e-3)["timings"] >= 50


def test_too_few_timings_give_no_row(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_timings", lambda seconds, budget: 49)
    row = measure(0.019)
    assert row["failure"] == "49 timings of a call of 19 ms: below 20 ms there must be 50"
    assert "min" not in row
    assert "failure" not in measure(0.021)
    with pytest.raises(WorkerError):
        run._with_enough_timings({"min": 1e-6, "timings": 7})
