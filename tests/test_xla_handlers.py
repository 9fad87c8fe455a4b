"""The handlers of XLA's custom calls, called as a runtime calls them: no GPU is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import roidl
from xla_runtime import CAPTURABLE, INTERNAL, OURS, STREAM, THEIRS, UNIMPLEMENTED, Runtime

IS_BUILT = roidl.build_info()["cuda"]["built"]

OPERATORS = ["roi_align", "roi_align_backward", "roi_align_backward_boxes", "roi_align_jvp",
             "roi_align_jvp_boxes", "roi_align_jvp_boxes_backward", "roi_pool",
             "roi_pool_backward", "roi_pool_jvp", "assign_levels"]  # fmt: skip


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("op", OPERATORS)
def test_handlers_have_the_runtimes_version_and_may_be_captured(op: str, platform: str) -> None:
    runtime = Runtime()
    metadata = runtime.metadata(f"roidl_{platform}_{op}")
    assert (metadata.version.major, metadata.version.minor) == runtime.version
    assert metadata.traits == CAPTURABLE
    assert runtime.errors == []


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_nothing_is_done_before_a_program_runs(stage: int) -> None:
    runtime = Runtime(stream_fails=True)
    assert runtime.call("roidl_cuda_roi_align", stage) is None


def test_xlas_own_error_is_passed_on() -> None:
    runtime = Runtime(stream_fails=True)
    assert runtime.call("roidl_cuda_roi_align") == THEIRS
    assert runtime.errors == []


@pytest.mark.parametrize("op", OPERATORS)
def test_where_cuda_is_not_usable_a_handler_says_why(op: str) -> None:
    if roidl.build_info()["cuda"]["usable"]:
        pytest.skip("CUDA is usable here")
    runtime = Runtime()
    assert runtime.call(f"roidl_cuda_{op}") == OURS
    ((code, sentence),) = runtime.errors
    words = "CUDA cannot be used here: .+" if IS_BUILT else "not implemented on device cuda"
    assert re.fullmatch(f"{op}: {words}", sentence)
    assert code == (INTERNAL if IS_BUILT else UNIMPLEMENTED)


def test_a_handler_without_operands_says_what_is_missing() -> None:
    runtime = Runtime()
    assert runtime.call("roidl_cpu_roi_pool") == OURS
    assert runtime.errors == [
        (INTERNAL, "roi_pool: the XLA custom call has no operand input"),
    ]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], list[Any], bool]:
    """Addresses; what operators were given, by tests/cpp/device_library.cpp; the last line."""
    pytest.importorskip("jax")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    here = Path(__file__).parent
    library = str(tmp_path_factory.mktemp("cuda") / "library.so")
    source = str(here / "cpp" / "device_library.cpp")
    flags = ["-shared", "-fPIC", "-std=c++17", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *flags, f"-I{here.parent / 'src'}", source, "-o", library]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment = {
        **os.environ,
        "ROIDL_CUDA_LIBRARY": library,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(here),
    }
    script = [sys.executable, str(here / "jax_scripts" / "handlers.py")]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *calls, last = map(json.loads, done.stdout.splitlines())
    return first, calls, last


GIVEN = {
    "roi_align": {"input": "features"},
    "roi_align_backward": {"gradient": "features"},
    "roi_pool": {"input": "features"},
    "roi_pool with argmax": {"input": "features", "argmax": "argmax"},
    "roi_pool_backward": {"gradient": "features", "argmax": "argmax"},
}


@pytest.mark.parametrize("lent", ["enough", "little"])
@pytest.mark.parametrize("name", GIVEN)
def test_operators_get_the_buffers_the_stream_its_device_and_the_workspace(
    name: str, lent: str, told: tuple[dict[str, int], list[Any], bool]
) -> None:
    addresses, calls, _ = told
    call = calls[2 * list(GIVEN).index(name) + (lent == "little")]
    expected = {"boxes": "boxes", "pooled": "pooled"} | GIVEN[name]
    if lent == "enough":  # or the kernels have to see for themselves
        expected["workspace"] = lent
    arrays = {role: call[role] for role in ("input", "gradient", "argmax", *expected)}
    arrays["workspace"] = call["workspace"]
    assert {role: address for role, address in arrays.items() if address} == {
        role: addresses[array] for role, array in expected.items()
    }
    assert call["op"] == name.partition(" ")[0]
    assert (call["stream"], call["device"]) == (STREAM, STREAM >> 8)  # the library's own answer
    assert not call["may_wait"]


def test_as_much_is_lent_as_operators_take(
    told: tuple[dict[str, int], list[Any], bool],
) -> None:
    assert told[-1]
