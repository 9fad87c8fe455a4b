"""The network in TensorFlow: Keras's layers, losses and SGD, roidl.tensorflow's pooling."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow prints many messages
os.environ["KERAS_BACKEND"] = "tensorflow"  # independent of the user's setting

import keras
import tensorflow as tf

from roidl.tensorflow import roi_align, roi_pool

from .network import BINS, CHANNELS, CONVOLUTIONS, DENSE, SAMPLES, STRIDE, Settings, Weights
from .regions import Batch
from .scenes import CLASSES, SIDE

Array = npt.NDArray[Any]
Tensor = Any


def _backbone(dtype: str) -> Any:
    """Images [N, SIDE, SIDE, 1] to features [N, SIDE / STRIDE, SIDE / STRIDE, C]."""
    layers = [keras.Input((SIDE, SIDE, CHANNELS[0]), dtype=dtype)]
    for (name, stride), channels in zip(CONVOLUTIONS.items(), CHANNELS[1:], strict=True):
        # padding="same" would pad one side only for a stride of 2.
        layers.append(keras.layers.ZeroPadding2D(1, dtype=dtype))
        layers.append(
            keras.layers.Conv2D(channels, 3, stride, activation="relu", name=name, dtype=dtype)
        )
    return keras.Sequential(layers)


def _dense(name: str, dtype: str) -> Any:
    inputs, outputs = DENSE[name]
    activation = "relu" if name == "hidden" else None
    layer = keras.layers.Dense(outputs, activation, name=name, dtype=dtype)
    layer.build((None, None, inputs))
    return layer


def finds_cuda() -> bool:
    """Whether a GPU is available."""
    return bool(tf.config.list_physical_devices("GPU"))


class Detector:
    """The network, its losses and its optimiser."""

    def __init__(self, settings: Settings, weights: Weights) -> None:
        self.pool = settings.pool
        self.device = {"cpu": "/CPU:0", "cuda": "/GPU:0"}[settings.device]
        with tf.device(self.device):
            self.backbone = _backbone(settings.dtype)
            self.dense = {name: _dense(name, settings.dtype) for name in DENSE}
            layers = [self.backbone.get_layer(name) for name in CONVOLUTIONS]
            self.variables: dict[str, Any] = {}
            for layer in [*layers, *self.dense.values()]:
                self.variables |= {layer.name: layer.kernel, f"{layer.name}_offset": layer.bias}
            for name, variable in self.variables.items():
                variable.assign(weights[name])
            # Keras's boundaries are the last steps of a rate, not the first of the next.
            boundaries = [step - 1 for step in settings.decay_at]
            rates = [settings.rate, settings.rate / 8, settings.rate / 64]
            schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
            self.optimizer = keras.optimizers.SGD(schedule, settings.momentum)
            self.optimizer.build(list(self.variables.values()))
        self._step = tf.function(self._learn)
        self._gradients = tf.function(self._loss_and_gradients)
        self._predict = tf.function(self._head)

    def _head(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [N, L, 1 + CLASSES] and corrections [N, L, CLASSES, 4] of boxes [N, L, 4]."""
        features = self.backbone(images)
        if self.pool == "align":
            pooled = roi_align(features, boxes, BINS, 1 / STRIDE, SAMPLES, aligned=True)
        else:
            pooled = roi_pool(features, boxes, BINS, 1 / STRIDE)
        count, regions = boxes.shape[:2]
        hidden = self.dense["hidden"](tf.reshape(pooled, (count, regions, DENSE["hidden"][0])))
        corrections = tf.reshape(self.dense["corrections"](hidden), (count, regions, CLASSES, 4))
        return self.dense["scores"](hidden), corrections

    def _loss(self, batch: Batch) -> Tensor:
        scores, corrections = self._head(batch.images, batch.boxes)
        positive = batch.labels > 0
        own = tf.gather(corrections, tf.maximum(batch.labels - 1, 0), batch_dims=2)
        own, targets = own[positive], batch.corrections[positive]
        distance = keras.losses.Huber(reduction="sum", dtype=own.dtype)(targets, own) * 4
        entropy = keras.losses.sparse_categorical_crossentropy(
            batch.labels, scores, from_logits=True
        )
        return tf.reduce_mean(entropy) + distance / batch.labels.shape.num_elements()

    def _loss_and_gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        with tf.GradientTape() as tape:
            loss = self._loss(batch)
        return loss, tape.gradient(loss, [each.value for each in self.variables.values()])

    def _learn(self, batch: Batch) -> Tensor:
        loss, gradients = self._loss_and_gradients(batch)
        self.optimizer.apply(gradients)
        return loss

    def _put(self, batch: Batch) -> Batch:
        with tf.device(self.device):
            return Batch(*(tf.constant(array) for array in batch))

    def step(self, batch: Batch) -> float:
        return float(self._step(self._put(batch)))

    def gradients(self, batch: Batch) -> Weights:
        _, gradients = self._gradients(self._put(batch))
        return {
            name: gradient.numpy() for name, gradient in zip(self.variables, gradients, strict=True)
        }

    def features(self, images: Array) -> Array:
        with tf.device(self.device):
            return np.asarray(self.backbone(images))

    def predict(self, images: Array, boxes: Array) -> tuple[Array, Array]:
        with tf.device(self.device):
            scores, corrections = self._predict(tf.constant(images), tf.constant(boxes))
        return tf.nn.softmax(scores).numpy(), corrections.numpy()

    def weights(self) -> Weights:
        return {name: variable.numpy() for name, variable in self.variables.items()}

    def suppress(self, boxes: Array, scores: Array, limit: float) -> Array:
        rows = tf.image.non_max_suppression(
            boxes.astype("float32"), scores.astype("float32"), len(boxes), limit
        )
        return np.asarray(rows)
