"""The TensorFlow idiom for RoIAlign: tf.image.crop_and_resize, then the mean of 2 x 2 samples."""

from __future__ import annotations

from functools import partial
from typing import Any

import tensorflow as tf

from ..case import OPERATIONS, Array, Case, Data
from . import Call, Engine, arranged, as_nchw


class CropAndResize(Engine):
    """Two samples per bin only, NHWC only."""

    operations = ("roi_align", "roi_align_backward")
    packages = ()
    layouts = ("NHWC",)
    note = "samples outside the pixel centres count 0, where RoIAlign clamps to the border"

    def __init__(self, threads: int, device: str) -> None:
        super().__init__(threads, device)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)

    def versions(self) -> dict[str, str]:
        return {"tensorflow": tf.__version__}  # its distribution may be tensorflow-cpu

    def prepare(self, case: Case, data: Data) -> Call:
        if case.sampling_ratio != 2 or not case.aligned:
            raise NotImplementedError("two samples per bin, aligned, is all that the idiom can do")
        features = tf.constant(arranged(data.inputs[0], "NHWC"))
        boxes = tf.constant(data.boxes)
        if not OPERATIONS[case.operation].backward:
            return partial(tf.function(partial(self._pool, case)), features, boxes)

        @tf.function  # type: ignore[untyped-decorator]
        def backward(features: Any, boxes: Any, grad: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(features)
                result = self._pool(case, features, boxes)
            return tape.gradient(result, features, output_gradients=grad)

        return partial(backward, features, boxes, tf.constant(arranged(data.grad, "NHWC")))

    @staticmethod
    def _pool(case: Case, features: Any, boxes: Any) -> Any:
        samples = 2 * case.output_size
        height, width = features.shape[1:3]
        x1, y1, x2, y2 = tf.unstack(boxes[:, 1:] * case.scales[0], axis=1)

        def normalised(start: Any, end: Any, size: int) -> tuple[Any, Any]:
            """The positions of the first and the last sample, relative to the map's last index."""
            step = (end - start) / samples
            first = start - 0.5 + step / 2
            return first / (size - 1), (first + step * (samples - 1)) / (size - 1)

        top, bottom = normalised(y1, y2, height)
        left, right = normalised(x1, x2, width)
        corners = tf.stack([top, left, bottom, right], axis=1)
        images = tf.cast(boxes[:, 0], tf.int32)
        crops = tf.image.crop_and_resize(features, corners, images, (samples, samples))
        return tf.nn.avg_pool2d(crops, 2, 2, "VALID")

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        if isinstance(result, tf.IndexedSlices):
            result = tf.convert_to_tensor(result)
        return [as_nchw(result.numpy(), "NHWC")]
