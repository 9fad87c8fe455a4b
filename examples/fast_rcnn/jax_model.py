"""The network in JAX: plain functions under jit, Optax's losses and SGD, roidl.jax's pooling."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

from roidl.jax import roi_align, roi_pool

from .network import BINS, CONVOLUTIONS, SAMPLES, STRIDE, Settings, Weights
from .regions import Batch
from .scenes import CLASSES
from .suppression import suppress

Array = npt.NDArray[Any]
Params = dict[str, jax.Array]


def _extract(params: Params, images: jax.Array) -> jax.Array:
    """Images [N, H, W, 1] to features [N, H / STRIDE, W / STRIDE, C]."""
    features = images
    for name, stride in CONVOLUTIONS.items():
        features = jax.lax.conv_general_dilated(
            features,
            params[name],
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        features = jax.nn.relu(features + params[f"{name}_offset"])
    return features


def _dense(params: Params, name: str, inputs: jax.Array) -> jax.Array:
    return inputs @ params[name] + params[f"{name}_offset"]


def _head(
    pool: str, params: Params, images: jax.Array, boxes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Scores [N, L, 1 + CLASSES] and corrections [N, L, CLASSES, 4] of boxes [N, L, 4]."""
    features = _extract(params, images)
    if pool == "align":
        pooled = roi_align(features, boxes, BINS, 1 / STRIDE, SAMPLES, aligned=True, layout="NHWC")
    else:
        pooled = roi_pool(features, boxes, BINS, 1 / STRIDE, layout="NHWC")
    regions = boxes.shape[:2]
    hidden = jax.nn.relu(_dense(params, "hidden", pooled.reshape(*regions, -1)))
    corrections = _dense(params, "corrections", hidden).reshape(*regions, CLASSES, 4)
    return _dense(params, "scores", hidden), corrections


def _loss(pool: str, params: Params, batch: Batch) -> jax.Array:
    scores, corrections = _head(pool, params, batch.images, batch.boxes)
    positive = batch.labels > 0
    row = jnp.maximum(batch.labels - 1, 0)[..., None, None]
    own = jnp.take_along_axis(corrections, row, axis=2)[:, :, 0]
    distance = optax.losses.huber_loss(own, batch.corrections).sum(axis=-1)  # smooth L1
    entropy = optax.losses.softmax_cross_entropy_with_integer_labels(scores, batch.labels)
    loss: jax.Array = (entropy + positive * distance).mean()
    return loss


def finds_cuda() -> bool:
    """Whether a GPU is available."""
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


class Detector:
    """The network, its losses and its optimiser."""

    def __init__(self, settings: Settings, weights: Weights) -> None:
        if settings.dtype == "float64":
            config: Any = jax.config
            config.update("jax_enable_x64", True)  # otherwise float64 would become float32
        self.device = jax.devices(settings.device)[0]
        self.params: Params = {
            name: jax.device_put(array.astype(settings.dtype), self.device)
            for name, array in weights.items()
        }
        rate = optax.piecewise_constant_schedule(
            settings.rate, dict.fromkeys(settings.decay_at, 1 / 8)
        )
        optimizer = optax.sgd(rate, settings.momentum)
        # On the device, like later weights; otherwise the second step would be compiled again.
        self.state = jax.device_put(optimizer.init(self.params), self.device)
        loss_and_gradients = jax.value_and_grad(partial(_loss, settings.pool))

        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Params, state: Any, batch: Batch) -> tuple[Params, Any, jax.Array]:
            loss, gradients = loss_and_gradients(params, batch)
            updates, state = optimizer.update(gradients, state)
            return optax.apply_updates(params, updates), state, loss

        self._step = step
        self._gradients = jax.jit(loss_and_gradients)
        self._features = jax.jit(_extract)
        self._predict = jax.jit(partial(_head, settings.pool))

    def _put(self, arrays: Any) -> Any:
        return jax.device_put(arrays, self.device)

    def step(self, batch: Batch) -> float:
        self.params, self.state, loss = self._step(self.params, self.state, self._put(batch))
        return float(loss)

    def gradients(self, batch: Batch) -> Weights:
        _, gradients = self._gradients(self.params, self._put(batch))
        return {name: np.asarray(gradient) for name, gradient in gradients.items()}

    def features(self, images: Array) -> Array:
        return np.asarray(self._features(self.params, self._put(images)))

    def predict(self, images: Array, boxes: Array) -> tuple[Array, Array]:
        scores, corrections = self._predict(self.params, *self._put((images, boxes)))
        return np.asarray(jax.nn.softmax(scores)), np.asarray(corrections)

    def weights(self) -> Weights:
        return {name: np.array(array) for name, array in self.params.items()}

    def suppress(self, boxes: Array, scores: Array, limit: float) -> Array:
        return suppress(boxes, scores, limit)  # JAX has no suppression
