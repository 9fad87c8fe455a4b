"""Threads: the same bits for any number of them, from any thread, after fork, without the GIL.

Tests that need a process without a pool, or may hang, run in their own process, by name.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roidl
from producers import NumpyArray, Producer

HERE = Path(__file__).parent
SECONDS = 60  # seconds until a test counts as hanging; all of them take less than one

# Problems of more than 0.3 ms ---------------------------------------------------------------------

C, K, SIZE = 65, 320, 7  # 65 channels: whole blocks and a partial one
SHAPES = {"NCHW": (2, C, 48, 56), "NHWC": (2, 48, 56, C)}


@cache
def features(layout: str, seed: int = 0) -> NumpyArray:
    return np.random.default_rng(seed).standard_normal(SHAPES[layout], dtype=np.float32)


@cache
def boxes(seed: int = 0) -> NumpyArray:
    """[K, 5]; most overlap others, so that gradients are sums of many terms."""
    rng = np.random.default_rng(seed + 1000)
    centre, half = rng.uniform(0, 50, (K, 2)), rng.uniform(1, 20, (K, 2))
    rows = np.concatenate([rng.integers(0, 2, (K, 1)), centre - half, centre + half], axis=1)
    return rows.astype(np.float32)


@cache
def grad(layout: str, seed: int = 0) -> NumpyArray:
    shape = (K, C, SIZE, SIZE) if layout == "NCHW" else (K, SIZE, SIZE, C)
    return np.random.default_rng(seed + 2000).standard_normal(shape, dtype=np.float32)


def _forward(mode: str, layout: str, seed: int) -> Any:
    return roidl.roi_align(features(layout, seed), boxes(seed), SIZE, mode=mode, layout=layout)


def _backward(mode: str, layout: str, seed: int) -> Any:
    x, g = features(layout, seed), grad(layout, seed)
    return roidl.roi_align_backward(g, boxes(seed), x.shape, mode=mode, input=x, layout=layout)


def _to_boxes(mode: str, layout: str, seed: int) -> Any:
    x, g = features(layout, seed), grad(layout, seed)
    return roidl.roi_align_backward_boxes(g, x, boxes(seed), mode=mode, layout=layout)


def _pool(mode: str, layout: str, seed: int) -> Any:
    x = features(layout, seed)
    if mode == "avg":
        return roidl.roi_pool(x, boxes(seed), SIZE, mode=mode, layout=layout)
    pooled, argmax = roidl.roi_pool(x, boxes(seed), SIZE, layout=layout, return_argmax=True)
    return np.stack([pooled, argmax])


@cache
def _argmax(layout: str, seed: int) -> Any:
    x = features(layout, seed)
    return roidl.roi_pool(x, boxes(seed), SIZE, layout=layout, return_argmax=True)[1]


def _pool_backward(mode: str, layout: str, seed: int) -> Any:
    argmax = _argmax(layout, seed) if mode == "max" else None
    shape = SHAPES[layout]
    return roidl.roi_pool_backward(
        grad(layout, seed), boxes(seed), argmax, shape, mode=mode, layout=layout
    )


PROBLEMS: dict[str, tuple[Callable[[str, str, int], Any], str]] = {
    "roi_align": (_forward, "avg"),
    "roi_align max": (_forward, "max"),
    "roi_align max_onnx": (_forward, "max_onnx"),
    "roi_align_backward": (_backward, "avg"),
    "roi_align_backward max": (_backward, "max"),
    "roi_align_backward max_onnx": (_backward, "max_onnx"),
    "roi_align_backward_boxes": (_to_boxes, "avg"),
    "roi_align_backward_boxes max": (_to_boxes, "max"),
    "roi_pool": (_pool, "max"),
    "roi_pool avg": (_pool, "avg"),
    "roi_pool_backward": (_pool_backward, "max"),
    "roi_pool_backward avg": (_pool_backward, "avg"),
}


def solve(name: str, layout: str, seed: int = 0) -> bytes:
    """The bytes of the results."""
    problem, mode = PROBLEMS[name]
    result: bytes = problem(mode, layout, seed).tobytes()
    return result


@pytest.fixture(autouse=True)
def _the_number_of_threads_is_restored() -> Iterator[None]:
    before = roidl.get_num_threads()
    yield
    roidl.set_num_threads(before)


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_same_bits_for_any_number_of_threads(name: str, layout: str) -> None:
    roidl.set_num_threads(1)
    expected = solve(name, layout)
    assert np.isfinite(np.frombuffer(expected, np.float32)).all()
    for threads in (2, 3, 5):
        roidl.set_num_threads(threads)
        for _ in range(3):
            assert solve(name, layout) == expected, f"{threads} threads"


def test_from_many_python_threads_at_once() -> None:
    roidl.set_num_threads(1)
    tasks = [(name, layout, seed) for name in PROBLEMS for layout in SHAPES for seed in range(2)]
    expected = [solve(*task) for task in tasks]
    roidl.set_num_threads(3)
    start = threading.Barrier(8)

    def work(first: int) -> list[bool]:
        start.wait(SECONDS)
        return [solve(*tasks[i]) == expected[i] for i in range(first, len(tasks), 5)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(8)))
    assert all(same for answer in answers for same in answer)


def test_the_gil_is_released() -> None:
    """Another thread counts while the core computes."""
    roidl.set_num_threads(1)
    shape = (1, 64, 128, 128)
    count, stop = 0, False
    seen: list[int] = []

    class Out(Producer):
        def manage(self, managed: Any) -> int:  # the last attribute that the core reads
            address = super().manage(managed)
            seen.append(count)
            return address

        def release(self, address: int) -> None:
            seen.append(count)
            super().release(address)

    def counts() -> None:
        nonlocal count
        while not stop:
            count += 1
            time.sleep(0)  # releases the GIL, which Python does not switch otherwise here

    rows = np.tile(np.array([[0, 1, 1, 120, 120]], np.float32), (256, 1))
    out = Out(np.empty(shape, np.float32))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    counter = threading.Thread(target=counts)
    counter.start()
    try:
        roidl.roi_align_backward(np.ones((256, 64, 7, 7), np.float32), rows, shape, out=out)
    finally:
        stop = True
        sys.setswitchinterval(interval)
        counter.join()
    before, after = seen
    assert after > before


# In a process of its own --------------------------------------------------------------------------


def in_new_process(function: Callable[[], None]) -> None:
    code = f"import test_threads; test_threads.{function.__name__}()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HERE,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr


def in_child(function: Callable[[], bool]) -> bool:
    """The result of a function in a fork of this process; False also if it hangs or dies."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS // 2)
        fine = False
        try:
            fine = function()
        finally:
            os._exit(0 if fine else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _threads_alive() -> int:
    return len(os.listdir("/proc/self/task"))


def _starts_threads(name: str, layout: str) -> bool:
    return _threads_alive() == 1 and bool(solve(name, layout)) and _threads_alive() > 1


def every_problem_is_threaded() -> None:
    """Otherwise the test of bits would compare one thread with itself."""
    for layout in SHAPES:
        roidl.set_num_threads(1)
        _argmax(layout, 0)
        roidl.set_num_threads(5)
        for name in PROBLEMS:
            assert in_child(partial(_starts_threads, name, layout)), (name, layout)


def a_fork_has_a_pool_of_its_own() -> None:
    roidl.set_num_threads(1)
    expected = solve("roi_align", "NCHW")
    roidl.set_num_threads(3)

    def is_right() -> bool:
        return solve("roi_align", "NCHW") == expected and _threads_alive() > 1

    assert in_child(is_right), "before the parent has used its pool"
    assert is_right()
    assert in_child(is_right), "after the parent has used its pool"
    assert in_child(lambda: is_right() and in_child(is_right)), "in the child of a child"

    stop = False

    def computes() -> None:
        while not stop:
            solve("roi_align_backward", "NHWC")

    computing = [threading.Thread(target=computes) for _ in range(2)]
    for thread in computing:
        thread.start()
    try:
        for _ in range(20):
            assert in_child(is_right), "while other threads of the parent compute"
    finally:
        stop = True
        for thread in computing:
            thread.join()
    assert is_right()


def the_environment_says_how_many() -> None:
    def default(text: str | None, openmp: str | None = None) -> int:
        for name, value in (("ROIDL_NUM_THREADS", text), ("OMP_NUM_THREADS", openmp)):
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        return roidl.get_num_threads()

    def refused(text: str) -> bool:
        sentence = f"roidl: ROIDL_NUM_THREADS must be a positive integer, got '{text}'"
        for use in (lambda: default(text), lambda: solve("roi_align", "NCHW")):
            try:
                use()
            except ValueError as error:
                if str(error) == sentence:
                    continue
            return False
        return True

    def one_cpu() -> int:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        return default(None)

    numbers = [("1", 1), ("3", 3), ("70", 70), (" 4", 4), ("4 ", 4), ("+5", 5), ("9" * 30, 1024)]
    for text, threads in numbers:
        assert in_child(partial(lambda t, n: default(t) == n, text, threads)), text
        assert in_child(partial(lambda t, n: default(t, "2") == n, text, threads)), text
    for text in ("0", "-2", "many", "2.5", "3 threads", "0x3", "9" * 30 + "x", "4,2", "+", "+-4"):
        assert in_child(partial(refused, text)), text
    cpus = len(os.sched_getaffinity(0))
    assert in_child(lambda: 1 <= default(None) <= cpus)
    # As in OpenMP: a list is for nested levels, and invalid values are ignored.
    for text, threads in [*numbers[:6], ("4,2", 4), (" 6 , 2,1 ", 6), ("5000", 1024)]:
        assert in_child(partial(lambda t, n: default(None, t) == n, text, threads)), text
        assert in_child(partial(lambda t, n: default("", t) == n, text, threads)), text
    ignored = ["", " ", "0", "-2", "many", "2.5", "3 threads", "4,", ",4", "4,0", "4,x", "9" * 30]
    for text in ignored:
        assert in_child(partial(lambda t: 1 <= default(None, t) <= cpus, text)), text
    assert in_child(lambda: 1 <= default("") <= cpus)
    assert in_child(lambda: one_cpu() == 1)


def an_error_of_a_worker_arrives() -> None:
    """A worker may lack memory for its workspace: 4 GiB per thread, for a map of 2**24 columns."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**31, mapped + 2**31))
    wide = np.broadcast_to(np.float32(1), (1, 64, 4, 2**24))
    across = np.array([[0, 0, 0, 2**24, 4]], np.float32)
    roidl.set_num_threads(1)
    expected = solve("roi_align", "NCHW")
    roidl.set_num_threads(3)
    for _ in range(10):
        with pytest.raises(MemoryError):
            roidl.roi_align(wide, across, SIZE, sampling_ratio=2)
    assert _threads_alive() > 1
    assert solve("roi_align", "NCHW") == expected


def boxes_may_change_under_way() -> None:
    """Boxes that another thread changes after their check cause no access outside of arrays."""
    k, shape = 20000, (2, 8, 32, 32)
    rows = np.tile(np.array([[0, 0, 0, 3, 3]], np.float32), (k, 1))
    grads, cells = np.ones((k, 8, 1, 1), np.float32), np.zeros((k, 8, 1, 1), np.int32)
    stop = False

    def spoil() -> None:
        while not stop:
            rows[:, 0] = 1e9
            rows[:, 0] = 0

    calls: list[Callable[[], Any]] = [
        lambda: roidl.roi_align(np.ones(shape, np.float32), rows, 1),
        lambda: roidl.roi_align_backward(grads, rows, shape),
        lambda: roidl.roi_pool(np.ones(shape, np.float32), rows, 1),
        lambda: roidl.roi_pool_backward(grads, rows, cells, shape),
    ]
    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    try:
        for call in calls * 25:
            with contextlib.suppress(ValueError):
                call()
    finally:
        stop = True
        spoiler.join()


@pytest.mark.parametrize(
    "function",
    [
        every_problem_is_threaded,
        a_fork_has_a_pool_of_its_own,
        the_environment_says_how_many,
        an_error_of_a_worker_arrives,
        boxes_may_change_under_way,
    ],
)
def test_in_a_process_of_its_own(function: Callable[[], None]) -> None:
    in_new_process(function)
