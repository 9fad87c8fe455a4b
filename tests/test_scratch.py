"""Workspace and contexts of calls on CUDA: one allocation per call, contexts are unchanged.

A library without kernels stands in for the device, or the machine that runs the kernels on a CPU:
no GPU is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Lib
from cuda_stand_ins import BYTES_OF_A_BOX, compiled, lines_of

SCRIPT = "cuda_scripts/lending.py"
HERE = Path(__file__).parent
OPERATORS = ["roi_align", "roi_align_backward", "roi_align_backward_boxes", "roi_pool",
             "roi_pool_backward"]  # fmt: skip
STREAM = 0x9ABC
WANTED = 2 * BYTES_OF_A_BOX


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled("device_library", tmp_path_factory.mktemp("cuda"))


def assert_used(call: dict[str, Any], memory: int) -> None:
    """The kernels use the whole workspace, and no other memory."""
    assert call["pass"] == "run"
    assert (call["workspace"], call["workspace_end"]) == (memory, memory + WANTED)
    assert call["stream"] == STREAM


def test_one_workspace_per_call_from_the_arrays_library(library: str) -> None:
    lines = lines_of(library, SCRIPT, "dlpack")
    assert len(lines) == 3 * len(OPERATORS)
    for op, made, call, freed in zip(OPERATORS, lines[::3], lines[1::3], lines[2::3], strict=True):
        assert call["op"] == op
        assert made["size"] == WANTED
        assert_used(call, made["made"])
        assert freed == {"freed": made["made"]}


def test_without_an_allocator_workspace_is_from_the_stream(library: str) -> None:
    lines = lines_of(library, SCRIPT, "no allocator")
    assert len(lines) == 3 * len(OPERATORS)
    for allocated, call, released in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        assert allocated["stream"] == STREAM
        assert_used(call, allocated["allocated"])
        assert released == {"released": allocated["allocated"]}


def test_the_error_of_an_allocator_is_the_calls(library: str) -> None:
    assert lines_of(library, SCRIPT, "no memory") == [{"error": "the pool is empty"}]


def test_pytorch_lends_bytes_of_the_device(library: str, tmp_path: Path) -> None:
    shims = [
        compiled("torch_shim", tmp_path, f"libtorch_{device}.so") for device in ("cpu", "cuda")
    ]
    result, scratch, call, *freed = lines_of(library, SCRIPT, "torch", *shims)
    assert (result["dtype"], result["ndim"]) == (6, 4)
    assert scratch == {
        "made": scratch["made"], "dtype": 0, "ndim": 1, "size": WANTED, "on": [1, 3],
    }  # fmt: skip
    assert_used(call, scratch["made"])
    assert call["device"] == 3
    assert freed.count({"freed": scratch["made"]}) == 1
    assert {"freed": result["made"]} in freed
    assert len(freed) == 4  # also those for the arguments


def test_loading_the_library_is_retried(library: str, tmp_path: Path) -> None:
    first, second, _, call, _ = lines_of(str(tmp_path / "later.so"), SCRIPT, "again", library)
    assert first == {"error": "roi_align: not implemented on device cuda"}
    assert second == {"error": "roi_align: CUDA cannot be used here: not yet"}
    assert call["op"] == "roi_align"


# On the machine that runs the kernels on a CPU ----------------------------------------------------


@pytest.mark.parametrize("what", ["lending", "contexts", "capture"])
def test_on_the_machine_of_cupys_stand_in(get_lib: Callable[[str], Lib], what: str) -> None:
    """In a new process, in which roidl has not been called before."""
    get_lib("cupy")
    import cupy

    if not hasattr(cupy, "machine"):
        pytest.skip("CuPy is on a GPU")
    path = os.pathsep.join((str(HERE), os.environ["PYTHONPATH"]))
    done = subprocess.run(
        [sys.executable, str(HERE / "cuda_scripts" / "on_the_machine.py"), what],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
