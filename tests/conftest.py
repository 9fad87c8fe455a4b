"""The fixture `lib`: every supported array library and device, one row each."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import roidl

NumpyArray = npt.NDArray[Any]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow prints many messages

# A shell that starts the suite in the background has SIGINT ignored, and so have all processes
# that the tests start, unless it is handled here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ALL_DTYPES = ("float32", "float64", "float16", "bfloat16")


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of a name, bfloat16 included."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


class Lib(NamedTuple):
    """One array library on one device."""

    name: str
    # It keeps the dtype, and strides and memory if the library can represent them.
    asarray: Callable[[NumpyArray], Any]
    to_numpy: Callable[[Any], NumpyArray]
    array: type[Any]  # the type of results
    writable: bool = True  # may be passed as out=
    dtypes: tuple[str, ...] = ALL_DTYPES
    # The adapter's error for wrong values of boxes; None: the core's
    run_time_errors: tuple[type[Exception], ...] | None = None


def _numpy() -> Lib:
    return Lib("numpy", lambda array: array, lambda array: array, np.ndarray)


def _torch() -> Lib:
    import torch

    def asarray(array: NumpyArray) -> Any:
        if not array.flags.writeable or any(step < 0 for step in array.strides):
            array = array.copy()  # PyTorch warns about one and does not support the other
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    def to_numpy(tensor: Any) -> NumpyArray:
        if tensor.dtype == torch.bfloat16:
            bits: NumpyArray = tensor.view(torch.int16).numpy()
            return bits.view(ml_dtypes.bfloat16)
        array: NumpyArray = tensor.numpy()
        return array

    return Lib("torch", asarray, to_numpy, torch.Tensor)


def _jax() -> Lib:
    import jax

    config: Any = jax.config
    config.update("jax_enable_x64", True)  # otherwise float64 would become float32
    cpu = jax.devices("cpu")[0]
    return Lib(
        "jax",
        lambda array: jax.device_put(array, cpu),
        np.asarray,
        jax.Array,
        writable=False,
        # JAX raises one or the other, depending on how it ran the call.
        run_time_errors=(jax.errors.JaxRuntimeError, ValueError),
    )


def _tensorflow() -> Lib:
    import tensorflow as tf

    def asarray(array: NumpyArray) -> Any:
        with tf.device("CPU"):
            return tf.constant(array)

    return Lib(
        "tensorflow",
        asarray,
        lambda tensor: tensor.numpy(),
        tf.Tensor,
        writable=False,
        run_time_errors=(tf.errors.InvalidArgumentError,),
    )


def _cupy() -> Lib:
    import cupy

    if not roidl.build_info()["cuda"]["usable"]:
        pytest.skip("roidl has no usable CUDA here")
    # CuPy has no bfloat16; its stand-in (tests/cuda_on_host) has.
    dtypes = getattr(cupy, "ALL_DTYPES", ALL_DTYPES[:3])
    return Lib("cupy", cupy.asarray, cupy.asnumpy, cupy.ndarray, dtypes=dtypes)


def _torch_cuda() -> Lib:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no usable CUDA here")
    if not roidl.build_info()["cuda"]["usable"]:
        pytest.skip("roidl has no usable CUDA here")
    cpu = _torch()
    return cpu._replace(
        name="torch_cuda",
        asarray=lambda array: cpu.asarray(array).cuda(),
        to_numpy=lambda tensor: cpu.to_numpy(tensor.cpu()),
    )


# A row has the name of the library's module, with _cuda for CUDA.
ROWS: dict[str, Callable[[], Lib]] = {
    "numpy": _numpy,
    "torch": _torch,
    "jax": _jax,
    "tensorflow": _tensorflow,
    "cupy": _cupy,
    "torch_cuda": _torch_cuda,
}


@cache
def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name.removesuffix("_cuda")) is not None


@cache
def _load(name: str) -> Lib:
    return ROWS[name]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-front-ends",
        default="",
        metavar="NAMES",
        help=f"fail, not skip, where one of these is missing; of {','.join(ROWS)}",
    )
    parser.addoption(
        "--require-stress",
        action="store_true",
        help="fail, not skip, where the build has no stress/libroidl.so (test_stress.py)",
    )


def _required(config: pytest.Config) -> set[str]:
    return {name for name in config.getoption("--require-front-ends").split(",") if name}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that are others in each process: pytest-xdist could not hand the tests out."""
    changing = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if changing:
        raise pytest.UsageError(f"tests named by an address: {changing[:3]}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "each_instruction_set: test_another_instruction_set runs it, too"
    )
    if unknown := _required(config) - set(ROWS):
        raise pytest.UsageError(f"--require-front-ends: no row for {', '.join(sorted(unknown))}")


@pytest.fixture(scope="session")
def get_lib(request: pytest.FixtureRequest) -> Callable[[str], Lib]:
    """The row of a name; skips if the library is not installed, or fails if it is required."""
    required = _required(request.config)

    def get(name: str) -> Lib:
        if not _is_installed(name):
            (pytest.fail if name in required else pytest.skip)(f"{name} is not installed")
        return _load(name)

    return get


@pytest.fixture(scope="session", params=ROWS)
def lib(request: pytest.FixtureRequest, get_lib: Callable[[str], Lib]) -> Lib:
    """Every library in turn; a library is imported when a test uses its row."""
    return get_lib(request.param)
