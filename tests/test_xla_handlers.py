"""The handlers of XLA's custom calls, called by a minimal runtime, without a GPU."""

from __future__ import annotations

import ctypes
import re
from typing import Any, NamedTuple

import numpy as np
import pytest

import roidl
from cuda_stand_ins import BYTES_OF_A_BOX, compiled, lines_of
from roidl._bridge import bridge
from roidl._operators import OPERATORS as CATALOGUE
from xla_runtime import CAPTURABLE, INTERNAL, OURS, STREAM, THEIRS, UNIMPLEMENTED, Runtime

IS_BUILT = roidl.build_info()["cuda"]["built"]

OPERATORS = [*CATALOGUE, "assign_levels"]


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("op", OPERATORS)
def test_handlers_have_the_runtimes_version_and_may_be_captured(op: str, platform: str) -> None:
    runtime = Runtime()
    metadata = runtime.metadata(f"roidl_{platform}_{op}")
    assert (metadata.version.major, metadata.version.minor) == runtime.version
    assert metadata.traits == CAPTURABLE
    assert runtime.errors == []


@pytest.mark.parametrize("stage", [0, 1])
def test_nothing_is_done_before_a_program_is_initialized(stage: int) -> None:
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


def test_a_handler_without_parameters_says_what_is_missing() -> None:
    runtime = Runtime()
    assert runtime.call("roidl_cpu_roi_pool") == OURS
    assert runtime.errors == [
        (INTERNAL, "roi_pool: the XLA custom call has no attribute output_height"),
    ]


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("op", OPERATORS)
def test_a_program_of_another_catalogue_is_refused_by_name(op: str, platform: str) -> None:
    runtime = Runtime()
    assert runtime.call(f"roidl_{platform}_{op}", attributes={"catalogue": np.int64(99)}) == OURS
    ((_, sentence),) = runtime.errors
    assert sentence.startswith(f"{op}: this program was made by another version of roidl")


def test_there_is_no_handler_of_another_name() -> None:
    look_up = ctypes.CDLL(bridge("xla")).roidl_xla_handler
    look_up.restype = ctypes.c_void_p
    assert look_up(b"cpu", b"roi_align") is not None
    assert look_up(b"cpu", b"roi_alig") is None


class Told(NamedTuple):
    """The records of jax_scripts/handlers.py and tests/cpp/device_library.cpp."""

    addresses: dict[str, int]
    events: dict[tuple[str, str], list[Any]]  # by the names of a call and of its workspace
    lends_enough: bool


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    pytest.importorskip("jax")
    library = compiled("device_library", tmp_path_factory.mktemp("cuda"))
    first, *lines, last = lines_of(library, "jax_scripts/handlers.py")
    events: dict[tuple[str, str], list[Any]] = {}
    for line in lines:
        if "lent" in line:
            here = events[line["name"], line["lent"]] = []
        else:
            here.append(line)
    return Told(first, events, last)


GIVEN = {
    "roi_align": {"input": "features"},
    "roi_align_backward": {"gradient": "features"},
    "roi_pool": {"input": "features"},
    "roi_pool with argmax": {"input": "features", "argmax": "argmax"},
    "roi_pool_backward": {"gradient": "features", "argmax": "argmax"},
    "roi_pool_jvp": {"input": "features"},  # the average is linear and has another entry
}
CURRENT_DEVICE, ORDINAL = 7, 3  # of the library; of the runtime


@pytest.mark.parametrize("lent", ["enough", "little"])
@pytest.mark.parametrize("name", GIVEN)
def test_operators_get_the_buffers_the_stream_and_its_device(
    name: str, lent: str, told: Told
) -> None:
    expected = {"boxes": "boxes", "pooled": "pooled"} | GIVEN[name]
    for call in (each for each in told.events[name, lent] if "op" in each):
        arrays = {role: call[role] for role in ("input", "gradient", "argmax", *expected)}
        assert {role: address for role, address in arrays.items() if address} == {
            role: told.addresses[array] for role, array in expected.items()
        }
        assert call["op"] == name.partition(" ")[0]
        assert call["stream"] == STREAM
        # The first runtime reports its device, the second does not.
        assert call["device"] == (ORDINAL if lent == "enough" else CURRENT_DEVICE)
        assert not call["may_wait"]


@pytest.mark.parametrize("name", GIVEN)
def test_what_xla_lends_is_used_and_otherwise_one_piece_of_the_streams(
    name: str, told: Told
) -> None:
    loaded, run = told.events[name, "enough"]
    assert (loaded["pass"], run["pass"]) == ("load", "run")  # before programs run, and then
    assert run["workspace"] == told.addresses["enough"]
    assert run["workspace_end"] == run["workspace"] + 2 * BYTES_OF_A_BOX
    loaded, allocated, run, released = told.events[name, "little"]
    assert (loaded["pass"], run["pass"]) == ("load", "run")
    assert allocated["stream"] == STREAM
    assert run["workspace"] == allocated["allocated"] == released["released"]
    assert run["workspace_end"] == run["workspace"] + 2 * BYTES_OF_A_BOX


def test_as_much_is_lent_as_operators_take(told: Told) -> None:
    assert told.lends_enough
