"""roidl, called with PyTorch tensors."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import roidl

from ..case import Array, Case, Data
from . import Call
from .roidl import WITHOUT_MAX, Numpy
from .torch_tensors import TorchEngine, pooler_of, step_of


class Torch(TorchEngine, Numpy):
    """Calls with tensors; layout="NCHW" also for channels_last tensors."""

    operations = (*WITHOUT_MAX, "pooler_step")
    packages = ("roidl", "torch")
    dtypes = ("float32",)  # roidl-numpy times the others on CPU
    cuda_dtypes = Numpy.dtypes

    def __init__(self, threads: int, device: str) -> None:
        super().__init__(threads, device)
        roidl.set_num_threads(threads)  # the array front end does not use torch's setting

    def features(self, array: Array, case: Case) -> Any:
        return self.tensor(array, case)

    def boxes(self, array: Array) -> Any:
        return torch.tensor(array, device=self.device)

    def layout(self, case: Case) -> str:
        return "NCHW"

    def prepare(self, case: Case, data: Data) -> Call:
        if case.operation != "pooler_step":
            return super().prepare(case, data)
        from roidl.torch import MultiScaleRoIAlign

        inputs = [self.features(array, case).requires_grad_() for array in data.inputs]
        forward = pooler_of(MultiScaleRoIAlign, inputs, self.boxes(data.boxes), case)
        return step_of(forward, inputs, self.features(data.grad, case))

    def backward(self, case: Case, inputs: list[Any], boxes: Any, grad: Any) -> Call:
        for tensor in inputs:
            tensor.requires_grad_()
        result = self.forward(case, inputs, boxes)()
        return partial(torch.autograd.grad, result, inputs, grad, retain_graph=True)

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        return self.arrays(result)
