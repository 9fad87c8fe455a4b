"""The operators as XLA runs them: which arrays they take, in which order, and what they return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._params import LAYOUTS, Pyramid, RoiAlignParams, RoiPoolParams

Shape = tuple[int, ...]

# What an array is shaped like.
MAP, POOLED, BOXES, INDICES = "map", "pooled", "boxes", "indices"
LEVELS, COUNTS = "levels", "counts"  # one number for every box, and for every image

# The arrays of each operator: (what comes before boxes and batch_indices, what is returned). Where
# there are several maps, each MAP stands for one array of every map: together, a slot. The
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
    input_shapes: tuple[Shape, ...]  # of the maps
    leading: int  # slots before the boxes
    indexed: bool  # batch_indices follow the boxes
    grouped: bool  # boxes are [N, L, 4]
    results: int  # slots
    # Of several maps; its levels and counts say whether there are such operands, the last of all.
    pyramid: Pyramid | None = None
    platform: str = "cpu"  # that it is lowered for: known by then

    @property
    def channels_last(self) -> bool:
        return self.params.layout == LAYOUTS["NHWC"]

    @property
    def images(self) -> int:
        return self.input_shapes[0][0]

    @property
    def has_counts(self) -> bool:
        return self.pyramid is not None and bool(self.pyramid.counts)

    def named(self, op: str) -> str:
        """What an operator on these maps is called in sentences."""
        return op if self.pyramid is None else f"multiscale_{op}"

    def _size(self, role: str) -> int:
        return len(self.input_shapes) if role == MAP else 1

    def slots(self) -> list[slice]:
        """Where the operands of each slot before the boxes are."""
        found, start = [], 0
        for role in ROLES[self.op][0][: self.leading]:
            found.append(slice(start, start + self._size(role)))
            start = found[-1].stop
        return found

    @property
    def place_of_boxes(self) -> int:
        place: int = self.slots()[-1].stop
        return place

    @property
    def first_results(self) -> int:
        """How many arrays the first slot of results is."""
        return self._size(ROLES[self.op][1][0])

    def _arrays(self, roles: Sequence[str]) -> list[str]:
        return [role for role in roles for _ in range(self._size(role))]

    def operand_roles(self) -> tuple[str, ...]:
        roles = [*self._arrays(ROLES[self.op][0][: self.leading]), BOXES]
        if self.indexed:
            roles.append(INDICES)
        if self.pyramid is not None:
            roles += [LEVELS] * bool(self.pyramid.levels) + [COUNTS] * bool(self.pyramid.counts)
        return tuple(roles)

    def result_roles(self) -> tuple[str, ...]:
        return tuple(self._arrays(ROLES[self.op][1][: self.results]))

    def result_types(self, operands: Sequence[Any]) -> list[tuple[Shape, Any]]:
        """Shape and dtype of each result; `operands` need no more than these."""
        boxes = operands[self.place_of_boxes]
        dtype = operands[0].dtype
        role = ROLES[self.op][1][0]
        if role == MAP:
            return [(shape, dtype) for shape in self.input_shapes]
        if role == BOXES:
            return [(tuple(boxes.shape), boxes.dtype)]
        shape = self.pooled_shape(tuple(boxes.shape[:-1]))
        return [(shape, dtype), (shape, "int32")][: self.results]  # the second is the argmax

    def pooled_shape(self, rows: Shape) -> Shape:
        grid = (self.params.output_height, self.params.output_width)
        if self.channels_last:
            return (*rows, *grid, self.input_shapes[0][3])
        return (*rows, self.input_shapes[0][1], *grid)

    def other(self, op: str, leading: int) -> Site:
        """Another operator on the same maps and boxes."""
        return self._replace(op=op, leading=leading, results=1)

    def attributes(self) -> dict[str, Any]:
        """What the custom call is told besides its operands."""
        more = {} if self.pyramid is None else pyramid_attributes(self.pyramid)
        return {name: _attribute(value) for name, value in self.params._asdict().items()} | more


def _attribute(value: Any) -> Any:
    """A number of NumPy's, as its width does not depend on whether JAX has 64-bit types."""
    if isinstance(value, bool):
        return value
    return (np.float64 if isinstance(value, float) else np.int64)(value)


def pyramid_attributes(pyramid: Pyramid) -> dict[str, Any]:
    """How boxes find their map, as src/bridge/xla_call.h reads it."""
    named = {
        "maps": len(pyramid.scales),
        "canonical_scale": pyramid.canonical_scale,
        "canonical_level": pyramid.canonical_level,
        "levels": bool(pyramid.levels),
        "counts": bool(pyramid.counts),
    }
    named |= {f"scale{i}": scale for i, scale in enumerate(pyramid.scales)}
    return {name: _attribute(value) for name, value in named.items()}
