"""Ctrl-C during a long call: handled soon, on the main thread only, and later calls work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import roidl
from producers import NumpyArray

C, SIZE = 64, 7
SHAPE = (1, C, 128, 128)
SOON = 2.0  # seconds on a busy machine; the calls below take many times as long
DELAY = 0.1


def boxes(count: int) -> NumpyArray:
    rng = np.random.default_rng(23)
    centre, half = rng.uniform(20, 100, (count, 2)), rng.uniform(20, 60, (count, 2))
    rows = np.concatenate([np.zeros((count, 1)), centre - half, centre + half], axis=1)
    return rows.astype(np.float32)


class Handled(Exception):
    """The exception that a test's signal handler raises."""


def features() -> NumpyArray:
    return np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)


def broadcast(value: float, shape: tuple[int, ...], dtype: Any = np.float32) -> NumpyArray:
    return np.broadcast_to(dtype(value), shape)


def forward(x: NumpyArray, count: int, **options: Any) -> Any:
    return roidl.roi_align(x, boxes(count), SIZE, sampling_ratio=4, **options)


def backward(x: NumpyArray, count: int, **options: Any) -> Any:
    gradient = broadcast(1, (count, C, SIZE, SIZE))
    return roidl.roi_align_backward(gradient, boxes(count), x.shape, input=x, **options)


def to_boxes(x: NumpyArray, count: int, **options: Any) -> Any:
    gradient = broadcast(1, (count, C, SIZE, SIZE))
    return roidl.roi_align_backward_boxes(gradient, x, boxes(count), **options)


def pool_backward(x: NumpyArray, count: int, **options: Any) -> Any:
    argmax = broadcast(7, (count, C, SIZE, SIZE), np.int32)
    gradient = broadcast(1, (count, C, SIZE, SIZE))
    return roidl.roi_pool_backward(gradient, boxes(count), argmax, x.shape, **options)


def levels(x: NumpyArray, count: int) -> Any:
    rows = np.broadcast_to(np.array([0, 1, 2, 30, 40], np.float32), (count, 5))
    return roidl.assign_levels(rows, scales=[0.25, 0.125, 0.0625])


# Enough boxes for a call of seconds on any machine.
LONG: dict[str, tuple[Callable[..., Any], int, dict[str, Any]]] = {
    "forward": (forward, 60_000, {}),
    "forward max": (forward, 60_000, {"mode": "max"}),
    "backward": (backward, 400_000, {}),
    "backward max": (backward, 60_000, {"mode": "max"}),
    "boxes": (to_boxes, 60_000, {}),
    "pool": (lambda x, n, **o: roidl.roi_pool(x, boxes(n), SIZE, **o), 60_000, {}),
    "pool backward": (pool_backward, 2_000_000, {}),
    "levels": (levels, 400_000_000, {}),
}


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = roidl.get_num_threads()
    roidl.set_num_threads(request.param)
    yield request.param
    roidl.set_num_threads(before)


@pytest.fixture
def alarm() -> Iterator[list[float]]:
    """Raise Handled by SIGALRM after DELAY; the list gets the time."""
    times: list[float] = []

    def handle(*_: Any) -> None:
        times.append(time.perf_counter())
        raise Handled

    before = signal.signal(signal.SIGALRM, handle)
    yield times
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def seconds_until_handled(call: Callable[[], Any]) -> float:
    """The time from the signal to the exception."""
    begin = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, DELAY)
    with pytest.raises(Handled):
        call()
    return time.perf_counter() - begin - DELAY


@pytest.mark.parametrize("name", LONG)
def test_a_long_call_is_interrupted(name: str, threads: int, alarm: list[float]) -> None:
    function, count, options = LONG[name]
    x = features()
    small = np.random.default_rng(1).standard_normal((1, 40, 60, 60), dtype=np.float32)
    expected = roidl.roi_align(small, boxes(200), SIZE)
    assert seconds_until_handled(lambda: function(x, count, **options)) < SOON
    assert (roidl.roi_align(small, boxes(200), SIZE) == expected).all()


def test_ctrl_c_is_a_keyboard_interrupt(threads: int) -> None:
    x = features()
    timer = threading.Timer(DELAY, os.kill, (os.getpid(), signal.SIGINT))
    begin = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        forward(x, 200_000)
    assert time.perf_counter() - begin < DELAY + SOON


def forward_until(handled: list[Any], x: NumpyArray, count: int) -> Any:
    """Repeat a call until a signal has been handled; return the last result."""
    end = time.perf_counter() + 60
    result = forward(x, count)
    while not handled and time.perf_counter() < end:
        result = forward(x, count)
    return result


def test_a_handler_that_does_not_raise_lets_the_call_go_on(threads: int) -> None:
    x, count = features(), 20_000
    expected = forward(x, count)
    handled: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: handled.append(time.perf_counter()))
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        result = forward_until(handled, x, count)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled
    assert (result == expected).all()


def test_a_handler_may_call(threads: int) -> None:
    """A handler may make calls on the same pool during the call that it interrupts."""
    x, count = features(), 20_000
    expected, small = forward(x, count), forward(x, 200)
    found: list[bool] = []
    before = signal.signal(
        signal.SIGALRM, lambda *_: found.append(bool((forward(x, 200) == small).all()))
    )
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        result = forward_until(found, x, count)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found == [True]
    assert (result == expected).all()


def test_calls_on_other_threads_go_on(alarm: list[float], threads: int) -> None:
    x, count = features(), 6000
    expected = forward(x, count)
    results: list[Any] = []
    finished = threading.Event()

    def work() -> None:
        results.extend(forward(x, count) for _ in range(4))
        finished.set()

    signal.setitimer(signal.ITIMER_REAL, 0.1)
    threading.Thread(target=work).start()
    with pytest.raises(Handled):
        time.sleep(60)
    assert not finished.is_set()
    assert finished.wait(60)
    assert len(results) == 4
    assert all((result == expected).all() for result in results)


# PyTorch ------------------------------------------------------------------------------------------


@pytest.fixture
def torch(threads: int) -> Iterator[Any]:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield torch
    torch.set_num_threads(before)


@pytest.mark.parametrize("way", ["direct", "with a graph", "by the dispatcher", "pyramid"])
def test_pytorch_forward(torch: Any, way: str, alarm: list[float]) -> None:
    from roidl import torch as ops

    x, rows = torch.from_numpy(features()), torch.from_numpy(boxes(60_000))
    x.requires_grad_(way == "with a graph")
    rows.requires_grad_(way == "by the dispatcher")

    def call() -> Any:
        if way == "pyramid":
            return ops.multiscale_roi_align([x, x], rows, SIZE, scales=[1.0, 0.5], mode="max")
        return ops.roi_align(x, rows, SIZE, mode="max")

    assert seconds_until_handled(call) < SOON
    few = boxes(100)
    found = ops.roi_align(x, torch.from_numpy(few), SIZE).detach().numpy()
    assert (found == roidl.roi_align(x.detach().numpy(), few, SIZE)).all()


@pytest.mark.parametrize("way", ["direct", "by the dispatcher", "pyramid"])
def test_pytorch_backward(torch: Any, way: str, alarm: list[float]) -> None:
    """A backward pass is interrupted, as autograd runs CPU nodes on the calling thread."""
    from roidl import torch as ops

    count, large = 60_000, boxes(60_000)
    x = torch.from_numpy(features()).requires_grad_()
    rows = torch.from_numpy(large * np.array([1, 0, 0, 0, 0], np.float32))
    rows.requires_grad_(way == "by the dispatcher")
    if way == "pyramid":
        pooled = ops.multiscale_roi_align([x, x], rows, SIZE, scales=[1.0, 0.5], mode="max")
    else:
        pooled = ops.roi_align(x, rows, SIZE, mode="max")
    rows.data.copy_(torch.from_numpy(large))  # past the version counter: a short forward
    gradient = torch.ones(()).expand(count, C, SIZE, SIZE)
    call = lambda: torch.autograd.grad(pooled, x, gradient)  # noqa: E731
    assert seconds_until_handled(call) < SOON
