"""Import of arrays: every kind of DLPack export, released exactly once and never copied."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import roidl
from conftest import Lib
from producers import (
    DELETER,
    OPERATORS,
    PRODUCERS,
    NumpyArray,
    Producer,
    arrays_of,
    call,
    every_argument,
    producers_of,
    wrapped,
)

HERE = Path(__file__).parent
POSITIONS = [(op, name) for op in OPERATORS for name in arrays_of(every_argument(op))]

# Exported once, released once ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", PRODUCERS)
@pytest.mark.parametrize("op", OPERATORS)
def test_an_import_reads_the_array_and_releases_it_once(op: str, kind: type[Producer]) -> None:
    arguments = wrapped(op, kind)
    expected = call(op, **every_argument(op))
    if op == "roi_align_backward_boxes":  # its result is of the boxes' library: NumPy here
        arguments["boxes"] = arguments["boxes"].array
    result = call(op, **arguments)
    np.testing.assert_array_equal(getattr(result, "array", result), expected)
    assert np.any(expected)
    for producer in producers_of(arguments):
        assert len(producer.exported) == 1
        producer.assert_released_once()


def _raises(*_: Any, **__: Any) -> Any:
    raise BufferError("not today")


MISTAKES: dict[str, Callable[[type[Producer], NumpyArray], Any]] = {
    "no array": lambda kind, array: object(),
    "a dtype of no use": lambda kind, array: kind(array.astype(bool)),
    "too many dimensions": lambda kind, array: kind(array[..., None, None, None]),
    "more dimensions than any array": lambda kind, array: kind(array, ndim=1000),
    "negative dimensions": lambda kind, array: kind(array, ndim=-1),
    "a negative size": lambda kind, array: kind(array, shape=(-1,) * array.ndim),
    "no memory": lambda kind, array: kind(array, data=None),
    "no capsule": lambda kind, array: SimpleNamespace(__dlpack__=lambda **_: 5, shape=array.shape),
    "an error": lambda kind, array: SimpleNamespace(__dlpack__=_raises, shape=array.shape),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("kind", PRODUCERS)
def test_an_error_releases_all_that_was_exported(kind: type[Producer], mistake: str) -> None:
    for op, position in POSITIONS:
        arguments = wrapped(op, kind)
        arguments[position] = MISTAKES[mistake](kind, arguments[position].array)
        with pytest.raises((TypeError, ValueError), match=f"^{op}: "):
            call(op, **arguments)
        for producer in producers_of(arguments):
            producer.assert_released_once()


@pytest.mark.parametrize("kind", PRODUCERS)
@pytest.mark.parametrize("op", OPERATORS)
def test_an_error_in_the_values_releases_all(op: str, kind: type[Producer]) -> None:
    arguments = wrapped(op, kind)
    arguments["boxes"].array[2, 1] = np.nan
    with pytest.raises(ValueError, match=f"^{op}: boxes must be finite, but y1 of row 2 is nan"):
        call(op, **arguments)
    for producer in producers_of(arguments):
        assert len(producer.exported) == 1
        producer.assert_released_once()


def test_unsupported_version_is_released() -> None:
    arguments = wrapped("roi_align", Producer)
    future = arguments["input"] = Producer(arguments["input"].array, major=2)
    with pytest.raises(BufferError, match=r"^roi_align: input: DLPack version 2 is not understood"):
        call("roi_align", **arguments)
    assert len(future.exported) == 1
    future.assert_released_once()


@pytest.mark.parametrize("kind", PRODUCERS)
def test_an_export_that_needs_no_release(kind: type[Producer]) -> None:
    arguments = every_argument("roi_align")
    expected = call("roi_align", **arguments).copy()
    arguments["input"] = kind(arguments["input"], deleter=DELETER(0))
    result = call("roi_align", **arguments)
    np.testing.assert_array_equal(result, expected)


def test_an_exception_of_the_producers_own_arrives() -> None:
    class Broken(Producer):
        def __dlpack__(self, **_: Any) -> Any:
            raise ZeroDivisionError("mine")

    arguments = wrapped("roi_align", Producer)
    arguments["boxes"] = Broken(arguments["boxes"].array)
    with pytest.raises(ZeroDivisionError, match="mine"):
        call("roi_align", **arguments)
    for producer in producers_of(arguments):
        producer.assert_released_once()


# Memory -------------------------------------------------------------------------------------------


def _strange_views(array: NumpyArray) -> Iterator[tuple[str, Any]]:
    """The same values in every memory layout that DLPack can describe."""
    backwards = array[..., ::-1].copy()[..., ::-1]
    yield "negative strides", backwards
    yield "Fortran order", np.asfortranarray(array)
    every_third = np.zeros((*array.shape[:-1], 3 * array.shape[-1]), array.dtype)[..., 1::3]
    every_third[...] = array
    yield "a slice", every_third
    later = np.concatenate([np.resize(array, 5), array.ravel()])
    moved = later[5:].reshape(array.shape)
    for kind in PRODUCERS:
        yield f"{kind.__name__}, negative strides", kind(backwards)
        yield f"{kind.__name__}, no strides", kind(array, strides=None)
        offset = {"data": later.ctypes.data, "byte_offset": 5 * array.itemsize}
        yield f"{kind.__name__}, an offset", kind(moved, **offset)


@pytest.mark.parametrize(("op", "position"), POSITIONS)
def test_every_memory_layout(op: str, position: str) -> None:
    expected = call(op, **every_argument(op))
    for name, view in _strange_views(every_argument(op)[position]):
        if op == "roi_align_backward_boxes" and position == "boxes" and isinstance(view, Producer):
            continue  # its library cannot make the result
        result = call(op, **every_argument(op) | {position: view})
        result = getattr(result, "array", result)
        np.testing.assert_array_equal(result, expected, err_msg=name)


@pytest.mark.parametrize("kind", PRODUCERS)
def test_arrays_without_elements_may_lack_memory(kind: type[Producer]) -> None:
    for op in OPERATORS:
        arguments = every_argument(op)
        arguments.pop("out", None)
        for name in ("boxes", "batch_indices", "grad_output", "argmax"):
            if name in arguments:
                none: NumpyArray = arguments[name][:0]
                arguments[name] = kind(none, data=None) if name != "grad_output" else none
        if op == "roi_align_backward_boxes":
            arguments["boxes"] = arguments["boxes"].array
        result = call(op, **arguments)
        assert result.shape == arguments.get("input_shape", (0, *result.shape[1:]))
        assert not result.any()


@pytest.mark.parametrize("kind", [None, *PRODUCERS])
def test_an_enormous_input_is_not_copied(kind: type[Producer] | None) -> None:
    """A map of 256 GiB whose elements are one number, by strides of 0."""
    array = np.broadcast_to(np.float32(3), (1, 4, 2**17, 2**17))
    boxes = np.array([[0, 7, 7, 16, 12]], np.float32)
    out = np.empty((1, 4, 2, 2), np.float32)
    roidl.roi_align(array if kind is None else kind(array), boxes, 2, out=out)
    np.testing.assert_allclose(out, 3, rtol=1e-6)  # a mean of threes is rounded
    roidl.roi_pool(array if kind is None else kind(array), boxes, 2, mode="avg", out=out)
    np.testing.assert_allclose(out, 3, rtol=1e-6)


def _peak_memory() -> int:
    """The peak memory of this process since the last reset, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def test_a_large_input_is_not_copied(lib: Lib) -> None:
    reset = Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        pytest.skip("the kernel does not let us reset the peak of memory")
    array = np.ones((4, 4, 1024, 1024), np.float32)
    inputs = {"NCHW": lib.asarray(array), "NHWC": lib.asarray(array.reshape(4, 1024, 1024, 4))}
    boxes = lib.asarray(np.array([[3, 2, 2, 9, 9]], np.float32))
    for layout, input in inputs.items():
        for measured in (False, True):  # a front end may compile code in its first calls
            if measured:
                reset.write_text("5")
            before = _peak_memory()
            for function in (roidl.roi_align, roidl.roi_pool):
                lib.to_numpy(function(input, boxes, 2, layout=layout))
        assert _peak_memory() - before < array.nbytes / 2


def call_on_memory_that_cannot_be_written(folder: Path) -> None:
    """Make every call on memory-mapped files with protected pages: a write ends the process."""
    for op in OPERATORS:
        arguments = every_argument(op)
        expected = call(op, **arguments).copy()
        for name, array in arrays_of(arguments).items():
            if name != "out":
                np.save(folder / "array.npy", array)
                arguments[name] = np.load(folder / "array.npy", mmap_mode="r")
                (folder / "array.npy").unlink()
        np.testing.assert_array_equal(call(op, **arguments), expected)


def test_inputs_are_read_only_memory(tmp_path: Path) -> None:
    code = (
        "import sys, test_dlpack as t; t.call_on_memory_that_cannot_be_written(t.Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("op", OPERATORS)
def test_inputs_are_unchanged(op: str, lib: Lib) -> None:
    def digests() -> dict[str, str]:
        arrays = {name: lib.to_numpy(array) for name, array in given.items()}
        return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}

    arguments = every_argument(op)
    arguments.pop("out", None)
    given = {name: lib.asarray(array) for name, array in arrays_of(arguments).items()}
    before = digests()
    call(op, **arguments | given)
    assert digests() == before


# What DLPack does not carry, NumPy's own interface does -------------------------------------------


class NumPy20(np.ndarray[Any, np.dtype[Any]]):
    """An array as in NumPy 2.0, which does not export read-only arrays."""

    def __dlpack__(self, *, stream: Any = None) -> Any:  # type: ignore[override]
        if not self.flags.writeable:
            raise BufferError("Cannot export readonly array")
        return super().__dlpack__()


@pytest.mark.parametrize(("op", "position"), POSITIONS)
def test_read_only_arrays_of_old_numpy(op: str, position: str) -> None:
    arguments = every_argument(op)
    expected = call(op, **arguments).copy()
    arguments[position] = arguments[position][..., ::-1].copy()[..., ::-1].view(NumPy20)
    arguments[position].flags.writeable = False
    if position == "out":
        with pytest.raises(ValueError, match=f"^{op}: out is read-only"):
            call(op, **arguments)
    else:
        np.testing.assert_array_equal(call(op, **arguments), expected)


def test_bfloat16_of_ml_dtypes() -> None:
    features = np.arange(2 * 7 * 9).reshape(1, 2, 7, 9).astype(ml_dtypes.bfloat16)
    boxes = np.array([[0, 1, 1, 5, 5]], ml_dtypes.bfloat16)
    wide = roidl.roi_pool(features.astype(np.float32), boxes.astype(np.float32), 2)
    for view in (features, features[..., ::-1].copy()[..., ::-1]):
        result = roidl.roi_pool(view, boxes, 2)
        assert result.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(result.astype(np.float32), wide)
    with pytest.raises(ValueError, match=r"^roi_pool: input has 64 dimensions, at most 8"):
        roidl.roi_pool(np.zeros((1,) * 64, ml_dtypes.bfloat16), boxes, 2)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_memory_that_is_not_aligned(dtype: Any) -> None:
    arguments = every_argument("roi_align") | {"out": None}
    raw = np.zeros(arguments["input"].size * np.dtype(dtype).itemsize + 1, np.uint8)
    odd = raw[1:].view(dtype).reshape(arguments["input"].shape)
    with pytest.raises(ValueError, match=r"^roi_align: input is not aligned to its [24]-byte"):
        call("roi_align", **arguments | {"input": odd})
    # Boxes are few and read one by one.
    rows = np.zeros(arguments["boxes"].nbytes + 1, np.uint8)[1:].view(np.float32).reshape(3, 4)
    rows[...] = arguments["boxes"]
    expected = call("roi_align", **arguments)
    np.testing.assert_array_equal(call("roi_align", **arguments | {"boxes": rows}), expected)


@pytest.mark.parametrize(("op", "position"), POSITIONS)
def test_byte_swapped_arrays_are_refused(op: str, position: str) -> None:
    arguments = every_argument(op)
    swapped = arguments[position].astype(arguments[position].dtype.newbyteorder())
    with pytest.raises(TypeError, match=f"^{op}: {position} has dtype .*'>.*native"):
        call(op, **arguments | {position: swapped})


# The structs --------------------------------------------------------------------------------------


def test_our_structs_are_the_official_ones(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    libinfo: Any = pytest.importorskip("tvm_ffi.libinfo", reason="has the official header")
    includes = [f"-I{HERE.parent / 'src'}", f"-I{libinfo.find_dlpack_include_path()}"]
    source = str(HERE / "cpp" / "abi_dlpack.cpp")
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *includes]
    done = subprocess.run([*command, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", PRODUCERS)
def test_the_stride_of_a_single_element_says_nothing(kind: type[Producer]) -> None:
    features = np.arange(63, dtype=np.float32).reshape(1, 1, 7, 9)
    boxes, out = np.array([[0, 1, 1, 6, 5]], np.float32), np.empty((1, 1, 1, 1), np.float32)
    expected = roidl.roi_align(features, boxes, 1)
    for far in (2**62, -(2**63), 0):
        roidl.roi_align(
            kind(features, strides=(far, far, 9, 1)),
            kind(boxes, strides=(far, 1)),
            1,
            out=kind(out, strides=(far,) * 4),
        )
        np.testing.assert_array_equal(out, expected)
        out[...] = 0
