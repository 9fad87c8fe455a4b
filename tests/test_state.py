"""Results depend on the arguments alone: not on the floating-point mode of the thread that calls,
nor of the one that called first, not on the process's locale or signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import floating_point
import roidl
from conftest import numpy_dtype
from producers import NumpyArray

HERE = Path(__file__).parent
C, K, SIZE = 48, 256, 7
# Denormals; those of half types are normal numbers in float32.
TINY = {"float16": 3e-6, "bfloat16": 1e-39, "float32": 1e-39, "float64": 1e-309}
EXTENT = {"NCHW": (2, C, 48, 56), "NHWC": (2, 48, 56, C)}
NUM_TINY = 8  # channels; the arithmetic of denormals is slow
on_known_machines = pytest.mark.skipif(
    not floating_point.SUPPORTED, reason="no fenv_t of this machine is known"
)


def arrays(dtype: str, layout: str) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Features, a gradient, and boxes; some channels are tiny."""
    rng = np.random.default_rng(20)
    unit = np.where(np.arange(C) < NUM_TINY, TINY[dtype], 1.0)
    unit = unit[:, None, None] if layout == "NCHW" else unit
    pooled = (K, C, SIZE, SIZE) if layout == "NCHW" else (K, SIZE, SIZE, C)
    features = (rng.standard_normal(EXTENT[layout]) * unit).astype(numpy_dtype(dtype))
    gradient = (rng.standard_normal(pooled) * unit).astype(numpy_dtype(dtype))
    centre, half = rng.uniform(4, 44, (K, 2)), rng.uniform(0.5, 24, (K, 2))
    rows = np.concatenate([rng.integers(0, 2, (K, 1)), centre - half, centre + half], axis=1)
    rows[0, 1:] = 1e-40, 1e-40, 3e-40, 3  # coordinates may be denormal as well
    return features, gradient, rows.astype(np.float64 if dtype == "float64" else np.float32)


def calls(dtype: str, layout: str) -> dict[str, Callable[[], Any]]:
    """Calls of every operator, each of more than 0.3 ms."""
    x, g, b = arrays(dtype, layout)
    options: dict[str, Any] = {"layout": layout, "spatial_scale": 1.1}
    argmax = roidl.roi_pool(x, b, SIZE, **options, return_argmax=True)[1]
    level: dict[str, Any] = {"scales": [0.55, 1.1 / 7], "layout": layout}
    maps, shapes = [x, x], [x.shape, x.shape]
    listed = [b[b[:, 0] == image, 1:].astype(kind) for image, kind in ((0, "f4"), (1, "f8"))]
    found: dict[str, Callable[[], Any]] = {
        "pool": lambda: roidl.roi_pool(x, b, SIZE, **options),
        "pool avg": lambda: roidl.roi_pool(x, b, SIZE, **options, mode="avg"),
        "pool backward": lambda: roidl.roi_pool_backward(g, b, argmax, x.shape, **options),
        "pool avg backward": lambda: roidl.roi_pool_backward(
            g, b, None, x.shape, **options, mode="avg"
        ),
        "levels": lambda: roidl.assign_levels(b, scales=level["scales"], canonical_scale=30),
        "pyramid": lambda: roidl.multiscale_roi_align(maps, b, SIZE, **level),
        "pyramid backward": lambda: roidl.multiscale_roi_align_backward(g, b, shapes, **level),
        "boxes of a list": lambda: roidl.roi_align_backward_boxes(g, x, listed, **options),
    }
    for mode in ("avg", "max", "max_onnx"):
        kind = {**options, "mode": mode}
        found[f"align {mode}"] = partial(roidl.roi_align, x, b, SIZE, **kind)
        found[f"align backward {mode}"] = partial(
            roidl.roi_align_backward, g, b, x.shape, input=x, **kind
        )
        if mode != "max_onnx":
            found[f"boxes {mode}"] = partial(roidl.roi_align_backward_boxes, g, x, b, **kind)
    return found


def bits(result: Any) -> bytes:
    parts = result if isinstance(result, (list, tuple)) else [result]
    return b"".join(part.tobytes() for part in parts)


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = roidl.get_num_threads()
    roidl.set_num_threads(2)
    yield
    roidl.set_num_threads(before)


def compare(dtype: str, layout: str, modes: list[str]) -> list[str]:
    """The calls whose results differ from those in the usual mode."""
    wrong = []
    for name, call in calls(dtype, layout).items():
        expected = bits(call())
        for mode in modes:
            with floating_point.mode(mode):
                before = floating_point.current()
                result = call()
                after = floating_point.current()
            if before != after:
                wrong.append(f"{mode} is not put back by {name}")
            if bits(result) != expected:
                wrong.append(f"{name} {mode}")
    return wrong


@on_known_machines
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [("float16", "NCHW"), ("bfloat16", "NHWC"), ("float32", "NCHW"), ("float64", "NHWC")],
)
def test_the_same_bits_in_every_floating_point_mode(dtype: str, layout: str) -> None:
    assert compare(dtype, layout, ["flushed", "upward", "all_at_once"]) == []


def born_in_the_mode(mode: str) -> None:
    """Threads of the pool inherit the mode of the thread that makes the first call."""
    x, _, b = arrays("float16", "NCHW")
    with floating_point.mode(mode):
        roidl.set_num_threads(2)
        roidl.roi_align(x, b, SIZE)
    assert compare("float16", "NCHW", [mode]) == []
    largest = np.abs(roidl.roi_align(x, b, SIZE)[:, :NUM_TINY].astype(np.float64)).max()
    assert 1e-6 < largest < 2e-5


@on_known_machines
@pytest.mark.parametrize("mode", floating_point.MODES)
def test_pool_threads_ignore_the_creators_mode(mode: str) -> None:
    code = f"import test_state; test_state.born_in_the_mode({mode!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@on_known_machines
@pytest.mark.parametrize("mode", floating_point.MODES)
def test_checks_in_every_floating_point_mode(mode: str) -> None:
    """A denormal scale is positive, a denormal index is invalid; messages have the same digits."""
    x, _, b = arrays("float32", "NCHW")
    no_image = b.copy()
    no_image[3, 0] = 1e-40
    sentences = []
    for inside in (False, True):
        for rows, scale in ((no_image, 1.0), (b, -0.1), (b, float("inf"))):
            with (
                pytest.raises(ValueError) as caught,
                floating_point.mode(mode) if inside else contextlib.nullcontext(),
            ):
                roidl.roi_align(x, rows, SIZE, scale)
            sentences.append(str(caught.value))
    with floating_point.mode(mode):
        roidl.roi_align(x, b, SIZE, 1e-310)
    assert sentences[:3] == sentences[3:]
    assert sentences[0].startswith("roi_align: the batch index of row 3 is 9.99995e-41, but")
    assert sentences[1].endswith("got -0.1")


def signals_are_handled_elsewhere() -> None:
    """All signals that can be blocked are blocked on the pool's threads, and on no others."""
    threads = set(os.listdir("/proc/self/task"))
    x, _, b = arrays("float32", "NCHW")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    roidl.set_num_threads(3)
    roidl.roi_align(x, b, SIZE)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    born = set(os.listdir("/proc/self/task")) - threads
    assert len(born) == 2
    for thread in born:
        status = Path(f"/proc/self/task/{thread}/status").read_text()
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1, signal.SIGPROF):
            assert blocked >> (each - 1) & 1, each
        assert not blocked >> (signal.SIGSEGV - 1) & 1  # faulthandler's


def test_signals_are_blocked_on_pool_threads() -> None:
    code = "import test_state; test_state.signals_are_handled_elsewhere()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HERE,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
