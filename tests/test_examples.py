"""Examples of one framework run to the end, with fewer steps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, f"examples/{name}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_box_head_in_jax_learns() -> None:
    pytest.importorskip("jax")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", run("jax_box_head"))]
    assert len(losses) == 10
    assert losses[-1] < losses[0] / 2


def test_a_pyramid_in_tensorflow() -> None:
    pytest.importorskip("tensorflow")
    said = run("tensorflow_fpn", "--size", "128", "--proposals", "50")
    counts = re.search(r"boxes on P2 to P5: (\d+) (\d+) (\d+) (\d+)", said)
    assert counts is not None
    assert sum(map(int, counts.groups())) == 50
    for mode in ("max", "avg"):
        assert re.search(rf"^{mode}: 50x7x7x256, gradient \d", said, re.MULTILINE)
