"""Helpers for comparisons with the oracle: forms of boxes, layouts, selection, error budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from conftest import Lib, NumpyArray, numpy_dtype

Float64 = npt.NDArray[np.float64]

# Boxes --------------------------------------------------------------------------------------------

BOX_FORMS = ("rows", "list", "indices", "grouped", "single")
BOX_DTYPES = ("float32", "int64", "float64", "float16", "int32", "bfloat16", "uint8")


class Boxes(NamedTuple):
    """Boxes in one of the forms that the operators take."""

    rows: Float64  # [K, 5], representable in `dtype`: the oracle's boxes
    form: str
    dtype: str
    images: int

    def arguments(self, lib: Lib) -> dict[str, Any]:
        """`boxes` and `batch_indices` as `lib` passes them."""
        typed = self.rows.astype(numpy_dtype(self.dtype))
        corners, images = typed[:, 1:], self.rows[:, 0].astype(np.int64)
        match self.form:
            case "rows":
                return {"boxes": lib.asarray(typed)}
            case "list":
                return {"boxes": [lib.asarray(corners[images == n]) for n in range(self.images)]}
            case "indices":
                return {"boxes": lib.asarray(corners), "batch_indices": lib.asarray(images)}
            case "grouped":
                return {"boxes": lib.asarray(corners.reshape(self.images, -1, 4))}
            case _:
                return {"boxes": lib.asarray(corners)}

    def corners_of(self, lib: Lib, gradient: Any) -> NumpyArray:
        """[K, 4] from a gradient shaped like the boxes of `arguments`."""
        parts = gradient if self.form == "list" else [gradient]
        joined = np.concatenate([lib.to_numpy(part) for part in parts])
        return joined.reshape(-1, joined.shape[-1])[:, -4:]


def arrange(rows: Float64, form: str, dtype: str, images: int) -> Boxes:
    """Boxes [K, 5] rounded to a dtype, in an order that the form can represent."""
    limits: Any = (ml_dtypes.iinfo if "int" in dtype else ml_dtypes.finfo)(numpy_dtype(dtype))
    limit = 1e15 if dtype == "int64" else float(limits.max)  # a whole number in float64, too
    rows = np.clip(rows, max(float(limits.min), -limit), limit)
    rows = rows.astype(numpy_dtype(dtype)).astype(np.float64)
    if form == "single":
        assert images == 1
        rows[:, 0] = 0
    elif form in ("list", "grouped"):
        groups = [rows[rows[:, 0] == n] for n in range(images)]
        if form == "grouped":  # an image with fewer boxes than others has its first one again
            longest = max(len(group) for group in groups)
            groups = [
                group[[*range(len(group)), *[0] * (longest - len(group))]] for group in groups
            ]
        rows = np.concatenate(groups)
    return Boxes(rows, form, dtype, images)


# Layouts and channels -----------------------------------------------------------------------------


def from_nchw(array: NumpyArray, layout: str) -> NumpyArray:
    """[N, C, H, W] in another order of axes, contiguous in it."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1) if layout == "NHWC" else array)


def to_nchw(array: NumpyArray, layout: str) -> NumpyArray:
    """[N, C, H, W] or [K, C, PH, PW] again; a result [N, L, ...] becomes [N * L, ...]."""
    array = array.reshape(int(np.prod(array.shape[:-3])), *array.shape[-3:])
    return array.transpose(0, 3, 1, 2) if layout == "NHWC" else array


# Numbers of channels around the kernels' blocks of 64 bytes, as (blocks, channels more than that).
CHANNELS = ((0, 3), (1, 1), (1, 0), (0, 1), (1, -1), (2, 1), (0, 2))


def channel_count(channels: tuple[int, int], dtype: str) -> int:
    return channels[0] * (8 if dtype == "float64" else 16) + channels[1]


# Selection and comparison -------------------------------------------------------------------------


def pairwise(cases: Sequence[Any], factors: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Rows for `parametrize`: every case with every level, every two levels of two factors.

    Orthogonal arrays: p is prime, so the levels (j a + i) and (k a + i) mod p of two factors, j and
    k, meet in every combination as a and i run over p numbers. The next p cases begin elsewhere, so
    that the same two levels meet with another level of the first factor: a library that is missing
    leaves no hole.
    """
    p = 7
    assert p >= max(len(factors), *map(len, factors.values()))
    assert p <= len(cases)
    rows = []
    for number, case in enumerate(cases):
        block, a = divmod(number, p)
        for i in range(p):
            levels = [
                choices[(k * a + k * k * block + i) % p % len(choices)]
                for k, choices in enumerate(factors.values())
            ]
            rows.append(pytest.param(case, *levels, id="-".join(map(str, [case, *levels]))))
    return rows


# The largest error of the arithmetic, relative to the largest number of a result.
BUDGET = {"float32": 1e-6, "float64": 1e-14}


def assert_close(got: NumpyArray, expected: Float64, budget: float | None = None) -> None:
    """Compare a result with the oracle's: the same NaN and Inf, the rest within the budget.

    Half types are computed in float32 and rounded once: half a unit in the last place on top.
    """
    assert got.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite].astype(np.float64), expected[~finite])
    magnitude = np.abs(expected[finite])
    half = got.dtype.itemsize == 2
    allowed = (budget or BUDGET["float32" if half else got.dtype.name]) * magnitude.max(initial=0)
    if half:
        finfo: Any = ml_dtypes.finfo
        storage = finfo(got.dtype)
        allowed = allowed + float(storage.eps) / 2 * magnitude
        allowed += float(storage.smallest_subnormal) / 2
    error = np.abs(got[finite].astype(np.float64) - expected[finite])
    worst = np.argmax(error - allowed) if error.size else 0
    assert (error <= allowed).all(), (  # a NaN fails
        f"got {got[finite][worst]}, expected {expected[finite][worst]}, "
        f"{np.count_nonzero(~(error <= allowed))} of {error.size} are too far off"
    )
