"""The tests of results again, with kernels whose constants are tiny (src/cpu/tuning.h).

Their maps are small, and most of what is written for large ones is never run by them: rings of
packed rows, parts of windows, bands and columns of gradients, batches of tables. A build with
ROIDL_STRESS=ON has a second library, in which all of that begins at a few rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from roidl import _core

HERE = Path(__file__).parent
LIBRARY = Path(_core.__file__).parent / "stress" / "libroidl.so"

IN_ANOTHER_PROCESS = """
import sys, pytest, roidl
assert roidl.build_info()["stress"]
sys.exit(pytest.main(sys.argv[1:]))
"""
# Another library computes by the same kernels; what is about processes, Python's threads or memory
# asks something else. How many channels are read where they lie depends on how many there are, and
# there the sums of a tall window come in one piece: rounded otherwise than in parts.
LEFT_OUT = (
    *("torch", "jax", "tensorflow", "cupy"),
    *("another_instruction_set", "process_of_its_own", "python_threads", "memory_is_bounded"),
    "past_the_caches",
)


@pytest.mark.parametrize(
    "file",
    [
        "test_roi_align",
        "test_roi_pool",
        "test_gradients",
        "test_properties",
        "test_multiscale",
        "test_memory",
        "test_threads",
    ],
)
def test_with_tiny_constants(file: str, request: pytest.FixtureRequest) -> None:
    if not LIBRARY.exists():
        missing = pytest.fail if request.config.getoption("--require-stress") else pytest.skip
        missing("built without ROIDL_STRESS=ON")
    chosen = " and ".join(f"not {word}" for word in LEFT_OUT)
    arguments = ["-q", "-p", "no:cacheprovider", "-k", chosen, str(HERE / f"{file}.py")]
    process = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, *arguments],
        env={**os.environ, "LD_PRELOAD": str(LIBRARY)},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert " passed" in process.stdout
