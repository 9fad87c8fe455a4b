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

from .. import _multiscale, _ops
from .._params import POOL_MODES, Call, RoiAlignParams, RoiPoolParams, front_end
from . import _batching, _derivatives  # noqa: F401, they register their rules
from ._arrays import Described, check, read
from ._levels import run_levels
from ._primitives import bind, is_traced, run_compiled
from ._site import Site

__all__ = [
    "assign_levels",
    "multiscale_roi_align",
    "multiscale_roi_pool",
    "roi_align",
    "roi_pool",
]


@functools.lru_cache(maxsize=1024)
def _prepare(
    op: str, params: RoiAlignParams | RoiPoolParams, return_argmax: bool, described: Described
) -> tuple[Site, Any]:
    """A call that is right, and the same as a compiled function: found out once, it takes longer
    than the smallest call."""
    check(op, params, described)
    if return_argmax and params.mode != POOL_MODES["max"]:
        raise ValueError(f"{op}: only mode 'max' has an argmax to return")
    maps, (boxes, _), indices, pyramid = described
    if pyramid is not None:
        levels, counts = pyramid.levels is not None, pyramid.counts is not None
        pyramid = pyramid._replace(levels=levels, counts=counts)
    site = Site(
        op.removeprefix("multiscale_"),
        params,
        input_shapes=tuple(shape for shape, _ in maps),
        leading=1,
        indexed=indices is not None,
        grouped=len(boxes) == 3 and indices is None,
        results=2 if return_argmax else 1,
        pyramid=pyramid,
    )
    return site, jax.jit(functools.partial(bind, site))


def run(call: Call) -> Any:
    """Run or trace one forward call."""
    operands, described = read(call)
    return_argmax = call.op.endswith("roi_pool") and call.arguments[1]
    site, compiled = _prepare(call.op, call.params, return_argmax, described)
    results = bind(site, *operands) if is_traced(operands) else run_compiled(compiled, operands)
    return tuple(results) if return_argmax else results[0]


_adapt = front_end(run)
roi_align = _adapt(_ops.roi_align)
roi_pool = _adapt(_ops.roi_pool)
multiscale_roi_align = _adapt(_multiscale.multiscale_roi_align)
multiscale_roi_pool = _adapt(_multiscale.multiscale_roi_pool)
assign_levels = front_end(run_levels)(_multiscale.assign_levels)
