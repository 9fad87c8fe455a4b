"""ONNX Runtime: RoiAlign (avg, and max as ONNX defines it) and MaxRoiPool, one node per model."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from ..case import OPERATIONS, Array, Case, Data
from . import Call, Engine, arranged

ALIGN_OPSET = 16  # the first with half_pixel
IR_VERSION = 10  # the runtime refuses newer ones


class OnnxRuntime(Engine):
    """Inference only, NCHW only."""

    operations = ("roi_align", "roi_align_max_onnx", "roi_pool")
    packages = ("onnxruntime", "numpy")
    layouts = ("NCHW",)

    def prepare(self, case: Case, data: Data) -> Call:
        size = case.output_size
        boxes = np.ascontiguousarray(data.boxes)
        feeds = {"input": arranged(data.inputs[0], "NCHW")}
        if OPERATIONS[case.operation].function == "roi_align":
            feeds["boxes"] = np.ascontiguousarray(boxes[:, 1:])
            feeds["images"] = boxes[:, 0].astype(np.int64)
            node = helper.make_node(
                "RoiAlign",
                list(feeds),
                ["output"],
                mode="avg" if OPERATIONS[case.operation].mode == "avg" else "max",
                coordinate_transformation_mode="half_pixel"
                if case.aligned
                else "output_half_pixel",
                output_height=size,
                output_width=size,
                sampling_ratio=max(case.sampling_ratio, 0),
                spatial_scale=case.scales[0],
            )
        else:
            feeds["boxes"] = boxes
            node = helper.make_node(
                "MaxRoiPool",
                list(feeds),
                ["output"],
                pooled_shape=[size, size],
                spatial_scale=case.scales[0],
            )
        return partial(self._session(node, feeds).run, None, feeds)

    def _session(self, node: Any, feeds: dict[str, Array]) -> Any:
        def described(name: str, array: Array) -> Any:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            return helper.make_tensor_value_info(name, kind, array.shape)

        output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * 4)
        inputs = [described(*feed) for feed in feeds.items()]
        model = helper.make_model(
            helper.make_graph([node], "benchmark", inputs, [output]),
            opset_imports=[helper.make_opsetid("", ALIGN_OPSET)],
            ir_version=IR_VERSION,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3  # suppresses a warning that its max mode will change
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        return list(result)
