"""Where TensorFlow's graphs go: saved and loaded, mapped over data, replicated; and its C API."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
from conftest import Lib
from roidl._bridge import bridge

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
BOXES = np.array([[0, 1.1, 0.8, 6.2, 5.4], [1, 2.3, 1.1, 7.8, 4.9], [0, 0.6, 0.7, 3.3, 6.1]])
BOXES = BOXES.astype(np.float32)
FEATURES = np.random.default_rng(71).standard_normal((2, 7, 9, 3), dtype=np.float32)


@pytest.fixture
def tf(get_lib: Callable[[str], Lib]) -> Any:
    get_lib("tensorflow")
    import tensorflow

    return tensorflow


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Saved and loaded ---------------------------------------------------------------------------------

LOAD = """
import sys, numpy as np, tensorflow as tf
folder = sys.argv[1]
try:
    tf.saved_model.load(folder)
except Exception as error:
    print("Roidl" in str(error))
import roidl.tensorflow
model, data = tf.saved_model.load(folder), np.load(folder + "/data.npz")
features, boxes = tf.constant(data["features"]), tf.constant(data["boxes"])
with tf.GradientTape() as tape:
    tape.watch(features)
    pooled, largest = model(features, boxes)
    loss = tf.reduce_sum(pooled) + tf.reduce_sum(largest)
np.savez(folder + "/result.npz", pooled, largest, tape.gradient(loss, features))
"""


def test_a_saved_model_in_a_fresh_process(tmp_path: Path, tf: Any) -> None:
    import roidl.tensorflow

    def pool(x: Any, b: Any) -> Any:
        options: dict[str, Any] = {"spatial_scale": 0.1, "sampling_ratio": (3, 1), "aligned": True}
        return roidl.tensorflow.roi_align(x, b * 10, (2, 3), **options), roidl.tensorflow.roi_pool(
            x, b, 2
        )

    module = tf.Module()
    signature = [tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 5])]
    module.__call__ = tf.function(pool, input_signature=signature)
    boxes = BOXES * np.array([0, 1, 1, 1, 1], np.float32)
    x, b = tf.constant(FEATURES), tf.constant(boxes)
    with tf.GradientTape() as tape:
        tape.watch(x)
        pooled, largest = pool(x, b)
        loss = tf.reduce_sum(pooled) + tf.reduce_sum(largest)
    expected = [pooled, largest, tape.gradient(loss, x)]
    tf.saved_model.save(module, tmp_path)
    np.savez(tmp_path / "data.npz", features=FEATURES, boxes=boxes)
    assert python(LOAD, str(tmp_path)).split() == ["True"]
    with np.load(tmp_path / "result.npz") as results:
        for name, want in zip(results.files, expected, strict=True):
            np.testing.assert_array_equal(results[name], want)


# Data and replicas --------------------------------------------------------------------------------


def test_a_data_set_is_mapped(tf: Any) -> None:
    import roidl.tensorflow

    images = np.stack([FEATURES * scale for scale in (1, 2, 3, 4)]).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices(images)
    data = data.map(lambda x: roidl.tensorflow.roi_align(x, BOXES, 2), num_parallel_calls=2)
    for pooled, x in zip(data, images, strict=True):
        expected = roidl.roi_align(x, BOXES, 2, layout="NHWC")
        np.testing.assert_array_equal(pooled, expected)


REPLICAS = """
import numpy as np, tensorflow as tf, roidl.tensorflow
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    weights = tf.Variable(np.linspace(-1, 1, 7 * 9 * 3, dtype=np.float32).reshape(1, 7, 9, 3))
boxes = tf.constant([[0, 1.1, 0.8, 6.2, 5.4], [0, 2.3, 1.1, 7.8, 4.9]])

def loss_of(box):
    return tf.reduce_sum(roidl.tensorflow.roi_align(weights, box[None], 2) ** 2)

@tf.function
def step(box):
    with tf.GradientTape() as tape:
        loss = loss_of(box)
    gradient = tape.gradient(loss, weights)
    context = tf.distribute.get_replica_context()
    return loss, context.all_reduce("sum", gradient)

split = strategy.experimental_distribute_values_from_function(
    lambda context: boxes[context.replica_id_in_sync_group]
)
losses, gradients = strategy.run(step, args=(split,))
total = strategy.reduce("sum", losses, axis=None)
with tf.GradientTape() as tape:
    expected = loss_of(boxes[0]) + loss_of(boxes[1])
wanted = tape.gradient(expected, weights)
wanted = strategy.experimental_local_results(wanted)[0]
np.testing.assert_allclose(total, expected, rtol=1e-6)
for gradient in strategy.experimental_local_results(gradients):
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6)
print(strategy.num_replicas_in_sync)
"""


def test_two_replicas(tf: Any) -> None:
    assert python(REPLICAS).split()[-1] == "2"


def test_the_example_of_a_pyramid(tf: Any) -> None:
    spec = importlib.util.spec_from_file_location("fpn", EXAMPLES / "tensorflow_fpn.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    boxes = example.proposals(60, 600)
    sizes = np.sqrt(np.prod(boxes.numpy()[:, 3:] - boxes.numpy()[:, 1:3], 1))
    levels = 2 + (sizes >= 112).astype(int) + (sizes >= 224) + (sizes >= 448)
    assert np.abs(sizes[:, None] - [112, 224, 448]).min() > 0.01
    rng = np.random.default_rng(72)
    pyramid = [rng.standard_normal((1, s, s, 8), dtype=np.float32) for s in (150, 75, 38, 19)]
    pool = tf.function(example.pool)
    for mode in ("max", "avg"):
        given = [tf.constant(features) for features in pyramid]
        pooled = pool(given, boxes, mode).numpy()
        assert pooled.shape == (60, 7, 7, 8)
        for k, level in enumerate(levels):
            features = pyramid[level - 2].transpose(0, 3, 1, 2)
            box, scale = boxes.numpy()[k : k + 1], 2.0 ** -int(level)
            want = oracle.roi_align(features, box, (7, 7), scale, 2, True, mode=mode)
            np.testing.assert_allclose(pooled[k], want[0].transpose(1, 2, 0), atol=1e-5)


# Registration -------------------------------------------------------------------------------------

TWICE = """
import sys, tensorflow as tf
tf.load_op_library(sys.argv[1])
try:
    import roidl.tensorflow
except ImportError as error:
    print(error)
"""


def test_operators_that_are_not_accepted_are_reported(tmp_path: Path, tf: Any) -> None:
    """Somebody else has registered operators of these names already."""
    library = Path(bridge("tensorflow"))
    for name in (library.name, "libroidl.so"):
        shutil.copy(library.with_name(name), tmp_path / name)
    said = python(TWICE, str(tmp_path / library.name))
    assert said.startswith(f"roidl.tensorflow: TensorFlow {tf.__version__} did not accept the ")
    assert "others of these names" in said


def test_our_declarations_are_the_official_ones(tf: Any) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    includes = [f"-I{HERE.parent / 'src'}", "-isystem", tf.sysconfig.get_include()]
    source = str(HERE / "cpp" / "abi_tensorflow.cpp")
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *includes]
    done = subprocess.run([*command, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
