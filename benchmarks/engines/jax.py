"""RoIAlign in plain JAX, as in model code: gathers four corners, weights them and averages."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..case import OPERATIONS, Array, Case, Data
from . import Call, Engine, arranged, as_nchw


class Gather(Engine):
    """Compiled by jit, without adaptive sampling, because shapes are static."""

    operations = ("roi_align", "roi_align_backward")
    packages = ("jax", "jaxlib")
    layouts = ("NHWC",)  # NCHW takes twice as long, because a cell's channels are far apart

    def prepare(self, case: Case, data: Data) -> Call:
        if case.sampling_ratio <= 0:
            raise NotImplementedError("adaptive sampling has no static shape")
        pool = partial(_roi_align, case)

        def backward(features: Any, boxes: Any, grad: Any) -> Any:
            _, pull = jax.vjp(lambda features: pool(features, boxes), features)
            return pull(grad)[0]

        arrays = [jnp.array(arranged(data.inputs[0], case.layout)), jnp.array(data.boxes)]
        function: Any = pool
        if OPERATIONS[case.operation].backward:
            function = backward
            arrays.append(jnp.array(arranged(data.grad, case.layout)))
        compiled = jax.jit(function).lower(*arrays).compile()
        wait: Any = jax.block_until_ready
        return lambda: wait(compiled(*arrays))

    def to_numpy(self, result: Any, case: Case) -> list[Array]:
        return [as_nchw(jax.device_get(result), case.layout)]


def _taps(case: Case, start: Any, end: Any, size: int) -> tuple[Any, Any, Any, Any]:
    """For each RoI and sample: two indices, the weight of the second, whether it is on the map."""
    count = case.output_size * case.sampling_ratio
    offset = 0.5 if case.aligned else 0.0
    low = start * case.scales[0] - offset
    extent = end * case.scales[0] - offset - low
    extent = extent if case.aligned else jnp.maximum(extent, 1)
    position = low[:, None] + (jnp.arange(count) + 0.5) * extent[:, None] / count
    on_map = (position >= -1) & (position <= size)
    position = jnp.clip(position, 0, size - 1)
    lo = jnp.floor(position).astype(jnp.int32)
    return lo, jnp.minimum(lo + 1, size - 1), position - lo, on_map


def _roi_align(case: Case, features: Any, boxes: Any) -> Any:
    height, width = features.shape[1:3]
    images = boxes[:, 0].astype(jnp.int32)[:, None, None]
    y_lo, y_hi, y_frac, y_on = (
        tap[:, :, None] for tap in _taps(case, boxes[:, 2], boxes[:, 4], height)
    )
    x_lo, x_hi, x_frac, x_on = (
        tap[:, None, :] for tap in _taps(case, boxes[:, 1], boxes[:, 3], width)
    )

    def corner(y: Any, x: Any, weight: Any) -> Any:
        return features[images, y, x] * jnp.where(y_on & x_on, weight, 0)[..., None]

    total = (
        corner(y_lo, x_lo, (1 - y_frac) * (1 - x_frac))
        + corner(y_lo, x_hi, (1 - y_frac) * x_frac)
        + corner(y_hi, x_lo, y_frac * (1 - x_frac))
        + corner(y_hi, x_hi, y_frac * x_frac)
    )
    bins, each = case.output_size, case.sampling_ratio
    return total.reshape(len(boxes), bins, each, bins, each, -1).mean(axis=(2, 4))
