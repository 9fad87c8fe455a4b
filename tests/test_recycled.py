"""Recycled memory of large NumPy results: when it is recycled, how much, and never too early."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import roidl
from conftest import NumpyArray
from roidl import _recycled

BOX = np.array([[0, 1, 1, 6, 6]], np.float32)
MB = 1 << 20


def pooled(value: float, mb: int = 8) -> NumpyArray:
    """A result of so many MB, pooled from a constant map of this value."""
    features = np.full((1, mb, 8, 8), value, np.float32)
    result: NumpyArray = roidl.roi_align(features, BOX, 512)
    return result


def address(array: NumpyArray) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    _recycled._kept.clear()
    yield
    _recycled._kept.clear()


def test_memory_of_released_results_is_recycled() -> None:
    first = pooled(1)
    where = address(first)
    assert where % 64 == 0
    del first
    second = pooled(2)
    assert address(second) == where
    assert (second == 2).all()
    assert second.flags.writeable


def by_dlpack(array: NumpyArray) -> NumpyArray:
    return np.from_dlpack(array)


@pytest.mark.parametrize(
    "hold",
    [lambda array: array, lambda array: array[0, 1:, ::2], memoryview, by_dlpack],
    ids=["itself", "a view", "a buffer", "DLPack"],
)
def test_memory_of_live_results_is_not_recycled(hold: Callable[[NumpyArray], NumpyArray]) -> None:
    held = hold(pooled(1))
    others = [pooled(value) for value in (2, 3)]
    assert (np.asarray(held) == 1).all()
    assert not np.shares_memory(np.asarray(held), others[0])
    assert (others[0] == 2).all()
    assert (others[1] == 3).all()


def test_a_smaller_result_takes_what_is_not_twice_its_size() -> None:
    where = address(pooled(1, 16))
    assert address(pooled(2, 9)) == where
    small = pooled(3, 6)
    assert address(small) != where
    assert (small == 3).all()


def test_kept_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_recycled, "_max_kept_bytes", lambda: 20 * MB)
    results = [pooled(value, mb) for value, mb in ((1, 6), (2, 8), (3, 9))]
    where = [address(result) for result in results]
    while results:
        results.pop(0)
    assert [len(memory) // MB for memory in _recycled._kept.values()] == [8, 9]
    assert [address(pooled(1, 9)), address(pooled(1, 8))] == [where[2], where[1]]


def test_threads_do_not_share() -> None:
    wrong: list[int] = []

    def compute(value: int) -> None:
        for _ in range(20):
            result = pooled(value, 5)
            if not (result == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=compute, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_allocation_failure_is_numpys_error() -> None:
    pooled(1)
    with pytest.raises(MemoryError, match="Unable to allocate"):
        roidl.roi_align(np.ones((1, 1 << 20, 1, 1), np.float32), BOX, 1 << 15)


IN_A_PROCESS = """
import numpy as np, roidl
from roidl import _recycled
x, boxes = np.ones((1, 8, 8, 8), np.float32), np.array([[0, 1, 1, 6, 6]], np.float32)
try:
    for _ in range(2):
        assert (roidl.roi_align(x, boxes, 512) == 1).all()
    print(len(_recycled._kept))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", "1"),
        ("8", "1"),
        ("7", "0"),
        ("0", "0"),
        ("-1", "roidl: ROIDL_KEEP_MB must be an integer of at least 0, got '-1'"),
    ],
)
def test_the_environment_says_how_much(text: str, printed: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS],
        env={**os.environ, "ROIDL_KEEP_MB": text},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (process.stdout.strip(), process.stderr) == (printed, "")
