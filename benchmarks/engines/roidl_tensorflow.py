"""roidl, called with TensorFlow tensors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ..case import Array, Case
from . import arranged
from .roidl import WITHOUT_MAX, Numpy


class Tensorflow(Numpy):
    """Eager tensors in, eager tensors out."""

    operations = WITHOUT_MAX
    packages = ("roidl",)
    dtypes = ("float32",)

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "tensorflow": tf.__version__}

    def features(self, array: Array, case: Case) -> Any:
        return tf.constant(arranged(array, case.layout))

    def boxes(self, array: Array) -> Any:
        return tf.constant(array)
