"""Every type of elements and of coordinates on CUDA arrays, in every layout, by small calls and by
large ones; and the operators of forward mode.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conftest import ALL_DTYPES, Lib, NumpyArray, numpy_dtype
from operators import OPERATORS, call, every_operator
from roidl import _core
from roidl._params import align_params, pool_params
from test_cuda import ON_CUDA, boxes_of

SIZE = (2, 3)
# Layout, channels, RoIs, images: channels can be loaded by 16 bytes or not; few RoIs are one
# kernel, many are sorted, and many images have enough tiles for wide ones.
SHAPES = [
    ("NCHW", 5, 4, 1),
    ("NCHW", 5, 260, 32),
    *((("NHWC", channels, count, 2)) for channels in (5, 16) for count in (4, 12)),
]
every_type = pytest.mark.parametrize("dtype", ALL_DTYPES)
every_coordinate = pytest.mark.parametrize("coordinate", ["float32", "float64"])


@pytest.fixture(params=ON_CUDA)
def lib(request: pytest.FixtureRequest, get_lib: Callable[[str], Lib]) -> Lib:
    return get_lib(request.param)


def values(lib: Lib, dtype: str, *shape: int) -> NumpyArray:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.name} has no {dtype}")
    return (
        np.random.default_rng(len(shape) + shape[0]).normal(size=shape).astype(numpy_dtype(dtype))
    )


def assert_near(got: NumpyArray, want: NumpyArray, dtype: str) -> None:
    """Compare with the CPU's kernels, which are tested against the oracle."""
    tolerance = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    got, want = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize(("layout", "channels", "count", "images"), SHAPES)
@every_coordinate
@every_type
def test_results_and_gradients(
    dtype: str, coordinate: str, layout: str, channels: int, count: int, images: int, lib: Lib
) -> None:
    shape, pooled = (images, channels, 20, 40), (count, channels, *SIZE)
    input, gradient = values(lib, dtype, *shape), values(lib, dtype, *pooled)
    if layout == "NHWC":
        input, gradient = (np.moveaxis(each, 1, -1).copy() for each in (input, gradient))
    boxes = boxes_of(count, 20, 40, images).astype(coordinate)
    for op, mode in OPERATORS:
        wanted = call(op, mode, input, boxes, gradient, layout=layout)
        found = call(op, mode, *map(lib.asarray, (input, boxes, gradient)), layout=layout)
        for got, want in zip(found, wanted, strict=True):
            if want is not None:
                assert_near(lib.to_numpy(got), want, dtype)


@every_coordinate
@every_type
def test_forward_mode(dtype: str, coordinate: str, lib: Lib) -> None:
    count, shape = 9, (2, 5, 20, 40)
    pooled = (count, 5, *SIZE)
    input, tangent = values(lib, dtype, *shape), values(lib, dtype, *shape)[::-1].copy()
    gradient = values(lib, dtype, *pooled)
    boxes = boxes_of(count, 20, 40, 2).astype(coordinate)
    step = np.random.default_rng(3).normal(size=boxes.shape).astype(coordinate)
    argmax = call("roi_pool", "max", input, boxes, gradient).argmax

    def check(op: str, mode: str, first: Any, second: Any, backward: bool = False) -> None:
        if op == "roi_pool_jvp":
            params: Any = pool_params(op, SIZE, 1.0, mode, "NCHW")
        else:
            params = align_params(op, SIZE, 1.0, 2, True, mode, "NCHW")
        results = []
        for asarray in (np.asarray, lib.asarray):
            out = asarray(np.zeros(shape if backward else pooled, numpy_dtype(dtype)))
            one, rows, other = (asarray(each) for each in (first, boxes, second))
            given = shape if backward else None
            _core.run_operator(op, params, [one, other], rows, None, given, [out], 1)
            results.append(out)
        assert np.abs(results[0].astype(np.float64)).max() > 0
        assert_near(lib.to_numpy(results[1]), results[0], dtype)

    check("roi_align_jvp", "max", tangent, input)
    check("roi_align_jvp", "max_onnx", tangent, input)
    check("roi_align_jvp_boxes", "avg", input, step)
    check("roi_align_jvp_boxes_backward", "avg", gradient, step, backward=True)
    check("roi_pool_jvp", "max", tangent, argmax)


def spread(array: NumpyArray, axis: int) -> NumpyArray:
    """A copy whose last element along an axis is more than 2³¹ elements after the first.

    Only touched pages take memory.
    """
    step = 2**31 // (array.shape[axis] - 1) + 8
    rest = np.moveaxis(array, axis, 0)[0]
    strides = list(np.empty(rest.shape, array.dtype).strides)
    strides.insert(axis, step * array.itemsize)
    no_reserve = 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    memory = mmap.mmap(-1, (2**31 + 2**20) * array.itemsize, flags=flags)
    made = np.ndarray(array.shape, array.dtype, memory, strides=strides)
    made[...] = array
    return made


@pytest.mark.parametrize("axis", range(4))
@every_operator
def test_offsets_beyond_31_bits(
    op: str, mode: str, axis: int, get_lib: Callable[[str], Lib]
) -> None:
    lib = get_lib("cupy")
    import cupy

    if not hasattr(cupy, "ALL_DTYPES"):
        pytest.skip("a GPU's memory is no mere addresses, as that of tests/cuda_on_host is")
    input, gradient = values(lib, "float32", 2, 3, 9, 8), values(lib, "float32", 7, 3, *SIZE)
    boxes = boxes_of(7, 9, 8, 2)
    wanted = call(op, mode, input, boxes, gradient)
    outs = {"pooled": np.zeros_like(gradient), "grad_input": np.zeros_like(input)}
    if (op, mode) == ("roi_pool", "max"):  # its out is the maximum and the argmax
        del outs["pooled"]
    far = {name: lib.asarray(spread(out, axis)) for name, out in outs.items()}
    arrays = (spread(input, axis), boxes, spread(gradient, axis))
    found = call(op, mode, *map(lib.asarray, arrays), **far)
    for got, want in zip(found, wanted, strict=True):
        if want is not None:
            assert_near(lib.to_numpy(got), want, "float32")
