"""The operators in ONNX, for `torch.onnx.export`: RoiAlign and MaxRoiPool, as far as they go."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .._params import ALIGN_MODES, LAYOUTS, POOL_MODES
from . import _levels
from ._arguments import OPERATORS, PREFIX, Arguments, Operator, Tensor
from ._library import OVERLOADS

FLOAT, INT32, INT64, DOUBLE = 1, 6, 7, 11  # of onnx.TensorProto


def onnx_translation_table() -> dict[Any, Callable[..., Any]]:
    """How `torch.onnx.export` translates the operators; needs the package onnxscript.

    `roi_align` becomes RoiAlign (mode "avg", and "max_onnx", which is ONNX's own max), `roi_pool`
    with mode "max" becomes MaxRoiPool; the batch sizes, maps and numbers of boxes may be dynamic.
    On several maps there is one of them for each, of the boxes that belong to it.
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

    Pool = Callable[[Tensor, float, int, Any, Any], Any]

    def aligning(name: str, call: Arguments) -> Pool:
        """RoIAlign of (map, scale, type, corners, indices), [K, C, PH, PW] of the type."""
        params = call.params
        ratio, across = max(params.sampling_height, 0), max(params.sampling_width, 0)
        if params.mode == ALIGN_MODES["max"]:
            raise NotImplementedError(f"{name}: ONNX has modes 'avg' and 'max_onnx', not 'max'")
        if ratio != across:
            raise NotImplementedError(f"{name}: ONNX has one sampling_ratio for both axes")
        pixels = "half_pixel" if params.aligned else "output_half_pixel"

        def pool(map: Tensor, scale: float, kind: int, corners: Any, indices: Any) -> Any:
            return op.RoiAlign(
                channels_first(map, kind, params.layout),
                op.Cast(corners, to=kind),
                indices,
                coordinate_transformation_mode=pixels,
                mode="avg" if params.mode == ALIGN_MODES["avg"] else "max",
                output_height=params.output_height,
                output_width=params.output_width,
                sampling_ratio=ratio,
                spatial_scale=scale,
            )

        return pool

    def pooling(name: str, call: Arguments) -> Pool:
        """RoIPool, in the same way."""
        params = call.params
        if params.mode != POOL_MODES["max"] or any(call.make):
            raise NotImplementedError(f"{name}: ONNX has mode 'max', without its argmax")

        def pool(map: Tensor, scale: float, kind: int, corners: Any, indices: Any) -> Any:
            first = op.Cast(op.Unsqueeze(indices, axes(1)), to=kind)
            return op.MaxRoiPool(
                channels_first(map, kind, params.layout),
                op.Concat(first, op.Cast(corners, to=kind), axis=1),
                pooled_shape=[params.output_height, params.output_width],
                spatial_scale=scale,
            )

        return pool

    def channels_first(map: Tensor, kind: int, layout: int) -> Any:
        features = op.Cast(map, to=kind)
        return op.Transpose(features, perm=[0, 3, 1, 2]) if layout == LAYOUTS["NHWC"] else features

    def no_argmax() -> Any:
        return op.Cast(op.ConstantOfShape(axes(0)), to=INT32)

    def of_one(pool: Pool, call: Arguments) -> Any:
        (input,), boxes, params = call.reads, call.boxes, call.params
        given = rows(input, boxes, call.batch_indices)
        pooled = pool(input, params.spatial_scale, typed(input, boxes), *given)
        return ordered(op.CastLike(pooled, input), boxes, params.layout)

    def level_by_size(
        corners: Any, kind: int, scales: Sequence[float], rule: Sequence[float]
    ) -> Any:
        """As geometry.h has it: the index of every box's map, int64 [K]."""

        def number(value: float) -> Any:
            return op.Cast(op.Constant(value_float=value), to=kind)

        corners = op.Cast(corners, to=kind)
        ends = [op.Slice(corners, axes(i), axes(i + 2), axes(1)) for i in (0, 2)]
        area = op.ReduceProd(op.Sub(ends[1], ends[0]), axes(1), keepdims=0)
        octave = op.Log(op.Div(op.Sqrt(area), number(rule[0])))
        level = op.Add(number(rule[1]), op.Div(octave, op.Log(number(2.0))))
        level = op.Floor(op.Add(level, number(1e-6)))
        first, last = (number(-math.log2(scale)) for scale in (scales[0], scales[-1]))
        level = op.Where(op.Greater(level, first), op.Min(level, last), first)
        index = op.Cast(op.Sub(level, first), to=INT64)
        return op.Min(index, op.Constant(value_int=len(scales) - 1))

    def of_several(pool: Pool, call: Arguments) -> Any:
        (maps,), boxes, batch_indices, levels, counts = call[:5]
        (scales, *rule), params = call.rule, call.params
        first, kind = maps[0], typed(maps[0], boxes)
        corners, indices = rows(first, boxes, batch_indices)
        if levels is None:
            levels = level_by_size(corners, kind, scales, rule)
        else:
            levels = op.Reshape(op.Cast(levels, to=INT64), axes(-1))
        if counts is not None:
            places = op.Range(
                op.Constant(value_int=0),
                op.Squeeze(op.Shape(boxes, start=1, end=2)),
                op.Constant(value_int=1),
            )
            exists = op.Less(places, op.Unsqueeze(op.Cast(counts, to=INT64), axes(1)))
            nowhere = op.Constant(value_int=-1)
            levels = op.Where(op.Reshape(exists, axes(-1)), levels, nowhere)
        at = 1 if params.layout == LAYOUTS["NCHW"] else 3
        shape = [op.Shape(corners, start=0, end=1), op.Shape(first, start=at, end=at + 1)]
        zero = op.Cast(op.Constant(value_float=0.0), to=kind)
        size = axes(params.output_height, params.output_width)
        pooled = op.Expand(zero, op.Concat(*shape, size, axis=0))
        for i, (map, scale) in enumerate(zip(maps, scales, strict=True)):
            here = op.Squeeze(op.NonZero(op.Equal(levels, op.Constant(value_int=i))), axes(0))
            part = pool(map, scale, kind, op.Gather(corners, here), op.Gather(indices, here))
            pooled = op.ScatterND(pooled, op.Unsqueeze(here, axes(1)), part)
        return ordered(op.CastLike(pooled, first), boxes, params.layout)

    def translation(operator: Operator, pool_of: Callable[..., Pool]) -> Callable[..., Any]:
        def translated(*flat: Any) -> Any:
            call = operator.unflat(flat)
            pool = pool_of(operator.name, call)
            pooled = (of_several if operator.several else of_one)(pool, call)
            return (pooled, no_argmax()) if operator.num_optional else pooled

        return translated

    def assign_levels(boxes: Tensor, scales: Sequence[float], *rule: float) -> Any:
        corners = op.Slice(boxes, axes(-4), axes(boxes.shape[-1]), axes(-1))
        flat = op.Reshape(corners, axes(-1, 4))
        levels = level_by_size(flat, typed(boxes, boxes), scales, rule)
        shape = op.Shape(boxes, start=0, end=len(boxes.shape) - 1)
        return op.Cast(op.Reshape(levels, shape, allowzero=1), to=INT32)

    table = {
        OVERLOADS[name]: translation(OPERATORS[name], pool_of)
        for family, pool_of in (("roi_align", aligning), ("roi_pool", pooling))
        for name in (family, PREFIX + family)
    }
    return table | {_levels.OVERLOAD: assign_levels}
