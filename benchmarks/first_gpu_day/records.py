"""The records of a run: a line of JSON for each step, each smoke call and each test."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]

# Environment variables give a step's process the file of records and the step's name.
FILE, STEP = "FIRST_GPU_DAY_RECORDS", "FIRST_GPU_DAY_STEP"
MESSAGE = 300  # characters kept of a message
PASSED, FAILED, SKIPPED, STOPPED = "passed", "failed", "skipped", "stopped"


def append(file: Path, record: Record) -> None:
    """Write a line by one call, because concurrent steps share the file."""
    with file.open("ab", buffering=0) as opened:
        opened.write(json.dumps(record).encode() + b"\n")


def append_check(name: str, outcome: str, message: str = "") -> None:
    """Record the outcome of a call or test from within a step."""
    if file := os.environ.get(FILE):
        step = os.environ.get(STEP, "")
        lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
        said = " | ".join(lines)[-MESSAGE:]
        append(Path(file), {"step": step, "check": name, "outcome": outcome, "message": said})


def read(file: Path) -> list[Record]:
    """All complete lines; a killed process may have left a partial one."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
