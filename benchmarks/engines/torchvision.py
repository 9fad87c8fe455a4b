"""torchvision's operators, their gradient by torch.autograd.grad, and MultiScaleRoIAlign."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torchvision import ops

from ..case import OPERATIONS, Array, Case, Data
from . import Call
from .torch_tensors import TorchEngine, pooler_of, step_of


class Torchvision(TorchEngine):
    """roi_pool computes the argmax in every call; there is no max mode of roi_align."""

    operations = tuple(name for name in OPERATIONS if "align_max" not in name)
    packages = ("torchvision", "torch")
    cuda_dtypes = ("float32", "float16")  # bfloat16 has no kernel
    note = (
        "roi_pool computes the argmax too; NHWC is channels_last memory; float16 features want "
        "float16 boxes there, which moves them"
    )

    def prepare(self, case: Case, data: Data) -> Call:
        operation = OPERATIONS[case.operation]
        inputs = [self.tensor(array, case) for array in data.inputs]
        boxes = self.rows(data.boxes).to(inputs[0].dtype)
        forward: Any
        if operation.function == "multiscale_roi_align":
            forward = pooler_of(ops.MultiScaleRoIAlign, inputs, boxes, case)
        elif operation.function == "roi_align":
            sampling = (case.sampling_ratio, case.aligned)
            forward = partial(
                ops.roi_align, inputs[0], boxes, case.output_size, case.scales[0], *sampling
            )
        elif operation.function == "ps_roi_align":
            rule = (case.output_size, case.scales[0], case.sampling_ratio)
            forward = partial(ops.ps_roi_align, inputs[0], boxes, *rule)
        elif operation.function == "ps_roi_pool":
            forward = partial(ops.ps_roi_pool, inputs[0], boxes, case.output_size, case.scales[0])
        else:
            forward = partial(ops.roi_pool, inputs[0], boxes, case.output_size, case.scales[0])
        if not operation.backward:
            return cast(Call, forward)  # no input requires a gradient, so no graph is recorded
        for tensor in inputs:
            tensor.requires_grad_()
        grad = self.tensor(data.grad, case)
        if case.operation == "pooler_step":
            return step_of(forward, inputs, grad)
        return partial(torch.autograd.grad, forward(), inputs, grad, retain_graph=True)

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        return self.arrays(result)
