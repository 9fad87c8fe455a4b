"""What is found as it goes: a line of JSON for each step, each smoke call and each test."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]

# A step's process is told by its environment where to write, and on whose behalf.
FILE, STEP = "FIRST_GPU_DAY_RECORDS", "FIRST_GPU_DAY_STEP"
MESSAGE = 300  # characters kept of one
PASSED, FAILED, SKIPPED, STOPPED = "passed", "failed", "skipped", "stopped"


def append(file: Path, record: Record) -> None:
    """Write one line at once: steps that run side by side share the file."""
    with file.open("ab", buffering=0) as opened:
        opened.write(json.dumps(record).encode() + b"\n")


def append_check(name: str, outcome: str, message: str = "") -> None:
    """From within a step: what became of one of its calls or tests."""
    if file := os.environ.get(FILE):
        step = os.environ.get(STEP, "")
        lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
        said = " | ".join(lines)[-MESSAGE:]
        append(Path(file), {"step": step, "check": name, "outcome": outcome, "message": said})


def read(file: Path) -> list[Record]:
    """All lines that are whole: a process that was killed may have left a part of one."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
