"""Several maps in one call on CUDA arrays, compared with the CPU's results.

The rows are CuPy and PyTorch on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import Lib, NumpyArray, numpy_dtype
from test_cuda import ON_CUDA
from test_multiscale import SCALES, SIZE, level_by_definition, problem
from trials import assert_close

MODES = [("roi_align", "avg"), ("roi_align", "max"), ("roi_pool", "max"), ("roi_pool", "avg")]
every_mode = pytest.mark.parametrize(("op", "mode"), MODES)
every_layout = pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])


@pytest.fixture(params=ON_CUDA)
def lib(request: pytest.FixtureRequest, get_lib: Callable[[str], Lib]) -> Lib:
    return get_lib(request.param)


def everything(
    op: str, mode: str, maps: list[Any], boxes: Any, grad: Any, layout: str, **options: Any
) -> dict[str, Any]:
    """All results of an operator and its gradients, by name."""
    shapes = [tuple(each.shape) for each in maps]
    where = {"mode": mode, "layout": layout, **options}
    if op == "roi_align":
        inputs = None if mode == "avg" else maps
        found = {
            "out": roidl.multiscale_roi_align(maps, boxes, SIZE, SCALES, **where),
            "grad_boxes": roidl.multiscale_roi_align_backward_boxes(
                grad, maps, boxes, SCALES, **where
            ),
        }
        grads = roidl.multiscale_roi_align_backward(
            grad, boxes, shapes, SCALES, inputs=inputs, **where
        )
    elif mode == "max":
        out, argmax = roidl.multiscale_roi_pool(
            maps, boxes, SIZE, SCALES, return_argmax=True, **where
        )
        found = {"out": out, "argmax": argmax}
        grads = roidl.multiscale_roi_pool_backward(grad, boxes, argmax, shapes, SCALES, **where)
    else:
        found = {"out": roidl.multiscale_roi_pool(maps, boxes, SIZE, SCALES, **where)}
        grads = roidl.multiscale_roi_pool_backward(grad, boxes, None, shapes, SCALES, **where)
    return found | {f"grad_inputs[{i}]": each for i, each in enumerate(grads)}


def compare(
    lib: Lib,
    op: str,
    mode: str,
    dtype: str = "float32",
    layout: str = "NCHW",
    boxes: NumpyArray | None = None,
    maps: list[NumpyArray] | None = None,
    **options: Any,
) -> None:
    made, rows = problem(dtype, layout, channels=37)
    maps, boxes = maps or made, rows if boxes is None else boxes
    size = (*SIZE, 37) if layout == "NHWC" else (37, *SIZE)
    shape = (*boxes.shape[:-1], *size)
    grad = np.random.default_rng(3).standard_normal(shape).astype(numpy_dtype(dtype))
    # For half types the tolerance applies before the result is rounded.
    exact = np.float64 if dtype == "float64" else np.float32
    plain = [each.astype(exact) for each in maps]
    wanted = everything(op, mode, plain, boxes, grad.astype(exact), layout, **options)
    there = {name: lib.asarray(value) for name, value in options.items() if hasattr(value, "shape")}
    got = everything(
        op,
        mode,
        [lib.asarray(each) for each in maps],
        lib.asarray(boxes),
        lib.asarray(grad),
        layout,
        **(options | there),
    )
    for name, want in wanted.items():
        found = lib.to_numpy(got[name])
        if name == "argmax":
            np.testing.assert_array_equal(found, want)
        else:
            assert_close(found, want.astype(np.float64))


@every_layout
@every_dtype
@every_mode
def test_every_operator(op: str, mode: str, dtype: str, layout: str, lib: Lib) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.name} has no {dtype}")
    compare(lib, op, mode, dtype, layout)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint8"])
@every_mode
def test_given_levels(op: str, mode: str, kind: str, lib: Lib) -> None:
    compare(lib, op, mode, levels=(np.arange(24) * 7 % 4).astype(kind))


@every_mode
def test_counts(op: str, mode: str, lib: Lib) -> None:
    _, rows = problem("float32")
    boxes = rows[:, 1:].reshape(2, 12, 4).copy()
    boxes[0, 5:] = np.nan
    compare(lib, op, mode, boxes=boxes, counts=np.array([5, 12]))
    compare(lib, op, mode, boxes=boxes[:, :5].copy(), counts=np.array([0, 0]))
    levels = np.arange(24).reshape(2, 12) % 4
    compare(lib, op, mode, boxes=boxes, counts=np.array([5, 3], np.int32), levels=levels)


@every_mode
def test_maps_of_different_strides_and_without_cells(op: str, mode: str, lib: Lib) -> None:
    maps, _ = problem("float32", channels=37)
    maps[1] = np.ascontiguousarray(maps[1].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    maps[2] = np.repeat(maps[2], 2, axis=3)[..., ::2]
    compare(lib, op, mode, maps=maps)
    maps[0] = maps[0][:, :, :, :0]
    levels = np.arange(24) % 3 + 1
    compare(lib, op, mode, maps=maps, levels=levels)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_levels_are_those_of_the_cpu(dtype: str, lib: Lib) -> None:
    # Sizes within a few ulps of the borders between levels.
    steps = np.arange(-40, 41) * np.finfo(np.float32).eps
    sides = np.concatenate([border * (1 + steps) for border in (112, 224, 448)])
    boxes = np.stack([np.zeros_like(sides)] * 2 + [sides] * 2, 1).astype(dtype)
    found = roidl.assign_levels(lib.asarray(boxes), SCALES)
    assert isinstance(found, lib.array)
    expected = roidl.assign_levels(boxes, SCALES)
    assert len(set(expected.tolist())) == 4
    np.testing.assert_array_equal(lib.to_numpy(found), expected)
    grouped = boxes.reshape(9, 27, 4)
    found = roidl.assign_levels(lib.asarray(grouped), SCALES)
    np.testing.assert_array_equal(lib.to_numpy(found), expected.reshape(9, 27))
    first, second = roidl.assign_levels([lib.asarray(boxes[:3]), lib.asarray(boxes[3:])], SCALES)
    np.testing.assert_array_equal(lib.to_numpy(first), expected[:3])
    np.testing.assert_array_equal(lib.to_numpy(second), expected[3:])


def test_the_rule_in_the_kernel_is_that_of_assign_levels(lib: Lib) -> None:
    _, rows = problem("float32")
    expected = [level_by_definition(row[1:]) for row in rows]
    assert lib.to_numpy(roidl.assign_levels(lib.asarray(rows), SCALES)).tolist() == expected


# Values that nobody looks at ----------------------------------------------------------------------


@every_mode
def test_invalid_levels_give_zeros_and_no_gradient(op: str, mode: str, lib: Lib) -> None:
    maps, boxes = problem("float32")
    grad = np.random.default_rng(3).standard_normal((24, 5, *SIZE)).astype(np.float32)
    levels = np.arange(24) % 4
    wrong = levels.copy()
    lost, kept = [3, 11], [k for k in range(24) if k not in (3, 11)]
    wrong[lost] = [4, -1]
    there = [lib.asarray(each) for each in maps]

    def call(rows: list[int], levels: NumpyArray) -> dict[str, NumpyArray]:
        found = everything(
            op,
            mode,
            there,
            lib.asarray(boxes[rows]),
            lib.asarray(grad[rows]),
            "NCHW",
            levels=lib.asarray(levels[rows]),
        )
        return {name: lib.to_numpy(value) for name, value in found.items()}

    got, good = call([*range(24)], wrong), call(kept, levels)
    for name, want in good.items():
        if name.startswith("grad_inputs"):
            np.testing.assert_array_equal(got[name], want)
        else:
            np.testing.assert_array_equal(got[name][kept], want)
            np.testing.assert_array_equal(got[name][lost], -1 if name == "argmax" else 0)


def test_counts_beyond_the_rows_are_safe(lib: Lib) -> None:
    maps, rows = problem("float32")
    boxes = rows[:, 1:].reshape(2, 12, 4)
    there = [lib.asarray(each) for each in maps]

    def call(counts: list[int]) -> NumpyArray:
        given = lib.asarray(np.array(counts))
        return lib.to_numpy(
            roidl.multiscale_roi_align(there, lib.asarray(boxes), SIZE, SCALES, counts=given)
        )

    np.testing.assert_array_equal(call([13, -1]), call([12, 0]))


@pytest.fixture
def checked_boxes() -> Iterator[None]:
    roidl.set_check_boxes(True)
    yield
    roidl.set_check_boxes(False)


@pytest.mark.usefixtures("checked_boxes")
def test_check_boxes_raises_for_invalid_values(lib: Lib) -> None:
    maps, rows = problem("float32")
    there, grouped = [lib.asarray(each) for each in maps], rows[:, 1:].reshape(2, 12, 4).copy()
    levels, counts = np.arange(24) % 4, np.array([13, 2])
    levels[5] = 4
    with pytest.raises(ValueError, match=r"the level of row 5 is 4, but must be in \[0, 4\)"):
        roidl.multiscale_roi_align(
            there, lib.asarray(rows), SIZE, SCALES, levels=lib.asarray(levels)
        )
    with pytest.raises(ValueError, match=r"counts must be in \[0, 12\], but image 0 has 13"):
        roidl.multiscale_roi_align(
            there, lib.asarray(grouped), SIZE, SCALES, counts=lib.asarray(counts)
        )
    grouped[1, 1, 1] = np.nan
    with pytest.raises(ValueError, match="boxes must be finite, but y1 of row 13 is nan"):
        roidl.multiscale_roi_align(there, lib.asarray(grouped), SIZE, SCALES)
    grouped[1, 2:] = np.nan  # padding is not read
    grouped[1, 1, 1] = 0
    counts[0] = 12
    arguments = (lib.asarray(grouped), SIZE, SCALES)
    roidl.multiscale_roi_align(there, *arguments, counts=lib.asarray(counts))
    out, argmax = roidl.multiscale_roi_pool(
        there, *arguments, counts=lib.asarray(counts), return_argmax=True
    )
    cells = lib.to_numpy(argmax).copy()
    shapes = [each.shape for each in maps]
    where = {"counts": lib.asarray(counts)}
    boxes, scales = arguments[0], SCALES
    cells[1, 5] = 10**6  # padding is not read
    roidl.multiscale_roi_pool_backward(out, boxes, lib.asarray(cells), shapes, scales, **where)
    cells[0, 3, 2, 1, 1] = 10**6
    with pytest.raises(ValueError, match="argmax must be -1 or a cell of its box"):
        roidl.multiscale_roi_pool_backward(out, boxes, lib.asarray(cells), shapes, scales, **where)


@every_mode
def test_results_are_the_same_bits_every_time(op: str, mode: str, lib: Lib) -> None:
    maps, boxes = problem("float32")
    grad = np.random.default_rng(3).standard_normal((24, 5, *SIZE)).astype(np.float32)
    arrays = [lib.asarray(each) for each in maps], lib.asarray(boxes), lib.asarray(grad)
    first = everything(op, mode, *arrays, "NCHW")
    for _ in range(3):
        for name, other in everything(op, mode, *arrays, "NCHW").items():
            np.testing.assert_array_equal(lib.to_numpy(other), lib.to_numpy(first[name]))
