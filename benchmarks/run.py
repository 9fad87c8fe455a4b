"""Runs the cases: which worker times what, in which order, and how often; returns plain data."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from roidl._command_line import CommandError

from . import load, machine, reference
from .case import ITEM_BYTES, LAYOUTS, OPERATIONS, Array, Case, Data
from .process import ROOT, Process, WorkerError
from .workloads import ALL, Workload, bytes_to_move, make_data

FORMAT = 1  # of the JSON file
ROUNDS = 7
SLOW_CALL, SLOW_TIMINGS = 1.0, 3  # slower calls (in seconds) are timed fewer times than ROUNDS
FAST_CALL, FAST_TIMINGS = 0.02, 50  # faster calls are timed at least so often
MOST_PER_ROUND = 1000
WARM_BELOW = 0.1  # seconds: a round of faster calls begins with one that is not counted
MEMORY_COPY, CACHE_COPY = (
    2**28,
    2**22,
)  # float32 elements, on a GPU
SETTLE = 0.005  # seconds: until the threads of the previous engine stop spinning


class EngineSpec(NamedTuple):
    """An engine and the interpreter that runs it."""

    python: str
    location: str  # module:class
    variables: Mapping[str, str] = MappingProxyType({})  # environment variables of its process
    operations: Sequence[str] = tuple(OPERATIONS)  # the operations to time, if the engine has them
    layouts: Sequence[str] = LAYOUTS
    dtypes: Sequence[str] = tuple(ITEM_BYTES)


class Plan(NamedTuple):
    """The selection of cases and engines, and the settings."""

    engines: dict[str, EngineSpec]
    workloads: list[str]
    operations: list[str]
    layouts: list[str]
    dtypes: list[str]
    threads: list[int]
    seconds: float  # for timing a case of one engine, unless its calls are slower
    device: str
    loaded: bool = False  # also time all cases on a loaded machine


class Competitor(NamedTuple):
    """One engine on one layout and dtype."""

    engine: str
    layout: str
    dtype: str

    @property
    def key(self) -> str:
        return " ".join(self)


class Fleet:
    """The workers for one number of threads; a dead one is replaced when it is needed again."""

    def __init__(self, plan: Plan, threads: int, stack: ExitStack) -> None:
        self._plan, self._threads, self._stack = plan, threads, stack
        self._processes: dict[str, Process] = {}
        self.engines: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}
        for name in plan.engines:  # concurrently: imports take seconds
            with suppress(WorkerError):
                self._start(name)
        for name in plan.engines:
            try:
                self.engines[name] = self.ask(name, "describe")
            except WorkerError as error:
                self.left_out[name] = str(error)
                _say(f"  without {name}: {error}")

    def _start(self, engine: str) -> Process:
        spec = self._plan.engines[engine]
        process = Process(
            spec.python, spec.location, self._threads, self._plan.device, spec.variables
        )
        self._stack.callback(process.close)
        self._processes[engine] = process
        return process

    def ask(self, engine: str, order: str, **arguments: Any) -> Any:
        process = self._processes.get(engine)
        if process is None or not process.alive:
            process = self._start(engine)
        return process.order(order, **arguments)

    def competitors(self, operation: str) -> Iterator[Competitor]:
        """The engines, layouts and dtypes of the plan that support the operation."""
        for name, engine in self.engines.items():
            spec = self._plan.engines[name]
            for offered, layout, dtype in engine["offers"]:
                planned = layout in self._plan.layouts and dtype in self._plan.dtypes
                asked = (
                    offered in spec.operations and layout in spec.layouts and dtype in spec.dtypes
                )
                if offered == operation and planned and asked:
                    yield Competitor(name, layout, dtype)


class Group(NamedTuple):
    """Calls that are timed in turns: one operation of one workload on one number of threads."""

    name: str
    operation: str
    workload: Workload
    data: Data
    folder: Path
    rois: list[int]  # the RoIs for which the oracle computes the results
    channels: list[int]  # the channels of the results


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _timings(seconds: float, budget: float) -> int:
    if seconds >= SLOW_CALL:
        return SLOW_TIMINGS
    least = FAST_TIMINGS if seconds < FAST_CALL else ROUNDS
    return min(max(int(budget / seconds), least), ROUNDS * MOST_PER_ROUND)


def _in_turns(fleet: Fleet, calls: Mapping[Competitor, float], budget: float) -> dict[str, str]:
    """Time all calls, given the seconds of one; return the failures by competitor.

    Every round updates the seconds of a call. A call that is faster than expected gets its missing
    timings in the remaining rounds, and in one more.
    """
    failures: dict[str, str] = {}
    fastest, taken = dict(calls), dict.fromkeys(calls, 0)
    for turn in range(ROUNDS + 1):
        for competitor, seconds in fastest.items():
            missing = _timings(seconds, budget) - taken[competitor]
            if missing <= 0 or competitor.key in failures:
                continue
            time.sleep(SETTLE)
            each = min(math.ceil(missing / max(ROUNDS - turn, 1)), MOST_PER_ROUND)
            arguments = {"key": competitor.key, "count": each, "warm": seconds < WARM_BELOW}
            try:
                least = float(fleet.ask(competitor.engine, "time", **arguments))
            except WorkerError as error:
                failures[competitor.key] = str(error)
                continue
            fastest[competitor] = min(seconds, least)
            taken[competitor] += each
    return failures


def _with_enough_timings(found: dict[str, Any]) -> dict[str, Any]:
    """The figures of a row from a worker's summary.

    Raises
    ------
    WorkerError
        If there are too few timings for so fast a call.
    """
    if found["min"] < FAST_CALL and found["timings"] < FAST_TIMINGS:
        raise WorkerError(
            f"{found['timings']} timings of a call of {found['min'] * 1e3:.3g} ms: "
            f"below {FAST_CALL * 1e3:g} ms there must be {FAST_TIMINGS}"
        )
    return found


def _case(group: Group, competitor: Competitor) -> Case:
    workload = group.workload
    return Case(
        group.name,
        group.operation,
        competitor.layout,
        competitor.dtype,
        [1 / stride for stride in workload.strides],
        list(workload.image_size),
        workload.output_size,
        workload.sampling_ratio,
        workload.aligned,
    )


def _run_group(
    fleet: Fleet, group: Group, plan: Plan, expected: Callable[[str], list[Array]]
) -> list[dict[str, Any]]:
    """Compare with the oracle, then time; one row per competitor."""
    rows: dict[Competitor, dict[str, Any]] = {}
    calls = {}
    for competitor in fleet.competitors(group.operation):
        row = rows[competitor] = {**competitor._asdict()}
        saved = group.folder / "result.npz"
        try:
            found = fleet.ask(
                competitor.engine,
                "prepare",
                key=competitor.key,
                case=list(_case(group, competitor)),
                folder=str(group.folder),
                rois=group.rois,
                channels=reference.compared_channels(
                    group.workload, group.operation, group.channels
                ),
                to=str(saved),
            )
            with np.load(saved) as parts:
                got = [parts[name] for name in parts.files]
            row["error"] = reference.error(got, expected(competitor.dtype))
        except (WorkerError, ValueError) as error:
            if isinstance(error, WorkerError) and error.unsupported:
                del rows[competitor]
            else:
                row["failure"] = str(error)
            continue
        row["peak_bytes"] = found["peak_bytes"]
        calls[competitor] = found["seconds"]

    for busy in (False, True)[: 1 + plan.loaded]:
        with load.busy() if busy else nullcontext():
            failures = _in_turns(fleet, calls, plan.seconds)
        for competitor in calls:
            row, key, last = rows[competitor], competitor.key, busy == plan.loaded
            try:
                found = fleet.ask(competitor.engine, "summary", key=key, last=last)
                found = _with_enough_timings(found)
                row.update({"loaded": found} if busy else found)
            except WorkerError as error:
                row["failure"] = failures.get(key, str(error))
    for competitor, row in rows.items():
        row["bytes"] = bytes_to_move(group.workload, group.operation, competitor.dtype)
    return list(rows.values())


def _operations(plan: Plan, workload: Workload) -> list[str]:
    return [name for name in plan.operations if workload.has(name)]


def _bandwidth(plan: Plan, fleet: Fleet, threads: int) -> float:
    if plan.device == "cpu":
        return machine.copy_bandwidth(threads)
    return float(fleet.ask(next(iter(fleet.engines)), "bandwidth", elements=MEMORY_COPY))


def run(plan: Plan, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run the plan; `save` gets the results so far after every group.

    Raises
    ------
    CommandError
        If no engine can run.
    """
    results: dict[str, Any] = {
        "format": FORMAT,
        "machine": machine.describe(ROOT),
        "device": plan.device,
        "seconds": plan.seconds,
        "engines": {},
        "left_out": {},
        "bandwidth": {},
        "rows": [],
    }
    total = len(plan.threads) * sum(len(_operations(plan, ALL[name])) for name in plan.workloads)
    done, begun = 0, time.monotonic()
    oracles: dict[tuple[str, str, str], list[Array]] = {}
    for threads in plan.threads:
        with ExitStack() as stack:
            _say(f"Starting the workers, {threads} thread{'s' * (threads > 1)} each")
            fleet = Fleet(plan, threads, stack)
            results["left_out"].update(fleet.left_out)
            if not fleet.engines:
                raise CommandError(f"no engine can run on {plan.device}, for the reasons above")
            for name, engine in fleet.engines.items():
                results["engines"][name] = {
                    "note": engine["note"],
                    "versions": engine["versions"],
                }
            speed = _bandwidth(plan, fleet, threads)
            results["bandwidth"][str(threads)] = speed
            if plan.device != "cpu":
                first = next(iter(fleet.engines))
                results["cache_bandwidth"] = fleet.ask(first, "bandwidth", elements=CACHE_COPY)
            for name in plan.workloads:
                workload = ALL[name]
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                data = make_data(workload)
                data.save(folder)
                rois = reference.checked_rois(workload, data.boxes)
                channels = reference.checked_channels(workload)
                for operation in _operations(plan, workload):
                    group = Group(name, operation, workload, data, folder, rois, channels)

                    def expected(dtype: str, group: Group = group) -> list[Array]:
                        key = (group.name, group.operation, dtype)
                        if key not in oracles:
                            oracles[key] = reference.expected(
                                group.workload,
                                group.operation,
                                dtype,
                                group.data,
                                group.rois,
                                group.channels,
                            )
                        return oracles[key]

                    started = time.monotonic()
                    rows = _run_group(fleet, group, plan, expected)
                    for row in rows:
                        where = {"workload": name, "operation": operation, "threads": threads}
                        row.update(where, device=plan.device)
                        if "min" in row:
                            # In a graph the device does not wait for Python.
                            row["share"] = row["bytes"] / row.get("graph", row["min"]) / speed
                        if "failure" in row:
                            _say(f"  {row['engine']} failed: {row['failure']}")
                    results["rows"] += rows
                    done += 1
                    now = time.monotonic()
                    _say(
                        f"[{done}/{total}] {name} {OPERATIONS[operation].title}, "
                        f"{threads} thread{'s' * (threads > 1)}: {len(rows)} rows in "
                        f"{now - started:.1f} s, {(now - begun) / 60:.1f} min so far"
                    )
                    results["wall_seconds"] = now - begun
                    save(results)
                for file in folder.iterdir():  # some files are large, and temporary folders small
                    file.unlink()
    return results
