"""Every front end gives the same bits as NumPy, in all dtypes, with several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import Lib, numpy_dtype
from producers import NumpyArray

C, K, SIZE = 17, 96, 7
SHAPE = (2, C, 36, 40)
DTYPES = ("float16", "bfloat16", "float32", "float64")
OPERATORS = (("roi_align", "avg"), ("roi_align", "max"), ("roi_pool", "max"), ("roi_pool", "avg"))
# Half types include denormals, which a conversion to float32 in a framework would flush.
UNITS = {"float16": 3e-6, "bfloat16": 1.0, "float32": 1.0, "float64": 1.0}
OPTIONS: dict[str, Any] = {"spatial_scale": 0.9, "layout": "NCHW"}


@cache
def arrays(dtype: str) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    rng = np.random.default_rng(17)
    centre, half = rng.uniform(0, 40, (K, 2)), rng.uniform(1, 20, (K, 2))
    rows = np.concatenate([rng.integers(0, 2, (K, 1)), centre - half, centre + half], axis=1)
    features = rng.standard_normal(SHAPE) * UNITS[dtype]
    gradient = rng.standard_normal((K, C, SIZE, SIZE)) * UNITS[dtype]
    kind = numpy_dtype(dtype)
    coordinates = np.float64 if dtype == "float64" else np.float32
    return features.astype(kind), gradient.astype(kind), rows.astype(coordinates)


def by_numpy(op: str, mode: str, dtype: str) -> list[NumpyArray]:
    """The result and the gradient to the features."""
    x, g, b = arrays(dtype)
    options = {**OPTIONS, "mode": mode}
    if op == "roi_align":
        pooled = roidl.roi_align(x, b, SIZE, **options)
        return [pooled, roidl.roi_align_backward(g, b, x.shape, input=x, **options)]
    if mode == "avg":
        pooled = roidl.roi_pool(x, b, SIZE, **options)
        return [pooled, roidl.roi_pool_backward(g, b, None, x.shape, **options)]
    pooled, argmax = roidl.roi_pool(x, b, SIZE, **options, return_argmax=True)
    return [pooled, roidl.roi_pool_backward(g, b, argmax, x.shape, **options)]


def by_torch(op: str, mode: str, dtype: str, lib: Lib) -> list[Any]:
    import torch

    from roidl import torch as ops

    x, g, b = (lib.asarray(each) for each in arrays(dtype))
    flushed = torch.tensor(1e-40) * 1 == 0
    torch.set_flush_denormal(True)
    try:
        x.requires_grad_()
        pooled = getattr(ops, op)(x, b, SIZE, **OPTIONS, mode=mode)
        (gradient,) = torch.autograd.grad(pooled, x, g)
    finally:
        torch.set_flush_denormal(bool(flushed))
    return [pooled.detach(), gradient]


def by_jax(op: str, mode: str, dtype: str, lib: Lib, jit: bool) -> list[Any]:
    import jax

    from roidl import jax as ops

    x, g, b = (lib.asarray(each) for each in arrays(dtype))

    def both(x: Any, g: Any, b: Any) -> Any:
        pooled, pull = jax.vjp(lambda x: getattr(ops, op)(x, b, SIZE, **OPTIONS, mode=mode), x)
        return pooled, pull(g)[0]

    return list((jax.jit(both) if jit else both)(x, g, b))


def by_tensorflow(op: str, mode: str, dtype: str, lib: Lib, graph: bool) -> list[Any]:
    import tensorflow as tf

    from roidl import tensorflow as ops

    x, g, b = (lib.asarray(each) for each in arrays(dtype))

    def both(x: Any, g: Any, b: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            pooled = getattr(ops, op)(x, b, SIZE, **OPTIONS, mode=mode)
        return pooled, tape.gradient(pooled, x, output_gradients=g)

    return list((tf.function(both) if graph else both)(x, g, b))


FRONT_ENDS: dict[str, tuple[str, Callable[..., list[Any]]]] = {
    "torch flushing denormals": ("torch", by_torch),
    "jax": ("jax", partial(by_jax, jit=False)),
    "jax.jit": ("jax", partial(by_jax, jit=True)),
    "tensorflow": ("tensorflow", partial(by_tensorflow, graph=False)),
    "tf.function": ("tensorflow", partial(by_tensorflow, graph=True)),
}


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = roidl.get_num_threads()
    roidl.set_num_threads(2)
    yield
    roidl.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("op", "mode"), OPERATORS)
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_the_bits_are_numpys(
    front_end: str, op: str, mode: str, dtype: str, get_lib: Callable[[str], Lib]
) -> None:
    library, run = FRONT_ENDS[front_end]
    lib = get_lib(library)
    expected = by_numpy(op, mode, dtype)
    assert all((each.astype(np.float64) != 0).mean() > 0.05 for each in expected)
    for name, found, right in zip(
        ("result", "gradient"), run(op, mode, dtype, lib), expected, strict=True
    ):
        assert lib.to_numpy(found).tobytes() == right.tobytes(), name
