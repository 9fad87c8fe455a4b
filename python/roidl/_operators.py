"""The catalogue of src/operators.h as Python sees it: families and operators, by their names."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import _core


class Field(NamedTuple):
    """A parameter of a family."""

    name: str
    kind: str  # "int", "float" or "bool"


class Family(NamedTuple):
    """What its operators have in common."""

    name: str
    columns: int  # of a box, without the index of its image
    modes: tuple[str, ...]  # by their numbers
    average: int  # the number of the mode that is linear in the input
    modes_with_box_gradient: tuple[bool, ...]
    channels_per_bin: bool  # the map has PH * PW times as many channels as the result
    fields: tuple[Field, ...]


class Rule(NamedTuple):
    """How a derivative or a transpose is computed: by the operator `op`, whose read `at` is the
    direction or the cotangent, and whose boxes and other reads are those of the original, by name.
    """

    kind: str  # "zero", "refused" or "op"
    op: str | None
    at: str | None
    only_average: bool  # in other modes it is refused


class Read(NamedTuple):
    """An array that an operator reads, besides the boxes and what is said of each box."""

    name: str
    role: str  # "maps", "pooled", "boxes" or "argmax"
    of_maximum: bool  # the average does without it
    linear: str  # "never", "in_average" or "always"
    derivative: Rule  # along it, where the operator is not linear in it
    transpose: Rule  # where it is


class Write(NamedTuple):
    """An array that an operator makes."""

    name: str
    role: str
    optional: bool  # made where it is asked for


class Operator(NamedTuple):
    """A row of the catalogue."""

    name: str
    family: Family
    reads: tuple[Read, ...]
    writes: tuple[Write, ...]
    boxes: Rule  # the derivative along the boxes
    modes: tuple[bool, ...]  # in which it is implemented
    # The operator with the same result in average mode, whose first read takes this one's first.
    in_average: str | None

    def read(self, name: str) -> Read:
        return next(read for read in self.reads if read.name == name)

    @property
    def makes_maps(self) -> bool:
        return self.writes[0].role == "maps"

    @property
    def is_forward(self) -> bool:
        return self.name == self.family.name


def _read(name: str, role: str, of_maximum: bool, linear: str, *rules: Any) -> Read:
    derivative, transpose = rules
    return Read(name, role, of_maximum, linear, Rule(*derivative), Rule(*transpose))


def _family(row: Any) -> Family:
    family = Family._make(row)
    return family._replace(fields=tuple(Field(*field) for field in family.fields))


def _operator(
    name: str, family: str, reads: Any, writes: Any, boxes: Any, modes: Any, in_average: str | None
) -> Operator:
    return Operator(
        name,
        FAMILIES[family],
        tuple(_read(*read) for read in reads),
        tuple(Write(*write) for write in writes),
        Rule(*boxes),
        modes,
        in_average,
    )


VERSION, _families, _operators = _core.catalogue()

FAMILIES: dict[str, Family] = {row[0]: _family(row) for row in _families}
OPERATORS: dict[str, Operator] = {row[0]: _operator(*row) for row in _operators}


def operator_of(op: str) -> Operator:
    """By the name of an operator on one map or on several."""
    return OPERATORS[op.removeprefix("multiscale_")]
