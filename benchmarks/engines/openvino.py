"""OpenVINO: ROIAlign (avg, max) and ROIPooling on its CPU plugin, one node per model."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import openvino
from openvino import opset9 as opset

from ..case import OPERATIONS, Array, Case, Data
from . import Call, Engine, arranged


class OpenVino(Engine):
    """Inference only, NCHW only."""

    operations = ("roi_align", "roi_align_max", "roi_pool")
    packages = ("openvino", "numpy")
    layouts = ("NCHW",)
    note = "its max mode is never negative; its RoIPool places some bin borders elsewhere"

    def prepare(self, case: Case, data: Data) -> Call:
        operation = OPERATIONS[case.operation]
        boxes = np.ascontiguousarray(data.boxes)
        arrays = [arranged(data.inputs[0], "NCHW")]
        if operation.function == "roi_align":
            arrays += [np.ascontiguousarray(boxes[:, 1:]), boxes[:, 0].astype(np.int32)]
        else:
            arrays.append(boxes)
        nodes = [opset.parameter(array.shape, array.dtype) for array in arrays]
        size, scale = case.output_size, case.scales[0]
        if operation.function == "roi_align":
            ratio = max(case.sampling_ratio, 0)
            # This mode is ONNX's and torchvision's aligned; "half_pixel" is another operator.
            aligned = "half_pixel_for_nn" if case.aligned else "asymmetric"
            result = opset.roi_align(*nodes, size, size, ratio, scale, operation.mode, aligned)
        else:
            result = opset.roi_pooling(*nodes, [size, size], scale, "max")
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = openvino.Core().compile_model(openvino.Model([result], nodes), "CPU", settings)
        return partial(model, arrays)

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        return [result[0]]
