"""`python -m benchmarks.first_gpu_day.smoke cupy`: each operator once, against NumPy's results.

It prints the name of every call before making it, so that the last name identifies a crash, and
continues in a new process after a fault has broken the CUDA context.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from .device_state import is_broken
from .records import FAILED, PASSED, SKIPPED, append_check
from .steps import PACKAGE, ROOT

sys.path.insert(0, str(ROOT / "tests"))

import roidl
from conftest import ROWS, Lib, NumpyArray
from operators import OPERATORS, call, small_problem
from test_cuda_multiscale import MODES, everything
from test_multiscale import SCALES, SIZE, problem

Arrays = dict[str, Any]
Call = Callable[[Callable[[NumpyArray], Any]], Arrays]  # takes the conversion of arrays
TOLERANCE = {"float32": 1e-5, "float16": 4e-3}  # relative to the largest value


def _one_map(op: str, mode: str, layout: str, dtype: str) -> Call:
    def made(asarray: Callable[[NumpyArray], Any]) -> Arrays:
        input, boxes, gradient = small_problem(dtype)
        if layout == "NHWC":
            input, gradient = (np.moveaxis(each, 1, -1).copy() for each in (input, gradient))
        arrays = map(asarray, (input, boxes, gradient))
        return call(op, mode, *arrays, layout=layout)._asdict()

    return made


def _several_maps(op: str, mode: str, layout: str) -> Call:
    def made(asarray: Callable[[NumpyArray], Any]) -> Arrays:
        maps, boxes = problem("float32", layout)
        shape = (len(boxes), 5, *SIZE) if layout == "NCHW" else (len(boxes), *SIZE, 5)
        gradient = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
        on_device = [asarray(np.ascontiguousarray(each)) for each in maps]
        return everything(op, mode, on_device, asarray(boxes), asarray(gradient), layout)

    return made


def _levels(asarray: Callable[[NumpyArray], Any]) -> Arrays:
    return {"levels": roidl.assign_levels(asarray(problem("float32")[1]), SCALES)}


def calls(few: bool) -> Iterator[tuple[str, str, Call]]:
    """Names, dtypes and calls; `few` for a sanitizer, under which launches are slow."""
    for op, mode in OPERATORS:
        for layout in ("NCHW", "NHWC"):
            for dtype in ("float32",) if few else TOLERANCE:
                yield f"{op} {mode} {layout} {dtype}", dtype, _one_map(op, mode, layout, dtype)
    yield "assign_levels", "float32", _levels
    for op, mode in MODES:
        for layout in ("NCHW",) if few else ("NCHW", "NHWC"):
            name = f"multiscale_{op} {mode} {layout}"
            yield name, "float32", _several_maps(op, mode, layout)


def compare(got: NumpyArray, want: NumpyArray, tolerance: float) -> None:
    """Compare in float64, relative to the largest value.

    Raises
    ------
    AssertionError
        If they differ.
    """
    wide, exact = got.astype(np.float64), want.astype(np.float64)
    largest = float(np.abs(exact).max(initial=0, where=np.isfinite(exact)))
    np.testing.assert_allclose(wide, exact, rtol=0, atol=tolerance * largest)


def _try(lib: Lib, made: Call, dtype: str) -> str:
    """The error message of a call, or an empty string."""
    try:
        wanted, found = made(lambda array: array), made(lib.asarray)
        for name, want in wanted.items():
            if want is not None:
                try:
                    compare(lib.to_numpy(found[name]), want, TOLERANCE[dtype])
                except AssertionError as error:
                    return f"{name}: {error}"
    except Exception as error:  # any error is recorded, and the next call is made
        return f"{type(error).__name__}: {error}"
    return ""


def run(lib: Lib, first: int, failures: int, few: bool) -> int:
    """Make the calls from `first` on; return the number of failures, including earlier ones."""
    for index, (name, dtype, made) in enumerate(calls(few)):
        if index < first:
            continue
        print(f"{lib.name} {name} …", end=" ", flush=True)
        wrong = _try(lib, made, dtype)
        print(wrong or "right", flush=True)
        append_check(f"{lib.name} {name}", FAILED if wrong else PASSED, wrong)
        failures += bool(wrong)
        if wrong and is_broken():
            again = ["--first", str(index + 1), "--failures", str(failures)]
            arguments = [lib.name, *again, *(["--few"] if few else [])]
            os.execv(sys.executable, [sys.executable, "-m", f"{PACKAGE}.smoke", *arguments])
    return failures


def main() -> None:
    """Run the smoke test; exit with 1 if a result is wrong or missing."""
    parser = argparse.ArgumentParser(prog=f"python -m {PACKAGE}.smoke", description=__doc__)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--few", action="store_true", help="float32 only, fewer layouts")
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--failures", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    print(f"roidl: {roidl.build_info()}", flush=True)
    try:
        lib = ROWS[options.row]()
    except (ImportError, pytest.skip.Exception) as error:
        append_check(options.row, SKIPPED, str(error))
        sys.exit(f"{options.row}: {error}")
    failures = run(lib, options.first, options.failures, options.few)
    print(f"{failures} calls went wrong" if failures else "all calls are right")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
