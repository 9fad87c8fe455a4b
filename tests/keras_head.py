"""Run by tests/test_keras.py in a process per backend: layers, models, and saved models.

Writes arrays to a file, by name; values of names that end in "?" must be true on every backend.
"""

from __future__ import annotations

import doctest
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import roidl.keras

FOUND: dict[str, Any] = {}
RNG = np.random.default_rng(81)
N, H, W, C, L = 2, 9, 8, 3, 4
SCALE = 0.5


def boxes_of(rng: np.random.Generator, images: int) -> Any:
    low = rng.uniform(0, 8, (images, L, 2))
    return np.concatenate([low, low + rng.uniform(3, 8, (images, L, 2))], -1).astype(np.float32)


FEATURES = RNG.standard_normal((N, H, W, C), dtype=np.float32)
BOXES = boxes_of(RNG, N)


def array(tensor: Any) -> Any:
    return keras.ops.convert_to_numpy(tensor)


def raises(kind: type[Exception], call: Callable[..., Any], *arguments: Any) -> str:
    try:
        call(*arguments)
    except kind as error:
        return str(error)
    return "nothing was raised"


# Layers -------------------------------------------------------------------------------------------


def layers() -> None:
    rows = np.concatenate([np.repeat(np.arange(N), L)[:, None], BOXES.reshape(-1, 4)], 1)
    rows = rows.astype(np.float32)
    indices = np.repeat(np.arange(N, dtype=np.int32), L)
    arguments: dict[str, dict[str, Any]] = {
        "avg": {"sampling_ratio": 2},
        "max": {"sampling_ratio": (2, 1), "aligned": True},
    }
    for mode, more in arguments.items():
        layer = roidl.keras.RoIAlign((2, 3), SCALE, mode=mode, **more)
        grouped = FOUND[f"align {mode}"] = array(layer(FEATURES, BOXES))
        again = type(layer).from_config(layer.get_config())
        flat = grouped.reshape(N * L, 2, 3, C)
        FOUND[f"align {mode} from its configuration?"] = (
            array(again(FEATURES, BOXES)) == grouped
        ).all()
        FOUND[f"align {mode} of rows?"] = (array(layer(FEATURES, rows)) == flat).all()
        listed = layer(FEATURES, [keras.ops.convert_to_tensor(part) for part in BOXES])
        FOUND[f"align {mode} of a list?"] = (array(listed) == flat).all()
        apart = layer(FEATURES, rows[:, 1:], batch_indices=indices)
        FOUND[f"align {mode} of indices?"] = (array(apart) == flat).all()
        first = roidl.keras.RoIAlign((2, 3), SCALE, mode=mode, data_format="channels_first", **more)
        swapped = array(first(FEATURES.transpose(0, 3, 1, 2), BOXES)).transpose(0, 1, 3, 4, 2)
        FOUND[f"align {mode} channels first?"] = np.allclose(swapped, grouped, atol=1e-6)
    for mode in ("max", "avg"):
        FOUND[f"pool {mode}"] = array(roidl.keras.RoIPool(2, SCALE, mode=mode)(FEATURES, BOXES))


# Of an image of 36 x 32 pixels: a side of 8 pixels is the border between the two maps.
MAPS = [FEATURES, np.ascontiguousarray(FEATURES[:, ::2, ::2] * 2)]
SCALES = [1 / 4, 1 / 8]
RULE: dict[str, Any] = {"canonical_scale": 8, "canonical_level": 3}
SIDES = np.array([5.5, 13.5, 7.5, 20.5], np.float32)[:, None]
GROUPED = np.concatenate([BOXES[..., :2], BOXES[..., :2] + SIDES], -1)
COUNTS = np.array([3, 4])


def pyramids() -> None:
    layer = roidl.keras.MultiScaleRoIAlign((2, 3), SCALES, 2, aligned=True, **RULE)
    pooled = FOUND["pyramid"] = array(layer(MAPS, GROUPED))
    again = type(layer).from_config(layer.get_config())
    padded = GROUPED.copy()
    padded[0, 3:] = np.nan
    counted = array(again(MAPS, padded, counts=COUNTS))
    FOUND["padding is zero?"] = (counted[0, 3:] == 0).all()
    FOUND["counted rows are the same?"] = (counted[1] == pooled[1]).all() and (
        counted[0, :3] == pooled[0, :3]
    ).all()
    levels = np.array([[0, 1, 0, 1]] * N, np.int32)
    FOUND["given levels?"] = (array(layer(MAPS, GROUPED, levels=levels)) == pooled).all()
    flat = pooled.reshape(N * L, 2, 3, C)
    listed = layer(MAPS, [keras.ops.convert_to_tensor(part) for part in GROUPED])
    FOUND["pyramid of a list?"] = (array(listed) == flat).all()
    indices = np.repeat(np.arange(N, dtype=np.int32), L)
    apart = layer(MAPS, GROUPED.reshape(-1, 4), batch_indices=indices)
    FOUND["pyramid of indices?"] = (array(apart) == flat).all()
    first = roidl.keras.MultiScaleRoIAlign(
        (2, 3), SCALES, 2, True, data_format="channels_first", **RULE
    )
    swapped = array(first([each.transpose(0, 3, 1, 2) for each in MAPS], GROUPED))
    FOUND["pyramid channels first?"] = np.allclose(
        swapped.transpose(0, 1, 3, 4, 2), pooled, atol=1e-6
    )
    maps = [keras.Input((None, None, C)), keras.Input((None, None, C))]
    boxes, counts = keras.Input((L, 4)), keras.Input((), dtype="int32")
    FOUND["symbolic pyramid?"] = layer(maps, boxes, counts=counts).shape == (None, L, 2, 3, C)
    said = raises(ValueError, lambda: layer([*maps, maps[0]], boxes))
    FOUND["wrong maps are told?"] = "scales must have one number for each of the 3 maps" in said
    said = raises(ValueError, lambda: layer(maps, keras.KerasTensor((None, 5)), counts=counts))
    FOUND["wrong counts are told?"] = "boxes must have shape [N, L, 4] with counts" in said
    said = raises(ValueError, lambda: roidl.keras.MultiScaleRoIAlign(1, SCALES[::-1]))
    FOUND["wrong scales are told?"] = "scales must not rise from map to map" in said
    half = roidl.keras.MultiScaleRoIAlign(1, SCALES, dtype="mixed_float16")(MAPS, GROUPED)
    FOUND["half pyramid?"] = keras.backend.standardize_dtype(half.dtype) == "float16"


def half_precision() -> None:
    """Boxes far from the origin of a large map, as float16 cannot represent 2049."""
    stripes = np.zeros((1, 2, 2100, 1), np.float32)
    stripes[:, :, 1::2] = 1
    boxes = np.array([[[2049.0, 0.0, 2050.0, 1.0]]], np.float32)  # the pixel 2049 of both rows
    layer = roidl.keras.RoIAlign(1, sampling_ratio=1, aligned=True, dtype="mixed_float16")
    pooled = layer(stripes, boxes)
    FOUND["half"] = array(pooled).astype(np.float32)
    FOUND["half is half?"] = keras.backend.standardize_dtype(pooled.dtype) == "float16"


def symbols() -> None:
    features, boxes = keras.Input((None, None, C)), keras.Input((L, 4))
    layer = roidl.keras.RoIAlign((2, 3))
    FOUND["symbolic shape?"] = layer(features, boxes).shape == (None, L, 2, 3, C)
    FOUND["symbolic rows?"] = layer(features, keras.KerasTensor((None, 5))).shape == (None, 2, 3, C)
    parts = [keras.KerasTensor((None, 4)), keras.KerasTensor((3, 4))]
    listed = layer(keras.KerasTensor((2, 5, 5, C)), parts)
    FOUND["symbolic list?"] = listed.shape == (None, 2, 3, C)
    shape = layer.compute_output_shape((2, 5, 5, 7), (2, 9, 4))
    FOUND["computed shape?"] = shape == (2, 9, 2, 3, 7)
    said = raises(ValueError, layer, features, keras.Input((L, 6)))
    FOUND["wrong boxes are told?"] = "roi_align: boxes must have shape [" in said
    said = raises(ValueError, lambda: roidl.keras.RoIPool(0))
    FOUND["wrong sizes are told?"] = said == "roi_pool: output_size must be at least 1, got 0"
    said = raises(ValueError, lambda: roidl.keras.RoIPool(1, data_format="NHWC"))
    FOUND["wrong formats are told?"] = "data_format must be one of 'channels_last'" in said


def one_list() -> None:
    """All arguments in one list, as Keras calls layers with several inputs."""
    parts = [keras.ops.convert_to_tensor(part) for part in BOXES]
    align, pool = roidl.keras.RoIAlign((2, 3), SCALE), roidl.keras.RoIPool(2, SCALE)
    pyramid = roidl.keras.MultiScaleRoIAlign((2, 3), SCALES, 2, True, **RULE)
    layers: list[Any] = [align, pool, pyramid]
    for layer, input in zip(layers, (FEATURES, FEATURES, MAPS), strict=True):
        for form, boxes in (("groups", BOXES), ("parts", parts)):
            same = (array(layer([input, boxes])) == array(layer(input, boxes))).all()
            FOUND[f"{layer.op} of a list with {form}?"] = same
        found, _ = layer.stateless_call([], [], [input, BOXES])
        same = (array(found) == array(layer(input, BOXES))).all()
        FOUND[f"{layer.op} of a list, stateless?"] = same
        for wrong in (FEATURES, [FEATURES], [FEATURES, BOXES, BOXES]):
            said = raises(TypeError, layer, wrong)
            FOUND[f"{layer.op} without boxes?"] = "(input, boxes) or ([input, boxes])" in said
    rows, indices = BOXES.reshape(-1, 4), np.repeat(np.arange(N, dtype=np.int32), L)
    same = array(align([FEATURES, rows], batch_indices=indices)) == array(align(FEATURES, parts))
    FOUND["a list and indices?"] = same.all()
    same = array(pyramid([MAPS, BOXES], counts=COUNTS)) == array(
        pyramid(MAPS, BOXES, counts=COUNTS)
    )
    FOUND["a list and counts?"] = same.all()

    shapes = (2, 5, 5, 7), (2, 9, 4)
    FOUND["computed shape of a list?"] = align.compute_output_shape(list(shapes)) == (2, 9, 2, 3, 7)
    by_part = align.compute_output_shape([shapes[0], [(3, 4), (4, 4)]])
    FOUND["computed shape of parts?"] = by_part == (7, 2, 3, 7)
    of_maps = pyramid.compute_output_shape([[shapes[0], (2, 3, 3, 7)], shapes[1]])
    FOUND["computed shape of maps?"] = of_maps == (2, 9, 2, 3, 7)

    fine, coarse, boxes = keras.Input((H, W, C)), keras.Input((5, 4, C)), keras.Input((L, 4))
    counts = keras.Input((), dtype="int32")
    outputs = [align([fine, boxes]), pool([fine, boxes])]
    outputs.append(pyramid([[fine, coarse], boxes], counts=counts))
    model = keras.Model([fine, coarse, boxes, counts], outputs)
    given = [FEATURES, MAPS[1], BOXES, COUNTS.astype(np.int32)]
    expected = [align(FEATURES, BOXES), pool(FEATURES, BOXES), pyramid(MAPS, BOXES, counts=COUNTS)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
    for name, each in (("model", model), ("saved model", loaded)):
        found = each.predict(given, verbose=0)
        close = [np.allclose(a, array(b), atol=1e-6) for a, b in zip(found, expected, strict=True)]
        FOUND[f"a {name} of lists?"] = all(close)
    names = [layer.name for layer in loaded.layers if "roi" in layer.name]
    FOUND["names are saved?"] = names == [layer.name for layer in layers]


def names() -> None:
    keras.backend.clear_session()
    made = [
        kind(2).name for kind in (roidl.keras.RoIAlign, roidl.keras.RoIPool, roidl.keras.RoIAlign)
    ]
    made.append(roidl.keras.MultiScaleRoIAlign(2, SCALES).name)
    made += [roidl.keras.PSRoIAlign(2).name, roidl.keras.PSRoIPool(2).name]
    made.append(type("MaskRoIAlign", (roidl.keras.RoIAlign,), {})(2).name)
    made.append(roidl.keras.RoIPool(2, name="ro_i").name)
    expected = ["roi_align", "roi_pool", "roi_align_1", "multi_scale_roi_align"]
    expected += ["ps_roi_align", "ps_roi_pool", "mask_roi_align", "ro_i"]
    FOUND["names?"] = made == expected


def integers() -> None:
    """Integer features are an error: eagerly, in a symbolic call, and as one of several maps."""
    words = "input must be float16, bfloat16, float32 or float64, got "
    for name in ("int32", "uint8", "bool"):
        features = (FEATURES * 9).astype(name)
        for layer in (roidl.keras.RoIAlign(2), roidl.keras.RoIPool(2)):
            FOUND[f"{layer.op} of {name}?"] = words + name in raises(
                TypeError, layer, features, BOXES
            )
            symbol = keras.Input((H, W, C), dtype=name)
            said = raises(TypeError, layer, symbol, keras.Input((L, 4)))
            FOUND[f"symbolic {layer.op} of {name}?"] = words + name in said
        layer = roidl.keras.MultiScaleRoIAlign(2, SCALES)
        said = raises(TypeError, layer, [MAPS[0], MAPS[1].astype(name)], BOXES)
        FOUND[f"{layer.op} of {name}?"] = words.replace("input", "input[1]") + name in said


def examples() -> None:
    for kind in (roidl.keras.RoIAlign, roidl.keras.RoIPool, roidl.keras.MultiScaleRoIAlign):
        runner = doctest.DocTestRunner()
        for test in doctest.DocTestFinder(recurse=False).find(kind, globs={}):
            runner.run(test)
        FOUND[f"example of {kind.__name__}?"] = runner.failures == 0 and runner.tries > 0


# A two-stage head ---------------------------------------------------------------------------------


def head() -> Any:
    features, boxes = keras.Input((H, W, C)), keras.Input((L, 4))
    x = keras.layers.Conv2D(6, 3, padding="same", activation="tanh")(features)
    align = roidl.keras.RoIAlign(3, SCALE, sampling_ratio=2, aligned=True)(x, boxes)
    pool = roidl.keras.RoIPool(2, SCALE)(x, boxes)
    joined = [keras.layers.Reshape((L, -1))(part) for part in (align, pool)]
    x = keras.layers.Concatenate()(joined)
    x = keras.layers.Dense(16, activation="tanh")(x)
    return keras.Model([features, boxes], keras.layers.Dense(1)(x))


def pyramid_head() -> Any:
    features, boxes = keras.Input((H, W, C)), keras.Input((L, 4))
    counts = keras.Input((), dtype="int32")
    fine = keras.layers.Conv2D(6, 3, padding="same", activation="tanh")(features)
    coarse = keras.layers.Conv2D(6, 3, 2, padding="same", activation="tanh")(fine)
    layer = roidl.keras.MultiScaleRoIAlign(2, SCALES, 2, True, **RULE)
    x = keras.layers.Reshape((L, -1))(layer([fine, coarse], boxes, counts=counts))
    return keras.Model([features, boxes, counts], keras.layers.Dense(1, use_bias=False)(x))


def pyramid_training() -> None:
    rng = np.random.default_rng(84)
    count = 32
    features = rng.standard_normal((count, H, W, C), dtype=np.float32)
    low = rng.uniform(0, 12, (count, L, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 18, (count, L, 2))], -1).astype(np.float32)
    counts = rng.integers(1, L + 1, count).astype(np.int32)
    boxes[np.arange(L) >= counts[:, None]] = np.nan
    target = np.where(np.arange(L) < counts[:, None], features.mean((1, 2, 3))[:, None], 0)
    model = pyramid_head()
    shapes = [weight.shape for weight in model.get_weights()]
    model.set_weights([rng.normal(0, 0.25, shape).astype(np.float32) for shape in shapes])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    given = [features, boxes, counts]
    fitted = model.fit(given, target[..., None], 8, 8, shuffle=False, verbose=0)
    FOUND["pyramid losses"] = np.array(fitted.history["loss"])
    expected = model.predict(given, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.keras"
        model.save(path)
        got = keras.models.load_model(path).predict(given, verbose=0)
    FOUND["the saved pyramid is the same?"] = np.allclose(got, expected, atol=1e-6)


def training() -> None:
    rng = np.random.default_rng(82)
    count = 64
    features = rng.standard_normal((count, H, W, C), dtype=np.float32)
    boxes = boxes_of(rng, count)
    # The head's target: the mean of the first channel in the box.
    rule: dict[str, Any] = {"spatial_scale": SCALE, "sampling_ratio": 4, "layout": "NHWC"}
    target = roidl.roi_align(features, boxes, 1, **rule)[..., 0, 0, :1]
    model = head()
    shapes = [weight.shape for weight in model.get_weights()]
    model.set_weights([rng.normal(0, 0.25, shape).astype(np.float32) for shape in shapes])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    fitted = model.fit([features, boxes], target, 16, 15, shuffle=False, verbose=0)
    FOUND["losses"] = np.array(fitted.history["loss"])
    expected = model.predict([features[:8], boxes[:8]], verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
    got = loaded.predict([features[:8], boxes[:8]], verbose=0)
    FOUND["the saved model is the same?"] = np.allclose(got, expected, atol=1e-6)
    FOUND["predictions"] = expected


def mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    rng = np.random.default_rng(83)
    features = rng.standard_normal((16, H, W, C), dtype=np.float32)
    boxes = boxes_of(rng, 16)
    model = head()
    pooled = next(x for x in model.layers if isinstance(x, roidl.keras.RoIAlign))
    FOUND["mixed precision computes in bfloat16?"] = pooled.output.dtype == "bfloat16"
    model.compile(keras.optimizers.SGD(0.01), "mse")
    target = features.mean((1, 2))[:, None, :1] + np.zeros((1, L, 1), np.float32)
    losses = model.fit([features, boxes], target, 8, 4, shuffle=False, verbose=0).history["loss"]
    FOUND["mixed precision learns?"] = losses[-1] < losses[0]


if __name__ == "__main__":
    keras.config.set_image_data_format("channels_last")
    for part in (layers, pyramids, half_precision, symbols, one_list, names, integers, examples):
        part()
    for part in (training, pyramid_training, mixed_precision):
        part()
    np.savez(sys.argv[1], **FOUND)
