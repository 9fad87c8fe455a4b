"""The cases that workers time: plain data, sent as JSON, with the arrays in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Operation(NamedTuple):
    """A public function, or its gradient to the input."""

    function: str
    mode: str
    backward: bool
    title: str


OPERATIONS = {
    "roi_align": Operation("roi_align", "avg", False, "RoIAlign, forward"),
    "roi_align_backward": Operation("roi_align", "avg", True, "RoIAlign, backward"),
    "roi_align_max": Operation("roi_align", "max", False, "RoIAlign max, forward"),
    "roi_align_max_backward": Operation("roi_align", "max", True, "RoIAlign max, backward"),
    "roi_align_max_onnx": Operation("roi_align", "max_onnx", False, "RoIAlign ONNX max, forward"),
    "roi_pool": Operation("roi_pool", "max", False, "RoIPool, forward"),
    "roi_pool_backward": Operation("roi_pool", "max", True, "RoIPool, backward"),
    "multiscale_roi_align": Operation(
        "multiscale_roi_align", "avg", False, "Multi-level RoIAlign, forward"
    ),
    "multiscale_roi_align_backward": Operation(
        "multiscale_roi_align", "avg", True, "Multi-level RoIAlign, backward"
    ),
    "ps_roi_align": Operation("ps_roi_align", "avg", False, "PSRoIAlign, forward"),
    "ps_roi_align_backward": Operation("ps_roi_align", "avg", True, "PSRoIAlign, backward"),
    "ps_roi_pool": Operation("ps_roi_pool", "avg", False, "PSRoIPool, forward"),
    "ps_roi_pool_backward": Operation("ps_roi_pool", "avg", True, "PSRoIPool, backward"),
    # MultiScaleRoIAlign as a module of PyTorch, forward and backward.
    "pooler_step": Operation(
        "multiscale_roi_align", "avg", True, "The pooler of a detector: forward and backward"
    ),
}
BY_HAND = tuple(name for name in OPERATIONS if name != "pooler_step")


LAYOUTS = ("NCHW", "NHWC")
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # the dtypes


class Case(NamedTuple):
    """One call to time; its arrays are in the workload's folder."""

    workload: str
    operation: str
    layout: str  # of the memory: NCHW or NHWC
    dtype: str
    scales: list[float]  # cells per image pixel, one per map
    image_size: list[int]  # height, width
    output_size: int
    sampling_ratio: int
    aligned: bool


class Data(NamedTuple):
    """The arrays of a workload: float32, NCHW, the same bytes for every engine."""

    inputs: list[Array]  # one map per scale
    boxes: Array  # [K, 5], ordered by image
    grad: Array  # gradient to the result, [K, C, PH, PW]

    def save(self, folder: Path) -> None:
        for level, features in enumerate(self.inputs):
            np.save(folder / f"input{level}.npy", features)
        np.save(folder / "boxes.npy", self.boxes)
        np.save(folder / "grad.npy", self.grad)

    @classmethod
    def load(cls, folder: Path, grad_rows: list[int] | None = None) -> Data:
        """Map the files into memory; with `grad_rows`, the gradient is zero for all other RoIs."""
        paths = sorted(folder.glob("input*.npy"))
        inputs = [np.load(path, mmap_mode="r") for path in paths]
        grad = np.load(folder / "grad.npy", mmap_mode="r")
        if grad_rows is not None:
            kept = np.zeros(grad.shape, grad.dtype)
            kept[grad_rows] = grad[grad_rows]
            grad = kept
        return cls(inputs, np.load(folder / "boxes.npy"), grad)
