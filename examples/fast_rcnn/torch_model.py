"""The network in PyTorch: torch.nn's layers, torch.optim's SGD, roidl.torch's pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from roidl.torch import roi_align, roi_pool

from .network import (
    BINS,
    CHANNELS,
    CONVOLUTIONS,
    DENSE,
    SAMPLES,
    STRIDE,
    Settings,
    Weights,
)  # fmt: skip
from .regions import Batch
from .scenes import CLASSES
from .suppression import suppress

Array = npt.NDArray[Any]


def _layers() -> dict[str, nn.Conv2d | nn.Linear]:
    layers: dict[str, nn.Conv2d | nn.Linear] = {}
    for index, (name, stride) in enumerate(CONVOLUTIONS.items()):
        layers[name] = nn.Conv2d(CHANNELS[index], CHANNELS[index + 1], 3, stride, padding=1)
    for name, (inputs, outputs) in DENSE.items():
        layers[name] = nn.Linear(inputs, outputs)
    return layers


def _to_torch(name: str, array: Array) -> torch.Tensor:
    """Convert to PyTorch's order: outputs before inputs, pooled regions as [C, BINS, BINS]."""
    if name == "hidden":
        array = array.reshape(BINS, BINS, CHANNELS[-1], -1).transpose(3, 2, 0, 1)
        array = array.reshape(len(array), -1)
    elif array.ndim > 1:
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return torch.tensor(array)


def _from_torch(name: str, tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().cpu().numpy()
    if name == "hidden":
        array = array.reshape(-1, CHANNELS[-1], BINS, BINS).transpose(2, 3, 1, 0)
        array = array.reshape(-1, array.shape[-1])
    elif array.ndim > 1:
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return array.copy()  # later steps change the tensor


def finds_cuda() -> bool:
    """Whether a GPU is available."""
    return bool(torch.cuda.is_available())


class Detector:
    """The network, its losses and its optimiser."""

    def __init__(self, settings: Settings, weights: Weights) -> None:
        self.pool, self.device = settings.pool, torch.device(settings.device)
        self.dtype = getattr(torch, settings.dtype)
        self.layers = nn.ModuleDict(_layers())
        self.layers.to(self.device, self.dtype)
        with torch.no_grad():
            for name, parameter in self._parameters().items():
                parameter.copy_(_to_torch(name, weights[name]))
        self.optimizer = torch.optim.SGD(
            self.layers.parameters(), settings.rate, momentum=settings.momentum
        )
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, settings.decay_at, gamma=1 / 8
        )

    def _parameters(self) -> dict[str, torch.Tensor]:
        return {
            name.replace(".weight", "").replace(".bias", "_offset"): parameter
            for name, parameter in self.layers.named_parameters()
        }

    def _tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        features = images.permute(0, 3, 1, 2)
        for name in CONVOLUTIONS:
            features = F.relu(self.layers[name](features))
        return features

    def _head(self, images: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [N, L, 1 + CLASSES] and corrections [N, L, CLASSES, 4] of boxes [N, L, 4]."""
        features = self._features(images)
        if self.pool == "align":
            pooled = roi_align(features, boxes, BINS, 1 / STRIDE, SAMPLES, aligned=True)
        else:
            pooled = roi_pool(features, boxes, BINS, 1 / STRIDE)
        hidden = F.relu(self.layers["hidden"](pooled.flatten(2)))
        corrections = self.layers["corrections"](hidden)
        return self.layers["scores"](hidden), corrections.unflatten(2, (CLASSES, 4))

    def _loss(self, batch: Batch) -> torch.Tensor:
        labels, targets = self._tensor(batch.labels).long(), self._tensor(batch.corrections)
        scores, corrections = self._head(self._tensor(batch.images), self._tensor(batch.boxes))
        positive = labels > 0
        own = corrections[positive, labels[positive] - 1]
        distance = F.smooth_l1_loss(own, targets[positive], reduction="sum")
        return F.cross_entropy(scores.flatten(0, 1), labels.flatten()) + distance / labels.numel()

    def step(self, batch: Batch) -> float:
        self.optimizer.zero_grad()
        loss: Any = self._loss(batch)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def gradients(self, batch: Batch) -> Weights:
        parameters = self._parameters()
        gradients = torch.autograd.grad(self._loss(batch), list(parameters.values()))
        return {
            name: _from_torch(name, gradient)
            for name, gradient in zip(parameters, gradients, strict=True)
        }

    def features(self, images: Array) -> Array:
        with torch.no_grad():
            features = self._features(self._tensor(images))
        return np.asarray(features.permute(0, 2, 3, 1).cpu())

    def predict(self, images: Array, boxes: Array) -> tuple[Array, Array]:
        with torch.no_grad():
            scores, corrections = self._head(self._tensor(images), self._tensor(boxes))
        return F.softmax(scores, dim=2).cpu().numpy(), corrections.cpu().numpy()

    def weights(self) -> Weights:
        return {name: _from_torch(name, tensor) for name, tensor in self._parameters().items()}

    def suppress(self, boxes: Array, scores: Array, limit: float) -> Array:
        return suppress(boxes, scores, limit)  # torch has no suppression
