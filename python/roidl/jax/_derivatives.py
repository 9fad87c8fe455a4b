"""The derivatives of the operators as JAX spells them; `roidl._derivatives` says what they are."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

from jax.interpreters import ad

from .. import _derivatives as rules
from .._derivatives import Refused, Term
from ._primitives import PRIMITIVES, bind
from ._site import BOXES, Site
from ._versions import type_of

Array = Any


def _apply(
    site: Site, term: Term, direction: Sequence[Array], given: dict[str, Sequence[Array]]
) -> list[Array]:
    """The operator of a term, on a direction (or cotangent) and on what its origin was given."""
    term = rules.in_average(term, site.params)
    arrays = given | {term.at: direction}
    slots = [arrays[name] for name in rules.reads(term.op, site.params)]
    leading = [array for slot in slots for array in slot]
    return bind(site.other(term.op), *leading, *given[BOXES])


def _given(site: Site, operands: Sequence[Array]) -> dict[str, Sequence[Array]]:
    """The operands by the names of what is read; the boxes with what is said of them."""
    given = {name: operands[slot] for name, slot in site.slots().items()}
    return given | {BOXES: operands[site.place_of_boxes :]}


# Forward mode -------------------------------------------------------------------------------------


def _derivative(site: Site, along: str) -> Term | None:
    """Also where it is not implemented, if its transpose is: JAX takes gradients by both."""
    derivative = rules.derivative(site.op, along, site.params)
    if not isinstance(derivative, Term):
        reason = derivative.sentence if derivative else None
    elif isinstance(rules.pull(site.op, along, site.params), Refused):
        reason = rules.why_not(derivative.op, site.params)
    else:
        return derivative
    if reason is not None:
        raise NotImplementedError(f"{site.named(site.operator.family.name)}: {reason}")
    return None


def _jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, site: Site
) -> tuple[list[Array], list[Any]]:
    optional = [write.name for write in site.operator.writes if write.optional]
    remembers = bool(optional) and not rules.is_average(site.operator, site.params)
    outs = bind(site._replace(results=2) if remembers else site, *primals)
    given = _given(site, primals)
    if remembers:
        given[optional[0]] = outs[1:]
    boxes = site.place_of_boxes
    terms = []
    for name, slot in (site.slots() | {BOXES: slice(boxes, boxes + 1)}).items():
        if all(type(tangent) is ad.Zero for tangent in tangents[slot]):
            continue
        derivative = _derivative(site, name)
        if derivative is not None:
            whole = [ad.instantiate_zeros(tangent) for tangent in tangents[slot]]
            terms.append(_apply(site, derivative, whole, given))
    outs = outs[: len(site.result_roles())]
    out_tangents = [ad.Zero(type_of(out).to_tangent_aval()) for out in outs]
    if terms:
        sums = [functools.reduce(operator.add, each) for each in zip(*terms, strict=True)]
        out_tangents[: site.first_results] = sums
    return outs, out_tangents


# Reverse mode -------------------------------------------------------------------------------------


def _transpose(cotangents: Sequence[Any], *operands: Any, site: Site) -> list[Any]:
    unknown = [i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand)]
    # Some maps may be known where others are not; the tangents along those are 0.
    ((name, slot),) = {
        (name, slot)
        for name, slot in ((name, (s.start, s.stop)) for name, s in site.slots().items())
        for i in unknown
        if slot[0] <= i < slot[1]
    }
    result: list[Any] = [None] * len(operands)
    cotangents = cotangents[: site.first_results]
    if all(type(cotangent) is ad.Zero for cotangent in cotangents):
        for i in unknown:
            result[i] = ad.Zero(operands[i].aval)
        return result
    cotangent = [ad.instantiate_zeros(each) for each in cotangents]
    found = _apply(site, rules.transpose(site.op, name), cotangent, _given(site, operands))
    for i in unknown:
        result[i] = found[i - slot[0]]
    return result


for _primitive in PRIMITIVES.values():
    ad.primitive_jvps[_primitive] = _jvp
    ad.primitive_transposes[_primitive] = _transpose
