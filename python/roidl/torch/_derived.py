"""Which operator computes a derivative of an operator, and which of its arguments are kept for it.

The rules are roidl._derivatives'; they depend on the operator and its mode alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from .._derivatives import BOXES, Refused, mode_of, pull, push, reads
from ._arguments import Arguments, MapShapes, Operator, Params

MOVED = -1  # a source that stands for the direction, or for the gradient in reverse


class Derivative(NamedTuple):
    """The operator that computes a derivative, and for each of its reads the index of the value of
    the original call that it takes, MOVED, or None if it is absent.

    The values of a call are its reads, the boxes and the optional results, in this order.
    """

    operator: Operator
    sources: tuple[int | None, ...]

    def arguments(self, values: Any, moved: Any, rows: Sequence[Any], rest: Rest) -> Arguments:
        """The arguments of the call that computes it. `rows` are the boxes, batch_indices, levels
        and counts."""
        operator, sources = self
        shapes, rule, params = rest
        reads = [
            None if place is None else moved if place < 0 else values[place] for place in sources
        ]
        return Arguments._make(
            (
                tuple(reads),
                *rows,
                shapes if operator.makes_maps else None,
                operator.no_optional,
                rule,
                params,
            )
        )


class Rest(NamedTuple):
    """What a derivative has of the call besides its tensors."""

    shapes: MapShapes  # of the maps that are read or made
    rule: tuple[Any, ...]
    params: Params


class _Mode(NamedTuple):
    """Stands for parameters, of which rules read the mode alone."""

    mode: int


@cache
def derivative(
    operator: Operator, name: str, mode: int, reverse: bool
) -> Derivative | Refused | None:
    """The derivative along a read or the boxes, or in reverse the gradient to it; None: zero."""
    params = _Mode(mode)
    term = (pull if reverse else push)(operator.row.name, name, params)
    if term is None or isinstance(term, Refused):
        return term
    other, read = operator.sibling(term.op), reads(term.op, params)
    sources = [
        MOVED
        if each.name == term.at
        else operator.values.index(each.name)
        if each.name in read
        else None
        for each in other.row.reads
    ]
    return Derivative(other, tuple(sources))


class Gradients(NamedTuple):
    """How the gradients to some of the reads and the boxes are computed."""

    steps: tuple[tuple[int, Derivative | None], ...]  # for the value of a number; None: zeros
    kept: tuple[bool, ...]  # whether they need the values of each read


@cache
def gradients(operator: Operator, mode: int, wanted: tuple[bool, ...]) -> Gradients:
    """The gradients that are wanted and offered: to the reads, and last to the boxes."""
    steps: list[tuple[int, Derivative | None]] = []
    needed: set[int | None] = set()
    for place, asked in enumerate(wanted):
        found = derivative(operator, operator.values[place], mode, True) if asked else Refused("")
        if isinstance(found, Refused):  # _fence in _calls.py raises it if it is asked for
            continue
        steps.append((place, found))
        # Zeros are shaped like the value. What is linear in a read does not need its values.
        needed.update([place] if found is None else found.sources)
    return Gradients(tuple(steps), tuple([i in needed for i in range(len(wanted) - 1)]))


@cache
def needed_results(operator: Operator, mode: int) -> tuple[bool, ...]:
    """Which of its optional results the derivatives of an operator read."""
    used: set[int | None] = set()
    for read in operator.row.reads:
        for reverse in (False, True):
            found = derivative(operator, read.name, mode, reverse)
            if isinstance(found, Derivative):
                used.update(found.sources)
    first = len(operator.values) - operator.num_optional
    return tuple([first + i in used for i in range(operator.num_optional)])


@cache
def refused(operator: Operator, mode: int) -> dict[str, tuple[str, str | None]]:
    """The reads, or the boxes, to which there is no gradient: why, and why there is no derivative
    along them, if there is none."""
    sentences = {}
    for name in (*(read.name for read in operator.row.reads), BOXES):
        backward = derivative(operator, name, mode, True)
        if isinstance(backward, Refused):
            forward = derivative(operator, name, mode, False)
            sentences[name] = (
                f"{operator.name}: {backward.sentence}",
                f"{operator.name}: {forward.sentence}" if isinstance(forward, Refused) else None,
            )
    return sentences


def as_computed(operator: Operator, call: Arguments) -> tuple[Operator, Arguments]:
    """What is linear in its input is its own derivative along it."""
    row = operator.row
    if row.in_average is None or mode_of(call.params) != row.family.average:
        return operator, call
    other = operator.sibling(row.in_average)
    return other, call._replace(reads=call.reads[:1], make=(False,) * other.num_optional)
