"""roidl, called with JAX arrays."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from ..case import Array, Case
from . import Call, arranged
from .roidl import WITHOUT_MAX, Numpy


class Jax(Numpy):
    """Eager forward calls; gradients under jit."""

    operations = WITHOUT_MAX
    packages = ("roidl", "jax")
    dtypes = ("float32",)

    def features(self, array: Array, case: Case) -> Any:
        return jax.numpy.array(arranged(array, case.layout))

    def boxes(self, array: Array) -> Any:
        return jax.numpy.array(array)

    def backward(self, case: Case, inputs: list[Any], boxes: Any, grad: Any) -> Call:
        _, pull = jax.vjp(lambda *maps: self.forward(case, maps, boxes)(), *inputs)
        # The residuals of `pull` (an argmax) are arguments, so the forward call is not repeated.
        compiled = jax.jit(lambda pull, grad: pull(grad)).lower(pull, grad).compile()
        return partial(compiled, pull, grad)

    def finished(self, call: Call) -> Call:
        wait: Any = jax.block_until_ready
        return lambda: wait(call())
