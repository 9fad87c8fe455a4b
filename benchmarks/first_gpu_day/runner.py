"""Runs the steps, each under its limit, and leaves a record of each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from . import records
from .clock import Clock
from .records import FAILED, PASSED, SKIPPED, STOPPED
from .steps import ROOT, TOOLS, Step

GRACE = 5.0  # seconds from an interrupt to a kill, in which pytest reports its results
TAIL = 4096  # bytes of a step's log that are searched for its last line


class Running:
    """A step's process, and the processes that it starts."""

    def __init__(self, step: Step, environment: Mapping[str, str], log: Path) -> None:
        self.step, self._log = step, log
        self._begin = time.monotonic()
        self.passed = 0.0  # seconds, after it has ended
        with log.open("ab") as opened:
            head = f"\n===== {step.name}: {' '.join(step.command)}\n"
            opened.write(head.encode())
            opened.flush()
            self._process = self._start(step, environment, opened)

    @staticmethod
    def _start(
        step: Step, environment: Mapping[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        command: Sequence[str] = step.command
        if step.aside:
            command = ("nice", "-n", "19", *command)
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, seconds: float) -> str:
        """Wait for it, at most these seconds; return its outcome."""
        try:
            code = self._process.wait(seconds)
            outcome = FAILED if code else PASSED
        except subprocess.TimeoutExpired:
            outcome = STOPPED
        self.stop()
        self.passed = time.monotonic() - self._begin
        return outcome

    def stop(self) -> None:
        """End it and its children; a process that hangs in the driver is abandoned."""
        for sent, seconds in ((signal.SIGINT, GRACE), (signal.SIGKILL, GRACE)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, sent)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds if self._process.poll() is None else 0)

    def last_words(self) -> str:
        """The last line of its output."""
        with self._log.open("rb") as opened:
            opened.seek(max(self._log.stat().st_size - TAIL, 0))
            lines = opened.read().decode(errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        return said[-1][: records.MESSAGE] if said and not said[-1].startswith("=====") else ""


class Day:
    """The run: its steps, their outcomes, and its files."""

    def __init__(self, out: Path, clock: Clock, variables: Mapping[str, str]) -> None:
        self.clock, self.outcomes = clock, dict[str, str]()
        self._out, self._variables = out, dict(variables)
        self.records = out / "records.jsonl"
        self._aside: dict[str, Running] = {}

    def log(self, step: Step) -> Path:
        """The log of a step: one for all steps, and one for steps that run beside others."""
        return self._out / ("log-aside.txt" if step.aside else "log.txt")

    def set(self, name: str, value: str) -> None:
        """Set an environment variable for later steps; paths are prepended."""
        if name == "PYTHONPATH":
            value = os.pathsep.join([value, self._variables.get(name, "")])
        self._variables[name] = value

    def _environment(self, step: Step) -> dict[str, str]:
        variables = self._variables | {records.STEP: step.name, records.FILE: str(self.records)}
        if step.tools:
            variables["PYTHONPATH"] = os.pathsep.join([str(TOOLS), variables["PYTHONPATH"]])
        return variables

    def _obstacle(self, step: Step) -> str:
        if step.unless and self.outcomes.get(step.unless) == PASSED:
            return f"{step.unless} passed"
        if step.after and not any(self.outcomes.get(name) == PASSED for name in step.after):
            return f"{' or '.join(step.after)} has not passed"
        for program in step.needs:
            if not shutil.which(program, path=self._variables["PATH"]):
                return f"there is no {program}"
        return ""

    def _note(self, step: Step, outcome: str, seconds: float, said: str) -> None:
        self.outcomes[step.name] = outcome
        record = {"step": step.name, "outcome": outcome, "seconds": round(seconds, 1), "said": said}
        records.append(self.records, record)
        print(f"{self.clock.passed:5.0f} s  {step.name}: {outcome}  {said}", flush=True)

    def run(self, step: Step) -> None:
        """Start a step, and wait for it unless it runs beside the next ones."""
        self._settle(step)
        obstacle = self._obstacle(step)
        allowed = self.clock.allow(step.seconds)
        if obstacle or not allowed:
            self._note(step, SKIPPED, 0, obstacle or "no time is left")
            return
        try:
            running = Running(step, self._environment(step), self.log(step))
        except OSError as error:
            self._note(step, FAILED, 0, str(error))
            return
        if step.aside:
            self._aside[step.name] = running
        else:
            self._finish(running, allowed)

    def _finish(self, running: Running, allowed: float) -> None:
        outcome = running.wait(allowed)
        self._note(running.step, outcome, running.passed, running.last_words())

    def _settle(self, step: Step) -> None:
        """Wait for the concurrent steps that this step needs."""
        for name in step.after:
            if name in self._aside:
                running = self._aside.pop(name)
                self._finish(running, self.clock.allow(running.step.seconds))

    def close(self) -> None:
        """End all running steps."""
        for running in self._aside.values():
            self._finish(running, 0)
        self._aside.clear()
