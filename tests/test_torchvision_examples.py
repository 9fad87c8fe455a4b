"""The examples beside torchvision run to their ends: each compares its numbers with the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchvision_operators", "roi_align, aligned=True: equal"),
        ("faster_rcnn", "detections agree"),
        ("mask_rcnn", "mask_roi_pool: compiled with 0 graph breaks, and exported"),
    ],
)
def test_an_example_agrees_with_torchvision(name: str, words: str) -> None:
    command = [sys.executable, f"examples/{name}.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
