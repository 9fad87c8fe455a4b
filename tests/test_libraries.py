"""Results are arrays of the input's library and device, or the error names the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import roidl
from conftest import Lib, numpy_dtype
from producers import OPERATORS, Producer, arrays_of, call, every_argument, wrapped

POSITIONS = [(op, name) for op in OPERATORS for name in arrays_of(every_argument(op))]

# Results ------------------------------------------------------------------------------------------


def _each(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


@pytest.mark.parametrize("op", OPERATORS)
def test_results_are_of_the_inputs_library_and_share_no_memory(op: str, lib: Lib) -> None:
    for dtype in lib.dtypes:
        arguments = every_argument(op)
        arguments.pop("out", None)
        given = arrays_of(arguments)
        for name in {"input", "grad_output"} & set(given):
            given[name] = given[name].astype(numpy_dtype(dtype))
        given = {name: lib.asarray(array) for name, array in given.items()}
        more = {"return_argmax": True} if op == "roi_pool" else {}
        results = _each(call(op, **arguments | given | more))
        for result, again in zip(results, _each(call(op, **arguments | given | more)), strict=True):
            assert isinstance(result, lib.array)
            others = [lib.to_numpy(array) for array in (again, *given.values())]
            assert not any(np.shares_memory(lib.to_numpy(result), other) for other in others)
        names = [lib.to_numpy(result).dtype.name for result in results]
        expected = "float32" if op == "roi_align_backward_boxes" else dtype
        assert names == [expected, "int32"][: len(results)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_to_boxes_has_their_dtype(dtype: str, lib: Lib) -> None:
    arguments = every_argument("roi_align_backward_boxes")
    for name in ("input", "grad_output"):
        arguments[name] = arguments[name].astype(np.float64)
    arguments["boxes"] = arguments["boxes"].astype(dtype)
    given = {name: lib.asarray(array) for name, array in arrays_of(arguments).items()}
    result = roidl.roi_align_backward_boxes(**arguments | given)
    assert isinstance(result, lib.array)
    assert lib.to_numpy(result).dtype == dtype


class Foreign(Producer):
    """An array of an unknown library that follows the array API standard."""

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return SimpleNamespace(from_dlpack=lambda array: Foreign(np.from_dlpack(array)))


@pytest.mark.parametrize("op", OPERATORS)
def test_array_api_library_gets_its_own_arrays(op: str) -> None:
    arguments = every_argument(op)
    arguments.pop("out", None)
    more = {"return_argmax": True} if op == "roi_pool" else {}
    given = {name: Foreign(array) for name, array in arrays_of(arguments).items()}
    results = _each(call(op, **arguments | given | more))
    for result, expected in zip(results, _each(call(op, **arguments | more)), strict=True):
        assert type(result) is Foreign
        np.testing.assert_array_equal(result.array, expected)


def _of_a_module(name: str, has_function: bool) -> tuple[ModuleType, type[Producer]]:
    """A library whose arrays have no namespace, but whose module may have a from_dlpack."""
    module, kind = (
        ModuleType(name),
        type("Tensor", (Producer,), {"__module__": f"{name}.base.core"}),
    )
    if has_function:
        vars(module)["from_dlpack"] = lambda array: kind(np.from_dlpack(array))
    return module, kind


@pytest.mark.parametrize("op", OPERATORS)
def test_library_with_from_dlpack_gets_its_own_arrays(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paddle is such a library."""
    module, tensor = _of_a_module("fakelib", True)
    monkeypatch.setitem(sys.modules, "fakelib", module)
    arguments = every_argument(op)
    arguments.pop("out", None)
    more = {"return_argmax": True} if op == "roi_pool" else {}
    for kind in (tensor, type("Own", (tensor,), {"__module__": "users_code"})):
        given = {name: kind(array) for name, array in arrays_of(arguments).items()}
        results = _each(call(op, **arguments | given | more))
        for result, expected in zip(results, _each(call(op, **arguments | more)), strict=True):
            assert type(result) is tensor
            np.testing.assert_array_equal(result.array, expected)


@pytest.mark.parametrize("imported", [True, False])
def test_a_library_without_from_dlpack(imported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module, tensor = _of_a_module("fakelib", False)
    if imported:
        monkeypatch.setitem(sys.modules, "fakelib", module)
    arguments = every_argument("roi_align")
    arguments["input"] = tensor(arguments["input"])
    out = arguments.pop("out", None)
    with pytest.raises(
        TypeError, match=r"type Tensor, whose library has no from_dlpack; pass out="
    ):
        roidl.roi_align(**arguments)
    if out is not None:
        assert roidl.roi_align(**arguments, out=out) is out


@pytest.mark.parametrize("op", ["roi_align", "roi_align_backward_boxes", "roi_pool"])
def test_a_library_of_the_standard_may_list_boxes(op: str) -> None:
    arguments = every_argument(op)
    arguments.pop("out", None)
    rows = arguments["boxes"][arguments.pop("batch_indices").argsort(kind="stable")]
    arguments["boxes"] = [rows[:2], rows[2:]]
    expected = call(op, **arguments)
    arrays = arrays_of(arguments)
    given: dict[str, Any] = {name: Foreign(array) for name, array in arrays.items()}
    given["boxes"] = [Foreign(array) for array in arguments["boxes"]]
    for one, other in zip(_each(call(op, **arguments | given)), _each(expected), strict=True):
        assert type(one) is Foreign
        np.testing.assert_array_equal(one.array, other)


@pytest.mark.parametrize("op", [op for op in OPERATORS if "out" in every_argument(op)])
def test_library_without_constructor_needs_out(op: str) -> None:
    arguments = wrapped(op, Producer)
    out = arguments.pop("out")
    with pytest.raises(TypeError, match=f"^{op}: .* Producer.* pass out="):
        call(op, **arguments)
    assert call(op, **arguments, out=out) is out
    np.testing.assert_array_equal(out.array, call(op, **every_argument(op)))


# Devices ------------------------------------------------------------------------------------------

# The other arrays have to be on its device.
LEADERS = {
    "roi_align": "input",
    "roi_align_backward": "grad_output",
    "roi_align_backward_boxes": "input",
    "roi_pool": "input",
    "roi_pool_backward": "grad_output",
}
CUDA = roidl.build_info()["cuda"]  # test_cuda_kernels.py tests the message
DEVICES = {8: "mps", 10: "rocm", 14: "xpu", 99: "DLPack device 99"}
if not CUDA["built"]:
    DEVICES[2] = "cuda"


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("op", OPERATORS)
def test_another_device_is_named(op: str, where: int) -> None:
    arguments = every_argument(op)
    arrays = arrays_of(arguments)
    given = {name: Producer(array, device_type=where) for name, array in arrays.items()}
    message = f"^{op}: not implemented on device {DEVICES[where]}$"
    with pytest.raises(NotImplementedError, match=message):
        call(op, **arguments | given)
    given.pop("out", None)
    arguments.pop("out", None)
    with pytest.raises(NotImplementedError, match=message):
        call(op, **arguments | given)


@pytest.mark.parametrize(("op", "position"), POSITIONS)
def test_devices_are_not_mixed(op: str, position: str) -> None:
    arguments = every_argument(op)
    elsewhere = Producer(arguments[position], device_type=2)
    error: type[Exception] = ValueError
    sentence = "must be on the device of .*, cpu:0, got cuda:0"
    if position == LEADERS[op] and CUDA["usable"]:
        sentence = "must be on the device of .*, cuda:0, got cpu:0"
    elif position == LEADERS[op]:  # the other arrays would have to be on meta as well
        error = RuntimeError if CUDA["built"] else NotImplementedError
        sentence = "CUDA cannot be used here: .*" if CUDA["built"] else ".* on device cuda"
    with pytest.raises(error, match=f"^{op}: .*{sentence}$"):
        call(op, **arguments | {position: elsewhere})


# PyTorch ------------------------------------------------------------------------------------------


@pytest.fixture
def torch(get_lib: Callable[[str], Lib]) -> Any:
    get_lib("torch")
    import torch

    return torch


def _tensors(torch: Any, op: str = "roi_align") -> dict[str, Any]:
    arguments = every_argument(op)
    given = {name: torch.from_numpy(array) for name, array in arrays_of(arguments).items()}
    return arguments | given


def test_views_of_torch_that_negate(torch: Any) -> None:
    """PyTorch keeps x.conj().imag as x.imag with a flag that DLPack does not carry."""
    arguments = _tensors(torch)
    expected = -roidl.roi_align(**arguments)
    negative = torch.complex(torch.zeros_like(arguments["input"]), arguments["input"]).conj().imag
    assert negative.is_neg()
    assert torch.equal(roidl.roi_align(**arguments | {"input": negative}), expected)
    out = torch.zeros(expected.shape, dtype=torch.complex64).conj().imag
    assert out.is_neg()
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=r"^roi_align: out "):
        roidl.roi_align(**arguments | {"out": out})


def test_conjugate_tensors_are_refused_as_complex(torch: Any) -> None:
    arguments = _tensors(torch)
    arguments["input"] = torch.complex(arguments["input"], arguments["input"]).conj()
    with pytest.raises(TypeError, match=r"^roi_align: input must be float16.* got complex64"):
        roidl.roi_align(**arguments)


DIFFERENTIABLE = [
    (op, name)
    for op in OPERATORS
    for name, array in arrays_of(every_argument(op)).items()
    if array.dtype == np.float32
]


@pytest.mark.parametrize(("op", "position"), DIFFERENTIABLE)
def test_a_graph_of_torch_is_not_dropped_in_silence(op: str, position: str, torch: Any) -> None:
    arguments = _tensors(torch, op)
    expected = call(op, **arguments).clone()
    arguments[position].requires_grad_()
    if position == "out":
        with pytest.raises(TypeError, match=f"^{op}: out must be an array that can be written to"):
            call(op, **arguments)
        return
    with pytest.raises(NotImplementedError, match=f"^{op}: not differentiable here"):
        call(op, **arguments)
    with torch.no_grad():
        assert torch.equal(call(op, **arguments), expected)


UNREADABLE: dict[str, Callable[[Any, Any], Any]] = {
    "sparse": lambda torch, tensor: tensor.to_sparse(),
    "compressed": lambda torch, tensor: tensor.reshape(2, -1).to_sparse_csr(),
    "mkldnn": lambda torch, tensor: tensor.float().to_mkldnn(),
    "meta": lambda torch, tensor: tensor.to("meta"),
    "quantized": lambda torch, tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "nested": lambda torch, tensor: torch.nested.nested_tensor([tensor]),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of prototypes
@pytest.mark.parametrize("position", ["input", "out"])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_tensors_of_torch_without_plain_memory(kind: str, position: str, torch: Any) -> None:
    arguments = _tensors(torch)
    arguments["input"] = arguments["input"][:, :2]
    arguments["out"] = arguments["out"][:, :2]
    arguments[position] = UNREADABLE[kind](torch, arguments[position].contiguous())
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=r"^roi_align: "):
        roidl.roi_align(**arguments)


def test_a_fake_tensor_of_torch(torch: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    arguments = _tensors(torch)
    arguments["input"] = FakeTensorMode().from_tensor(arguments["input"])
    with pytest.raises((TypeError, ValueError), match=r"^roi_align: input .*fake"):
        roidl.roi_align(**arguments)


def test_a_list_of_boxes_of_torch_in_any_dtype(torch: Any) -> None:
    arguments = _tensors(torch) | {"batch_indices": None}
    boxes = arguments["boxes"].bfloat16()
    arguments["boxes"] = [boxes[:2].float(), boxes[2:].float()]
    expected = roidl.roi_align(**arguments).clone()
    arguments["boxes"] = [boxes[:2], boxes[2:]]
    assert torch.equal(roidl.roi_align(**arguments), expected)


# JAX ----------------------------------------------------------------------------------------------


def test_tracers_and_deleted_arrays_of_jax(get_lib: Callable[[str], Lib]) -> None:
    lib = get_lib("jax")
    import jax

    arguments = every_argument("roi_align_backward") | {"out": None}
    gradient = lib.asarray(arguments["grad_output"])
    backward = roidl.roi_align_backward
    with pytest.raises(TypeError, match=r"^roi_align_backward: grad_output cannot be read .*trace"):
        jax.jit(lambda grad: backward(**arguments | {"grad_output": grad}))(gradient)
    gradient.delete()
    with pytest.raises(TypeError, match=r"^roi_align_backward: .* cannot be read .*deleted"):
        backward(**arguments | {"grad_output": gradient})


# TensorFlow ---------------------------------------------------------------------------------------


def test_variables_of_tensorflow(get_lib: Callable[[str], Lib]) -> None:
    lib = get_lib("tensorflow")
    import tensorflow as tf

    arguments = every_argument("roi_align") | {"out": None}
    expected = call("roi_align", **arguments)
    arrays = arrays_of(arguments)
    variables: dict[str, Any] = {name: tf.Variable(array) for name, array in arrays.items()}
    result = roidl.roi_align(**arguments | variables)
    assert isinstance(result, lib.array)
    np.testing.assert_array_equal(lib.to_numpy(result), expected)


@pytest.mark.parametrize(("op", "position"), POSITIONS)
def test_a_string_tensor_does_not_end_the_process(
    op: str, position: str, get_lib: Callable[[str], Lib]
) -> None:
    get_lib("tensorflow")
    import tensorflow as tf

    arguments = every_argument(op)
    strings = tf.fill(arguments[position].shape, "text")
    with pytest.raises(TypeError, match=f"^{op}: .* got (string|.*EagerTensor)"):
        call(op, **arguments | {position: strings})
