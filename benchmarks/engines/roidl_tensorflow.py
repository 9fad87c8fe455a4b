"""roidl, called with TensorFlow tensors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ..case import Array, Case
from . import Call, arranged
from .roidl import WITHOUT_MAX, Numpy


class Tensorflow(Numpy):
    """Calls with eager tensors."""

    operations = WITHOUT_MAX
    packages = ("roidl",)
    dtypes = ("float32",)

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "tensorflow": tf.__version__}

    def features(self, array: Array, case: Case) -> Any:
        return tf.constant(arranged(array, case.layout))

    def backward(self, case: Case, inputs: list[Any], boxes: Any, grad: Any) -> Call:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            result = self.forward(case, inputs, boxes)()

        def gradients() -> Any:
            return tape.gradient(result, inputs, output_gradients=grad)

        if gradients()[0] is None:
            raise NotImplementedError("the tape knows no gradient of this call")
        return gradients

    def boxes(self, array: Array) -> Any:
        return tf.constant(array)
