"""Every mistake has one error type and message, `op: what is wrong, got value`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import roidl
from conftest import Lib
from producers import OPERATORS, NumpyArray, call

# A good call of every operator --------------------------------------------------------------------

N, C, H, W, K, PH, PW = 2, 3, 7, 9, 3, 2, 3
FEATURES = np.random.default_rng(11).standard_normal((N, C, H, W), dtype=np.float32)
GRAD = np.ones((K, C, PH, PW), np.float32)
BOXES = np.array([[0, 0.5, 1, 6, 5], [1, 1.5, 0, 8, 6.5], [0, 2, 2, 7, 4]], np.float32)
ARGMAX = np.full((K, C, PH, PW), 4 * W + 4, np.int32)  # a cell of every box

GOOD: dict[str, dict[str, Any]] = {
    "roi_align": {"input": FEATURES, "boxes": BOXES, "output_size": (PH, PW)},
    "roi_align_backward": {"grad_output": GRAD, "boxes": BOXES, "input_shape": FEATURES.shape},
    "roi_align_backward_boxes": {"grad_output": GRAD, "input": FEATURES, "boxes": BOXES},
    "roi_pool": {"input": FEATURES, "boxes": BOXES, "output_size": (PH, PW)},
    "roi_pool_backward": {
        "grad_output": GRAD,
        "boxes": BOXES,
        "argmax": ARGMAX,
        "input_shape": FEATURES.shape,
    },
}
FORWARD = ("roi_align", "roi_pool")
BACKWARD = ("roi_align_backward", "roi_align_backward_boxes", "roi_pool_backward")
ALIGN = ("roi_align", "roi_align_backward", "roi_align_backward_boxes")
POOL = ("roi_pool", "roi_pool_backward")
TO_INPUT = ("roi_align_backward", "roi_pool_backward")
OF_INPUT = ("roi_align", "roi_align_backward_boxes", "roi_pool")

ARRAY_NAMES = ("input", "boxes", "grad_output", "argmax", "batch_indices", "out")


class Mistake(NamedTuple):
    """A change of the good call of some operators, and the expected error."""

    ops: Iterable[str]
    wrong: dict[str, Any]
    error: type[Exception]
    sentence: str  # after "op: "; "..." stands for anything


def _rows(row: int, column: int, value: float, dtype: Any = np.float32) -> NumpyArray:
    boxes = BOXES.astype(dtype)
    boxes[row, column] = value
    return boxes


NO_ARRAY = "must be an array (an object with __dlpack__), got"
FLOATS = "must be float16, bfloat16, float32 or float64, got"
INTEGERS = "must be an integer or a pair of integers, got"
FOUR = "; boxes of shape [K, 4] need batch_indices unless there is one image"
INDEX = "but must be a whole number in [0, 2)"
AVG, MAX, ONNX = {"mode": "avg"}, {"mode": "max"}, {"mode": "max_onnx"}
INDICES = {"boxes": BOXES[:, 1:], "batch_indices": np.array([0, 1, 0])}
FOUR_COLUMNS = BOXES[:, 1:]
WRITABLE = "must be an array that can be written to as it is, got"

TABLE = [
    # Arguments that are not arrays
    Mistake(OF_INPUT, {"input": None}, TypeError, f"input {NO_ARRAY} NoneType"),
    Mistake(OF_INPUT, {"input": [[1.0]]}, TypeError, f"input {NO_ARRAY} list"),
    Mistake(OPERATORS, {"boxes": None}, TypeError, f"boxes {NO_ARRAY} NoneType"),
    Mistake(OPERATORS, {"boxes": "boxes"}, TypeError, f"boxes {NO_ARRAY} str"),
    Mistake(OPERATORS, {"boxes": [[0, 1], [2, 3]]}, TypeError, f"boxes[0] {NO_ARRAY} list"),
    Mistake(OPERATORS, {**INDICES, "batch_indices": [0, 1, 0]}, TypeError,
            f"batch_indices {NO_ARRAY} list"),
    Mistake(["roi_pool_backward"], {"argmax": "argmax"}, TypeError, f"argmax {NO_ARRAY} str"),
    Mistake(BACKWARD, {"grad_output": 5}, TypeError, f"grad_output {NO_ARRAY} int"),
    Mistake([*FORWARD, *TO_INPUT], {"out": [0.0]}, TypeError, f"out {NO_ARRAY} list"),
    # Shapes
    Mistake(OF_INPUT, {"input": FEATURES[0]}, ValueError,
            "input must have shape [N, C, H, W], got [3, 7, 9]"),
    Mistake(FORWARD, {"input": FEATURES[0], "layout": "NHWC"}, ValueError,
            "input must have shape [N, H, W, C], got [3, 7, 9]"),
    Mistake(BACKWARD, {"grad_output": GRAD[0]}, ValueError,
            "grad_output must have the shape of the result, got [3, 2, 3]"),
    Mistake(BACKWARD, {"grad_output": GRAD[:2]}, ValueError,
            "grad_output must have shape [3, 3, 2, 3], got [2, 3, 2, 3]"),
    Mistake(BACKWARD, {"grad_output": GRAD[:, :2]}, ValueError,
            "grad_output must have shape [3, 3, 2, 3], got [3, 2, 2, 3]"),
    Mistake(BACKWARD, {"grad_output": GRAD[:, :, :0]}, ValueError,
            "...output_size must be at least 1, got 0..."),
    Mistake(["roi_align_backward"], {**MAX, "input": FEATURES[:1]}, ValueError,
            "input must have shape [2, 3, 7, 9], got [1, 3, 7, 9]"),
    Mistake(["roi_pool_backward"], {"argmax": ARGMAX[:, :1]}, ValueError,
            "argmax must have shape [3, 3, 2, 3], got [3, 1, 2, 3]"),
    Mistake(TO_INPUT, {"input_shape": (2, 3, 7)}, ValueError,
            "input_shape must be four sizes, got (2, 3, 7)"),
    Mistake(TO_INPUT, {"input_shape": (2, 3, -7, 9)}, ValueError,
            "input_shape must be four sizes, got (2, 3, -7, 9)"),
    Mistake(TO_INPUT, {"input_shape": (2, 3, 7.5, 9)}, TypeError,
            "input_shape must be four integers, got (2, 3, 7.5, 9)"),
    Mistake(TO_INPUT, {"input_shape": None}, TypeError,
            "input_shape must be four integers, got None"),
    # Boxes of the wrong form
    Mistake(OPERATORS, {"boxes": FOUR_COLUMNS}, ValueError,
            f"boxes must have shape [K, 5], got [3, 4]{FOUR}"),
    Mistake(OPERATORS, {"boxes": BOXES[0]}, ValueError, "boxes must have shape [K, 5], got [5]"),
    Mistake(OPERATORS, {"boxes": BOXES[:, :3]}, ValueError,
            "boxes must have shape [K, 5], got [3, 3]"),
    Mistake(OPERATORS, {"boxes": np.zeros((3, 6), np.float32)}, ValueError,
            "boxes must have shape [K, 5], got [3, 6]"),
    Mistake(OPERATORS, {"boxes": np.zeros((1, 2, 3, 4), np.float32)}, ValueError,
            "boxes must have shape [K, 5], got [1, 2, 3, 4]"),
    Mistake(OPERATORS, {"boxes": np.zeros((3, 2, 4), np.float32)}, ValueError,
            "boxes must have shape [2, 2, 4] when they are grouped by image, got [3, 2, 4]"),
    Mistake(OPERATORS, {"boxes": np.zeros((2, 3, 5), np.float32)}, ValueError,
            "boxes must have shape [2, 3, 4] when they are grouped by image, got [2, 3, 5]"),
    Mistake(OPERATORS, {**INDICES, "boxes": BOXES}, ValueError,
            "boxes must have shape [K, 4] with batch_indices, got [3, 5]"),
    Mistake(OPERATORS, {**INDICES, "batch_indices": np.array([0, 1])}, ValueError,
            "batch_indices must have shape [3], got [2]"),
    Mistake(OPERATORS, {**INDICES, "batch_indices": np.array([[0, 1, 0]])}, ValueError,
            "batch_indices must have shape [3], got [1, 3]"),
    Mistake(OPERATORS, {"boxes": [FOUR_COLUMNS]}, ValueError,
            "a list of boxes must have one array per image (2), got 1"),
    Mistake(OPERATORS, {"boxes": []}, ValueError,
            "a list of boxes must have one array per image (2), got 0"),
    Mistake(OPERATORS, {"boxes": [FOUR_COLUMNS, BOXES]}, ValueError,
            "boxes[1] must have shape [L, 4], got [3, 5]"),
    Mistake(OPERATORS, {"boxes": [FOUR_COLUMNS, FOUR_COLUMNS[0]]}, ValueError,
            "boxes[1] must have shape [L, 4], got [4]"),
    Mistake(OPERATORS, {"boxes": [FOUR_COLUMNS, None]}, TypeError, f"boxes[1] {NO_ARRAY} NoneType"),
    Mistake(OPERATORS, {**INDICES, "boxes": [FOUR_COLUMNS[:1], FOUR_COLUMNS[1:]]}, ValueError,
            "batch_indices must be None when boxes is a list"),
    # Dtypes
    Mistake(OF_INPUT, {"input": FEATURES.astype(np.int64)}, TypeError, f"input {FLOATS} int64"),
    Mistake(OF_INPUT, {"input": FEATURES.astype(bool)}, TypeError, f"input {FLOATS} bool"),
    Mistake(OF_INPUT, {"input": FEATURES.astype(np.complex64)}, TypeError,
            f"input {FLOATS} complex64"),
    Mistake(BACKWARD, {"grad_output": GRAD.astype(np.int32)}, TypeError,
            "grad_output must be ... got int32"),
    Mistake(["roi_align_backward_boxes"], {"grad_output": GRAD.astype(np.float64)}, TypeError,
            "grad_output must be float32 as the input, got float64"),
    Mistake(["roi_align_backward"], {**MAX, "input": FEATURES.astype(np.float64)}, TypeError,
            "input must be float32 as the gradient, got float64"),
    Mistake(OPERATORS, {"boxes": BOXES.astype(bool)}, TypeError,
            "boxes must be of a float or integer type, got bool"),
    Mistake(OPERATORS, {"boxes": BOXES.astype(np.complex64)}, TypeError,
            "boxes must be of a float or integer type, got complex64"),
    Mistake(OPERATORS, {**INDICES, "batch_indices": np.zeros(3, np.float32)}, TypeError,
            "batch_indices must be of an integer type, got float32"),
    Mistake(["roi_pool_backward"], {"argmax": ARGMAX.astype(np.int64)}, TypeError,
            "argmax must be int32, got int64"),
    # Numbers and names
    Mistake(FORWARD, {"output_size": 0}, ValueError, "output_size must be at least 1, got 0"),
    Mistake(FORWARD, {"output_size": (2, -3)}, ValueError,
            "output_size must be at least 1, got -3"),
    Mistake(FORWARD, {"output_size": -(2**70)}, ValueError,
            f"output_size must be at least 1, got {-(2**70)}"),
    Mistake(FORWARD, {"output_size": 2**31}, ValueError,
            "output_size must be at most 16777216, got 2147483648"),
    Mistake(FORWARD, {"output_size": 2**70}, ValueError,
            f"output_size must be at most 16777216, got {2**70}"),
    Mistake(FORWARD, {"output_size": 2**24, "boxes": np.zeros((4096, 5), np.float32)}, ValueError,
            "a result of shape [4096, 3, 16777216, 16777216] has more elements than can be "
            "addressed"),
    Mistake(FORWARD, {"output_size": (1, 2, 3)}, ValueError,
            "output_size must be an integer or a pair, got (1, 2, 3)"),
    Mistake(FORWARD, {"output_size": 2.5}, TypeError, f"output_size {INTEGERS} 2.5"),
    Mistake(FORWARD, {"output_size": (2, "3")}, TypeError, f"output_size {INTEGERS} '3'"),
    Mistake(FORWARD, {"output_size": None}, TypeError, f"output_size {INTEGERS} None"),
    Mistake(ALIGN, {"sampling_ratio": 2.5}, TypeError, f"sampling_ratio {INTEGERS} 2.5"),
    Mistake(ALIGN, {"sampling_ratio": None}, TypeError, f"sampling_ratio {INTEGERS} None"),
    Mistake(ALIGN, {"sampling_ratio": (1,)}, ValueError,
            "sampling_ratio must be an integer or a pair, got (1,)"),
    Mistake(ALIGN, {"sampling_ratio": 2**31}, ValueError,
            "sampling_ratio must be at most 2147483647, got 2147483648"),
    Mistake(ALIGN, {"sampling_ratio": (2**70, 1)}, ValueError,
            f"sampling_ratio must be at most 2147483647, got ...{2**70}..."),
    *(
        Mistake(OPERATORS, {"spatial_scale": scale}, ValueError,
                f"spatial_scale must be positive and finite, got {text}")
        for scale, text in ((0, "0"), (-0.25, "-0.25"), (np.nan, "nan"), (np.inf, "inf"))
    ),
    Mistake(OPERATORS, {"spatial_scale": "0.5"}, TypeError,
            "spatial_scale must be a number, got '0.5'"),
    Mistake(OPERATORS, {"spatial_scale": None}, TypeError,
            "spatial_scale must be a number, got None"),
    Mistake(OPERATORS, {"spatial_scale": 10**400}, TypeError,
            f"spatial_scale must be a number, got {10**400}"),
    Mistake(ALIGN, {"aligned": np.array([True, False])}, TypeError, "aligned must be ... got ..."),
    Mistake(ALIGN, {"mode": "mean"}, ValueError,
            "mode must be one of 'avg', 'max', 'max_onnx', got 'mean'"),
    Mistake(ALIGN, {"mode": ["avg"]}, ValueError,
            "mode must be one of 'avg', 'max', 'max_onnx', got ['avg']"),
    Mistake(POOL, {"mode": "max_onnx"}, ValueError,
            "mode must be one of 'max', 'avg', got 'max_onnx'"),
    Mistake(OPERATORS, {"layout": "CHW"}, ValueError,
            "layout must be one of 'NCHW', 'NHWC', got 'CHW'"),
    Mistake(OPERATORS, {"layout": None}, ValueError,
            "layout must be one of 'NCHW', 'NHWC', got None"),
    # Arguments that do not match
    Mistake(["roi_align_backward"], MAX, ValueError,
            "input is needed for the gradient of the max modes"),
    Mistake(["roi_align_backward"], ONNX, ValueError,
            "input is needed for the gradient of the max modes"),
    Mistake(["roi_align_backward_boxes"], ONNX, NotImplementedError,
            "mode 'max_onnx' has no gradient to the boxes"),
    Mistake(["roi_pool"], {**AVG, "return_argmax": True}, ValueError,
            "only mode 'max' has an argmax to return"),
    Mistake(["roi_pool_backward"], {"argmax": None}, ValueError,
            "argmax is needed for the gradient of mode 'max'"),
    Mistake(["roi_pool_backward"], AVG, ValueError, "argmax must be None for mode 'avg'"),
    *(
        Mistake(["roi_pool_backward"], {"argmax": np.full_like(ARGMAX, cell)}, ValueError,
                f"argmax must be -1 or a cell in [0, 63), got {cell}")
        for cell in (63, -2, 2**31 - 1, -(2**31))
    ),
    # Values of boxes: messages name the row and the value
    *(
        Mistake(OPERATORS, {"boxes": _rows(row, column, value, dtype)}, ValueError,
                f"boxes must be finite, but {name} of row {row} is {value}")
        for row, column, name, value, dtype in (
            (0, 1, "x1", np.nan, np.float32),
            (1, 2, "y1", np.inf, np.float64),
            (2, 3, "x2", -np.inf, np.float16),
            (2, 4, "y2", np.nan, np.float32),
        )
    ),
    Mistake(OPERATORS, {"boxes": [FOUR_COLUMNS[:2], _rows(2, 2, np.nan)[2:, 1:]]}, ValueError,
            "boxes must be finite, but y1 of row 2 is nan"),
    *(
        Mistake(OPERATORS, {"boxes": _rows(1, 0, value)}, ValueError,
                f"the batch index of row 1 is {text}, {INDEX}")
        for value, text in ((5, "5"), (2, "2"), (-1, "-1"), (0.5, "0.5"), (np.nan, "nan"),
                            (np.inf, "inf"), (1234567, "1234567"), (1e30, "1e+30"))
    ),
    Mistake(OPERATORS, {"boxes": _rows(1, 0, 0.7, np.float64)}, ValueError,
            f"the batch index of row 1 is 0.7, {INDEX}"),
    *(
        Mistake(OPERATORS, {**INDICES, "batch_indices": np.array([0, 0, value])}, ValueError,
                f"the batch index of row 2 is {value}, {INDEX}")
        for value in (2, -1, 100000000, 2**40 + 1)
    ),
    # out
    Mistake(FORWARD, {"out": np.zeros((K, C, PH, PH), np.float32)}, ValueError,
            "out must have shape [3, 3, 2, 3], got [3, 3, 2, 2]"),
    Mistake(FORWARD, {"out": np.zeros((K, C, PH, PW))}, TypeError,
            "out must be float32 as the input, got float64"),
    Mistake(TO_INPUT, {"out": np.zeros((N, C, H, H), np.float32)}, ValueError,
            "out must have shape [2, 3, 7, 9], got [2, 3, 7, 7]"),
    Mistake(TO_INPUT, {"out": np.zeros((N, C, H, W), np.float16)}, TypeError,
            "out must be float32 as the gradient, got float16"),
]  # fmt: skip


# Mistakes in values, which are found when a call runs.
VALUES = ("boxes must be finite", "the batch index")


def _words(op: str, sentence: str) -> str:
    return f"{op}: " + re.escape(sentence).replace(re.escape("..."), ".*")


def _pattern(op: str, sentence: str) -> str:
    return f"^{_words(op, sentence)}$"


def _convert(lib: Lib, name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_convert(lib, name, part) for part in value]
    is_array = name in ARRAY_NAMES and isinstance(value, np.ndarray)
    return lib.asarray(value) if is_array else value


@pytest.fixture
def checked_values() -> Iterator[None]:
    """Check values on CUDA as well, as is always done on CPU."""
    roidl.set_check_boxes(True)
    yield
    roidl.set_check_boxes(False)


@pytest.mark.usefixtures("checked_values")
@pytest.mark.parametrize("mistake", TABLE, ids=lambda mistake: mistake.sentence[:60])
def test_a_mistake_is_named(mistake: Mistake, lib: Lib) -> None:
    if isinstance(mistake.wrong.get("out"), np.ndarray) and not lib.writable:
        pytest.skip("nothing can be written to in this library")
    for op in mistake.ops:
        arguments = GOOD[op] | mistake.wrong
        given = {name: _convert(lib, name, value) for name, value in arguments.items()}
        if lib.run_time_errors and op in FORWARD and mistake.sentence.startswith(VALUES):
            with pytest.raises(lib.run_time_errors, match=_words(op, mistake.sentence)):
                lib.to_numpy(call(op, **given))
            continue
        with pytest.raises(mistake.error, match=_pattern(op, mistake.sentence)) as raised:
            call(op, **given)
        assert raised.type is mistake.error


@pytest.mark.parametrize("op", OPERATORS)
def test_the_good_calls_are_good(op: str, lib: Lib) -> None:
    given = {name: _convert(lib, name, value) for name, value in GOOD[op].items()}
    call(op, **given)


# What only NumPy's arrays can be, or what has no array --------------------------------------------


@pytest.mark.parametrize("op", ALIGN)
def test_the_number_of_samples_has_no_lower_limit(op: str) -> None:
    expected = call(op, **GOOD[op], sampling_ratio=-1)
    np.testing.assert_array_equal(call(op, **GOOD[op], sampling_ratio=-(2**63)), expected)


@pytest.mark.parametrize("op", [*FORWARD, *TO_INPUT])
def test_out_of_a_library_whose_arrays_never_change(op: str, lib: Lib) -> None:
    if lib.writable:
        pytest.skip("can be written to")
    given = {name: _convert(lib, name, value) for name, value in GOOD[op].items()}
    out = lib.asarray(np.array(call(op, **GOOD[op])))
    kind = type(out).__name__
    with pytest.raises(TypeError, match=_pattern(op, f"out {WRITABLE} {kind}")):
        call(op, **given, out=out)


@pytest.mark.parametrize("op", [*FORWARD, *TO_INPUT])
def test_out_that_cannot_be_written_to(op: str) -> None:
    shape = call(op, **GOOD[op]).shape
    out = np.zeros(shape, np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match=_pattern(op, "out is read-only")):
        call(op, **GOOD[op], out=out)

    itself = np.lib.stride_tricks.as_strided(np.zeros(1000, np.float32), shape, (80, 40, 4, 4))
    with pytest.raises(ValueError, match=_pattern(op, "out must not overlap itself...")):
        call(op, **GOOD[op], out=itself)

    for name, array in GOOD[op].items():
        if isinstance(array, np.ndarray):
            memory = np.zeros(max(array.size, out.size) + 1, np.float32)
            alias = memory[: array.size].view(array.dtype).reshape(array.shape)
            alias[...] = array
            out = memory[1 : out.size + 1].reshape(shape)
            before = memory.copy()
            sentence = f"out must not share memory with {name}"
            with pytest.raises(ValueError, match=_pattern(op, sentence)):
                call(op, **GOOD[op] | {name: alias}, out=out)
            np.testing.assert_array_equal(memory, before)


def test_map_too_large_for_argmax() -> None:
    features = np.broadcast_to(np.float32(1), (2, 3, 2**16, 2**16))
    sentence = "roi_pool: mode 'max' on a map of 2^31 cells or more"
    with pytest.raises(NotImplementedError, match=f"^{re.escape(sentence)} .*65536, 65536]$"):
        roidl.roi_pool(features, BOXES, 2)
    assert roidl.roi_pool(features, BOXES, 2, mode="avg").shape == (3, 3, 2, 2)


@pytest.mark.parametrize("threads", [0, -5, -(2**70)])
def test_too_few_threads(threads: int) -> None:
    before = roidl.get_num_threads()
    sentence = f"set_num_threads: threads must be at least 1, got {threads}"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        roidl.set_num_threads(threads)
    assert roidl.get_num_threads() == before


@pytest.mark.parametrize("threads", [2.5, "4", None, True])
def test_threads_that_are_no_number(threads: Any) -> None:
    sentence = f"set_num_threads: threads must be an integer, got {threads!r}"
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        roidl.set_num_threads(threads)


@pytest.mark.parametrize("name", ["roi_pool", "multiscale_roi_pool"])
def test_return_argmax_is_a_flag_like_others(name: str) -> None:
    input, boxes = np.ones((1, 1, 8, 8)), np.ones((1, 5))
    maps: Any = ([input], boxes, 2, [1.0]) if name.startswith("multi") else (input, boxes, 2)
    with pytest.raises(TypeError, match=f"^{name}: return_argmax must be True or False, got array"):
        getattr(roidl, name)(*maps, return_argmax=np.array([True, False]))
