"""roidl, called with JAX arrays."""

from __future__ import annotations

from typing import Any

import jax

from ..case import Array, Case
from . import Call, arranged
from .roidl import WITHOUT_MAX, Numpy


class Jax(Numpy):
    """Arrays in, arrays out, outside of jit."""

    operations = WITHOUT_MAX
    packages = ("roidl", "jax")
    dtypes = ("float32",)

    def features(self, array: Array, case: Case) -> Any:
        return jax.numpy.array(arranged(array, case.layout))

    def boxes(self, array: Array) -> Any:
        return jax.numpy.array(array)

    def finished(self, call: Call) -> Call:
        wait: Any = jax.block_until_ready
        return lambda: wait(call())
