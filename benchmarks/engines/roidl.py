"""roidl through NumPy: the base of roidl's other engines, which differ in the arrays they pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

import roidl

from ..case import BY_HAND, OPERATIONS, Array, Case, Data
from . import Call, Engine, arranged, as_nchw

MULTISCALE = "multiscale_roi_align"


class Numpy(Engine):
    """roidl's array front end."""

    operations: ClassVar[Sequence[str]] = BY_HAND
    packages: ClassVar[Sequence[str]] = ("roidl", "numpy")
    dtypes: ClassVar[Sequence[str]] = ("float32", "bfloat16", "float16")

    def __init__(self, threads: int, device: str) -> None:
        super().__init__(threads, device)
        roidl.set_num_threads(threads)

    def offers(self, operation: str, dtype: str) -> bool:
        """The max modes store half types as the others do: one type is enough."""
        wanted = dtype == "float32" or "_max" not in operation
        return wanted and super().offers(operation, dtype)

    def features(self, array: Array, case: Case) -> Any:
        """A map or a gradient, in the layout and dtype of the case."""
        dtype: Any = ml_dtypes.bfloat16 if case.dtype == "bfloat16" else case.dtype
        return arranged(array, case.layout).astype(dtype, copy=False)

    def boxes(self, array: Array) -> Any:
        return array

    def layout(self, case: Case) -> str:
        """The order of the axes, as roidl is told."""
        return case.layout

    def pool(self, *arguments: Any, **options: Any) -> Any:
        return roidl.roi_pool(*arguments, **options)

    def finished(self, call: Call) -> Call:
        """The call, waiting for its result where the library would return before it is there."""
        return call

    def prepare(self, case: Case, data: Data) -> Call:
        operation = OPERATIONS[case.operation]
        inputs = [self.features(array, case) for array in data.inputs]
        boxes, layout, scale = self.boxes(data.boxes), self.layout(case), case.scales[0]
        sampling = (case.sampling_ratio, case.aligned)
        call: Call
        if operation.function == MULTISCALE and not operation.backward:
            call = partial(
                roidl.multiscale_roi_align,
                inputs,
                boxes,
                case.output_size,
                case.scales,
                *sampling,
                layout=layout,
            )
        elif operation.function == MULTISCALE:
            grad, shapes = self.features(data.grad, case), [tuple(x.shape) for x in inputs]
            call = partial(
                roidl.multiscale_roi_align_backward,
                grad,
                boxes,
                shapes,
                case.scales,
                *sampling,
                layout=layout,
            )
        elif operation.function == "roi_align" and not operation.backward:
            how: dict[str, Any] = {"mode": operation.mode, "layout": layout}
            call = partial(
                roidl.roi_align, inputs[0], boxes, case.output_size, scale, *sampling, **how
            )
        elif operation.function == "roi_align":
            grad, shape = self.features(data.grad, case), tuple(inputs[0].shape)
            how = {"mode": operation.mode, "layout": layout}
            if operation.mode != "avg":
                how["input"] = inputs[0]
            call = partial(roidl.roi_align_backward, grad, boxes, shape, scale, *sampling, **how)
        elif not operation.backward:
            call = partial(self.pool, inputs[0], boxes, case.output_size, scale, layout=layout)
        else:
            grad, shape = self.features(data.grad, case), tuple(inputs[0].shape)
            _, argmax = roidl.roi_pool(
                inputs[0], boxes, case.output_size, scale, layout=layout, return_argmax=True
            )
            call = partial(
                roidl.roi_pool_backward, grad, boxes, argmax, shape, scale, layout=layout
            )
        return self.finished(call)

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        parts = result if isinstance(result, list) else [result]
        return [as_nchw(np.asarray(part).astype(np.float32), case.layout) for part in parts]


# Of engines with other arrays: what differs is the way in and out, the same for every mode.
WITHOUT_MAX = tuple(name for name in Numpy.operations if "_max" not in name)


class NumpyArgmax(Numpy):
    """What torchvision's roi_pool always does, and training needs."""

    operations = ("roi_pool",)
    dtypes = ("float32",)
    note = "computes the argmax too"

    def pool(self, *arguments: Any, **options: Any) -> Any:
        return roidl.roi_pool(*arguments, **options, return_argmax=True)

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        return super().to_numpy(result[0], case)
