"""Properties of every operator: the spread of NaN and Inf, and all instruction sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import roidl
from conftest import NumpyArray, numpy_dtype
from operators import SIZE, call, check, every_operator, expect
from trials import from_nchw

# NaN and Inf --------------------------------------------------------------------------------------

# On a map of 6 x 7 cells, in which pixels a sample touches: between four, on a pixel or a line of
# them, clamped at the border, off the map, backwards.
ODD_BOXES = {
    "between_pixels": (1.3, 1.7, 4.6, 4.4),
    "on_pixels": (1.5, 1.5, 4.5, 3.5),
    "on_a_line": (1.2, 2.5, 4.9, 2.5),
    "at_a_point": (3.5, 2.5, 3.5, 2.5),
    "across_the_corner": (-1.7, -1.2, 2.1, 2.9),
    "across_the_far_corner": (4.2, 3.4, 8.8, 7.9),
    "outside": (9, 9, 12, 12),
    "mirrored": (5.3, 4.9, 1.1, 0.7),
    "larger_than_the_map": (-3, -2, 10, 9),
}


def check_odd(
    op: str, mode: str, input: NumpyArray, boxes: NumpyArray, gradient: NumpyArray
) -> None:
    ways = ((1, "float32", "NCHW"), (2, "bfloat16", "NCHW"), (-1, "float64", "NHWC"))
    for ratio, dtype, layout in ways:
        options = {"sampling_ratio": ratio, "aligned": True} if op == "roi_align" else {}
        double = {"coordinates": np.float64 if dtype == "float64" else np.float32}
        typed = [array.astype(numpy_dtype(dtype)) for array in (input, gradient)]
        expected = expect(op, mode, typed[0], boxes, typed[1], **options, **double)
        if expected.grad_boxes is not None and not np.isfinite(gradient).all():
            # A NaN or Inf gradient reaches those edges of a box that any other gradient reaches.
            without, ones = (
                expect(
                    op,
                    mode,
                    typed[0],
                    boxes,
                    np.where(np.isfinite(gradient), typed[1].astype(np.float64), fill),
                    **options,
                    **double,
                ).grad_boxes
                for fill in (0, 1)
            )
            expected = expected._replace(grad_boxes=np.where(without == ones, without, np.nan))
        arrays = [from_nchw(array, layout) for array in typed]
        results = call(op, mode, arrays[0], boxes, arrays[1], layout=layout, **options)
        check(results, expected, layout)


@every_operator
@pytest.mark.parametrize("box", ODD_BOXES.values(), ids=ODD_BOXES.keys())
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_spread_of_nan_and_inf_in_features(
    op: str, mode: str, box: tuple[float, ...], odd: float
) -> None:
    """One pixel of the second channel is NaN or Inf, a different one in every image."""
    pixels = np.arange(6 * 7)
    boxes = np.array([(n, *box) for n in pixels], np.float32)
    rng = np.random.default_rng(33)
    gradient = rng.standard_normal((len(pixels), 3, *SIZE))
    input = rng.standard_normal((len(pixels), 3, 6, 7))
    input[pixels, 1, pixels // 7, pixels % 7] = odd
    check_odd(op, mode, input, boxes, gradient)


@every_operator
@pytest.mark.parametrize("box", ODD_BOXES.values(), ids=ODD_BOXES.keys())
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_spread_of_nan_and_inf_in_gradients(
    op: str, mode: str, box: tuple[float, ...], odd: float
) -> None:
    """One bin of the second channel has a NaN or Inf gradient, a different one in every image."""
    bins = np.arange(SIZE[0] * SIZE[1])
    boxes = np.array([(n, *box) for n in bins], np.float32)
    rng = np.random.default_rng(34)
    input = rng.standard_normal((len(bins), 3, 6, 7)).astype(np.float32)
    gradient = rng.standard_normal((len(bins), 3, *SIZE)).astype(np.float32)
    gradient[bins, 1, bins // SIZE[1], bins % SIZE[1]] = odd
    check_odd(op, mode, input, boxes, gradient)


# Instruction sets ---------------------------------------------------------------------------------

IN_ANOTHER_PROCESS = """
import sys, pytest, roidl
name = roidl.build_info()["instruction_set"]
sys.exit(pytest.main(sys.argv[2:]) if name == sys.argv[1] else f"runs {name} instead")
"""


OTHERS = {"baseline", "avx2", "avx512"} - {roidl.build_info()["instruction_set"]}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_another_instruction_set(name: str) -> None:
    """Run the marked tests again in a process with another instruction set."""
    tests = Path(__file__).parent
    arguments = ["-q", "-p", "no:cacheprovider", "-m", "each_instruction_set"]
    files = [str(tests / f"test_{of}.py") for of in ("roi_align", "roi_pool", "winners")]
    process = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, name, *arguments, *files],
        env={**os.environ, "ROIDL_ISA": name},
        cwd=tests.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if "ROIDL_ISA must be one of" in process.stderr:
        pytest.skip(f"this machine has no {name}")
    assert process.returncode == 0, process.stdout + process.stderr
    assert " passed" in process.stdout
