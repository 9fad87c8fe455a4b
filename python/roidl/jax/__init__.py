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

from .. import _ops
from .._params import Call, front_end
from . import _batching, _derivatives  # noqa: F401, they register their rules
from ._arrays import read
from ._primitives import bind
from ._site import Site

__all__ = ["roi_align", "roi_pool"]


def run(call: Call) -> Any:
    """Run or trace one forward call."""
    input, boxes, indices = read(call)
    return_argmax = call.op == "roi_pool" and call.arguments[1]
    site = Site(
        call.op,
        call.params,
        input_shape=tuple(input.shape),
        leading=1,
        indexed=indices is not None,
        grouped=boxes.ndim == 3 and indices is None,
        results=2 if return_argmax else 1,
    )
    operands = (input, boxes) if indices is None else (input, boxes, indices)
    results = bind(site, *operands)
    return tuple(results) if return_argmax else results[0]


_adapt = front_end(run)
roi_align = _adapt(_ops.roi_align)
roi_pool = _adapt(_ops.roi_pool)
