"""`roidl.tensorflow` on several maps at once: forms of calls, levels, shapes, mistakes, graphs."""

from __future__ import annotations

import doctest
import inspect
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import Lib
from test_multiscale import level_by_definition
from test_tensorflow_multiscale import (
    CORNERS,
    COUNTS,
    GRADIENT,
    INDICES,
    LEVELS,
    MAPS,
    PADDED,
    ROWS,
    RULE,
    SAMPLES,
    SCALES,
    SIZE,
    call,
    close,
    expect,
    in_layout,
)
from trials import assert_close, to_nchw

NAMES = ("multiscale_roi_align", "multiscale_roi_pool", "assign_levels")


@pytest.fixture
def tf(get_lib: Callable[[str], Lib]) -> Any:
    get_lib("tensorflow")
    import tensorflow

    return tensorflow


@pytest.fixture
def rt(tf: Any) -> Any:
    import roidl.tensorflow

    return roidl.tensorflow


# Functions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_those_of_roidl_with_channels_last(name: str, rt: Any) -> None:
    ours, general = getattr(rt, name), getattr(roidl, name)
    parameters = inspect.signature(ours).parameters
    assert list(parameters) == [
        each for each in inspect.signature(general).parameters if each != "out"
    ]
    if name != "assign_levels":
        assert parameters["layout"].default == "NHWC"
        assert "[N, H_i, W_i, C] (or [N, C, H_i, W_i])" in ours.__doc__ or name.endswith("pool")
    assert (ours.__name__, ours.__module__) == (name, "roidl.tensorflow")
    assert " out :" not in ours.__doc__
    tests = doctest.DocTestFinder(recurse=False).find(ours, name, globs={})
    assert sum(len(test.examples) for test in tests) > 0
    runner = doctest.DocTestRunner()
    for test in tests:
        runner.run(test)
    assert runner.failures == 0


def test_roidl_itself_is_differentiable_on_tensors(tf: Any) -> None:
    maps, rows = [tf.constant(each) for each in MAPS], tf.constant(ROWS)
    expected = expect("roi_align", "avg", "float64")
    options: dict[str, Any] = RULE | SAMPLES
    with tf.GradientTape() as tape:
        tape.watch([*maps, rows])
        out = roidl.multiscale_roi_align(maps, rows, SIZE, SCALES, **options)
        assert isinstance(roidl.assign_levels(rows, SCALES), tf.Tensor)
        assert isinstance(roidl.multiscale_roi_pool(maps, rows, SIZE, SCALES), tf.Tensor)
    assert_close(out.numpy(), expected[0])
    *grads, to_boxes = tape.gradient(out, [*maps, rows], output_gradients=tf.constant(GRADIENT))
    for grad, want in zip(grads, expected[1], strict=True):
        assert_close(grad.numpy(), want)
    assert_close(to_boxes.numpy(), expected[2], 1e-5)


# Forms of boxes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_given_levels_replace_the_rule(kind: Any, tf: Any) -> None:
    levels = (LEVELS + 1) % 3
    expected, _, _ = expect("roi_align", "avg", "float64", levels)
    maps = in_layout(MAPS)
    given = tf.constant(levels.astype(kind))
    for way in (call, tf.function(call)):
        assert_close(to_nchw(way("roi_align", maps, ROWS, levels=given).numpy(), "NHWC"), expected)
    grouped = call("roi_align", maps, CORNERS.reshape(2, 3, 4), levels=levels.reshape(2, 3))
    assert_close(to_nchw(grouped.numpy(), "NHWC"), expected)


def test_boxes_of_every_form(tf: Any) -> None:
    expected = to_nchw(call("roi_align", in_layout(MAPS), ROWS).numpy(), "NHWC")
    parts = [tf.constant(CORNERS[:3]), tf.constant(CORNERS[3:])]
    forms: list[tuple[Any, dict[str, Any]]] = [
        (parts, {}),
        (tf.RaggedTensor.from_row_lengths(CORNERS, [3, 3]), {}),
        (tf.ragged.constant([part.numpy().tolist() for part in parts], dtype=tf.float64), {}),
        (CORNERS, {"batch_indices": INDICES.astype(np.int32)}),
        (CORNERS.reshape(2, 3, 4), {}),
        (tf.Variable(ROWS), {}),
    ]
    maps = [tf.Variable(each) for each in in_layout(MAPS)]
    for boxes, more in forms:
        pooled = call("roi_align", maps, boxes, **more)
        np.testing.assert_array_equal(to_nchw(pooled.numpy(), "NHWC"), expected)
        pooled = tf.function(lambda b=boxes, m=more: call("roi_align", maps, b, **m))()
        np.testing.assert_array_equal(to_nchw(pooled.numpy(), "NHWC"), expected)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(parts)
        joined = tf.concat(parts, 0)
        ragged = tf.RaggedTensor.from_row_lengths(joined, [3, 3])
        losses = [tf.nn.l2_loss(call("roi_align", maps, each)) for each in (parts, ragged)]
    first, second = (tape.gradient(loss, parts) for loss in losses)
    for one, other in zip(first, second, strict=True):
        close(one, other)


def test_a_single_map_is_a_list_of_one(tf: Any) -> None:
    from roidl.tensorflow import multiscale_roi_align, roi_align

    x, b = tf.constant(in_layout(MAPS)[0]), tf.constant(ROWS)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, b])
        one = roi_align(x, b, SIZE, **SAMPLES)
        several = multiscale_roi_align([x], b, SIZE, SCALES[:1], **SAMPLES)
    np.testing.assert_array_equal(one, several)
    for expected, got in zip(
        tape.gradient(one, [x, b]), tape.gradient(several, [x, b]), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


# The rule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_levels_are_those_of_the_paper_on_either_side_of_a_border(
    dtype: str, tf: Any, rt: Any
) -> None:
    scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    sides = [0, 1e-3, 55.9, 111.9, 112, 112.1, 223.9, 224, 224.1, 447.9, 448, 448.1, 1e4]
    boxes = np.array([[0, 0, side, side] for side in sides], dtype)
    expected = [level_by_definition(box, scales) for box in boxes]
    assert expected[4] == 1
    for function in (rt.assign_levels, tf.function(rt.assign_levels)):
        found = function(boxes, scales)
        assert found.dtype == tf.int32
        assert found.numpy().tolist() == expected


def test_levels_of_every_form_of_boxes(tf: Any, rt: Any) -> None:
    def levels(boxes: Any) -> Any:
        return rt.assign_levels(boxes, SCALES, **RULE)

    grouped = tf.constant(CORNERS.reshape(2, 3, 4))
    expected = LEVELS.reshape(2, 3).tolist()
    for way in (levels, tf.function(levels)):
        assert way(ROWS).numpy().tolist() == LEVELS.tolist()
        assert way(grouped).numpy().tolist() == expected
        assert [each.numpy().tolist() for each in way(list(grouped))] == expected
        ragged = tf.RaggedTensor.from_row_lengths(CORNERS, [2, 4])
        found = way(ragged)
        assert found.to_list() == [LEVELS[:2].tolist(), LEVELS[2:].tolist()]
    # A constant, wherever the boxes come from.
    rows = tf.Variable(ROWS)
    with tf.GradientTape() as tape:
        found = tf.cast(levels(rows), tf.float64)
    assert tape.gradient(found, rows) is None


# Shapes -------------------------------------------------------------------------------------------

STATIC = [
    ([(None,) * 4, (None,) * 4], (None, 5), "NHWC", (None, *SIZE, None)),
    ([(None, None, None, 8), (None,) * 4], (None, 6, 4), "NHWC", (None, 6, *SIZE, 8)),
    ([(2, 8, None, None), (2, 8, 5, 5)], (7, 5), "NCHW", (7, 8, *SIZE)),
    ([None, None], None, "NHWC", None),
]


@pytest.mark.parametrize(("maps", "boxes", "layout", "expected"), STATIC)
@pytest.mark.parametrize("name", NAMES[:2])
def test_what_is_known_of_shapes(
    name: str, maps: Any, boxes: Any, layout: str, expected: Any, tf: Any, rt: Any
) -> None:
    seen: list[Any] = []

    def graph(x: Any, b: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([*x, b])
            pooled = getattr(rt, name)(x, b, SIZE, SCALES[:2], layout=layout)
        grads = tape.gradient(pooled, [*x, b])
        seen.extend([each.shape for each in (*x, b, pooled, *grads)])
        seen.append(rt.assign_levels(b, SCALES).shape)
        return pooled

    signature = [[tf.TensorSpec(each) for each in maps], tf.TensorSpec(boxes)]
    tf.function(graph, input_signature=signature).get_concrete_function()
    *given, pooled, first, second, to_boxes, levels = (
        shape.as_list() if shape.rank else None for shape in seen
    )
    assert pooled == (list(expected) if expected else None)
    assert [first, second, to_boxes] == given
    assert levels == (list(boxes[:-1]) if boxes else None)


# Mistakes -----------------------------------------------------------------------------------------


CHANGES: list[dict[str, Any]] = [
    {"scales": SCALES[:2]},
    {"scales": SCALES[::-1]},
    {"scales": (1, 0.5, math.inf)},
    {"scales": 0.5},
    {"inputs": MAPS[0]},
    {"inputs": [MAPS[0], MAPS[1][:, :2], MAPS[2]]},
    {"inputs": [MAPS[0], MAPS[1][0], MAPS[2]]},
    {"inputs": [MAPS[0], MAPS[1], MAPS[2].astype(np.float32)]},
    {"inputs": [MAPS[0].astype(int), *MAPS[1:]]},
    {"inputs": [MAPS[0], "a map", MAPS[2]]},
    {"canonical_scale": 0},
    {"canonical_level": math.nan},
    {"levels": LEVELS[:2]},
    {"levels": LEVELS * 1.0},
    {"counts": COUNTS},
    {"boxes": PADDED, "counts": COUNTS[:1]},
    {"boxes": PADDED, "counts": COUNTS * 1.0},
    {"boxes": CORNERS},
]


@pytest.mark.parametrize("change", CHANGES)
def test_mistakes_are_named_alike_eager_and_while_tracing(change: Any, tf: Any, rt: Any) -> None:
    arguments = {"inputs": MAPS, "boxes": ROWS, "output_size": SIZE, "scales": SCALES} | change
    arguments["layout"] = "NCHW"
    with pytest.raises((ValueError, TypeError)) as expected:
        roidl.multiscale_roi_align(**arguments)

    def traced() -> Any:
        return rt.multiscale_roi_align(**arguments)

    for way in (traced, tf.function(traced).get_concrete_function):
        with pytest.raises(expected.type) as caught:
            way()
        said = str(caught.value)
        assert said == str(expected.value) if way is traced else str(expected.value) in said


def test_what_is_known_is_checked_while_tracing(tf: Any, rt: Any) -> None:
    def trace(maps: Any, boxes: Any, **more: Any) -> None:
        tf.function(
            lambda x, b: rt.multiscale_roi_align(x, b, SIZE, SCALES[:2], **more),
            input_signature=[[tf.TensorSpec(each) for each in maps], tf.TensorSpec(boxes)],
        ).get_concrete_function()

    some = (None, None, None, 3)
    trace([some, some], (None, None, 4), counts=COUNTS, levels=np.zeros((2, 7), int))
    with pytest.raises(ValueError, match=r"input\[1\] must have shape .*\[None, None, None, 4\]"):
        trace([some, (None, None, None, 4)], (None, 5))
    with pytest.raises(ValueError, match=r"counts must have shape \[3\], got \[2\]"):
        trace([some, some], (3, None, 4), counts=COUNTS)
    with pytest.raises(ValueError, match=r"boxes must have shape \[N, L, 4\] with counts"):
        trace([some, some], (None, 5), counts=COUNTS)
    with pytest.raises(ValueError, match=r"levels must have shape \[8\], got \[7\]"):
        trace([some, some], (8, 5), levels=np.zeros(7, int))
    with pytest.raises(TypeError, match=r"multiscale_roi_align: .* got string"):
        rt.multiscale_roi_align([tf.fill([1, 2, 2, 1], "text")], ROWS, 1, [1])


def test_wrong_values_are_told_when_it_runs(tf: Any) -> None:
    maps = in_layout(MAPS)

    def message(boxes: Any = ROWS, **more: Any) -> str:
        said = []
        for way in (call, tf.function(call)):
            with pytest.raises(tf.errors.InvalidArgumentError) as caught:
                way("roi_align", maps, boxes, **more)
            assert "multiscale_roi_align: " in str(caught.value)
            said.append(str(caught.value))
        return min(said, key=len)

    assert "the level of row 0 is 3, but must be in [0, 3)" in message(levels=np.full(6, 3))
    assert "but image 1 has 6" in message(PADDED, counts=np.array([3, 6]))
    assert "boxes must be finite, but x1 of row 3 is nan" in message(
        PADDED, counts=np.array([4, 3])
    )
    assert "the batch index of row 0 is 2" in message(ROWS + np.array([2, 0, 0, 0, 0]))


def test_wrong_levels_are_refused_as_everywhere(tf: Any, rt: Any) -> None:
    for boxes, scales in ((ROWS[:, :3], SCALES), (ROWS, SCALES[::-1]), (ROWS > 1, SCALES)):
        with pytest.raises((ValueError, TypeError)) as expected:
            roidl.assign_levels(boxes, scales)
        for way in (rt.assign_levels, tf.function(rt.assign_levels)):
            with pytest.raises(expected.type) as caught:
                way(boxes, scales)
            assert str(expected.value) in str(caught.value)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"assign_levels: .* is nan"):
        rt.assign_levels(ROWS * math.nan, SCALES)


def test_jit_compile_is_refused_in_our_words(tf: Any, rt: Any) -> None:
    maps, rows = in_layout(MAPS), tf.constant(ROWS)
    for name, function in (
        ("multiscale_roi_align", lambda b: call("roi_align", maps, b)),
        ("assign_levels", lambda b: rt.assign_levels(b, SCALES)),
    ):
        with pytest.raises(NotImplementedError, match=f"{name}: there is no XLA kernel"):
            tf.function(function, jit_compile=True)(rows)


def test_a_tensorflow_without_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow")
    maps = in_layout(MAPS)
    expected = [call(op, maps, ROWS).numpy() for op in ("roi_align", "roi_pool")]
    monkeypatch.setattr("roidl.tensorflow._operators.fast_path", None)
    for op, want in zip(("roi_align", "roi_pool"), expected, strict=True):
        np.testing.assert_array_equal(call(op, maps, ROWS), want)


# Saved and loaded ---------------------------------------------------------------------------------

LOAD = """
import sys, numpy as np, tensorflow as tf, roidl.tensorflow
folder = sys.argv[1]
model, data = tf.saved_model.load(folder), np.load(folder + "/data.npz")
maps = [tf.constant(data[name]) for name in ("first", "second", "third")]
with tf.GradientTape() as tape:
    tape.watch(maps)
    pooled, largest = model(maps, tf.constant(data["boxes"]), tf.constant(data["counts"]))
    loss = tf.reduce_sum(pooled**2) + tf.reduce_sum(largest)
np.savez(folder + "/result.npz", pooled, largest, *tape.gradient(loss, maps))
"""


def test_a_saved_model_in_a_fresh_process(tmp_path: Path, tf: Any) -> None:
    def pool(maps: Any, boxes: Any, counts: Any) -> Any:
        return [call(op, maps, boxes, counts=counts) for op in ("roi_align", "roi_pool")]

    module = tf.Module()
    features = [tf.TensorSpec([None, None, None, 3], tf.float64) for _ in SCALES]
    rows, numbers = tf.TensorSpec([None, None, 4], tf.float64), tf.TensorSpec([None], tf.int64)
    module.__call__ = tf.function(pool, input_signature=[features, rows, numbers])
    maps = [tf.constant(each) for each in in_layout(MAPS)]
    with tf.GradientTape() as tape:
        tape.watch(maps)
        pooled, largest = pool(maps, PADDED, COUNTS)
        loss = tf.reduce_sum(pooled**2) + tf.reduce_sum(largest)
    expected = [pooled, largest, *tape.gradient(loss, maps)]
    tf.saved_model.save(module, tmp_path)
    first, second, third = in_layout(MAPS)
    arrays: dict[str, Any] = {"first": first, "second": second, "third": third}
    np.savez(tmp_path / "data.npz", boxes=PADDED, counts=COUNTS, **arrays)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "result.npz") as results:
        for name, want in zip(results.files, expected, strict=True):
            np.testing.assert_array_equal(results[name], want)
