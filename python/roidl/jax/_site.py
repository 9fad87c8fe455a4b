"""The operators as XLA runs them: which arrays they take, in which order, and what they return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .._params import LAYOUTS, RoiAlignParams, RoiPoolParams

Shape = tuple[int, ...]

# What an array is shaped like.
MAP, POOLED, BOXES, INDICES = "map", "pooled", "boxes", "indices"

# The arrays of each operator: (what comes before boxes and batch_indices, what is returned). The
# second of roi_align_backward, roi_align_jvp, roi_pool_backward and roi_pool_jvp is what the max
# modes remember of the forward call (input, or argmax); the average needs none. The second result
# of roi_pool is the argmax, if it is asked for.
ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "roi_align": ((MAP,), (POOLED,)),
    "roi_align_backward": ((POOLED, MAP), (MAP,)),
    "roi_align_backward_boxes": ((POOLED, MAP), (BOXES,)),
    "roi_align_jvp": ((MAP, MAP), (POOLED,)),
    "roi_align_jvp_boxes": ((MAP, BOXES), (POOLED,)),
    "roi_align_jvp_boxes_backward": ((POOLED, BOXES), (MAP,)),
    "roi_pool": ((MAP,), (POOLED, POOLED)),
    "roi_pool_backward": ((POOLED, POOLED), (MAP,)),
    "roi_pool_jvp": ((MAP, POOLED), (POOLED,)),
}


class Site(NamedTuple):
    """One use of an operator, without its arrays: the static parameter of its primitive."""

    op: str
    params: RoiAlignParams | RoiPoolParams
    input_shape: Shape  # of the map
    leading: int  # operands before the boxes
    indexed: bool  # the last operand is batch_indices
    grouped: bool  # boxes are [N, L, 4]
    results: int

    @property
    def channels_last(self) -> bool:
        return self.params.layout == LAYOUTS["NHWC"]

    @property
    def images(self) -> int:
        return self.input_shape[0]

    def operand_roles(self) -> tuple[str, ...]:
        roles = (*ROLES[self.op][0][: self.leading], BOXES)
        return (*roles, INDICES) if self.indexed else roles

    def result_roles(self) -> tuple[str, ...]:
        return ROLES[self.op][1][: self.results]

    def result_types(self, operands: Sequence[Any]) -> list[tuple[Shape, Any]]:
        """Shape and dtype of each result; `operands` need no more than these."""
        boxes = operands[self.leading]
        dtypes = {MAP: operands[0].dtype, POOLED: operands[0].dtype, BOXES: boxes.dtype}
        shapes = {
            MAP: self.input_shape,
            POOLED: self.pooled_shape(tuple(boxes.shape[:-1])),
            BOXES: tuple(boxes.shape),
        }
        types = [(shapes[role], dtypes[role]) for role in self.result_roles()]
        if self.results == 2:
            types[1] = (types[1][0], "int32")  # the argmax
        return types

    def pooled_shape(self, rows: Shape) -> Shape:
        grid = (self.params.output_height, self.params.output_width)
        if self.channels_last:
            return (*rows, *grid, self.input_shape[3])
        return (*rows, self.input_shape[1], *grid)

    def other(self, op: str, leading: int) -> Site:
        """Another operator on the same map and boxes."""
        return self._replace(op=op, leading=leading, results=1)
