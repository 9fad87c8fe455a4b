"""Calls of every operator while another process writes to all small arrays that they read.

Run as a program: prints the name of every call before it is tried, and `done` at the end. The
arrays are in memory shared with a process that writes without pause, because a Python thread would
have to wait for the GIL.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import roidl
from producers import NumpyArray
from roidl import _core
from roidl._params import align_params, pool_params

SECONDS = 0.12  # for each
ROIS = 6000  # their tables are made in batches

Call = Callable[[], object]

RNG = np.random.default_rng(3)
MAPS = [RNG.standard_normal((2, 2, size, size), dtype=np.float32) for size in (64, 32)]
GRAD = RNG.standard_normal((ROIS, 2, 3, 4), dtype=np.float32)
GROUPED_GRAD = GRAD.reshape(2, ROIS // 2, 2, 3, 4)
SHAPES = [array.shape for array in MAPS]
SCALES = [0.25, 0.125]


def _boxes(largest: float) -> NumpyArray:
    first = RNG.uniform(-20, 256, (ROIS, 2))
    size = RNG.uniform(0, largest, (ROIS, 2))
    return np.concatenate([RNG.integers(0, 2, (ROIS, 1)), first, first + size], 1)


def _shared(array: NumpyArray) -> NumpyArray:
    result = np.frombuffer(mmap.mmap(-1, array.nbytes), array.dtype).reshape(array.shape)
    result[...] = array
    return result


def _states(values: list[Any], like: NumpyArray) -> list[NumpyArray]:
    """The contents of an array in turn; the first are its original ones."""
    return [np.broadcast_to(np.asarray(value, like.dtype), like.shape) for value in values]


BOXES = _shared(_boxes(4).astype(np.float32))
STEP = _shared(np.ones_like(BOXES))
INDICES = _shared(np.zeros(ROIS, np.int64))
LEVELS = _shared(np.zeros(ROIS, np.int32))
COUNTS = _shared(np.zeros(2, np.int64))
ARGMAX = _shared(np.full((ROIS, 2, 3, 4), -1, np.int32))
STATES: list[tuple[NumpyArray, list[NumpyArray]]] = [
    (BOXES, _states([BOXES.copy(), *[_boxes(120)] * 4, [1, 0, 0, 80, 80], 1e9, np.nan], BOXES)),
    (STEP, _states([1, 0, [0, 1, 0, 0, 1], np.nan], STEP)),
    (INDICES, _states([0, 1, 10**9, -(2**63)], INDICES)),
    (LEVELS, _states([0, np.arange(ROIS) % 2, 99, -(2**31)], LEVELS)),
    (COUNTS, _states([0, ROIS // 2, 7, 10**9, -1], COUNTS)),
    (ARGMAX, _states([-1, 5, 2**31 - 1, -(2**31), 64 * 64 - 1], ARGMAX)),
]

ROWS = BOXES[:, 1:]
GROUPED = ROWS.reshape(2, ROIS // 2, 4)
ALIGN = align_params("roi_align", (3, 4), 0.25, 0, True, "avg", "NCHW")
POOL = pool_params("roi_pool", (3, 4), 0.25, "max", "NCHW")


def _derivatives() -> Iterator[tuple[str, Call]]:
    """The derivatives that only the frameworks' adapters call."""
    features, out = MAPS[0], np.empty_like(GRAD)

    def run(op: str, params: Any, leader: Any, other: Any, result: NumpyArray) -> None:
        shape = result.shape if op.endswith("backward") else None
        _core.run_operator(op, params, [leader, other], BOXES, None, shape, [result], threads=2)

    max_mode = align_params("roi_align", (3, 4), 0.25, 2, True, "max", "NCHW")
    op = "roi_align_jvp_boxes_backward"
    yield "roi_align_jvp", lambda: run("roi_align_jvp", max_mode, features, features, out)
    yield "roi_align_jvp_boxes", lambda: run("roi_align_jvp_boxes", ALIGN, features, STEP, out)
    yield op, lambda: run(op, ALIGN, GRAD, STEP, np.empty_like(features))
    yield "roi_pool_jvp", lambda: run("roi_pool_jvp", POOL, features, ARGMAX, out)


def _several() -> Iterator[tuple[str, Call]]:
    by_image = {"levels": LEVELS.reshape(2, -1), "counts": COUNTS}
    more: dict[str, Any]
    for name, boxes, grad, more in (
        ("", BOXES, GRAD, {"levels": LEVELS}),
        (", by size", BOXES, GRAD, {"canonical_scale": 40}),
        (", counted", GROUPED, GROUPED_GRAD, by_image),
    ):
        for op in (roidl.multiscale_roi_align, roidl.multiscale_roi_pool):
            yield op.__name__ + name, partial(op, MAPS, boxes, (3, 4), SCALES, **more)
        back, rest = roidl.multiscale_roi_align_backward, (SHAPES, SCALES)
        yield back.__name__ + name, partial(back, grad, boxes, *rest, **more)
        yield (
            f"multiscale_roi_pool_backward{name}",
            partial(
                roidl.multiscale_roi_pool_backward,
                grad,
                boxes,
                ARGMAX.reshape(grad.shape),
                *rest,
                **more,
            ),
        )
    yield "assign_levels", lambda: roidl.assign_levels(BOXES, SCALES)


def calls() -> Iterator[tuple[str, Call]]:
    x, shape, size = MAPS[0], SHAPES[0], (3, 4)
    for mode in ("avg", "max", "max_onnx"):
        yield f"roi_align, {mode}", partial(roidl.roi_align, x, BOXES, size, 0.25, mode=mode)
        back = partial(roidl.roi_align_backward, GRAD, BOXES, shape, 0.25, input=x)
        yield f"roi_align_backward, {mode}", partial(back, mode=mode)
    indexed = partial(roidl.roi_align, batch_indices=INDICES)
    yield "roi_align, indices", lambda: indexed(x, ROWS, size, 0.25)
    yield "backward_boxes", lambda: roidl.roi_align_backward_boxes(GRAD, x, BOXES, 0.25)
    yield "roi_pool", lambda: roidl.roi_pool(x, BOXES, size, 0.25, return_argmax=True)
    yield "roi_pool, avg", lambda: roidl.roi_pool(x, BOXES, size, 0.25, mode="avg")
    pool = roidl.roi_pool_backward
    yield "roi_pool_backward", lambda: pool(GRAD, BOXES, ARGMAX, shape, 0.25)
    yield "roi_pool_backward, avg", lambda: pool(GRAD, BOXES, None, shape, 0.25, mode="avg")
    yield from _several()
    yield from _derivatives()


def _write(parent: int) -> None:
    rng = np.random.default_rng(1)
    while os.getppid() == parent:
        for array, states in STATES:
            np.copyto(array, states[0])
        time.sleep(rng.uniform(0, 5e-3))
        for array, states in STATES:
            np.copyto(array, states[rng.integers(len(states))])
        time.sleep(rng.uniform(0, 2e-3))


def main() -> None:
    parent = os.getpid()
    writer = os.fork()
    if writer == 0:
        try:
            _write(parent)
        finally:
            os._exit(0)
    try:
        for name, call in calls():
            print(name, flush=True)
            end, succeeded = time.monotonic() + SECONDS, 0
            while time.monotonic() < end:
                with contextlib.suppress(ValueError):
                    call()
                    succeeded += 1
            print("  succeeded", succeeded, flush=True)
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    print("done")


if __name__ == "__main__":
    main()
