"""`roidl.jax` on CUDA. Without a GPU: what is lowered, how handlers answer; with one: results."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roidl
from cases import random_boxes
from conftest import NumpyArray
from trials import from_nchw
from xla_runtime import CAPTURABLE, INTERNAL, OURS, STREAM, THEIRS, UNIMPLEMENTED, Runtime

jax = pytest.importorskip("jax")
jnp = jax.numpy

SIZE = (2, 3)
SCALE = 0.5
MODES = [("roi_align", "avg"), ("roi_align", "max"), ("roi_pool", "max"), ("roi_pool", "avg")]
every_mode = pytest.mark.parametrize(("op", "mode"), MODES)
is_built = roidl.build_info()["cuda"]["built"]
needs_library = pytest.mark.skipif(not is_built, reason="roidl was built without CUDA")


def problem(dtype: str = "float32") -> tuple[NumpyArray, NumpyArray]:
    rng = np.random.default_rng(67)
    features = rng.standard_normal((2, 5, 7, 9)).astype(jnp.dtype(dtype))
    return features, random_boxes(rng, 6, 2, 7, 9, SCALE).astype(np.float32)


def pool(op: str, mode: str, layout: str = "NCHW") -> Callable[..., Any]:
    from roidl import jax as front_end

    more = {"sampling_ratio": 2} if op == "roi_align" else {}
    function = getattr(front_end, op)
    return lambda input, boxes: function(
        input, boxes, SIZE, SCALE, mode=mode, layout=layout, **more
    )


def loss_of(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda input, boxes: (function(input, boxes) ** 2).sum()


def lowered(function: Callable[..., Any], *arguments: Any, platforms: Any = ("cuda",)) -> str:
    traced = jax.jit(function).trace(*arguments)
    return str(traced.lower(lowering_platforms=platforms).as_text("hlo"))


# Lowering -----------------------------------------------------------------------------------------

CALL = re.compile(r"= (.+) custom-call\(.*custom_call_target=\"(\w+)\".*api_version=(\w+)")
WORKSPACE = re.compile(r", u8\[(\d+)\]\{0\}\)$")  # the last of several results


def workspaces(text: str) -> dict[str, int]:
    """The custom calls of a program for CUDA, and how many bytes each is lent."""
    found = {}
    for results, target, version in CALL.findall(text):
        last = WORKSPACE.search(results)
        assert last is not None
        assert version == "API_VERSION_TYPED_FFI"
        found[target] = int(last[1])
    return found


@needs_library
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@every_mode
def test_a_program_for_cuda_has_the_custom_calls_and_no_transposes(
    op: str, mode: str, layout: str
) -> None:
    features, boxes = problem()
    function = pool(op, mode, layout)
    arguments = from_nchw(features, layout), boxes
    along_boxes = op == "roi_align"
    gradients = jax.grad(loss_of(function), argnums=(0, 1))
    backward = {f"roidl_{op}", f"roidl_{op}_backward"}
    if along_boxes:
        backward |= {"roidl_roi_align_backward_boxes"}
    for traced, targets in ((function, {f"roidl_{op}"}), (gradients, backward)):
        text = lowered(traced, *arguments)
        assert re.search(r" (transpose|copy)\(", text) is None
        found = workspaces(text)
        assert found.keys() == targets
        assert mode != "avg" or all(found.values())  # each lays out a plan of its taps there


@needs_library
def test_second_derivatives_and_vmap_are_lowered_for_cuda() -> None:
    features, boxes = problem()
    gradient = jax.grad(loss_of(pool("roi_align", "avg")), argnums=(0, 1))

    def second(input: Any, boxes: Any) -> Any:
        return jax.grad(lambda x: (gradient(x, boxes)[1] ** 2).sum())(input)

    found = workspaces(lowered(second, features, boxes))
    assert found.keys() >= {"roidl_roi_align_jvp_boxes", "roidl_roi_align_jvp_boxes_backward"}
    mapped = lowered(jax.vmap(gradient), np.stack([features] * 3), np.stack([boxes] * 3))
    one = workspaces(lowered(gradient, features, boxes))
    assert workspaces(mapped)["roidl_roi_align_backward"] > 2 * one["roidl_roi_align_backward"]


@needs_library
def test_a_program_for_two_platforms_has_both_calls() -> None:
    text = lowered(pool("roi_align", "avg"), *problem(), platforms=("cpu", "cuda"))
    lent = [WORKSPACE.search(results) for results, _, _ in CALL.findall(text)]
    assert sorted(map(bool, lent)) == [False, True]


WITHOUT_LIBRARY = """
import jax, jax.numpy as jnp
from roidl.jax import roi_align
x, boxes = jnp.ones((1, 2, 8, 8)), jnp.array([[0, 1.0, 1, 6, 6]])
function = jax.jit(lambda x: roi_align(x, boxes, 2))
print(function(x).shape)
try:
    function.trace(x).lower(lowering_platforms=("cuda",))
except NotImplementedError as error:
    print(error)
"""


def test_without_a_library_for_cuda_lowering_says_so_and_the_cpu_works() -> None:
    environment = {**os.environ, "ROIDL_CUDA_LIBRARY": "/nowhere.so", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBRARY], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "(1, 2, 2, 2)",
        "roi_align: not implemented on device cuda",
    ]


# Handlers -----------------------------------------------------------------------------------------
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
    words = "CUDA cannot be used here: .+" if is_built else "not implemented on device cuda"
    assert re.fullmatch(f"{op}: {words}", sentence)
    assert code == (INTERNAL if is_built else UNIMPLEMENTED)


def test_a_handler_without_operands_says_what_is_missing() -> None:
    runtime = Runtime()
    assert runtime.call("roidl_cpu_roi_pool") == OURS
    assert runtime.errors == [
        (INTERNAL, "roi_pool: the XLA custom call has no operand input"),
    ]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], list[Any], bool]:
    """Addresses; what operators were given, by tests/cpp/device_library.cpp; the last line."""
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


# On a GPU -----------------------------------------------------------------------------------------


@pytest.fixture
def devices() -> Iterator[list[Any]]:
    """The CUDA devices, 64-bit types in use."""
    try:
        found = jax.devices("cuda")
    except RuntimeError as error:
        pytest.skip(f"JAX has no usable CUDA here: {str(error).splitlines()[0]}")
    if not roidl.build_info()["cuda"]["usable"]:
        pytest.skip("roidl has no usable CUDA here")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield found
    jax.config.update("jax_enable_x64", before)


def both(
    function: Callable[..., Any], arguments: tuple[Any, ...], device: Any
) -> list[tuple[Any, Any]]:
    """The results on the GPU, and on the CPU, where the oracle has tested them."""
    results = []
    for place in (device, jax.devices("cpu")[0]):
        placed = [jax.device_put(each, place) for each in arguments]
        found = jax.jit(function)(*placed)
        leaves = jax.tree.leaves(found)
        assert all(leaf.devices() == {place} for leaf in leaves)
        results.append([np.asarray(leaf, np.float64) for leaf in leaves])
    return list(zip(*results, strict=True))


def assert_equal(pairs: list[tuple[Any, Any]], tolerance: float = 1e-5) -> None:
    for got, expected in pairs:
        scale = tolerance * np.abs(expected).max(initial=0)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=scale)


def everything(op: str, mode: str, layout: str = "NCHW") -> Callable[..., Any]:
    """Result, gradients, and what follows the input."""
    function = pool(op, mode, layout)

    def run(input: Any, boxes: Any) -> Any:
        pooled, pull = jax.vjp(function, input, boxes)
        along = jax.jvp(lambda x: function(x, boxes), (input,), (input,))[1]
        return pooled, pull(pooled), along

    return run


TOLERANCES = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-12}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@every_mode
def test_results_and_gradients(
    op: str, mode: str, layout: str, dtype: str, devices: list[Any]
) -> None:
    features, boxes = problem(dtype)
    arguments = from_nchw(features, layout), boxes
    assert_equal(both(everything(op, mode, layout), arguments, devices[0]), TOLERANCES[dtype])


def test_second_derivatives_and_vmap(devices: list[Any]) -> None:
    features, boxes = problem("float64")
    gradient = jax.grad(loss_of(pool("roi_align", "avg")), argnums=(0, 1))

    def second(input: Any, boxes: Any) -> Any:
        return jax.grad(lambda x: (gradient(x, boxes)[1] ** 2).sum())(input)

    assert_equal(both(second, (features, boxes), devices[0]))
    stacked = np.stack([features, 2 * features]), np.stack([boxes, boxes[::-1]])
    assert_equal(both(jax.vmap(gradient), stacked, devices[0]))


def test_the_last_of_several_devices(devices: list[Any]) -> None:
    assert_equal(both(everything("roi_align", "avg"), problem(), devices[-1]))


def test_bad_boxes_give_zeros_and_nothing_waits_for_them(devices: list[Any]) -> None:
    features, boxes = problem()
    boxes[1, 0], boxes[2, 3] = 7, np.nan
    function = jax.jit(everything("roi_align", "avg"))
    roidl.set_check_boxes(True)  # of no effect here
    try:
        pooled, _, _ = function(*(jax.device_put(each, devices[0]) for each in (features, boxes)))
    finally:
        roidl.set_check_boxes(False)
    rows = np.abs(np.asarray(pooled)).max(axis=(1, 2, 3))
    assert [bool(row) for row in rows] == [True, False, False, True, True, True]


COMMAND_BUFFERS = """
import jax, jax.numpy as jnp, numpy as np
from roidl.jax import roi_align
x = jnp.asarray(np.random.default_rng(3).standard_normal((2, 8, 30, 40)), jnp.float32)
boxes = jnp.array([[0, 1.0, 1, 20, 16], [1, 3, 2, 39, 29]])
loss = lambda x: (roi_align(2 * x, boxes, 7, sampling_ratio=2) ** 2).sum()
step = jax.jit(lambda x: x - 0.1 * jax.grad(loss)(x))
places = [jax.device_put(x, jax.devices(name)[0]) for name in ("cuda", "cpu")]
for _ in range(5):  # the first are not captured
    places = [step(place) for place in places]
    np.testing.assert_allclose(*places, rtol=1e-4, atol=1e-5)
print("fine")
"""


def test_in_command_buffers(devices: list[Any]) -> None:
    flags = "--xla_gpu_enable_command_buffer=FUSION,CUSTOM_CALL --xla_gpu_graph_min_graph_size=1"
    done = subprocess.run(
        [sys.executable, "-c", COMMAND_BUFFERS],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fine"]
