"""roidl with NumPy arrays: the base of roidl's other engines, which pass other arrays."""

from __future__ import annotations

import os
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
        """The max modes are timed in float32 only: half types are stored as in the other modes."""
        wanted = dtype == "float32" or "_max" not in operation
        return wanted and super().offers(operation, dtype)

    def features(self, array: Array, case: Case) -> Any:
        """A map or a gradient, in the layout and dtype of the case."""
        dtype: Any = ml_dtypes.bfloat16 if case.dtype == "bfloat16" else case.dtype
        return arranged(array, case.layout).astype(dtype, copy=False)

    def boxes(self, array: Array) -> Any:
        return array

    def layout(self, case: Case) -> str:
        """The argument `layout` of roidl's functions."""
        return case.layout

    def pool(self, *arguments: Any, **options: Any) -> Any:
        return roidl.roi_pool(*arguments, **options)

    def finished(self, call: Call) -> Call:
        """The call, including the wait for its result in asynchronous libraries."""
        return call

    def prepare(self, case: Case, data: Data) -> Call:
        inputs = [self.features(array, case) for array in data.inputs]
        boxes = self.boxes(data.boxes)
        if not OPERATIONS[case.operation].backward:
            return self.finished(self.forward(case, inputs, boxes))
        grad = self.features(data.grad, case)
        return self.finished(self.backward(case, inputs, boxes, grad))

    def forward(self, case: Case, inputs: Sequence[Any], boxes: Any) -> Call:
        """The forward call, without overhead."""
        function, mode = OPERATIONS[case.operation][:2]
        layout, size, scale = self.layout(case), case.output_size, case.scales[0]
        sampling = (case.sampling_ratio, case.aligned)
        if function == MULTISCALE:
            pool: Any = partial(roidl.multiscale_roi_align, list(inputs), boxes, size, case.scales)
            return partial(pool, *sampling, layout=layout)
        if function == "roi_align":
            pool = partial(roidl.roi_align, inputs[0], boxes, size, scale, *sampling)
            return partial(pool, mode=mode, layout=layout)
        if function == "roi_pool":
            return partial(self.pool, inputs[0], boxes, size, scale, layout=layout)
        rule = self._position_sensitive(case)
        return partial(getattr(roidl, function), inputs[0], boxes, size, **rule)

    def _position_sensitive(self, case: Case) -> dict[str, Any]:
        """The options of the position-sensitive functions."""
        rule = {"spatial_scale": case.scales[0], "layout": self.layout(case)}
        if OPERATIONS[case.operation].function == "ps_roi_align":
            rule["sampling_ratio"] = case.sampling_ratio
        return rule

    def backward(self, case: Case, inputs: list[Any], boxes: Any, grad: Any) -> Call:
        """The call for the gradients to the inputs, by the explicit gradient functions."""
        operation, layout, scale = OPERATIONS[case.operation], self.layout(case), case.scales[0]
        sampling, shapes = (case.sampling_ratio, case.aligned), [x.shape for x in inputs]
        if operation.function == MULTISCALE:
            function = roidl.multiscale_roi_align_backward
            return partial(function, grad, boxes, shapes, case.scales, *sampling, layout=layout)
        if operation.function == "roi_align":
            how: dict[str, Any] = {"mode": operation.mode, "layout": layout}
            if operation.mode != "avg":
                how["input"] = inputs[0]
            return partial(
                roidl.roi_align_backward, grad, boxes, shapes[0], scale, *sampling, **how
            )
        if operation.function != "roi_pool":
            function = getattr(roidl, f"{operation.function}_backward")
            return partial(function, grad, boxes, shapes[0], **self._position_sensitive(case))
        _, argmax = roidl.roi_pool(
            inputs[0], boxes, case.output_size, scale, layout=layout, return_argmax=True
        )
        return partial(
            roidl.roi_pool_backward, grad, boxes, argmax, shapes[0], scale, layout=layout
        )

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        parts = result if isinstance(result, (list, tuple)) else [result]
        return [as_nchw(np.asarray(part).astype(np.float32), case.layout) for part in parts]


# The operations of engines with other arrays, whose overhead is the same for every mode.
WITHOUT_MAX = tuple(name for name in Numpy.operations if "_max" not in name)


class NumpyArgmax(Numpy):
    """RoIPool with the argmax, which training needs and torchvision always computes."""

    operations: ClassVar[Sequence[str]] = ("roi_pool",)
    dtypes = ("float32",)
    note = "computes the argmax too"

    def pool(self, *arguments: Any, **options: Any) -> Any:
        return roidl.roi_pool(*arguments, **options, return_argmax=True)

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        return super().to_numpy(result[0] if case.operation == "roi_pool" else result, case)


class NumpyFresh(NumpyArgmax):
    """roidl without recycled memory: results are newly mapped, as in other libraries."""

    operations = WITHOUT_MAX
    note = "has the system map every large result anew (ROIDL_KEEP_MB=0); computes the argmax too"

    def __init__(self, threads: int, device: str) -> None:
        os.environ["ROIDL_KEEP_MB"] = "0"  # read once, at the first large result
        super().__init__(threads, device)
