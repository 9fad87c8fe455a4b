"""The operators as XLA runs them: which arrays they take, in which order, and what they return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._derivatives import reads
from .._operators import OPERATORS, VERSION, Operator
from .._params import LAYOUTS, Params, Pyramid

Shape = tuple[int, ...]

# What arrays are to a call: the roles of the catalogue, and what is said of each box.
MAPS, POOLED, BOXES, ARGMAX = "maps", "pooled", "boxes", "argmax"
INDICES = "indices"
LEVELS, COUNTS = "levels", "counts"  # one number for every box, and for every image


class Site(NamedTuple):
    """One use of an operator, without its arrays: the static parameter of its primitive.

    The arrays of one read are a slot: one, or one for each map where the role is theirs.
    """

    op: str
    params: Params
    input_shapes: tuple[Shape, ...]  # of the maps
    indexed: bool  # batch_indices follow the boxes
    grouped: bool  # boxes are [N, L, 4]
    results: int  # that are made, each a slot
    # Of several maps; its levels and counts say whether there are such operands, the last of all.
    pyramid: Pyramid | None = None
    platform: str = "cpu"  # that it is lowered for: known by then

    @property
    def operator(self) -> Operator:
        return OPERATORS[self.op]

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
        return len(self.input_shapes) if role == MAPS else 1

    def slots(self) -> dict[str, slice]:
        """Where the operands of each read are, by its name."""
        found, start = {}, 0
        for name in reads(self.op, self.params):
            stop = start + self._size(self.operator.read(name).role)
            found[name] = slice(start, stop)
            start = stop
        return found

    @property
    def place_of_boxes(self) -> int:
        place: int = max(slot.stop for slot in self.slots().values())
        return place

    @property
    def first_results(self) -> int:
        """How many arrays the first slot of results is."""
        return self._size(self.operator.writes[0].role)

    def _arrays(self, roles: Sequence[str]) -> list[str]:
        return [role for role in roles for _ in range(self._size(role))]

    def operand_roles(self) -> tuple[str, ...]:
        read = [self.operator.read(name).role for name in reads(self.op, self.params)]
        roles = [*self._arrays(read), BOXES]
        if self.indexed:
            roles.append(INDICES)
        if self.pyramid is not None:
            roles += [LEVELS] * bool(self.pyramid.levels) + [COUNTS] * bool(self.pyramid.counts)
        return tuple(roles)

    def result_roles(self) -> tuple[str, ...]:
        return tuple(self._arrays([write.role for write in self.operator.writes[: self.results]]))

    def result_types(self, operands: Sequence[Any]) -> list[tuple[Shape, Any]]:
        """Shape and dtype of each result; `operands` need no more than these."""
        boxes = operands[self.place_of_boxes]
        dtype = operands[0].dtype
        role = self.operator.writes[0].role
        if role == MAPS:
            return [(shape, dtype) for shape in self.input_shapes]
        if role == BOXES:
            return [(tuple(boxes.shape), boxes.dtype)]
        shape = self.pooled_shape(tuple(boxes.shape[:-1]))
        written = [write.role for write in self.operator.writes[: self.results]]
        return [(shape, "int32" if role == ARGMAX else dtype) for role in written]

    def pooled_shape(self, rows: Shape) -> Shape:
        grid = (self.params.output_height, self.params.output_width)
        channels = self.input_shapes[0][3 if self.channels_last else 1]
        if self.operator.family.channels_per_bin:
            channels //= grid[0] * grid[1]
        return (*rows, *grid, channels) if self.channels_last else (*rows, channels, *grid)

    def other(self, op: str) -> Site:
        """Another operator on the same maps and boxes."""
        return self._replace(op=op, results=1)

    def attributes(self) -> dict[str, Any]:
        """What the custom call is told besides its operands."""
        more = {} if self.pyramid is None else pyramid_attributes(self.pyramid)
        given = {"catalogue": VERSION} | self.params._asdict()
        return {name: _attribute(value) for name, value in given.items()} | more


def _attribute(value: Any) -> Any:
    """A number of NumPy's, as its width does not depend on whether JAX has 64-bit types."""
    if isinstance(value, bool):
        return value
    return (np.float64 if isinstance(value, float) else np.int64)(value)


def pyramid_attributes(pyramid: Pyramid) -> dict[str, Any]:
    """How boxes find their map, as src/bridge/xla_call.h reads it."""
    named = {
        "catalogue": VERSION,
        "maps": len(pyramid.scales),
        "canonical_scale": pyramid.canonical_scale,
        "canonical_level": pyramid.canonical_level,
        "levels": bool(pyramid.levels),
        "counts": bool(pyramid.counts),
    }
    named |= {f"scale{i}": scale for i, scale in enumerate(pyramid.scales)}
    return {name: _attribute(value) for name, value in named.items()}
