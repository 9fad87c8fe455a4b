"""The operators in ONNX, for `torch.onnx.export`: RoiAlign and MaxRoiPool, as far as they go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._params import ALIGN_MODES, LAYOUTS, POOL_MODES
from ._library import OVERLOADS, Tensor

FLOAT, INT32, INT64, DOUBLE = 1, 6, 7, 11  # of onnx.TensorProto


def onnx_translation_table() -> dict[Any, Callable[..., Any]]:
    """How `torch.onnx.export` translates the operators; needs the package onnxscript.

    `roi_align` becomes RoiAlign (mode "avg", and "max_onnx", which is ONNX's own max), `roi_pool`
    with mode "max" becomes MaxRoiPool; the batch sizes, maps and numbers of boxes may be dynamic.
    What ONNX has no operator for is a NotImplementedError of the export: mode "max" of `roi_align`,
    a sampling ratio that differs between the axes, mode "avg" and the argmax of `roi_pool`.

    Examples
    --------
    >>> import torch, roidl.torch
    >>> program = torch.onnx.export(  # doctest: +SKIP
    ...     model, args, dynamo=True, opset_version=18,
    ...     custom_translation_table=roidl.torch.onnx_translation_table(),
    ... )
    """
    from onnxscript import opset18 as op

    def axes(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def typed(input: Tensor, boxes: Tensor) -> int:
        """The type of the arithmetic: of half precision only the storage is."""
        return DOUBLE if DOUBLE in (int(input.dtype), int(boxes.dtype)) else FLOAT

    def rows(input: Tensor, boxes: Tensor, indices: Tensor | None) -> tuple[Any, Any]:
        """Corners [K, 4] and batch indices [K], int64, from any of the forms."""
        rank, columns = len(boxes.shape), boxes.shape[-1]
        if indices is not None:
            return boxes, op.Cast(indices, to=INT64)
        if rank == 2 and columns == 5:
            first = op.Slice(boxes, axes(0), axes(1), axes(1))
            corners = op.Slice(boxes, axes(1), axes(5), axes(1))
            return corners, op.Cast(op.Squeeze(first, axes(1)), to=INT64)
        count = op.Shape(boxes, start=0, end=1 if rank == 2 else 2)
        if rank == 2:  # there is one image
            return boxes, op.Expand(axes(0), count)
        images = op.Range(
            op.Constant(value_int=0),
            op.Squeeze(op.Shape(boxes, start=0, end=1)),
            op.Constant(value_int=1),
        )
        each = op.Expand(op.Unsqueeze(images, axes(1)), count)
        return op.Reshape(boxes, axes(-1, 4)), op.Reshape(each, axes(-1))

    def ordered(pooled: Tensor, boxes: Tensor, layout: int) -> Tensor:
        """[K, C, PH, PW] in the layout, and with [N, L] in place of K for such boxes."""
        if layout == LAYOUTS["NHWC"]:
            pooled = op.Transpose(pooled, perm=[0, 2, 3, 1])
        if len(boxes.shape) == 3:
            tail = op.Shape(pooled, start=1)
            pooled = op.Reshape(
                pooled, op.Concat(op.Shape(boxes, start=0, end=2), tail, axis=0), allowzero=1
            )
        return pooled

    def roi_align(
        input: Tensor,
        boxes: Tensor,
        batch_indices: Tensor | None,
        output_height: int,
        output_width: int,
        spatial_scale: float,
        sampling_height: int,
        sampling_width: int,
        aligned: bool,
        mode: int,
        layout: int,
    ) -> Any:
        if mode == ALIGN_MODES["max"]:
            raise NotImplementedError("roi_align: ONNX has modes 'avg' and 'max_onnx', not 'max'")
        samples = max(sampling_height, 0)
        if samples != max(sampling_width, 0):
            raise NotImplementedError("roi_align: ONNX has one sampling_ratio for both axes")
        kind, corners = typed(input, boxes), rows(input, boxes, batch_indices)
        features = op.Cast(input, to=kind)
        if layout == LAYOUTS["NHWC"]:
            features = op.Transpose(features, perm=[0, 3, 1, 2])
        pooled = op.RoiAlign(
            features,
            op.Cast(corners[0], to=kind),
            corners[1],
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            mode="avg" if mode == ALIGN_MODES["avg"] else "max",
            output_height=output_height,
            output_width=output_width,
            sampling_ratio=samples,
            spatial_scale=spatial_scale,
        )
        return ordered(op.CastLike(pooled, input), boxes, layout)

    def roi_pool(
        input: Tensor,
        boxes: Tensor,
        batch_indices: Tensor | None,
        return_argmax: bool,
        output_height: int,
        output_width: int,
        spatial_scale: float,
        mode: int,
        layout: int,
    ) -> Any:
        if mode != POOL_MODES["max"] or return_argmax:
            raise NotImplementedError("roi_pool: ONNX has mode 'max', without its argmax")
        kind, (corners, indices) = typed(input, boxes), rows(input, boxes, batch_indices)
        features = op.Cast(input, to=kind)
        if layout == LAYOUTS["NHWC"]:
            features = op.Transpose(features, perm=[0, 3, 1, 2])
        first = op.Cast(op.Unsqueeze(indices, axes(1)), to=kind)
        pooled = op.MaxRoiPool(
            features,
            op.Concat(first, op.Cast(corners, to=kind), axis=1),
            pooled_shape=[output_height, output_width],
            spatial_scale=spatial_scale,
        )
        empty = op.Cast(op.ConstantOfShape(axes(0)), to=INT32)
        return ordered(op.CastLike(pooled, input), boxes, layout), empty

    return {OVERLOADS["roi_align"]: roi_align, OVERLOADS["roi_pool"]: roi_pool}
