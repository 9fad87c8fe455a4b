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


def _refuse(what: str) -> NotImplementedError:
    return NotImplementedError(f"roi_align: {what}")


# For each operator, its operands before the boxes in which it is linear; in the average too.
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
    site: Site, position: int, tangent: Array, operands: Sequence[Array], outs: Sequence[Array]
) -> Array | None:
    """The derivative along one of the operands before the boxes; None where it is zero."""
    rest = operands[site.leading :]
    if position in _LINEAR[site.op][_is_average(site)]:
        moved = [*operands[:position], tangent, *operands[position + 1 :]]
        return bind(site._replace(results=1), *moved)[0]
    if site.op == "roi_align":
        return bind(site.other("roi_align_jvp", 2), tangent, operands[0], *rest)[0]
    if site.op == "roi_pool":
        return bind(site.other("roi_pool_jvp", 2), tangent, outs[1], *rest)[0]
    if "boxes" in site.op:
        raise _refuse("second derivatives along the boxes are implemented for mode 'avg' only")
    return None  # what was the maximum stays it


def _along_boxes(site: Site, tangent: Array, operands: Sequence[Array]) -> Array:
    rest = operands[site.leading :]
    if site.params.mode == ALIGN_MODES["max_onnx"]:
        raise _refuse("mode 'max_onnx' has no gradient to the boxes")
    if site.op == "roi_align":
        return bind(site.other("roi_align_jvp_boxes", 2), operands[0], tangent, *rest)[0]
    if not _is_average(site):
        raise _refuse("second derivatives along the boxes are implemented for mode 'avg' only")
    if site.op == "roi_align_backward":
        backward = site.other("roi_align_jvp_boxes_backward", 2)
        return bind(backward, operands[0], tangent, *rest)[0]
    raise _refuse("second derivatives in the boxes alone are not implemented")


def _jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, site: Site
) -> tuple[list[Array], list[Any]]:
    remembers = site.op == "roi_pool" and not _is_average(site)
    outs = bind(site._replace(results=2) if remembers else site, *primals)
    terms = []
    for position in range(site.leading):
        if type(tangents[position]) is not ad.Zero:
            terms.append(_along_leading(site, position, tangents[position], primals, outs))
    moving_boxes = type(tangents[site.leading]) is not ad.Zero
    if moving_boxes and not site.op.startswith("roi_pool"):  # which is constant in them
        terms.append(_along_boxes(site, tangents[site.leading], primals))
    found = [term for term in terms if term is not None]
    outs = outs[: site.results]
    out_tangents = [ad.Zero(type_of(out).to_tangent_aval()) for out in outs]
    if found:
        out_tangents[0] = functools.reduce(operator.add, found)
    return outs, out_tangents


# Reverse mode -------------------------------------------------------------------------------------

_FIRST, _LAST = True, False  # where the cotangent goes among the operands before the boxes

# Of an operator along one of those operands: its transpose, on the cotangent and the others.
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
    (position,) = (i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand))
    result: list[Any] = [None] * len(operands)
    cotangent = cotangents[0]
    if type(cotangent) is ad.Zero:
        result[position] = ad.Zero(operands[position].aval)
        return result
    op, place = _TRANSPOSES[site.op, position]
    if op.endswith("_jvp") and _is_average(site):
        op = op.removesuffix("_jvp")  # it is linear
    others = [operands[i] for i in range(site.leading) if i != position]
    leading = [cotangent, *others] if place is _FIRST else [*others, cotangent]
    transpose = site.other(op, len(leading))
    result[position] = bind(transpose, *leading, *operands[site.leading :])[0]
    return result


for _primitive in PRIMITIVES.values():
    ad.primitive_jvps[_primitive] = _jvp
    ad.primitive_transposes[_primitive] = _transpose
