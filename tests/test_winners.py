"""RoIAlign's max modes where samples differ in the last bits: the same maximum on every machine.

The definition rounds every product before it is added, so a few lines of NumPy give the bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

import roidl
from conftest import Lib, NumpyArray, numpy_dtype
from trials import assert_close, from_nchw, to_nchw

BINS, GRID, SCALE = 2, 3, 1 / 3
SHAPE = (2, 21, 11, 13)
ROWS = 12


def plateaus(dtype: str) -> NumpyArray:
    """Features whose values, within a channel, differ by a few units in the last place only."""
    rng = np.random.default_rng(31)
    real = np.float64 if dtype == "float64" else np.float32
    heights = rng.uniform(0.5, 2, (1, SHAPE[1], 1, 1)) * rng.choice([-1, 1], (1, SHAPE[1], 1, 1))
    noise = rng.integers(-1, 2, SHAPE) * np.finfo(real).eps
    result: NumpyArray = (heights * (1 + noise)).astype(numpy_dtype(dtype))
    return result


def boxes(dtype: str) -> NumpyArray:
    rng = np.random.default_rng(32)
    start = rng.uniform(1, 12, (ROWS, 2))
    corners = np.concatenate([start, start + rng.uniform(4, 20, (ROWS, 2))], axis=1)
    return np.column_stack([rng.integers(0, 2, ROWS), corners]).astype(dtype)


class Sample(NamedTuple):
    """A sample along an axis: two cells and their weights."""

    cells: tuple[int, int]
    weights: tuple[Any, Any]


def samples(low: Any, high: Any, bin: int, accumulator: type[Any]) -> list[Sample]:
    """The samples of a bin on the map, aligned; coordinates have the type of `low`."""
    real = type(low)
    start = real(SCALE) * low - real(0.5)
    step = (real(SCALE) * high - real(0.5) - start) / real(BINS)
    found = []
    for i in range(GRID):
        position = (start + real(bin) * step) + ((real(i) + real(0.5)) * step) / real(GRID)
        position = max(position, real(0))
        cell = int(position)
        after = position - real(cell)
        found.append(Sample((cell, cell + 1), (accumulator(real(1) - after), accumulator(after))))
    return found


def between(weights: tuple[Any, Any], values: list[NumpyArray]) -> NumpyArray:
    first, second = (
        w * v if w != 0 else np.zeros_like(v) for w, v in zip(weights, values, strict=True)
    )
    result: NumpyArray = first + second
    return result


def candidates(mode: str, plane: NumpyArray, y: Sample, x: Sample) -> list[tuple[Any, Any]]:
    """The values [C] of a sample, or of its corners, and the cells and weights of the gradient."""
    corners = [
        (y.weights[i] * x.weights[j], (y.cells[i], x.cells[j])) for i in (0, 1) for j in (0, 1)
    ]
    if mode == "max_onnx":
        return [(weight * plane[:, *cell], [(weight, cell)]) for weight, cell in corners]
    columns = [between(y.weights, [plane[:, row, c] for row in y.cells]) for c in x.cells]
    return [(between(x.weights, columns), corners)]


@cache
def expected(mode: str, dtype: str, coordinates: str) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """The expected result, a gradient to it, and the gradient to the features."""
    real: Any = np.float64 if dtype == "float64" else np.float32
    maps, rows = plateaus(dtype).astype(real), boxes(coordinates)
    kind = np.float64 if "float64" in (dtype, coordinates) else np.float32
    result = np.empty((ROWS, SHAPE[1], BINS, BINS), real)
    given = np.asarray(np.random.default_rng(33).uniform(1, 2, result.shape), numpy_dtype(dtype))
    gradient = np.zeros(SHAPE)
    for k, row in enumerate(rows):
        image, (x1, y1, x2, y2) = int(row[0]), row[1:].astype(kind)
        for p in range(BINS):
            for q in range(BINS):
                tried = [
                    each
                    for y in samples(y1, y2, p, real)
                    for x in samples(x1, x2, q, real)
                    for each in candidates(mode, maps[image], y, x)
                ]
                values = np.stack([value for value, _ in tried])
                assert values.dtype == real
                first = values.argmax(axis=0)
                for c, winner in enumerate(first):
                    result[k, c, p, q] = values[winner, c]
                    for weight, cell in tried[winner][1]:
                        gradient[image, c, *cell] += float(weight) * float(given[k, c, p, q])
    return result, given, gradient


@pytest.mark.each_instruction_set
@pytest.mark.parametrize("name", ["numpy", "cupy", "torch_cuda"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["max", "max_onnx"])
@pytest.mark.parametrize(
    ("dtype", "coordinates"),
    [
        ("float32", "float32"),
        ("float64", "float32"),
        ("float32", "float64"),
        ("float16", "float32"),
        ("bfloat16", "float64"),
    ],
)
def test_near_ties_have_the_same_maximum_everywhere(
    get_lib: Callable[[str], Lib], name: str, layout: str, mode: str, dtype: str, coordinates: str
) -> None:
    lib = get_lib(name)
    if dtype not in lib.dtypes:
        pytest.skip(f"{name} has no {dtype}")
    result, given, gradient = expected(mode, dtype, coordinates)
    input = lib.asarray(from_nchw(plateaus(dtype), layout))
    rows = lib.asarray(boxes(coordinates))
    rule: Any = {"sampling_ratio": GRID, "aligned": True, "mode": mode, "layout": layout}
    got = lib.to_numpy(roidl.roi_align(input, rows, BINS, SCALE, **rule))
    np.testing.assert_array_equal(to_nchw(got, layout), result.astype(got.dtype))
    shape = tuple(input.shape)
    got = lib.to_numpy(
        roidl.roi_align_backward(
            lib.asarray(from_nchw(given, layout)), rows, shape, SCALE, input=input, **rule
        )
    )
    assert_close(to_nchw(got, layout), gradient)
