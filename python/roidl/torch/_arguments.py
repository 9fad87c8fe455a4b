"""The operators as PyTorch's dispatcher has them: their arguments by name and in order.

There are two for every row of the catalogue: on one map, and on several.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any, NamedTuple

from .. import _operators
from .._derivatives import BOXES
from .._params import Pyramid

Tensor = Any
Params = Any  # a named tuple of the fields of the family's parameters

PREFIX = "multiscale_"
_SCALE = "spatial_scale"  # among several maps, every one has its own

# By the family.
PARAMS: dict[str, Any] = {
    family.name: namedtuple("Params", [field.name for field in family.fields])
    for family in _operators.FAMILIES.values()
}


class MapShapes(NamedTuple):
    """What is said of the shapes of maps that are made, and the order of each in memory.

    The gradient to the result has the channels, and boxes that are grouped by image the images:
    where tensors are sharded, these are the shard's.
    """

    images: int
    sizes: tuple[int, ...]  # height and width of each, one after the other
    channels_last: tuple[bool, ...]


class Arguments(NamedTuple):
    """The arguments of an operator, whichever it is."""

    reads: tuple[Any, ...]  # in the catalogue's order; of several maps a tuple; None: absent
    boxes: Tensor
    batch_indices: Tensor | None
    levels: Tensor | None  # this and the next: of a call on several maps
    counts: Tensor | None
    shapes: MapShapes | None  # of an operator that makes maps
    make: tuple[bool, ...]  # for each optional result
    rule: tuple[Any, ...]  # the first three fields of Pyramid; empty where there is one map
    params: Params

    def pyramid(self) -> Pyramid | None:
        return Pyramid._make((*self.rule, self.levels, self.counts)) if self.rule else None


class Operator:
    """A row of the catalogue on one map or on several, as the dispatcher has it."""

    def __init__(self, row: _operators.Operator, several: bool) -> None:
        self.row, self.several = row, several
        self.name = (PREFIX if several else "") + row.name
        self.roles = tuple(read.role for read in row.reads)
        self.makes_maps = row.makes_maps
        self.place_of_maps = -1 if row.makes_maps else self.roles.index("maps")
        self.num_optional = sum(write.optional for write in row.writes)
        self.no_optional = (False,) * self.num_optional
        # The names of what derivatives may read.
        optional = [write.name for write in row.writes if write.optional]
        self.values = (*(read.name for read in row.reads), BOXES, *optional)
        self.params = PARAMS[row.family.name]
        fields = [field.name for field in row.family.fields]
        self.scale_place = fields.index(_SCALE) if several and _SCALE in fields else None
        self.rows = ("batch_indices", "levels", "counts")[: 3 if several else 1]

    def sibling(self, name: str) -> Operator:
        """Another row of the catalogue, on as many maps."""
        return OPERATORS[PREFIX + name if self.several else name]

    def flat(self, call: Arguments) -> tuple[Any, ...]:
        """The arguments in the order of the schema, which src/bridge/torch_schema.h writes."""
        reads, boxes, batch_indices, levels, counts, shapes, make, rule, params = call
        said: tuple[Any, ...] = ()
        if not self.several:
            if shapes is not None:
                said = (shapes.images, *shapes.sizes, *shapes.channels_last)
            return (*reads, boxes, batch_indices, *said, *make, *params)
        reads = tuple(
            [
                () if read is None and role == "maps" else read
                for read, role in zip(reads, self.roles, strict=True)
            ]
        )
        if shapes is not None:
            said = tuple(shapes)
        numbers = tuple(params)
        if self.scale_place is not None:
            numbers = numbers[: self.scale_place] + numbers[self.scale_place + 1 :]
        return (*reads, boxes, batch_indices, levels, counts, *said, *make, *rule, *numbers)

    def unflat(self, flat: tuple[Any, ...]) -> Arguments:
        """The arguments again, from the order of the schema."""
        at = len(self.roles)
        reads, several, shapes = tuple(flat[:at]), self.several, None
        if several:
            reads = tuple(
                [
                    tuple(read) or (None if what.of_maximum else ())
                    if what.role == "maps"
                    else read
                    for read, what in zip(reads, self.row.reads, strict=True)
                ]
            )
        boxes, batch_indices = flat[at], flat[at + 1]
        at += 2
        levels = counts = None
        if several:
            levels, counts = flat[at : at + 2]
            at += 2
        if self.row.makes_maps:
            if several:
                shapes = MapShapes(flat[at], tuple(flat[at + 1]), tuple(flat[at + 2]))
                at += 3
            else:
                shapes = MapShapes(flat[at], tuple(flat[at + 1 : at + 3]), (flat[at + 3],))
                at += 4
        make = tuple(flat[at : at + self.num_optional])
        at += self.num_optional
        rule: tuple[Any, ...] = ()
        if several:
            rule = tuple(flat[at]), flat[at + 1], flat[at + 2]
            at += 3
        numbers = list(flat[at:])
        if self.scale_place is not None:
            numbers.insert(self.scale_place, 1.0)
        return Arguments(
            reads,
            boxes,
            batch_indices,
            levels,
            counts,
            shapes,
            make,
            rule,
            self.params._make(numbers),
        )

    def named_reads(self, call: Arguments) -> dict[str, Any]:
        return {what.name: read for what, read in zip(self.row.reads, call.reads, strict=True)}

    def first_tensor(self, call: Arguments) -> Tensor:
        """It says on which device the call is."""
        first = call.reads[0]
        return first[0] if isinstance(first, tuple) else first


OPERATORS = {
    operator.name: operator
    for several in (False, True)
    for operator in (Operator(row, several) for row in _operators.OPERATORS.values())
}
