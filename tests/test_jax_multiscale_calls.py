"""`roidl.jax` on several maps at once: vmap, levels, mistakes, and what `roidl` itself does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import Lib
from test_jax_multiscale import (
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
    align,
    close,
    expected_of_align,
)
from test_multiscale import level_by_definition

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture(autouse=True)
def lib(get_lib: Callable[[str], Lib]) -> Lib:
    """With 64-bit types, as the cases have them."""
    return get_lib("jax")


# vmap ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["rows", "indices", "grouped", "counts"])
@pytest.mark.parametrize("which", ["maps", "boxes", "both"])
def test_vmap_is_a_loop(which: str, form: str) -> None:
    more = np.random.default_rng(82)
    maps = [np.stack([each, more.standard_normal(each.shape)]) for each in MAPS]
    sizes = np.array([1.0, 0.7])[:, None, None]
    indices = np.stack([INDICES, 1 - INDICES])
    levels = np.stack([LEVELS, (LEVELS + 1) % 3])
    counts = np.array([[3, 3], [1, 2]])
    corners = np.stack([CORNERS, CORNERS]) * sizes
    grouped = np.stack([PADDED, PADDED]) * sizes[..., None]

    def pooled(maps: Any, example: Any) -> Any:
        if form == "rows":
            return align(maps, example["rows"], batch_indices=None)
        if form == "indices":
            more = {name: example[name] for name in ("batch_indices", "levels")}
            return align(maps, example["corners"], **more)
        if form == "grouped":
            levels = example["levels"].reshape(2, 3)
            return align(maps, example["grouped"][:, :3], batch_indices=None, levels=levels)
        return align(maps, example["grouped"], batch_indices=None, counts=example["counts"])

    examples: dict[str, Any] = {
        "rows": np.concatenate([indices[..., None], corners], axis=-1),
        "corners": corners,
        "batch_indices": indices,
        "levels": levels,
        "grouped": grouped,
        "counts": counts,
    }
    axes = (None if which == "boxes" else 0, None if which == "maps" else 0)
    given = (
        MAPS if axes[0] is None else maps,
        {name: each[0] for name, each in examples.items()} if axes[1] is None else examples,
    )

    def gradients(maps: Any, example: Any) -> Any:
        def loss(maps: Any, varied: Any) -> Any:
            return (pooled(maps, example | varied) ** 2).sum()

        varied = {name: example[name] for name in ("rows", "corners", "grouped")}
        return pooled(maps, example), jax.grad(loss, argnums=(0, 1))(maps, varied)

    got = jax.jit(jax.vmap(gradients, in_axes=axes))(*given)
    for i in range(2):
        example = [
            jax.tree.map(lambda each, i=i: each[i], part) if axis == 0 else part
            for part, axis in zip(given, axes, strict=True)
        ]
        expected = gradients(*example)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one[i], other, rtol=1e-12, atol=1e-12)


# The rule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_levels_are_those_of_the_paper_on_either_side_of_a_border(dtype: str) -> None:
    from roidl.jax import assign_levels

    scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    sides = [0, 1e-3, 55.9, 111.9, 112, 112.1, 223.9, 224, 224.1, 447.9, 448, 448.1, 1e4]
    boxes = np.array([[0, 0, side, side] for side in sides], dtype)
    expected = [level_by_definition(box, scales) for box in boxes]
    assert expected[4] == 1
    assert expected[7] == 2
    assert expected[10] == 3
    assert roidl.assign_levels(boxes, scales).tolist() == expected
    for transform in (lambda f: f, jax.jit):
        found = transform(lambda b: assign_levels(b, scales))(boxes)
        assert found.dtype == np.int32
        assert found.tolist() == expected


def test_levels_of_every_form_of_boxes() -> None:
    from roidl.jax import assign_levels

    def levels(boxes: Any) -> Any:
        return assign_levels(boxes, SCALES, **RULE)

    assert levels(ROWS).tolist() == LEVELS.tolist()
    grouped = CORNERS.reshape(2, 3, 4)
    expected = LEVELS.reshape(2, 3).tolist()
    assert levels(grouped).tolist() == expected
    assert [each.tolist() for each in levels(list(grouped))] == expected
    assert jax.vmap(levels)(grouped).tolist() == expected
    assert jax.vmap(jax.vmap(levels))(grouped[None]).tolist() == [expected]
    assert isinstance(roidl.assign_levels(jnp.asarray(ROWS), SCALES), jax.Array)
    # A constant, wherever the boxes come from.
    assert not np.any(jax.grad(lambda c: (levels(c) * 1.0).sum())(CORNERS))


# The same as everywhere ---------------------------------------------------------------------------


def test_roidl_itself_is_differentiable_on_jax_arrays() -> None:
    maps = [jnp.asarray(each) for each in MAPS]

    def loss(maps: Any) -> Any:
        out = roidl.multiscale_roi_align(maps, ROWS, SIZE, SCALES, **RULE, **SAMPLES)
        assert isinstance(roidl.assign_levels(maps[0][0, 0, :, :4], SCALES), jax.Array)
        roidl.multiscale_roi_pool(maps, ROWS, SIZE, SCALES)
        return (out * GRADIENT).sum()

    for grad, expected in zip(
        jax.jit(jax.grad(loss))(maps), expected_of_align("avg")[1], strict=True
    ):
        close(grad, expected)


@pytest.mark.parametrize(
    "change",
    [
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
        {"levels": LEVELS[:2]},
        {"levels": LEVELS * 1.0},
        {"counts": COUNTS},
        {"boxes": PADDED, "counts": COUNTS[:1]},
        {"boxes": PADDED, "counts": COUNTS * 1.0},
        {"boxes": CORNERS},
    ],
)
def test_mistakes_are_named_alike_when_the_call_is_traced(change: Any) -> None:
    arguments = {"inputs": MAPS, "boxes": ROWS, "output_size": SIZE, "scales": SCALES} | change
    with pytest.raises((ValueError, TypeError)) as expected:
        roidl.multiscale_roi_align(**arguments)
    from roidl import jax as front_end

    maps = arguments.pop("inputs")
    with pytest.raises(expected.type) as caught:
        jax.eval_shape(lambda: front_end.multiscale_roi_align(maps, **arguments))
    assert str(caught.value) == str(expected.value)


def test_values_are_checked_when_it_runs() -> None:
    def message(**change: Any) -> str:
        arguments: dict[str, Any] = {"inputs": MAPS, "boxes": ROWS} | change
        with pytest.raises(Exception, match="multiscale_roi_align: ") as caught:
            jax.block_until_ready(
                roidl.jax.multiscale_roi_align(output_size=SIZE, scales=SCALES, **arguments)
            )
        return str(caught.value)

    assert "the level of row 0 is 3, but must be in [0, 3)" in message(levels=np.full(6, 3))
    assert "but image 1 has 6" in message(boxes=PADDED, counts=np.array([3, 6]))
    assert "boxes must be finite, but x1 of row 3 is nan" in message(
        boxes=PADDED, counts=np.array([4, 3])
    )
    wrong = ROWS + np.array([2, 0, 0, 0, 0])
    assert "the batch index of row 0 is 2" in message(boxes=wrong)


def test_wrong_levels_are_refused_as_everywhere() -> None:
    from roidl.jax import assign_levels

    for boxes, scales in ((ROWS[:, :3], SCALES), (ROWS, SCALES[::-1]), (ROWS > 1, SCALES)):
        with pytest.raises((ValueError, TypeError)) as expected:
            roidl.assign_levels(boxes, scales)
        with pytest.raises(expected.type) as caught:
            assign_levels(boxes, scales)
        assert str(caught.value) == str(expected.value)
