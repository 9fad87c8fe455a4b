"""The derivatives of every operator, for every framework: each is another operator.

Adapters translate to and from their framework; which operator computes a derivative is decided
here, from the rules of the catalogue. Each is an operator of the catalogue again, so derivatives
can be repeated, except where a rule refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from ._operators import OPERATORS, Family, Operator, Rule

BOXES = "boxes"  # the name of that operand of every operator

Params = Any  # of any family


class Term(NamedTuple):
    """The operator that computes a derivative, and its read that takes the direction or the
    cotangent. Its other reads and the boxes are those of the original call, by name; an argmax may
    be a result of that call."""

    op: str
    at: str


class Refused(NamedTuple):
    """A derivative that is not offered."""

    sentence: str


def mode_of(params: Params) -> int:
    """The number of the mode; 0 of a family that has none."""
    mode: int = getattr(params, "mode", 0)
    return mode


def is_average(operator: Operator, params: Params) -> bool:
    """Whether the mode is the average."""
    return mode_of(params) == operator.family.average


def reads(op: str, params: Params) -> Sequence[str]:
    """The names of what an operator reads in this mode, in their order."""
    return _reads(op, mode_of(params))


def why_not(op: str, params: Params) -> str | None:
    """Why an operator is not implemented in this mode, in the core's words; None if it is."""
    return _why_not(OPERATORS[op], mode_of(params))


def derivative(op: str, along: str, params: Params) -> Term | Refused | None:
    """As `push`, without a check whether the operator is implemented in this mode."""
    return _derivative(OPERATORS[op], along, mode_of(params))


def push(op: str, along: str, params: Params) -> Term | Refused | None:
    """The derivative along a read or the boxes; None where it is zero."""
    return _push(op, along, mode_of(params))


def pull(op: str, to: str, params: Params) -> Term | Refused | None:
    """The gradient to a read or the boxes: the transpose of the derivative along it."""
    return _pull(op, to, mode_of(params))


def transpose(op: str, to: str) -> Term:
    """The transpose of an operator in a read in which it is linear."""
    return _term(OPERATORS[op].read(to).transpose)


def in_average(term: Term, params: Params) -> Term:
    """The term, or in average mode the operator that computes the same with fewer reads."""
    return _in_average(term, mode_of(params))


def no_optional(operator: Operator) -> str:
    """The error, in the core's words, of an optional result that is asked of the average."""
    family = operator.family
    modes = [f"'{name}'" for mode, name in enumerate(family.modes) if mode != family.average]
    (result,) = [write.name for write in operator.writes if write.optional]
    return f"only mode {' and '.join(modes)} has an {result} to return"


# The same for the number of a mode, computed once ------------------------------------------------


@cache
def _reads(op: str, mode: int) -> Sequence[str]:
    operator = OPERATORS[op]
    average = mode == operator.family.average
    return tuple(read.name for read in operator.reads if not (read.of_maximum and average))


@cache
def _push(op: str, along: str, mode: int) -> Term | Refused | None:
    return _offered(_derivative(OPERATORS[op], along, mode), mode)


@cache
def _pull(op: str, to: str, mode: int) -> Term | Refused | None:
    term = _derivative(OPERATORS[op], to, mode)
    return _offered(transpose(term.op, term.at) if isinstance(term, Term) else term, mode)


def _why_not(operator: Operator, mode: int) -> str | None:
    family = operator.family
    if not operator.modes or operator.modes[mode]:
        return None
    if not family.modes_with_box_gradient[mode]:
        return f"mode '{family.modes[mode]}' has no gradient to the boxes"
    return _only_average(family)


def _only_average(family: Family) -> str:
    return (
        "forward mode and second derivatives along the boxes are implemented for mode "
        f"'{family.modes[family.average]}' only"
    )


def _in_average(term: Term, mode: int) -> Term:
    operator = OPERATORS[term.op]
    if operator.in_average is None or mode != operator.family.average:
        return term
    return Term(operator.in_average, OPERATORS[operator.in_average].reads[0].name)


def _term(rule: Rule) -> Term:
    assert rule.op is not None
    assert rule.at is not None
    return Term(rule.op, rule.at)


def _derivative(operator: Operator, along: str, mode: int) -> Term | Refused | None:
    average = mode == operator.family.average
    if along == BOXES:
        return _followed(operator, operator.boxes, mode)
    read = operator.read(along)
    if read.linear == "always" or (read.linear == "in_average" and average):
        return Term(operator.name, along)
    return _followed(operator, read.derivative, mode)


def _followed(operator: Operator, rule: Rule, mode: int) -> Term | Refused | None:
    family = operator.family
    average = mode == family.average
    if rule.kind == "zero":
        return None
    if rule.kind == "op" and (average or not rule.only_average):
        return _term(rule)
    if family.modes and not family.modes_with_box_gradient[mode]:
        return Refused(f"mode '{family.modes[mode]}' has no gradient to the boxes")
    if not average:
        return Refused(_only_average(family))
    return Refused("second derivatives along the boxes are not implemented")


def _offered(term: Term | Refused | None, mode: int) -> Term | Refused | None:
    if not isinstance(term, Term):
        return term
    reason = _why_not(OPERATORS[term.op], mode)
    return _in_average(term, mode) if reason is None else Refused(reason)
