"""Saved programs load and compute what they did; those of another catalogue are refused."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roidl
from roidl._operators import VERSION
from saved_programs import ALIGN, BOXES, FEATURES, POOL, SCALES

SAVED = Path(__file__).with_name("saved")


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-5, atol=1e-6)


def test_jax() -> None:
    jax = pytest.importorskip("jax")
    importlib.import_module("roidl.jax")  # registers the targets
    importlib.import_module("jax.export")
    exported = jax.export.deserialize((SAVED / "roi_align.jax").read_bytes())
    value, gradient = exported.call(FEATURES, BOXES)
    pooled = roidl.roi_align(FEATURES, BOXES, **ALIGN)
    close(value, (pooled**2).sum())
    rule = {name: given for name, given in ALIGN.items() if name != "output_size"}
    close(gradient, roidl.roi_align_backward(2 * pooled, BOXES, FEATURES.shape, **rule))


def test_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    importlib.import_module("roidl.tensorflow")  # registers the operators
    model = tf.saved_model.load(str(SAVED / "saved_model"))
    features, boxes = tf.constant(FEATURES), tf.constant(BOXES)
    with tf.GradientTape() as tape:
        tape.watch(features)
        aligned, pooled, several = model(features, boxes)
    close(aligned, roidl.roi_align(FEATURES, BOXES, **ALIGN))
    close(pooled, roidl.roi_pool(FEATURES, BOXES, **POOL))
    maps = [FEATURES, np.ascontiguousarray(FEATURES[:, :, ::2, ::2])]
    close(several, roidl.multiscale_roi_align(maps, BOXES, ALIGN["output_size"], SCALES))
    rule = {name: given for name, given in ALIGN.items() if name != "output_size"}
    ones = np.ones_like(aligned)
    expected = roidl.roi_align_backward(ones, BOXES, FEATURES.shape, **rule)
    close(tape.gradient(aligned, features), expected)


def test_tensorflow_of_another_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    tf = pytest.importorskip("tensorflow")
    importlib.import_module("roidl.tensorflow")
    operators: Any = importlib.import_module("roidl.tensorflow._operators")
    monkeypatch.setattr(operators, "VERSION", VERSION + 1)
    operators.node_of.cache_clear()
    try:
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="made by another version of roidl"
        ):
            roidl.roi_align(tf.constant(FEATURES), tf.constant(BOXES), 3)
    finally:
        operators.node_of.cache_clear()


@pytest.mark.parametrize("name", ["head.torchscript", "head.pt2"])
def test_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    importlib.import_module("roidl.torch")  # registers the operators
    if name.endswith(".pt2"):
        head = torch.export.load(SAVED / name).module()
    else:
        head = torch.jit.load(str(SAVED / name))
    aligned, pooled = head(torch.from_numpy(FEATURES), torch.from_numpy(BOXES))
    close(aligned, roidl.roi_align(FEATURES, BOXES, **ALIGN))
    close(pooled, roidl.roi_pool(FEATURES, BOXES, **POOL))


def test_keras() -> None:
    keras = pytest.importorskip("keras")
    importlib.import_module("roidl.keras")  # registers the layers
    model = keras.saving.load_model(SAVED / "head.keras")
    boxes = BOXES[[0, 2], 1:].reshape(2, 1, 4)
    pooled = keras.ops.convert_to_numpy(model([FEATURES, boxes]))
    close(pooled, roidl.roi_align(FEATURES, boxes, **ALIGN))
