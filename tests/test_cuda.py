"""Behaviour that is specific to CUDA arrays; the other tests also compare results on them.

The rows are CuPy and PyTorch on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import roidl
from conftest import ROWS, Lib, NumpyArray
from operators import (
    INFINITE_STEP,
    OPERATORS,
    Results,
    assert_infinite_inside,
    call,
    every_operator,
    jvp_boxes_backward,
)

ON_CUDA = [name for name in ROWS if name in ("cupy", "torch_cuda")]


@pytest.fixture(params=ON_CUDA)
def lib(request: pytest.FixtureRequest, get_lib: Callable[[str], Lib]) -> Lib:
    return get_lib(request.param)


def features_of(*shape: int, dtype: npt.DTypeLike = np.float32) -> NumpyArray:
    return np.random.default_rng(5).standard_normal(shape).astype(dtype)


def boxes_of(count: int, height: int, width: int, images: int = 1) -> NumpyArray:
    rng = np.random.default_rng(7)
    corner = rng.uniform(-2, 1, (count, 2)) + rng.uniform(0, 1, (count, 2)) * (width, height)
    size = np.exp(rng.uniform(-1, 1, (count, 2))) * (width, height) / 4
    rows = [rng.integers(0, images, (count, 1)), corner, corner + size]
    return np.concatenate(rows, 1).astype(np.float32)


def results_of(
    lib: Lib,
    op: str,
    mode: str,
    input: NumpyArray,
    boxes: NumpyArray,
    grad: NumpyArray,
    **more: Any,
) -> list[NumpyArray]:
    results = call(op, mode, *map(lib.asarray, (input, boxes, grad)), **more)
    return [lib.to_numpy(each) for each in results if each is not None]


def compare(
    lib: Lib, op: str, mode: str, input: NumpyArray, boxes: NumpyArray, size: tuple[int, int]
) -> None:
    """Compare with the CPU's kernels, which are tested against the oracle."""
    grad = features_of(len(boxes), input.shape[1], *size)
    expected: Results = call(op, mode, input, boxes, grad)
    wanted = [each for each in expected if each is not None]
    for got, want in zip(results_of(lib, op, mode, input, boxes, grad), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


# Sizes that the zoo does not reach ----------------------------------------------------------------


@every_operator
def test_more_rois_than_a_block_lists_at_a_time(op: str, mode: str, lib: Lib) -> None:
    # Includes partial tiles, and channels beyond a slab.
    compare(lib, op, mode, features_of(2, 37, 35, 33), boxes_of(1100, 35, 33, 2), (2, 2))


@pytest.mark.parametrize("size", [(19, 35), (9, 17)])
@every_operator
def test_more_bins_than_are_gathered_at_a_time(
    op: str, mode: str, size: tuple[int, int], lib: Lib
) -> None:
    compare(lib, op, mode, features_of(1, 3, 40, 50), boxes_of(3, 40, 50), size)


@every_operator
def test_rows_that_do_not_fit_into_shared_memory(op: str, mode: str, lib: Lib) -> None:
    boxes = np.array([[0, 100, 0, 12900, 3], [0, -5, 1, 13005, 2]], np.float32)
    compare(lib, op, mode, features_of(1, 2, 3, 13000), boxes, (1, 2))


@pytest.mark.parametrize("size", [(1, 2), (2, 7), (14, 14)])
@every_operator
def test_windows_wider_than_what_is_kept_of_a_row(
    op: str, mode: str, size: tuple[int, int], lib: Lib
) -> None:
    # Rows of up to 500 columns are processed a few bins at a time, or a part of a bin.
    boxes = np.array(
        [[0, 3, 1, 490, 9], [0, -20, -3, 700, 14], [0, 100, 0, 240, 11], [0, 480, 9, 20, 2]],
        np.float32,
    )
    compare(lib, op, mode, features_of(1, 11, 12, 500), boxes, size)


@pytest.mark.parametrize("channels", [1, 3, 8, 9])
@every_operator
def test_few_channels_of_many_rois(op: str, mode: str, channels: int, lib: Lib) -> None:
    # Enough RoIs to be sorted by position.
    compare(lib, op, mode, features_of(2, channels, 30, 31), boxes_of(300, 30, 31, 2), (3, 4))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_gradients_of_many_tiles_have_the_bits_of_few(layout: str, dtype: str, lib: Lib) -> None:
    # More than 8 tiles for every multiprocessor of the largest device, so tiles are wide. One
    # image alone has few, and they are narrow.
    images, each, channels, height, width = 200, 2, 33, 19, 70
    boxes = boxes_of(images * each, height, width)
    boxes[:, 0] = np.arange(images).repeat(each)
    grad = features_of(images * each, channels, 5, 15, dtype=dtype)
    shape = [images, channels, height, width]
    if layout == "NHWC":
        grad, shape = np.moveaxis(grad, 1, -1).copy(), [images, height, width, channels]

    def gradient(grad: NumpyArray, boxes: NumpyArray, images: int) -> NumpyArray:
        own, asked = lib.asarray(grad), lib.asarray(boxes)
        result = roidl.roi_align_backward(own, asked, [images, *shape[1:]], layout=layout)
        return lib.to_numpy(result)

    every = gradient(grad, boxes, images)
    for image in (0, images - 1):
        own = boxes[:, 0] == image
        alone = boxes[own] * np.array([0, 1, 1, 1, 1], np.float32)
        np.testing.assert_array_equal(every[image], gradient(grad[own], alone, 1)[0])
    exact = roidl.roi_align_backward(grad, boxes, shape, layout=layout)
    tolerance = 1e-5 if dtype == "float32" else 2e-3
    np.testing.assert_allclose(every, exact, rtol=tolerance, atol=tolerance)


def test_an_infinite_derivative_stays_in_the_columns_of_its_box(lib: Lib) -> None:
    # Its neighbours in the tile have horizontal weights of zero: zero times infinity.
    arrays = [lib.asarray(array) for array in INFINITE_STEP]
    result = lib.asarray(np.zeros((1, 3, 16, 16), np.float32))
    jvp_boxes_backward(arrays[0], arrays[1], arrays[2], result)
    assert_infinite_inside(lib.to_numpy(result))


@pytest.mark.parametrize("channels", [16, 24, 18])
@every_operator
def test_channels_last(op: str, mode: str, channels: int, lib: Lib) -> None:
    # Loaded 16 bytes at a time, or one by one.
    input, boxes = features_of(2, 20, 21, channels), boxes_of(30, 20, 21, 2)
    grad = features_of(30, 3, 2, channels)
    expected: Results = call(op, mode, input, boxes, grad, layout="NHWC")
    wanted = [each for each in expected if each is not None]
    for got, want in zip(
        results_of(lib, op, mode, input, boxes, grad, layout="NHWC"), wanted, strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@every_operator
def test_channels_last_of_a_wider_array(op: str, mode: str, lib: Lib) -> None:
    # Channels are contiguous, but not aligned to 16 bytes.
    input, boxes = features_of(2, 20, 21, 20)[..., 1:17], boxes_of(30, 20, 21, 2)
    grad = features_of(30, 3, 2, 16)
    expected: Results = call(op, mode, input, boxes, grad, layout="NHWC")
    found = call(op, mode, *map(lib.asarray, (input, boxes, grad)), layout="NHWC")
    for got, want in zip(found, expected, strict=True):
        if want is not None:
            got = lib.to_numpy(got)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_first_of_equal_maxima_wins_and_the_first_nan(layout: str, lib: Lib) -> None:
    # Few distinct values give many ties, within and across rows; with infinities and NaNs.
    rng = np.random.default_rng(11)
    values = np.array([0, 1, 1, 2, -np.inf, np.inf, np.nan], np.float32)
    chances = np.array([0.3, 0.2, 0.2, 0.2, 0.05, 0.03, 0.02])
    input = rng.choice(values, (2, 8, 40, 300), p=chances)
    input[:, 0] = -np.inf
    input[:, 1] = np.nan
    boxes = np.concatenate([boxes_of(300, 40, 300, 2), [[1, 2, 3, 290, 38]]]).astype(np.float32)
    if layout == "NHWC":
        input = np.ascontiguousarray(input.transpose(0, 2, 3, 1))
    for size in (1, (3, 5)):
        options: dict[str, Any] = {"layout": layout, "return_argmax": True}
        expected = roidl.roi_pool(input, boxes, size, **options)
        results = roidl.roi_pool(lib.asarray(input), lib.asarray(boxes), size, **options)
        for got, want in zip(results, expected, strict=True):
            np.testing.assert_array_equal(lib.to_numpy(got), want)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_without_channels_boxes_have_no_gradient(mode: str, lib: Lib) -> None:
    boxes = lib.asarray(boxes_of(3, 8, 8))
    grad = lib.asarray(np.zeros((3, 0, 2, 2), np.float32))
    input = lib.asarray(np.zeros((1, 0, 8, 8), np.float32))
    result = roidl.roi_align_backward_boxes(grad, input, boxes, mode=mode)
    np.testing.assert_array_equal(lib.to_numpy(result), np.zeros((3, 5), np.float32))


def test_boxes_that_are_not_aligned_are_refused(lib: Lib) -> None:
    if lib.name != "cupy":
        pytest.skip("PyTorch makes no such tensors")

    def unaligned(array: NumpyArray) -> Any:
        memory = lib.asarray(np.frombuffer(b"x" + array.tobytes(), np.uint8))
        return memory[1:].view(array.dtype).reshape(array.shape)

    input, boxes = lib.asarray(np.zeros((2, 1, 8, 8), np.float32)), boxes_of(3, 8, 8)
    refused = r"^roi_align: %s is not aligned to its 4-byte elements; pass a copy"
    with pytest.raises(ValueError, match=refused % "boxes"):
        roidl.roi_align(input, unaligned(boxes), 2)
    indices = unaligned(np.zeros(3, np.int32))
    with pytest.raises(ValueError, match=refused % "batch_indices"):
        roidl.roi_align(input, lib.asarray(boxes[:, 1:]), 2, batch_indices=indices)


# Boxes that nobody looks at -----------------------------------------------------------------------


@every_operator
def test_invalid_boxes_give_zeros_and_no_gradient(op: str, mode: str, lib: Lib) -> None:
    input, boxes = features_of(2, 5, 9, 8), boxes_of(6, 9, 8, 2)
    grad = features_of(6, 5, 3, 2)
    bad = boxes.copy()
    bad[1, 0], bad[2, 3], bad[4, 1] = 2, np.nan, np.inf
    kept, lost = [0, 3, 5], [1, 2, 4]
    results = Results(*[None] * 4)
    got = call(op, mode, *map(lib.asarray, (input, bad, grad)))
    good = call(op, mode, *map(lib.asarray, (input, boxes[kept], grad[kept])))
    for name in results._fields:
        one, other = getattr(got, name), getattr(good, name)
        if one is None:
            continue
        one, other = lib.to_numpy(one), lib.to_numpy(other)
        if name == "grad_input":
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_array_equal(one[kept], other)
            np.testing.assert_array_equal(one[lost], -1 if name == "argmax" else 0)


@pytest.fixture
def checked_boxes() -> Iterator[None]:
    roidl.set_check_boxes(True)
    yield
    roidl.set_check_boxes(False)


@pytest.mark.usefixtures("checked_boxes")
def test_check_boxes_raises_for_invalid_values(lib: Lib) -> None:
    input, boxes = features_of(2, 5, 9, 8), boxes_of(6, 9, 8, 2)
    assert roidl.get_check_boxes()
    roidl.roi_align(lib.asarray(input), lib.asarray(boxes), 2)
    boxes[1, 0] = 2
    with pytest.raises(ValueError, match=r"^roi_align: the batch index of row 1 is 2,"):
        roidl.roi_align(lib.asarray(input), lib.asarray(boxes), 2)


# Devices and streams ------------------------------------------------------------------------------


@pytest.mark.parametrize("op", dict(OPERATORS))
def test_boxes_are_on_the_device_of_the_features(op: str, lib: Lib) -> None:
    input, boxes = features_of(1, 2, 5, 5), boxes_of(2, 5, 5)
    with pytest.raises(ValueError, match=f"^{op}: boxes must be on the device of the features"):
        getattr(roidl, op)(lib.asarray(input), boxes, 2)


@every_operator
def test_results_are_the_same_bits_every_time(op: str, mode: str, lib: Lib) -> None:
    input, boxes, grad = features_of(1, 8, 30, 30), boxes_of(200, 30, 30), features_of(200, 8, 3, 3)
    first = results_of(lib, op, mode, input, boxes, grad)
    for _ in range(3):
        for one, other in zip(first, results_of(lib, op, mode, input, boxes, grad), strict=True):
            np.testing.assert_array_equal(one, other)


@every_operator
def test_a_small_call_has_the_bits_of_a_large_one(op: str, mode: str, lib: Lib) -> None:
    # Small calls are one kernel; larger ones have a separate kernel for planning.
    input, boxes, grad = features_of(1, 37, 35, 33), boxes_of(3, 35, 33), features_of(403, 37, 3, 2)
    nowhere = np.tile(np.array([0, -900, -900, -800, -800], np.float32), (400, 1))
    small = call(op, mode, *map(lib.asarray, (input, boxes, grad[:3].copy())))
    large = call(op, mode, *map(lib.asarray, (input, np.concatenate([boxes, nowhere]), grad)))
    for name in Results._fields:
        one, other = getattr(small, name), getattr(large, name)
        if one is not None:
            one, other = lib.to_numpy(one), lib.to_numpy(other)
            np.testing.assert_array_equal(one, other if name == "grad_input" else other[:3])


@pytest.mark.parametrize("count", [3, 600])  # one kernel, and two
def test_cupy_on_streams_of_its_own_and_captured_in_a_graph(
    count: int, get_lib: Callable[[str], Lib]
) -> None:
    lib = get_lib("cupy")
    import cupy

    if not hasattr(cupy.cuda, "Stream"):
        pytest.skip("the stand-in for CuPy (tests/cuda_on_host) has no streams")
    input, boxes = lib.asarray(features_of(1, 8, 30, 30)), lib.asarray(boxes_of(count, 30, 30))
    expected = cupy.asnumpy(roidl.roi_align(input, boxes, 7))
    grad = lib.asarray(features_of(count, 8, 7, 7))
    wanted = cupy.asnumpy(roidl.roi_align_backward(grad, boxes, input.shape))
    out, back = cupy.zeros_like(grad), cupy.zeros_like(input)
    with cupy.cuda.Stream.ptds:  # the default stream of this thread
        np.testing.assert_array_equal(cupy.asnumpy(roidl.roi_align(input, boxes, 7)), expected)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        np.testing.assert_array_equal(cupy.asnumpy(roidl.roi_align(input, boxes, 7)), expected)
        stream.begin_capture()
        roidl.roi_align(input, boxes, 7, out=out)
        roidl.roi_align_backward(grad, boxes, input.shape, out=back)
        graph = stream.end_capture()
        for _ in range(2):
            out[...], back[...] = 7, 7
            graph.launch(stream)
            stream.synchronize()
            np.testing.assert_array_equal(cupy.asnumpy(out), expected)
            np.testing.assert_array_equal(cupy.asnumpy(back), wanted)


def test_cupy_on_another_device(get_lib: Callable[[str], Lib]) -> None:
    lib = get_lib("cupy")
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one GPU")
    input, boxes = features_of(1, 8, 30, 30), boxes_of(20, 30, 30)
    expected = cupy.asnumpy(roidl.roi_align(lib.asarray(input), lib.asarray(boxes), 7))
    with cupy.cuda.Device(1):
        there = lib.asarray(input), lib.asarray(boxes)
    out = roidl.roi_align(*there, 7)  # device 0 is the current one
    assert out.device.id == 1
    assert cupy.cuda.Device().id == 0
    np.testing.assert_array_equal(cupy.asnumpy(out), expected)


def test_a_result_of_more_elements_than_an_int_counts(get_lib: Callable[[str], Lib]) -> None:
    lib = get_lib("cupy")
    import cupy

    if cupy.cuda.Device().mem_info[1] < 40 << 30:
        pytest.skip("the GPU has less than 40 GiB of memory")
    input, boxes = features_of(1, 1024, 8, 8, dtype=np.float16), boxes_of(11_000, 8, 8)
    for layout in ("NCHW", "NHWC"):
        features = input if layout == "NCHW" else input.transpose(0, 2, 3, 1).copy()
        out = roidl.roi_align(
            lib.asarray(features), lib.asarray(boxes), 14, sampling_ratio=1, layout=layout
        )
        assert out.size > 2**31
        last = roidl.roi_align(features, boxes[-3:], 14, sampling_ratio=1, layout=layout)
        np.testing.assert_allclose(cupy.asnumpy(out[-3:]), last, atol=2e-3)
        # The gradient is not zero in the last rows only.
        out[:-3] = 0
        kept = cupy.asnumpy(out[-3:]).astype(np.float32)
        shape = features.shape
        got = roidl.roi_align_backward(out, lib.asarray(boxes), shape, 1, 1, layout=layout)
        want = roidl.roi_align_backward(kept, boxes[-3:], shape, 1, 1, layout=layout)
        np.testing.assert_allclose(cupy.asnumpy(got), want, atol=2e-3 * np.abs(want).max())
        del out, got
