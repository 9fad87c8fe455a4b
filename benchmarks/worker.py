"""The process of one engine: reads orders as JSON lines from stdin, answers on stdout.

It imports NumPy, the engine's library and nothing else, and runs on as many CPUs as it has threads.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .case import ITEM_BYTES, OPERATIONS, Case, Data

LONG_CALL = 0.1  # seconds: of faster calls three are timed to estimate the time of one


class Prepared(NamedTuple):
    """A prepared call, and its times so far."""

    call: Any
    times: list[float]


class Worker:
    """One engine and the calls that it has prepared; every public method is an order."""

    def __init__(self, name: str, threads: int, device: str) -> None:
        module, _, kind = name.partition(":")
        self._prepared: dict[str, Prepared] = {}
        engine_class = getattr(importlib.import_module(module), kind)
        if device not in engine_class.devices:
            raise NotImplementedError(f"it does not run on {device}")
        self._engine = engine_class(threads, device)

    def describe(self) -> dict[str, Any]:
        engine = self._engine
        return {
            "offers": [
                [operation, layout, dtype]
                for operation in OPERATIONS
                for layout in engine.layouts
                for dtype in ITEM_BYTES
                if engine.offers(operation, dtype)
            ],
            "note": engine.note,
            "versions": {"python": sys.version.split()[0], **engine.versions()},
        }

    def bandwidth(self, elements: int) -> float:
        return float(self._engine.bandwidth(elements))

    def prepare(
        self, key: str, case: list[Any], folder: str, rois: list[int], channels: list[int], to: str
    ) -> dict[str, Any]:
        """Prepare a call and save the part of its result that the oracle computes.

        A gradient to the maps depends on all RoIs. For the comparison the gradient to the result is
        zero for all RoIs except the oracle's, which takes the same time.
        """
        asked = Case(*case)
        backward = OPERATIONS[asked.operation].backward
        checked = Data.load(Path(folder), rois if backward else None)
        call = self._engine.prepare(asked, checked)
        result, seconds, grown = self._engine.first_call(call)
        parts = self._engine.to_numpy(result, asked)
        chosen = [part if backward else part[rois] for part in parts]
        np.savez(to, *[part[:, channels] for part in chosen])
        del result, parts, chosen
        # The first call may compile for seconds, so later calls are timed.
        seconds = min(self._engine.time(call, 1 if seconds > LONG_CALL else 3))
        if backward:
            call = self._engine.prepare(asked, Data.load(Path(folder)))
        self._prepared[key] = Prepared(call, [])
        return {"seconds": seconds, "peak_bytes": grown}

    def time(self, key: str, count: int, warm: bool) -> float:
        """Time `count` calls; return the minimum since the last summary, in seconds.

        With `warm` a call that is not counted fills the caches first.
        """
        call, times = self._prepared[key]
        if warm:
            self._engine.time(call, 1)
        times.extend(self._engine.time(call, count))
        return min(times)

    def summary(self, key: str, last: bool) -> dict[str, Any]:
        """The figures of the times since the last summary; the last one discards the call."""
        call, times = self._prepared[key]
        found: dict[str, Any] = {
            "min": min(times),
            "median": statistics.median(times),
            "timings": len(times),
        }
        try:
            found.update(self._engine.in_graph(call))
        except RuntimeError as error:  # the times are valid without it
            found["graph_failure"] = traceback.format_exception_only(error)[-1].strip()
        times.clear()
        if last:
            del self._prepared[key]
        return found


def main() -> None:
    """Serve until stdin ends; arguments: engine, threads, device, CPUs."""
    engine, threads, device, cpus = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    # Libraries may print to stdout, so answers use a duplicate of its descriptor.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker, broken = None, None
    try:
        worker = Worker(engine, int(threads), device)
    except Exception as error:
        broken = error
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if broken is not None:
                raise broken
            answer = {"value": getattr(worker, order.pop("order"))(**order)}
        except Exception as error:
            last = traceback.format_exception_only(error)[-1].strip()
            answer = {"error": last, "unsupported": isinstance(error, NotImplementedError)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
