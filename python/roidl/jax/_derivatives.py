"""Derivatives of the operators: each is one of the others, so they are closed under them all.

With A(x) = roi_align: its transpose is roi_align_backward. Along the boxes it moves by
T(x, t) = roi_align_jvp_boxes, linear in both; the transposes of T are roi_align_jvp_boxes_backward,
to x, and roi_align_backward_boxes, to t. The average is linear in x. Of the max modes, what was the
maximum is remembered, and counts as a constant of further derivatives.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

from jax.interpreters import ad

from .._params import ALIGN_MODES, POOL_MODES
from ._primitives import PRIMITIVES, bind
from ._site import Site
from ._versions import type_of

Array = Any


def _is_average(site: Site) -> bool:
    modes = POOL_MODES if site.op.startswith("roi_pool") else ALIGN_MODES
    return site.params.mode == modes["avg"]


def _refuse(site: Site, what: str) -> NotImplementedError:
    return NotImplementedError(f"{site.named('roi_align')}: {what}")


# For each operator, its slots before the boxes in which it is linear; in the average too.
_LINEAR = {
    "roi_align": ((), (0,)),
    "roi_align_backward": ((0,), (0,)),
    "roi_align_backward_boxes": ((0,), (0, 1)),
    "roi_align_jvp": ((0,), ()),
    "roi_align_jvp_boxes": ((1,), (0, 1)),
    "roi_align_jvp_boxes_backward": ((1,), (0, 1)),
    "roi_pool": ((), (0,)),
    "roi_pool_backward": ((0,), (0,)),
    "roi_pool_jvp": ((0,), ()),
}


# Forward mode -------------------------------------------------------------------------------------


def _along_leading(
    site: Site,
    position: int,
    tangent: Sequence[Array],
    operands: Sequence[Array],
    outs: Sequence[Array],
) -> list[Array] | None:
    """The derivative along one of the slots before the boxes; None where it is zero."""
    slots = site.slots()
    rest = operands[site.place_of_boxes :]
    if position in _LINEAR[site.op][_is_average(site)]:
        slot = slots[position]
        moved = [*operands[: slot.start], *tangent, *operands[slot.stop :]]
        return bind(site._replace(results=1), *moved)
    if site.op == "roi_align":
        return bind(site.other("roi_align_jvp", 2), *tangent, *operands[slots[0]], *rest)
    if site.op == "roi_pool":
        return bind(site.other("roi_pool_jvp", 2), *tangent, outs[1], *rest)
    if "boxes" in site.op:
        raise _refuse(
            site, "second derivatives along the boxes are implemented for mode 'avg' only"
        )
    return None  # what was the maximum stays it


def _along_boxes(site: Site, tangent: Array, operands: Sequence[Array]) -> list[Array]:
    leading, rest = operands[: site.place_of_boxes], operands[site.place_of_boxes :]
    if site.params.mode == ALIGN_MODES["max_onnx"]:
        raise _refuse(site, "mode 'max_onnx' has no gradient to the boxes")
    if site.op == "roi_align":
        return bind(site.other("roi_align_jvp_boxes", 2), *leading, tangent, *rest)
    if not _is_average(site):
        raise _refuse(
            site, "second derivatives along the boxes are implemented for mode 'avg' only"
        )
    if site.op == "roi_align_backward":
        return bind(site.other("roi_align_jvp_boxes_backward", 2), *leading, tangent, *rest)
    raise _refuse(site, "second derivatives in the boxes alone are not implemented")


def _jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, site: Site
) -> tuple[list[Array], list[Any]]:
    remembers = site.op == "roi_pool" and not _is_average(site)
    outs = bind(site._replace(results=2) if remembers else site, *primals)
    terms = []
    for position, slot in enumerate(site.slots()):
        if any(type(tangent) is not ad.Zero for tangent in tangents[slot]):
            whole = [ad.instantiate_zeros(tangent) for tangent in tangents[slot]]
            terms.append(_along_leading(site, position, whole, primals, outs))
    along_boxes = tangents[site.place_of_boxes]
    moving_boxes = type(along_boxes) is not ad.Zero
    if moving_boxes and not site.op.startswith("roi_pool"):  # which is constant in them
        terms.append(_along_boxes(site, along_boxes, primals))
    found = [term for term in terms if term is not None]
    outs = outs[: len(site.result_roles())]
    out_tangents = [ad.Zero(type_of(out).to_tangent_aval()) for out in outs]
    if found:
        sums = [functools.reduce(operator.add, each) for each in zip(*found, strict=True)]
        out_tangents[: site.first_results] = sums
    return outs, out_tangents


# Reverse mode -------------------------------------------------------------------------------------

_FIRST, _LAST = True, False  # where the cotangent goes among the slots before the boxes

# Of an operator along one of those slots: its transpose, on the cotangent and the others.
_TRANSPOSES = {
    ("roi_align", 0): ("roi_align_backward", _FIRST),
    ("roi_align_jvp", 0): ("roi_align_backward", _FIRST),
    ("roi_align_backward", 0): ("roi_align_jvp", _FIRST),
    ("roi_align_backward_boxes", 0): ("roi_align_jvp_boxes", _LAST),
    ("roi_align_backward_boxes", 1): ("roi_align_jvp_boxes_backward", _LAST),
    ("roi_align_jvp_boxes", 0): ("roi_align_jvp_boxes_backward", _FIRST),
    ("roi_align_jvp_boxes", 1): ("roi_align_backward_boxes", _FIRST),
    ("roi_align_jvp_boxes_backward", 0): ("roi_align_jvp_boxes", _FIRST),
    ("roi_align_jvp_boxes_backward", 1): ("roi_align_backward_boxes", _LAST),
    ("roi_pool", 0): ("roi_pool_backward", _FIRST),
    ("roi_pool_jvp", 0): ("roi_pool_backward", _FIRST),
    ("roi_pool_backward", 0): ("roi_pool_jvp", _FIRST),
}


def _transpose(cotangents: Sequence[Any], *operands: Any, site: Site) -> list[Any]:
    slots = site.slots()
    unknown = [i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand)]
    # Some maps may be known where others are not; the tangents along those are 0.
    (position,) = {
        place for place, slot in enumerate(slots) for i in unknown if slot.start <= i < slot.stop
    }
    slot = slots[position]
    result: list[Any] = [None] * len(operands)
    cotangents = cotangents[: site.first_results]
    if all(type(cotangent) is ad.Zero for cotangent in cotangents):
        for i in unknown:
            result[i] = ad.Zero(operands[i].aval)
        return result
    cotangent = [ad.instantiate_zeros(each) for each in cotangents]
    op, place = _TRANSPOSES[site.op, position]
    if op.endswith("_jvp") and _is_average(site):
        op = op.removesuffix("_jvp")  # it is linear
    others = [operand for other in slots if other != slot for operand in operands[other]]
    leading = [*cotangent, *others] if place is _FIRST else [*others, *cotangent]
    transpose = site.other(op, len(slots))
    found = bind(transpose, *leading, *operands[site.place_of_boxes :])
    for i in unknown:
        result[i] = found[i - slot.start]
    return result


for _primitive in PRIMITIVES.values():
    ad.primitive_jvps[_primitive] = _jvp
    ad.primitive_transposes[_primitive] = _transpose
