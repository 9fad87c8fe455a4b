"""The tests of results again, with kernels whose constants are tiny (src/cpu/tuning.h).

The maps of tests are small, so that the normal constants leave most code for large maps unused:
ring buffers of packed rows, parts of windows, bands and columns of gradients, batches of tables. A
build with ROIDL_STRESS=ON has a second library, which uses all of that from a few rows on.
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
# Left out are other front ends of the same kernels, tests of processes, Python's threads and
# memory, and bits that depend on constants: the number of channels decides whether maps are read in
# place, where the sums of a tall window are rounded otherwise than in parts.
LEFT_OUT = (
    *("torch", "jax", "tensorflow", "cupy"),
    *("another_instruction_set", "process_of_its_own", "python_threads", "memory_is_bounded"),
    "streamed_stores",
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
