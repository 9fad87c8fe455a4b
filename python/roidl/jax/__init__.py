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

from typing import Any

from .. import _multiscale, _ops
from .._params import Call, front_end
from . import _batching, _derivatives  # noqa: F401, they register their rules
from ._arrays import read
from ._levels import run_levels
from ._primitives import bind
from ._site import Site

__all__ = [
    "assign_levels",
    "multiscale_roi_align",
    "multiscale_roi_pool",
    "roi_align",
    "roi_pool",
]


def run(call: Call) -> Any:
    """Run or trace one forward call."""
    given, pyramid = read(call), call.pyramid
    op = call.op.removeprefix("multiscale_")
    return_argmax = op == "roi_pool" and call.arguments[1]
    if pyramid is not None:
        levels, counts = given.levels is not None, given.counts is not None
        pyramid = pyramid._replace(levels=levels, counts=counts)
    site = Site(
        op,
        call.params,
        input_shapes=tuple(tuple(each.shape) for each in given.maps),
        leading=1,
        indexed=given.indices is not None,
        grouped=given.boxes.ndim == 3 and given.indices is None,
        results=2 if return_argmax else 1,
        pyramid=pyramid,
    )
    results = bind(site, *given.maps, *(operand for operand in given[1:] if operand is not None))
    return tuple(results) if return_argmax else results[0]


_adapt = front_end(run)
roi_align = _adapt(_ops.roi_align)
roi_pool = _adapt(_ops.roi_pool)
multiscale_roi_align = _adapt(_multiscale.multiscale_roi_align)
multiscale_roi_pool = _adapt(_multiscale.multiscale_roi_pool)
assign_levels = front_end(run_levels)(_multiscale.assign_levels)
