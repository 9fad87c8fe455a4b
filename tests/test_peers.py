"""ONNX Runtime gives the same results where its operators have the same definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import roidl
from cases import ALIGN_CASES, POOL_CASES, Case
from conftest import NumpyArray
from trials import assert_close

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def run(operator: str, arrays: dict[str, NumpyArray], **attributes: Any) -> NumpyArray:
    """Run a model of one operator in ONNX Runtime."""
    helper = onnx.helper
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in arrays.items()}
    inputs = [
        helper.make_tensor_value_info(name, types[name], array.shape)
        for name, array in arrays.items()
    ]
    output = helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, None)
    node = helper.make_node(operator, list(arrays), ["pooled"], **attributes)
    model = helper.make_model(
        helper.make_graph([node], operator, inputs, [output]),
        opset_imports=[helper.make_opsetid("", 16)],
        ir_version=8,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    pooled: NumpyArray = session.run(None, arrays)[0]
    return pooled


def largest(case: Case) -> float:
    """The largest coordinate, in cells of the map."""
    return float(np.abs(case.boxes[:, 1:]).max()) * case.spatial_scale


def understands(case: Case) -> bool:
    """Whether ONNX Runtime supports a case: one sampling ratio, and few adaptive samples."""
    if not isinstance(case.sampling_ratio, int) or largest(case) > float(np.finfo(np.float32).max):
        return False
    sizes = (case.boxes[:, 3:] - case.boxes[:, 1:3]) * case.spatial_scale
    fixed = case.sampling_ratio > 0
    return fixed or bool(np.all((sizes < 1000) & ((sizes >= 0) | (not case.aligned))))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("case", [case for case in ALIGN_CASES if understands(case)], ids=str)
def test_roi_align(case: Case, mode: str) -> None:
    assert isinstance(case.sampling_ratio, int)
    images, height, width = case.map_shape
    x = np.random.default_rng(51).standard_normal((images, 3, height, width)).astype(np.float32)
    boxes = case.boxes.astype(np.float32)
    peer = run(
        "RoiAlign",
        {"X": x, "rois": boxes[:, 1:], "batch_indices": boxes[:, 0].astype(np.int64)},
        coordinate_transformation_mode="half_pixel" if case.aligned else "output_half_pixel",
        mode=mode,
        output_height=case.output_size[0],
        output_width=case.output_size[1],
        sampling_ratio=max(case.sampling_ratio, 0),
        spatial_scale=case.spatial_scale,
    )
    mine = roidl.roi_align(
        x,
        boxes,
        case.output_size,
        case.spatial_scale,
        case.sampling_ratio,
        case.aligned,
        mode="max_onnx" if mode == "max" else "avg",
    )
    assert_close(mine, peer.astype(np.float64))


@pytest.mark.parametrize("case", [case for case in POOL_CASES if largest(case) < 2**30], ids=str)
def test_roi_pool(case: Case) -> None:
    images, height, width = case.map_shape
    x = np.random.default_rng(52).standard_normal((images, 3, height, width)).astype(np.float32)
    boxes = case.boxes.astype(np.float32)
    peer = run(
        "MaxRoiPool",
        {"X": x, "rois": boxes},
        pooled_shape=case.output_size,
        spatial_scale=case.spatial_scale,
    )
    mine = roidl.roi_pool(x, boxes, case.output_size, case.spatial_scale)
    np.testing.assert_array_equal(mine, peer)
