"""Arrays in memory: strides, out=, empty arrays, offsets beyond 32 bits."""

from __future__ import annotations

import mmap
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import oracle
import peak_memory
import roidl
from cases import random_boxes
from conftest import Lib, NumpyArray, numpy_dtype
from operators import SIZE, Results, call, check, every_operator, expect, small_problem
from trials import assert_close, from_nchw, to_nchw

# Strides ------------------------------------------------------------------------------------------

Shape = tuple[int, ...]
# Memory layouts: the shape of the memory, and the array as a view of it.
ROOMS: dict[str, tuple[Callable[[Shape], Shape], Callable[[NumpyArray], NumpyArray]]] = {
    "every_other": (
        lambda s: tuple(2 * n for n in s),
        lambda m: m[(slice(None, None, 2),) * m.ndim],
    ),
    "in_larger": (lambda s: tuple(n + 3 for n in s), lambda m: m[(slice(1, -2),) * m.ndim]),
    "transposed": (lambda s: s[::-1], lambda m: m.T),
    "reversed": (lambda s: s, lambda m: m[(slice(None, None, -1),) * m.ndim]),
}
EDGE = 77  # the values around the array


def place(room: str, shape: Shape, dtype: str) -> tuple[NumpyArray, NumpyArray]:
    """Memory full of `EDGE` with the array in it, and the array as a view."""
    memory_shape, take = ROOMS[room]
    memory = np.full(memory_shape(shape), EDGE, numpy_dtype(dtype))
    return memory, take(memory)


def place_copy(room: str, array: NumpyArray) -> NumpyArray:
    copy = place(room, array.shape, array.dtype.name)[1]
    copy[...] = array
    return copy


@every_operator
@pytest.mark.parametrize(
    ("name", "room"),
    # The other libraries have no general strides, and PyTorch has no negative ones.
    [*(("numpy", room) for room in ROOMS), *(("torch", room) for room in list(ROOMS)[:-1])],
)
def test_strides(get_lib: Callable[[str], Lib], name: str, room: str, op: str, mode: str) -> None:
    lib = get_lib(name)
    for dtype in ("float32", "bfloat16"):
        input, boxes, gradient = small_problem(dtype)
        expected = expect(op, mode, input, boxes, gradient)
        for layout in ("NCHW", "NHWC"):
            arrays = [from_nchw(input, layout), boxes, from_nchw(gradient, layout)]
            views = [place_copy(room, array) for array in arrays]
            pooled_memory, pooled = place(room, views[2].shape, dtype)
            grad_memory, grad_input = place(room, views[0].shape, dtype)
            results = call(
                op,
                mode,
                *map(lib.asarray, views),
                pooled=lib.asarray(pooled),
                grad_input=lib.asarray(grad_input),
                layout=layout,
            )
            argmax, grad_boxes = (
                None if result is None else lib.to_numpy(result)
                for result in (results.argmax, results.grad_boxes)
            )
            check(Results(pooled, argmax, grad_input, grad_boxes), expected, layout)
            for view, array in zip(views, arrays, strict=True):
                np.testing.assert_array_equal(view, array)  # the inputs are unchanged
            for memory, view in ((pooled_memory, pooled), (grad_memory, grad_input)):
                view[...] = EDGE
                assert (memory == EDGE).all(), "written beside the array"
            if argmax is not None:
                again = roidl.roi_pool_backward(
                    lib.asarray(views[2]),
                    lib.asarray(views[1]),
                    lib.asarray(place_copy(room, argmax)),
                    views[0].shape,
                    layout=layout,
                )
                assert_close(to_nchw(lib.to_numpy(again), layout), expected.grad_input)


@every_operator
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_broadcast_arrays(get_lib: Callable[[str], Lib], name: str, op: str, mode: str) -> None:
    """Stride 0, as in autograd's gradients of a sum."""
    lib = get_lib(name)
    input, boxes, gradient = small_problem("float32")
    for repeated in (((1,), (0, 1, 2, 3)), ((0,), (1,)), ((3,), (2, 3))):
        views = []
        for array, axes in zip((input, gradient), repeated, strict=True):
            strides = [0 if i in axes else step for i, step in enumerate(array.strides)]
            views.append(as_strided(array, array.shape, strides))
        compact = [view.copy() for view in views]
        # With equal neighbours the last bits decide between samples, in which the oracle differs.
        by = call if op == "roi_align" and mode != "avg" else expect
        expected = by(op, mode, compact[0], boxes, compact[1])
        results = call(op, mode, lib.asarray(views[0]), lib.asarray(boxes), lib.asarray(views[1]))
        check(Results(*(None if r is None else lib.to_numpy(r) for r in results)), expected)


@every_operator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_fast_path_has_the_bits_of_the_general_path(op: str, mode: str, layout: str) -> None:
    """Keyword arguments and a list as size take the general path, with the same bits."""
    function = getattr(roidl, op)
    for dtype in ("float32", "float16", "bfloat16", "float64"):
        input, boxes, _ = small_problem(dtype)
        array = from_nchw(input, layout)
        for view in (array, array[..., ::-1], np.asfortranarray(array)):
            short = function(view, boxes, SIZE, mode=mode, layout=layout)
            options = {"output_size": list(SIZE), "mode": mode, "layout": layout}
            long = function(input=view, boxes=boxes, **options)
            assert short.flags.c_contiguous
            assert short.dtype == long.dtype
            np.testing.assert_array_equal(short, long)


# Large results ------------------------------------------------------------------------------------


@every_operator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.each_instruction_set
def test_streamed_stores_of_large_results(op: str, mode: str, layout: str) -> None:
    """Results above 4 MB use streamed stores; a part of the channels is smaller and does not."""
    channels, parts = 6006, 4  # not a number of whole blocks
    rng = np.random.default_rng(8)
    input = from_nchw(rng.standard_normal((1, channels, 14, 14), np.float32), layout)
    gradient = from_nchw(rng.standard_normal((30, channels, *SIZE), np.float32), layout)
    boxes = random_boxes(rng, 30, 1, 14, 14, 1.0).astype(np.float32)

    def unaligned(like: NumpyArray) -> NumpyArray:
        return np.full(like.size + 1, EDGE, like.dtype)[1:].reshape(like.shape)

    outs = {"pooled": unaligned(gradient), "grad_input": unaligned(input)}
    assert min(out.nbytes for out in outs.values()) > 4 << 20
    results = [
        call(op, mode, input, boxes, gradient, layout=layout),
        call(op, mode, input, boxes, gradient, layout=layout, **outs),
    ]
    axis = 1 if layout == "NCHW" else 3
    small = [
        call(op, mode, *(np.ascontiguousarray(array) for array in (a, boxes, b)), layout=layout)
        for a, b in zip(
            np.array_split(input, parts, axis), np.array_split(gradient, parts, axis), strict=True
        )
    ]
    for result in results:
        for name in ("pooled", "argmax", "grad_input"):
            if getattr(result, name) is not None:
                expected = np.concatenate([getattr(part, name) for part in small], axis)
                np.testing.assert_array_equal(getattr(result, name), expected)


@every_operator
def test_scratch_memory_is_bounded(op: str, mode: str) -> None:
    """The bound holds for all boxes; tables of all of them would take up to 300 MB."""
    command = [sys.executable, peak_memory.__file__, op, mode, "NCHW"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert float(done.stdout) < 64


# out= and empty arrays ----------------------------------------------------------------------------


@every_operator
def test_out_is_the_result(lib: Lib, op: str, mode: str) -> None:
    for dtype in lib.dtypes:
        input, boxes, gradient = small_problem(dtype)
        boxes = boxes[boxes[:, 0] == 1]  # nothing of the first image gets a gradient
        gradient = gradient[: len(boxes)].copy()
        arrays = [lib.asarray(array) for array in (input, boxes, gradient)]
        pooled = lib.asarray(np.full_like(gradient, np.nan))
        grad_input = lib.asarray(np.full_like(input, np.nan))
        if not lib.writable:
            for out in ({"pooled": pooled}, {"grad_input": grad_input}):
                with pytest.raises(TypeError, match="out must be an array that can be written to"):
                    call(op, mode, *arrays, **out)
            continue
        results = call(op, mode, *arrays, pooled=pooled, grad_input=grad_input)
        assert results.pooled is pooled
        assert results.grad_input is grad_input
        fresh = call(op, mode, *arrays)
        for mine, made in zip(results, fresh, strict=True):
            if mine is not None:
                np.testing.assert_array_equal(lib.to_numpy(mine), lib.to_numpy(made))
                assert np.isfinite(lib.to_numpy(mine).astype(np.float64)).all()


@every_operator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("shape", "boxes_shape"),
    [
        ((2, 3, 5, 6), (0, 5)),
        ((2, 3, 5, 6), (2, 0, 4)),
        ((1, 3, 5, 6), (0, 4)),
        ((0, 3, 5, 6), (0, 5)),
        ((0, 3, 5, 6), (0, 4, 4)),
        ((2, 0, 5, 6), (4, 5)),
        ((2, 3, 0, 6), (4, 5)),
        ((2, 3, 5, 0), (4, 5)),
        ((2, 3, 0, 0), (2, 2, 4)),
    ],
)
def test_empty(lib: Lib, op: str, mode: str, layout: str, shape: Shape, boxes_shape: Shape) -> None:
    """Empty problems give results of the right shape, with zeros, and -1 as argmax."""
    boxes = np.zeros(boxes_shape, np.float32)
    boxes[..., -2:] = 4
    rows = int(np.prod(boxes_shape[:-1]))
    ones = from_nchw(np.ones((rows, shape[1], *SIZE), np.float32), layout)
    gradient = ones.reshape(*boxes_shape[:-1], *ones.shape[1:])
    input = from_nchw(np.ones(shape, np.float32), layout)
    results = call(op, mode, *map(lib.asarray, (input, boxes, gradient)), layout=layout)
    fills = Results(0, -1, 0, 0)
    shapes = Results(gradient.shape, gradient.shape, input.shape, boxes.shape)
    for result, fill, wanted in zip(results, fills, shapes, strict=True):
        if result is not None:
            assert isinstance(result, lib.array)
            np.testing.assert_array_equal(lib.to_numpy(result), np.full(wanted, fill))


@every_operator
def test_empty_list_of_boxes(lib: Lib, op: str, mode: str) -> None:
    input = lib.asarray(np.ones((2, 3, 5, 6), np.float32))
    gradient = lib.asarray(np.ones((1, 3, *SIZE), np.float32))
    box, none = np.array([[0, 0, 4, 4]], np.float32), np.zeros((0, 4), np.float32)
    results = call(op, mode, input, [lib.asarray(none), lib.asarray(box)], gradient)
    grad_input = lib.to_numpy(results.grad_input)
    assert not grad_input[0].any()
    assert grad_input[1].any()
    if results.grad_boxes is not None:
        assert [tuple(part.shape) for part in results.grad_boxes] == [(0, 4), (1, 4)]
    nothing = call(op, mode, input, [lib.asarray(none)] * 2, gradient[:0])
    assert tuple(nothing.pooled.shape) == (0, 3, *SIZE)
    assert not lib.to_numpy(nothing.grad_input).any()
    no_images = call(op, mode, input[:0], [], gradient[:0])
    assert tuple(no_images.grad_input.shape) == (0, 3, 5, 6)


# 64-bit offsets -----------------------------------------------------------------------------------


def empty_memory(count: int) -> NumpyArray:
    """Gigabytes of float16 zeros, of which only written pages take memory."""
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python 3.13 has a name for it
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return np.frombuffer(mmap.mmap(-1, 2 * count, flags), np.float16)


@every_operator
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_strides_beyond_32_bits(op: str, mode: str, axis: int) -> None:
    input, boxes, gradient = small_problem("float16")
    expected = expect(op, mode, input, boxes, gradient)

    def spread(array: NumpyArray) -> NumpyArray:
        """A copy whose last two indices along `axis` are at least 2^31 elements away."""
        step = 2**31 // max(1, array.shape[axis] - 2) + array.size
        memory = empty_memory(step * (array.shape[axis] - 1) + array.size)
        strides = list(array.strides)
        strides[axis] = 2 * step
        return as_strided(memory, array.shape, strides)

    far_input, far_gradient, pooled, grad_input = map(spread, (input, gradient, gradient, input))
    far_input[...], far_gradient[...] = input, gradient
    results = call(op, mode, far_input, boxes, far_gradient, pooled=pooled, grad_input=grad_input)
    check(results, expected)


@every_operator
def test_far_corner_of_a_large_map(op: str, mode: str) -> None:
    """A map of nearly 2^31 cells in each of two channels, where only the last cells are not 0."""
    size, corner, channels = 46_000, 8, 2
    input = empty_memory(channels * size**2).reshape(1, channels, size, size)
    crop = np.random.default_rng(32).standard_normal((1, channels, corner, corner))
    input[..., -corner:, -corner:] = crop
    # Multiples of 1/4, and bins in powers of two: positions are exact even out here.
    near = np.array([[0, 1.25, 2, 5.25, 6], [0, 3, 1.5, 9, 7.5], [0, 2, 2, 4, 6]], np.float32)
    boxes = near.copy()
    boxes[:, 1:] += size - corner
    crop = crop.astype(np.float16)
    if op == "roi_align":
        pooled = roidl.roi_align(input, boxes, 2, sampling_ratio=2, mode=mode)
        assert_close(pooled, oracle.roi_align(crop, near, (2, 2), sampling_ratio=2, mode=mode))
        if mode != "max_onnx":
            gradient = np.ones(pooled.shape, np.float16)
            got = roidl.roi_align_backward_boxes(
                gradient, input, boxes, sampling_ratio=2, mode=mode
            )
            expected = oracle.roi_align_backward_boxes(
                gradient, crop, near, sampling_ratio=2, mode=mode
            )
            assert_close(got, expected, 1e-5)
        return
    expected, cells = oracle.roi_pool(crop, near, (2, 2), mode=mode)
    if cells is None:
        assert_close(roidl.roi_pool(input, boxes, 2, mode=mode), expected)
    else:
        pooled, argmax = roidl.roi_pool(input, boxes, 2, return_argmax=True)
        assert_close(pooled, expected)
        y, x = np.divmod(cells, corner)
        np.testing.assert_array_equal(argmax, (y + size - corner) * size + x + size - corner)
