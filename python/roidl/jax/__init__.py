"""RoIAlign and RoIPool for JAX: native kernels under jit, grad, jvp, vmap and sharding.

The functions are those of `roidl`, on JAX arrays. Wrong shapes and dtypes raise ValueError and
TypeError when the call is traced; wrong values in the boxes are found when it runs, and JAX raises
its own error with the same sentence.

Examples
--------
>>> import jax, jax.numpy as jnp
>>> from roidl.jax import roi_align
>>> features = jnp.arange(16.0).reshape(1, 1, 4, 4)
>>> boxes = jnp.array([[0, 1.0, 1.0, 3.0, 3.0]])
>>> pool = lambda boxes: roi_align(features, boxes, 1, sampling_ratio=2, aligned=True).sum()
>>> print(jax.jit(jax.grad(pool))(boxes))
[[0.  0.5 2.  0.5 2. ]]
"""

from __future__ import annotations

import functools
from typing import Any

import jax

from .. import _multiscale
from .._derivatives import is_average, no_optional
from .._operators import operator_of
from .._params import Call, Params, front_end
from .._public import FORWARD
from . import _batching, _derivatives  # noqa: F401, they register their rules
from ._arrays import Described, check, read
from ._levels import run_levels
from ._primitives import bind, is_traced, run_compiled
from ._site import Site

__all__ = [
    "assign_levels",
    "multiscale_roi_align",
    "multiscale_roi_pool",
    "ps_roi_align",
    "ps_roi_pool",
    "roi_align",
    "roi_pool",
]


@functools.lru_cache(maxsize=1024)
def _prepare(op: str, params: Params, optional: bool, described: Described) -> tuple[Site, Any]:
    """A call that is right, and the same as a compiled function: found out once, it takes longer
    than the smallest call."""
    check(op, params, described)
    operator = operator_of(op)
    if optional and is_average(operator, params):
        raise ValueError(f"{op}: {no_optional(operator)}")
    maps, (boxes, _), indices, pyramid = described
    if pyramid is not None:
        levels, counts = pyramid.levels is not None, pyramid.counts is not None
        pyramid = pyramid._replace(levels=levels, counts=counts)
    site = Site(
        operator.name,
        params,
        input_shapes=tuple(shape for shape, _ in maps),
        indexed=indices is not None,
        grouped=len(boxes) == 3 and indices is None,
        results=2 if optional else 1,
        pyramid=pyramid,
    )
    return site, jax.jit(functools.partial(bind, site))


def run(call: Call) -> Any:
    """Run or trace one forward call."""
    operands, described = read(call)
    optional = True in call.arguments[1:]  # a flag for each result that is optional
    site, compiled = _prepare(call.op, call.params, optional, described)
    results = bind(site, *operands) if is_traced(operands) else run_compiled(compiled, operands)
    return tuple(results) if optional else results[0]


_PUBLIC = {name: front_end(run)(describe) for name, describe in FORWARD.items()}
ps_roi_align = _PUBLIC["ps_roi_align"]
ps_roi_pool = _PUBLIC["ps_roi_pool"]
roi_align = _PUBLIC["roi_align"]
roi_pool = _PUBLIC["roi_pool"]
multiscale_roi_align = _PUBLIC["multiscale_roi_align"]
multiscale_roi_pool = _PUBLIC["multiscale_roi_pool"]
assign_levels = front_end(run_levels)(_multiscale.assign_levels)
