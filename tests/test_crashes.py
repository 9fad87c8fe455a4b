"""No arguments end the process: every bad call returns a result or raises an error.

A signal, a hang, an exception of another type or a result of a wrong shape fails a named case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bad_calls
from bad_calls import FINE, cases_of, families_of
from producers import OPERATORS

Verdicts = list[tuple[str, str]]


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[[str, str], Verdicts]]:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # threads would slow every fork
    command = [sys.executable, bad_calls.__file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        questions, answers = process.stdin, process.stdout

        def ask(op: str, family: str) -> Verdicts:
            print(json.dumps([op, family]), file=questions, flush=True)
            return [(name, verdict) for name, verdict in json.loads(answers.readline())]

        yield ask
        questions.close()


FAMILIES = [(op, family) for op in OPERATORS for family in families_of(op)]


@pytest.mark.parametrize(("op", "family"), FAMILIES)
def test_a_result_or_an_error_that_says_why(
    op: str, family: str, server: Callable[[str, str], Verdicts]
) -> None:
    verdicts = server(op, family)
    assert verdicts
    assert [(name, verdict) for name, verdict in verdicts if verdict != FINE] == []


@pytest.mark.parametrize("op", OPERATORS)
def test_the_table_is_long(op: str) -> None:
    cases = [(family, name) for family in families_of(op) for name, _ in cases_of(op, family)]
    assert len(set(cases)) == len(cases) >= 60


def test_arrays_changed_by_another_process_during_a_call() -> None:
    program = Path(__file__).with_name("changing_arrays.py")
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.splitlines()[-1:]) == (0, ["done"]), run.stderr
