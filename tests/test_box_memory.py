"""Boxes, batch indices, levels and counts in every memory layout, for few and many rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import NumpyArray

MAPS = [np.arange(3 * 2 * n * n, dtype=np.float32).reshape(3, 2, n, n) for n in (8, 4)]
SCALES = [1.0, 0.5]


def _spread(array: NumpyArray) -> NumpyArray:
    """A view of the array with other numbers between its elements, along every axis."""
    wide = np.full([3 * size for size in array.shape], 77, array.dtype)
    view = wide[tuple(slice(1, None, 3) for _ in array.shape)]
    view[...] = array
    return view


WAYS: dict[str, Callable[[NumpyArray], NumpyArray]] = {
    "spread": _spread,
    "backwards": lambda a: np.flip(np.flip(a).copy()),
    "rows backwards": lambda a: np.flip(np.flip(a, 0).copy(), 0),
    "turned": lambda a: np.ascontiguousarray(a.T).T,
    "a part of wider rows": lambda a: np.concatenate([a, a], -1)[..., : a.shape[-1]],
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
}


def _boxes(rows: int) -> NumpyArray:
    first = np.random.default_rng(rows).uniform(0, 4, (rows, 2))
    return np.concatenate([first, first + 3], 1)


@pytest.mark.parametrize("rows", [3, 600])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16])
@pytest.mark.parametrize("way", WAYS)
def test_rows_and_indices(way: str, dtype: Any, rows: int) -> None:
    lie, boxes = WAYS[way], _boxes(rows).astype(dtype)
    for kind in (np.int64, np.uint8):
        indices = (np.arange(rows) % 3).astype(kind)
        expected = roidl.roi_align(MAPS[0], boxes, 2, batch_indices=indices)
        result = roidl.roi_align(MAPS[0], lie(boxes), 2, batch_indices=lie(indices))
        np.testing.assert_array_equal(result, expected)
    five = np.concatenate([indices[:, None].astype(dtype), boxes], 1)
    np.testing.assert_array_equal(roidl.roi_align(MAPS[0], lie(five), 2), expected)


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("way", WAYS)
def test_grouped_rows_levels_and_counts(way: str, rows: int) -> None:
    lie, boxes = WAYS[way], _boxes(3 * rows).reshape(3, rows, 4).astype(np.float32)
    levels = (np.arange(3 * rows) % 2).astype(np.int16).reshape(3, rows)
    counts = np.array([rows, 0, rows // 2])
    given: dict[str, Any] = {"levels": levels, "counts": counts}
    expected = roidl.multiscale_roi_align(MAPS, boxes, 2, SCALES, **given)
    again: dict[str, Any] = {name: lie(array) for name, array in given.items()}
    np.testing.assert_array_equal(
        roidl.multiscale_roi_align(MAPS, lie(boxes), 2, SCALES, **again), expected
    )


def test_what_is_broadcast() -> None:
    rows = 500
    box, index = np.array([[0.5, 1, 6, 5]], np.float32), np.array([2])
    expected = roidl.roi_align(MAPS[0], box, 2, batch_indices=index)
    result = roidl.roi_align(
        MAPS[0],
        np.broadcast_to(box, (rows, 4)),
        2,
        batch_indices=np.broadcast_to(index, rows),
    )
    np.testing.assert_array_equal(result, np.broadcast_to(expected, result.shape))
    one = np.broadcast_to(np.float32(3), (rows, 4))  # a point
    result = roidl.roi_align(MAPS[0][:1], one, 2)
    np.testing.assert_array_equal(
        result, np.broadcast_to(roidl.roi_align(MAPS[0][:1], one[:1].copy(), 2), result.shape)
    )
    grouped = np.broadcast_to(box, (3, rows, 4))
    result = roidl.multiscale_roi_align(
        MAPS,
        grouped,
        2,
        SCALES,
        levels=np.broadcast_to(0, (3, rows)),
        counts=np.broadcast_to(rows, 3),
    )
    one_each = roidl.roi_align(MAPS[0], np.broadcast_to(box, (3, 1, 4)).copy(), 2)
    np.testing.assert_array_equal(result, np.broadcast_to(one_each, result.shape))
