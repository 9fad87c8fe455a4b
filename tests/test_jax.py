"""`roidl.jax`: jit, forms of boxes, dtypes, errors, and what the compiled program is made of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
from cases import random_boxes
from conftest import Lib, NumpyArray
from trials import BOX_FORMS, arrange, assert_close, from_nchw, to_nchw

jax = pytest.importorskip("jax")
jnp = jax.numpy

SIZE = (2, 3)
SCALE = 0.5


@pytest.fixture(autouse=True)
def lib(get_lib: Callable[[str], Lib]) -> Lib:
    """With 64-bit types; what is without them runs in a process of its own."""
    return get_lib("jax")


def problem(images: int = 2, dtype: str = "float32") -> tuple[NumpyArray, NumpyArray]:
    rng = np.random.default_rng(61)
    features = rng.standard_normal((images, 5, 7, 9)).astype(dtype)
    return features, random_boxes(rng, 6, images, 7, 9, SCALE)


def pool(op: str, mode: str, layout: str = "NCHW") -> Callable[..., Any]:
    from roidl import jax as front_end

    more = {"sampling_ratio": 2} if op == "roi_align" else {}
    function = getattr(front_end, op)

    def pooled(input: Any, boxes: Any, batch_indices: Any = None) -> Any:
        return function(
            input, boxes, SIZE, SCALE, mode=mode, layout=layout, batch_indices=batch_indices, **more
        )

    return pooled


def expected_of(op: str, mode: str, features: NumpyArray, rows: NumpyArray) -> Any:
    if op == "roi_align":
        return oracle.roi_align(features, rows, SIZE, SCALE, 2, mode=mode)
    return oracle.roi_pool(features, rows, SIZE, SCALE, mode=mode)[0]


# Forward ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("form", BOX_FORMS)
@pytest.mark.parametrize(("op", "mode"), [("roi_align", "avg"), ("roi_pool", "max")])
def test_jit_takes_every_form_of_boxes(
    op: str, mode: str, form: str, layout: str, lib: Lib
) -> None:
    features, rows = problem(1 if form == "single" else 2)
    boxes = arrange(rows, form, "float32", len(features))
    given = boxes.arguments(lib)
    result = jax.jit(pool(op, mode, layout))(lib.asarray(from_nchw(features, layout)), **given)
    if form == "grouped":
        assert result.shape[:2] == given["boxes"].shape[:2]
    assert_close(to_nchw(np.asarray(result), layout), expected_of(op, mode, features, boxes.rows))


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_roi_pool_returns_its_argmax_under_jit(mode: str) -> None:
    from roidl.jax import roi_pool

    features, rows = problem()

    def both(input: Any, boxes: Any) -> Any:
        return roi_pool(input, boxes, SIZE, SCALE, mode=mode, return_argmax=True)

    if mode == "avg":
        with pytest.raises(ValueError, match="roi_pool: only mode 'max' has an argmax to return"):
            jax.jit(both)(features, rows)
        return
    pooled, argmax = jax.jit(both)(features, rows)
    expected, cells = oracle.roi_pool(features, rows, SIZE, SCALE)
    assert_close(np.asarray(pooled), expected)
    assert argmax.dtype == np.int32
    np.testing.assert_array_equal(argmax, cells)


def test_where_jit_is_disabled() -> None:
    features, rows = problem()
    function = pool("roi_align", "avg")
    with jax.disable_jit():
        result = function(features, rows)
        gradient = jax.grad(lambda x: function(x, rows).sum())(features)
    assert_close(np.asarray(result), expected_of("roi_align", "avg", features, rows))
    ones = np.ones((6, 5, *SIZE))
    assert_close(np.asarray(gradient), oracle.roi_align_backward(ones, features, rows, SCALE, 2))


def test_arrays_of_other_libraries_become_jax_arrays(lib: Lib) -> None:
    features, rows = problem()
    boxes = rows.astype(np.float32)
    result = pool("roi_align", "avg")(features, boxes)
    assert isinstance(result, lib.array)
    assert_close(np.asarray(result), expected_of("roi_align", "avg", features, rows))
    with pytest.raises(TypeError, match=r"^roi_align: boxes must be an array .* got dict$"):
        pool("roi_align", "avg")(features, {"boxes": boxes})


# Errors -------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "rank": (lambda x, b: (x[0], b), ValueError, "input must have shape [N, C, H, W], got [5, 7"),
    "form": (lambda x, b: (x, b[:, :3]), ValueError, "boxes must have shape [K, 5], got [6, 3]"),
    "length": (lambda x, b: (x, [b[:, 1:]]), ValueError, "a list of boxes must have one array per"),
    "dtype": (lambda x, b: (x > 0, b), TypeError, "input must be float16, bfloat16, float32 or"),
    "indices": (
        lambda x, b: (x, b[:, 1:], b[:, 0]),
        TypeError,
        "batch_indices must be of an integer type, got float64",
    ),
}


@pytest.mark.parametrize("op", ["roi_align", "roi_pool"])
@pytest.mark.parametrize("kind", WRONG)
def test_metadata_is_checked_when_tracing(kind: str, op: str) -> None:
    spoil, error, sentence = WRONG[kind]
    function = pool(op, "avg")
    with pytest.raises(error, match=re.escape(f"{op}: {sentence}")):
        jax.jit(lambda x, b: function(*spoil(x, b)))(*problem())


@pytest.mark.parametrize(
    ("row", "column", "value", "sentence"),
    [
        (2, 0, 7, "the batch index of row 2 is 7, but must be a whole number in [0, 2)"),
        (1, 0, 0.5, "the batch index of row 1 is 0.5, but must be a whole number in [0, 2)"),
        (3, 4, np.nan, "boxes must be finite, but y2 of row 3 is nan"),
    ],
)
@pytest.mark.parametrize("op", ["roi_align", "roi_pool"])
def test_values_are_checked_at_run_time(
    op: str, row: int, column: int, value: float, sentence: str, lib: Lib
) -> None:
    features, rows = problem()
    compiled = jax.jit(lambda x, b: 2 * pool(op, "avg")(x, b))
    wrong = rows.copy()
    wrong[row, column] = value
    assert lib.run_time_errors is not None
    with pytest.raises(lib.run_time_errors, match=re.escape(f"{op}: {sentence}")):
        compiled(features, wrong).block_until_ready()
    result = np.asarray(compiled(features, rows))  # nothing is left of it
    assert_close(result, 2 * expected_of(op, "avg", features, rows))


def test_out_is_refused(lib: Lib) -> None:
    from roidl.jax import roi_align

    features, rows = problem()
    out = lib.asarray(np.zeros((6, 5, *SIZE), np.float32))
    with pytest.raises(TypeError, match=r"^roi_align: out must be an array that can be written to"):
        roi_align(features, rows, SIZE, out=out)


# The compiled program -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("op", "mode"), [("roi_align", "avg"), ("roi_align", "max"),
                                          ("roi_pool", "max")])  # fmt: skip
def test_nothing_is_transposed_nor_called_back(op: str, mode: str, layout: str) -> None:
    features, rows = problem()
    function = pool(op, mode, layout)
    arguments = from_nchw(features, layout), rows.astype(np.float32)

    def loss(input: Any, boxes: Any) -> Any:
        return (function(input, boxes) ** 2).sum()

    for traced in (function, jax.grad(loss, argnums=(0, 1))):
        text = jax.jit(traced).lower(*arguments).compile().as_text()
        assert re.search(r"= \S+ (transpose|copy)\(", text) is None
        targets = set(re.findall(r'custom_call_target="(\w+)"', text))
        assert targets >= {f"roidl_{op}"}
        assert all(target.startswith(f"roidl_{op}") for target in targets)


def test_a_donated_input_is_not_written_to_too_early() -> None:
    """The result has the size of the input, whose memory XLA may reuse."""
    from roidl.jax import roi_align

    rng = np.random.default_rng(62)
    features = rng.standard_normal((2, 3, 6, 8))
    boxes = np.array([[0, 0, 0, 8, 6], [1, 1.5, 1, 7, 5.5]])

    def same_shape(input: Any) -> Any:
        return roi_align(input, boxes, (6, 8), sampling_ratio=2, aligned=True)

    donated = jnp.array(features)
    result = jax.jit(same_shape, donate_argnums=0)(donated)
    assert donated.is_deleted()
    assert_close(np.asarray(result), oracle.roi_align(features, boxes, (6, 8), 1.0, 2, True))


def test_export_needs_a_word_and_comes_back() -> None:
    from jax import export

    pytest.importorskip("flatbuffers")
    features, rows = problem()
    compiled = jax.jit(pool("roi_align", "avg"))
    with pytest.raises(ValueError, match="roidl_roi_align"):
        export.export(compiled)(features, rows)
    names = ("roidl_roi_align", "roidl_roi_align_backward", "roidl_roi_align_backward_boxes")
    allowed = [export.DisabledSafetyCheck.custom_call(name) for name in names]
    exported = export.export(compiled, disabled_checks=allowed)(features, rows)
    again = export.deserialize(exported.serialize(vjp_order=1))
    result = again.call(features, rows)
    assert_close(np.asarray(result), expected_of("roi_align", "avg", features, rows))
    gradient = jax.grad(lambda x: again.call(x, rows).sum())(features)
    ones = np.ones((6, 5, *SIZE))
    assert_close(np.asarray(gradient), oracle.roi_align_backward(ones, features, rows, SCALE, 2))


def test_symbolic_dimensions_are_refused_in_words() -> None:
    from jax import export

    features, rows = problem()
    (count,) = export.symbolic_shape("k")
    boxes = jax.ShapeDtypeStruct((count, 5), rows.dtype)
    with pytest.raises(NotImplementedError, match="roi_align: symbolic dimensions are not impl"):
        export.export(jax.jit(pool("roi_align", "avg")))(features, boxes)


# Elsewhere ----------------------------------------------------------------------------------------


def run_script(name: str, flags: str = "", arguments: Sequence[str] = ()) -> str:
    """Run a script of tests/jax_scripts in a process whose XLA has these flags."""
    here = Path(__file__).parent
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(here)}
    command = [sys.executable, str(here / "jax_scripts" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_xla_of_one_thread() -> None:
    out = run_script(
        "large.py", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    )
    assert out.split() == ["fine"]


def test_without_64_bit_types() -> None:
    assert run_script("narrow.py").split() == ["fine"]


# The structs --------------------------------------------------------------------------------------


def test_our_structs_are_the_official_ones() -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    here = Path(__file__).parent
    command = [
        compiler,
        "-std=c++17",
        "-fsyntax-only",
        f"-I{here.parent / 'src'}",
        f"-I{jax.ffi.include_dir()}",
        str(here / "cpp" / "abi_xla_ffi.cpp"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The example --------------------------------------------------------------------------------------


def test_the_example_learns() -> None:
    script = Path(__file__).parents[1] / "examples" / "jax_box_head.py"
    done = subprocess.run(
        [sys.executable, str(script), "--steps=60"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", done.stdout)]
    assert len(losses) == 10
    assert losses[-1] < losses[0] / 1.5
