"""Starts workers under their environments' interpreters and sends them orders."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class WorkerError(Exception):
    """A worker's error, in one line."""

    def __init__(self, message: str, unsupported: bool = False) -> None:
        super().__init__(message)
        self.unsupported = unsupported  # the library has no such call, which is not a failure


def cpus_in_order() -> list[int]:
    """The CPUs of this process, first one of each core, then the others."""
    allowed = sorted(os.sched_getaffinity(0))
    seen: dict[str, int] = {}
    order = []
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = siblings.read_text().strip() if siblings.exists() else str(cpu)
        order.append((seen.get(core, 0), cpu))
        seen[core] = seen.get(core, 0) + 1
    return [cpu for _, cpu in sorted(order)]


class Process:
    """One worker; as a context manager it ends the worker on exit."""

    def __init__(
        self,
        python: str,
        engine: str,
        threads: int,
        device: str,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if not (Path(python).is_file() and os.access(python, os.X_OK)):
            raise WorkerError(f"no such interpreter: {python}")
        # On a GPU calls wait for threads of the driver and of autograd, which need CPUs as well.
        cpus = cpus_in_order()[: threads if device == "cpu" else None]
        cpu_list = ",".join(map(str, cpus))
        environment = {
            **os.environ,
            **variables,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "ROIDL_NUM_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "JAX_PLATFORMS": "cpu",
        }
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        # The error message of a worker that dies is read from here.
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.worker", engine, str(threads), device, cpu_list],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
            )
        except OSError as error:  # e.g. an executable of another architecture
            self._stderr.close()
            raise WorkerError(f"cannot run {python}: {error.strerror}") from None

    def order(self, order: str, **arguments: Any) -> Any:
        """Send the worker an order and wait for its answer.

        Raises
        ------
        WorkerError
            If it answered with an error, or died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"order": order, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"], answer["unsupported"])
        return answer["value"]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().strip().splitlines()
        return f"the worker died with status {code}" + (f": {lines[-1]}" if lines else "")

    def close(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # the worker has died
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()
