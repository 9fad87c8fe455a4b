"""The CUDA kernels without a GPU: the compiled code, and the error of a call."""

from __future__ import annotations

import re
import shutil
import subprocess
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roidl
from producers import Producer

ROOT = Path(__file__).parents[1]
CUDA, SRC, TESTS = ROOT / "cuda", ROOT / "src", ROOT / "tests"
NVCC = shutil.which("nvcc")
NO_CONTRACTION = "--fmad=false"
KERNELS = ("align", "align_boxes", "align_max", "pool")


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# What the compiler made of it ---------------------------------------------------------------------

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="there is no nvcc")

GEOMETRY = """
#include "samples.h"
template <class T>
__device__ void positions(T* at, T low, T high, T scale, int i) {
  const auto align = roidl::align_axis(low, high, scale, i > 3, 7, int64_t(i));
  const auto pool = roidl::pool_axis(low, high, scale, 7);
  for (int p = 0; p < 7; ++p) {
    at[p] = roidl::bilinear(roidl::sample_position(align, p, i), 50).weight_low;
    at[p + 7] = T(roidl::pool_bin(pool, p, 50).end);
  }
}
__global__ void single(float* at, float a, float b, float c) {
  positions(at, a, b, c, threadIdx.x);
}
__global__ void twice(double* at, double a, double b, double c) {
  positions(at, a, b, c, threadIdx.x);
}
"""


def _ptx(source: Path, *flags: str) -> str:
    assert NVCC is not None
    target = source.with_suffix(".ptx")
    _run(NVCC, "-std=c++17", "-arch=sm_90", "-ptx", *flags, f"-I{SRC}", source, "-o", target)
    return target.read_text()


def _contracted(ptx: str) -> int:
    """The number of fused multiply-add instructions."""
    return len(re.findall(r"\bfma\.rn\.f(32|64)", ptx))


@needs_nvcc
def test_geometry_is_rounded_step_by_step(tmp_path: Path) -> None:
    source = tmp_path / "geometry.cu"
    source.write_text(GEOMETRY)
    assert _contracted(_ptx(source)) > 0  # nvcc's default
    assert _contracted(_ptx(source, NO_CONTRACTION)) == 0
    # The whole library is compiled like this; sums use explicit FMA.
    assert NO_CONTRACTION in (ROOT / "CMakeLists.txt").read_text()


@needs_nvcc
@pytest.mark.parametrize("name", ["backend", *(f"roi_{op}" for op in KERNELS)])
def test_float32_kernels_have_no_spills_and_no_atomics(name: str, tmp_path: Path) -> None:
    assert NVCC is not None
    flags = ["-std=c++17", NO_CONTRACTION, "--diag-suppress=20013,20014,20015", f"-I{SRC}"]
    flags += ['-DROIDL_CUDA_ARCHITECTURES="90"']
    keep = ["--keep", "--keep-dir", str(tmp_path)]
    command = [NVCC, *flags, *keep, "-arch=sm_90", "-Xptxas=-v", "-cubin", str(CUDA / f"{name}.cu")]
    said = _run(*command, "-o", tmp_path / "kernels")
    pattern = r"entry function '(\w+)'.*\n.*\n +(\d+) bytes stack frame, (\d+) bytes spill stores"
    found = re.findall(pattern, said)
    # Of the mangled names: with a template argument float (f) and none double (d).
    single = [kernel for kernel in found if "If" in kernel[0] and not re.search("Id|dE", kernel[0])]
    assert len(single) >= (1 if name == "backend" else 5)
    assert [kernel for kernel in single if kernel[1:] != ("0", "0")] == []
    ptx = (tmp_path / f"{name}.ptx").read_text()
    assert not re.search(r"\b(atom|red)\.", ptx)
    if name == "roi_align":  # contiguous channels are moved 16 bytes at a time
        assert "ld.global.v4.f32" in ptx
        assert "st.global.cs.v4.s32" in ptx


# Without a GPU ------------------------------------------------------------------------------------


def test_where_cuda_is_not_usable_a_call_says_why() -> None:
    cuda = roidl.build_info()["cuda"]
    if cuda["usable"]:
        pytest.skip("CUDA is usable here")
    input, boxes = np.ones((1, 1, 4, 4), np.float32), np.ones((2, 5), np.float32)
    wrapped: Any = [Producer(array, device_type=2) for array in (input, boxes)]
    words = "CUDA cannot be used here: .+" if cuda["built"] else "not implemented on device cuda$"
    if cuda["built"] and find_library("cuda") is None:
        version = r"CUDA \d+\.\d, which roidl is built with, needs R\d+ or newer"
        words = f"CUDA cannot be used here: there is no driver, but {version}$"
    error = RuntimeError if cuda["built"] else NotImplementedError
    with pytest.raises(error, match=f"^roi_align: {words}"):
        roidl.roi_align(wrapped[0], wrapped[1], 2)
