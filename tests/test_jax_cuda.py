"""`roidl.jax` on CUDA: what is lowered, without a GPU; results, with one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import roidl
from cases import random_boxes
from conftest import NumpyArray
from trials import from_nchw

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


def pyramid(
    op: str, padded: bool
) -> tuple[Callable[..., Any], list[NumpyArray], NumpyArray, tuple[NumpyArray, ...]]:
    """A call on two maps, their gradients included, and its arrays."""
    from roidl import jax as front_end

    rng = np.random.default_rng(71)
    maps = [rng.standard_normal((2, 3, 12 // n, 16 // n)).astype(np.float32) for n in (1, 2)]
    boxes = random_boxes(rng, 8, 2, 12, 16, 1.0).astype(np.float32)
    more: tuple[NumpyArray, ...] = (np.array([0, 1] * 4, np.int32),)
    if padded:
        boxes, more = boxes[:, 1:].reshape(2, 4, 4), (np.array([4, 2], np.int32),)
    function = getattr(front_end, f"multiscale_{op}")

    def run(maps: Any, boxes: Any, last: Any) -> Any:
        how = {"counts": last} if padded else {"levels": last}

        def pooled(maps: Any, boxes: Any) -> Any:
            return function(maps, boxes, SIZE, [1.0, 0.5], canonical_scale=10, **how)

        result, pull = jax.vjp(pooled, maps, boxes)
        return result, pull(result)

    return run, maps, boxes, more


@needs_library
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("op", ["roi_align", "roi_pool"])
def test_several_maps_are_lowered_for_cuda(op: str, padded: bool) -> None:
    function, maps, boxes, more = pyramid(op, padded)
    text = lowered(function, maps, boxes, *more)
    assert re.search(r" (transpose|copy)\(", text) is None
    assert workspaces(text).keys() >= {f"roidl_{op}", f"roidl_{op}_backward"}


def test_the_rule_of_levels_is_lowered_for_cuda() -> None:
    from roidl.jax import assign_levels

    _, boxes = problem()
    text = lowered(lambda boxes: assign_levels(boxes, [1.0, 0.5]), boxes)
    ((results, target, _),) = CALL.findall(text)
    assert target == "roidl_assign_levels"
    assert results.lstrip("(").startswith("s32[6]")  # one of a pair in older versions


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


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("op", ["roi_align", "roi_pool"])
def test_several_maps(op: str, padded: bool, devices: list[Any]) -> None:
    function, maps, boxes, more = pyramid(op, padded)
    assert_equal(
        both(
            lambda low, high, *rest: function([low, high], *rest), (*maps, boxes, *more), devices[0]
        )
    )


def test_the_rule_of_levels(devices: list[Any]) -> None:
    from roidl.jax import assign_levels

    _, boxes = problem()
    assert_equal(both(lambda boxes: assign_levels(boxes, [1.0, 0.5]), (boxes,), devices[0]))


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
from roidl.jax import roi_align, roi_pool
x = jnp.asarray(np.random.default_rng(3).standard_normal((2, 8, 30, 40)), jnp.float32)
boxes = jnp.array([[0, 1.0, 1, 20, 16], [1, 3, 2, 39, 29]] * 160)  # more than a small call has
def loss(x):  # of five operators, which is where XLA begins to capture
    aligned = sum(roi_align(2 * x, boxes, 7, sampling_ratio=n, mode=mode)
                  for n, mode in ((2, "avg"), (1, "max"), (3, "avg")))
    return ((aligned + roi_pool(x, boxes, 7)) ** 2).sum() / 1e4
step = jax.jit(lambda x: x - 0.1 * jax.grad(loss)(x))
places = [jax.device_put(x, jax.devices(name)[0]) for name in ("cuda", "cpu")]
for _ in range(5):
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
