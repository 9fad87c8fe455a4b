"""PyTorch: autograd against the oracle in every form, layout and dtype; tensors of every kind."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import oracle
from cases import random_boxes
from conftest import Lib, NumpyArray, numpy_dtype
from operators import OPERATORS, every_operator
from trials import BOX_FORMS, arrange, assert_close, from_nchw, to_nchw

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

N, C, H, W, SIZE = 2, 18, 7, 9, (2, 3)
RULE = {"spatial_scale": 0.5}
RNG = np.random.default_rng(61)
ROWS = random_boxes(RNG, 6, N, H, W, 0.5)
ROWS[:, 0] = [0, 1, 0, 1, 0, 1]
FEATURES = RNG.standard_normal((N, C, H, W))


@pytest.fixture
def lib(get_lib: Callable[[str], Lib]) -> Lib:
    return get_lib("torch")


def call(op: str, input: Any, boxes: Any, **options: Any) -> Any:
    return getattr(ops, op)(input, boxes, SIZE, **RULE, **options)


def boxes_tensor(dtype: Any = torch.float32) -> Any:
    return torch.from_numpy(ROWS).to(dtype)


def features_tensor(dtype: Any = torch.float32) -> Any:
    return torch.from_numpy(FEATURES).to(dtype)


# Autograd -----------------------------------------------------------------------------------------


def _expected(op: str, mode: str, input: NumpyArray, rows: NumpyArray, double: bool) -> Any:
    """The result, and the function that takes a gradient of it to the input's and the boxes'."""
    options: Any = {**RULE, "mode": mode, "coordinates": np.float64 if double else np.float32}
    if op == "roi_align":
        pooled = oracle.roi_align(input, rows, SIZE, **options)

        def pull(gradient: NumpyArray) -> Any:
            to_boxes = None
            if mode != "max_onnx":
                to_boxes = oracle.roi_align_backward_boxes(gradient, input, rows, **options)[:, 1:]
            return oracle.roi_align_backward(gradient, input, rows, **options), to_boxes

        return pooled, pull
    pooled, argmax = oracle.roi_pool(input, rows, SIZE, **options)

    def pull_pool(gradient: NumpyArray) -> Any:
        shape: Any = input.shape
        to_input = oracle.roi_pool_backward(gradient, rows, argmax, shape, **options)
        return to_input, np.zeros((len(rows), 4))

    return pooled, pull_pool


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("form", BOX_FORMS[:4])
@every_operator
def test_autograd(op: str, mode: str, form: str, layout: str, lib: Lib) -> None:
    for dtype, box_dtype in (
        ("float32", "float32"),
        ("float64", "float32"),
        ("float16", "float32"),
        ("bfloat16", "float64"),
        ("float32", "float16"),
    ):
        boxes = arrange(ROWS, form, box_dtype, N)
        input = FEATURES.astype(numpy_dtype(dtype))
        pooled, pull = _expected(op, mode, input, boxes.rows, "float64" in (dtype, box_dtype))
        x = lib.asarray(from_nchw(input, layout)).requires_grad_()
        given = boxes.arguments(lib)
        wanted = mode != "max_onnx"
        leaves = given["boxes"] if form == "list" else [given["boxes"]]
        for leaf in leaves:
            leaf.requires_grad_(wanted)
        result = call(op, x, mode=mode, layout=layout, **given)
        assert result.dtype == x.dtype
        assert_close(to_nchw(lib.to_numpy(result.detach()), layout), pooled)

        gradient = RNG.standard_normal(pooled.shape).astype(numpy_dtype(dtype))
        shaped = from_nchw(gradient, layout).reshape(result.shape)
        result.backward(lib.asarray(shaped))
        to_input, to_boxes = pull(gradient)
        assert x.grad.dtype == x.dtype
        assert_close(to_nchw(lib.to_numpy(x.grad), layout), to_input)
        if wanted:
            assert all(leaf.grad.dtype == leaf.dtype for leaf in leaves)
            grads = [leaf.grad for leaf in leaves] if form == "list" else leaves[0].grad
            got = boxes.corners_of(lib, grads).astype(np.float64)
            # Half precision stores them rounded; so does float32 of float64's differences.
            assert_close(got, to_boxes, 2e-3 if box_dtype == "float16" else 1e-5)


def test_what_need_not_be_computed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient to boxes that want none; and no memory is held for it."""
    x, boxes = features_tensor().requires_grad_(), boxes_tensor()
    result = call("roi_align", x, boxes)
    assert [t is None for t in result.grad_fn.saved_tensors] == [False, True, True]  # the boxes
    frozen = call("roi_align", x.detach(), boxes.requires_grad_())
    frozen.sum().backward()
    assert x.grad is None
    assert boxes.grad[:, 1:].abs().sum() > 0
    assert (boxes.grad[:, 0] == 0).all()


def test_no_graph_without_need() -> None:
    x = features_tensor()
    assert call("roi_align", x, boxes_tensor()).grad_fn is None
    with torch.no_grad():
        assert call("roi_align", x.requires_grad_(), boxes_tensor()).grad_fn is None
    with torch.inference_mode():
        assert call("roi_pool", x, boxes_tensor()).is_inference()


def test_argmax() -> None:
    x = features_tensor().requires_grad_()
    pooled, argmax = call("roi_pool", x, boxes_tensor(), return_argmax=True)
    assert argmax.dtype == torch.int32
    assert not argmax.requires_grad
    expected = oracle.roi_pool(FEATURES.astype(np.float32), ROWS, SIZE, RULE["spatial_scale"])[1]
    np.testing.assert_array_equal(argmax.numpy(), expected)
    assert torch.equal(pooled, call("roi_pool", x, boxes_tensor()))


# Memory -------------------------------------------------------------------------------------------

STRIDED: dict[str, Callable[[Any], Any]] = {
    "sliced": lambda x: torch.cat([x, x], 3)[:, ::1, :, :W],
    "every other": lambda x: torch.stack([x, x], -1).flatten(3)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand_as(x),
    "negative": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
}


@pytest.mark.parametrize("kind", STRIDED)
@every_operator
def test_strides(op: str, mode: str, kind: str) -> None:
    view = STRIDED[kind](features_tensor())
    assert kind != "negative" or view.is_neg()
    plain = view.clone(memory_format=torch.contiguous_format).resolve_neg()
    results = []
    for x in (view, plain):
        x = x.detach().requires_grad_()
        result = call(op, x, boxes_tensor(), mode=mode)
        (grad,) = torch.autograd.grad(result.sum(), x)  # an expanded gradient
        results.append((result, grad))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@every_operator
def test_channels_last_stays_so(op: str, mode: str) -> None:
    last = torch.channels_last
    x = features_tensor().contiguous(memory_format=last)
    wide = torch.cat([x, x], 3).contiguous(memory_format=last)[..., :W]
    for features in (x, wide):
        assert call(op, features, boxes_tensor(), mode=mode).is_contiguous(memory_format=last)
    # Whatever the gradient's own order, the input's is that of the gradient to it.
    y = x.clone().requires_grad_()
    gradients: list[Any] = []
    middle = y * 1
    middle.register_hook(gradients.append)
    call(op, middle, boxes_tensor(), mode=mode).sum().backward()
    assert gradients[0].is_contiguous(memory_format=last)
    grouped = boxes_tensor()[:, 1:].reshape(N, 3, 4)
    pooled = call(op, x, grouped, mode=mode)
    assert pooled.flatten(0, 1).is_contiguous(memory_format=last)


@every_operator
def test_the_input_is_not_copied(op: str, mode: str) -> None:
    """Nothing as large as the map is allocated."""
    x = torch.rand(1, 64, 128, 128).contiguous(memory_format=torch.channels_last)
    boxes = torch.tensor([[0, 1.0, 1, 200, 200]])
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        call(op, x, boxes, mode=mode)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    assert allocated < x.nbytes / 4


def test_no_more_threads_than_pytorch_has() -> None:
    code = """
import os, torch, roidl.torch as ops
torch.set_num_threads(1)
x = torch.rand(4, 256, 100, 100, requires_grad=True)
boxes = torch.tensor([[n, 3.0, 3, 90, 90] for n in range(4)] * 32)
def new_threads():
    before = set(os.listdir("/proc/self/task"))
    ops.roi_align(x, boxes, 14).sum().backward()
    with torch.no_grad():
        ops.roi_pool(x, boxes, 14)
    return len(set(os.listdir("/proc/self/task")) - before)
alone = new_threads()
torch.set_num_threads(3)
print(alone, new_threads())
"""
    environment = {**os.environ, "ROIDL_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    alone, three = map(int, done.stdout.split())
    assert alone == 0
    assert three > 0


def test_without_the_stable_c_interface() -> None:
    """As in a PyTorch that lacks one of its symbols: kernels in Python, over the same core."""
    code = """
import ctypes
from roidl._bridge import bridge
native = ctypes.CDLL(bridge("torch"))  # before PyTorch is there: nothing is defined
class Bridge:
    def __init__(self, path):
        self.roidl_torch_schemas = native.roidl_torch_schemas
        self.roidl_torch_register = lambda: b"torch_get_num_threads"
import torch
ctypes.CDLL = Bridge
import roidl.torch as ops
assert ops._library.MISSING == "torch_get_num_threads"
x = torch.rand(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
boxes = torch.tensor([[0.13, 0.31, 4.27, 5.53], [1.71, 0.93, 6.19, 4.67]], dtype=torch.float64)
boxes.requires_grad_()
where = torch.tensor([1, 0])
check, again = torch.autograd.gradcheck, torch.autograd.gradgradcheck
def align(a, b, **options):
    return ops.roi_align(a, b, (2, 3), batch_indices=where, **options)
assert check(align, (x, boxes), check_forward_ad=True)
boxes.requires_grad_(False)
for mode in ("avg", "max", "max_onnx"):
    assert again(lambda a: align(a, boxes, mode=mode) ** 2, x, check_fwd_over_rev=True)
for mode in ("max", "avg"):
    pool = lambda a: ops.roi_pool(a, boxes, 2, batch_indices=where, mode=mode)
    assert check(pool, x, check_forward_ad=True)
    assert again(lambda a: pool(a) ** 2, x, check_fwd_over_rev=True)
last = x.detach().contiguous(memory_format=torch.channels_last)
assert align(last, boxes).is_contiguous(memory_format=torch.channels_last)
coarse = torch.rand(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
rule = {"canonical_scale": 2, "canonical_level": 1, "batch_indices": where}
def several(*maps):
    return ops.multiscale_roi_align(maps, boxes, 2, [1.0, 0.5], 2, **rule)
assert ops.assign_levels(boxes, [1.0, 0.5], canonical_scale=4).tolist() == [1, 1]
assert check(several, (x, coarse), check_forward_ad=True)
try:
    align(x.detach().long(), boxes)
except TypeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sentence = "roi_align: input must be float16, bfloat16, float32 or float64, got int64"
    assert done.stdout.strip() == sentence


# Other kinds of tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_operator
def test_autocast_keeps_the_dtype(op: str, mode: str, dtype: Any) -> None:
    x = features_tensor(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        result = call(op, x, boxes_tensor(), mode=mode)
        result.sum().backward()
    assert result.dtype == x.grad.dtype == dtype
    exact = call(op, x.detach().float(), boxes_tensor(), mode=mode).to(dtype)
    assert torch.equal(result, exact)  # float32 arithmetic, rounded once


@every_operator
def test_meta_tensors(op: str, mode: str) -> None:
    x = features_tensor().contiguous(memory_format=torch.channels_last)
    result = call(op, x, boxes_tensor(), mode=mode)
    there = call(op, x.to("meta").requires_grad_(), boxes_tensor().to("meta"), mode=mode)
    assert (there.shape, there.stride()) == (result.shape, result.stride())
    there.sum().backward()


def test_subclasses_and_parameters() -> None:
    expected = call("roi_align", features_tensor(), boxes_tensor())
    parameter = torch.nn.Parameter(features_tensor())
    assert torch.equal(call("roi_align", parameter, boxes_tensor()), expected)

    class Named(torch.Tensor):  # type: ignore[misc]
        seen: list[Any] = []  # noqa: RUF012

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, *arguments: Any) -> Any:
            cls.seen.append(func)
            return super().__torch_function__(func, types, *arguments)

    named = call("roi_align", features_tensor().as_subclass(Named), boxes_tensor())
    assert isinstance(named, Named)
    assert ops.roi_align in Named.seen
    assert torch.equal(named.as_subclass(torch.Tensor), expected)


def test_boxes_of_another_library() -> None:
    x = features_tensor().requires_grad_()
    result = call("roi_align", x, ROWS.astype(np.float32))
    assert torch.equal(result, call("roi_align", x, boxes_tensor()))
    result.sum().backward()
    assert x.grad is not None


def test_a_list_of_one_is_not_copied() -> None:
    x, boxes = features_tensor()[:1], boxes_tensor()[:, 1:]
    assert torch.equal(call("roi_align", x, [boxes]), call("roi_align", x, boxes))


def test_a_list_of_several_dtypes() -> None:
    """bfloat16 has 8 bits, which 1001 does not fit in."""
    x = features_tensor()
    boxes = [torch.tensor([[1, 1, 1001, 7]]), torch.tensor([[1, 2, 8, 9]], dtype=torch.bfloat16)]
    expected = call("roi_align", x, [each.float() for each in boxes])
    assert torch.equal(call("roi_align", x, boxes), expected)


@pytest.mark.parametrize(("op", "mode"), OPERATORS[::3])
def test_another_device_is_named(op: str, mode: str) -> None:
    x, boxes = features_tensor(), boxes_tensor()
    sentence = f"^{op}: boxes must be on the device of the features, cpu:0, got meta:0$"
    with pytest.raises(ValueError, match=sentence):
        call(op, x, boxes.to("meta"), mode=mode)
    with pytest.raises(ValueError, match=sentence):
        call(op, x, [boxes[:3, 1:], boxes[3:, 1:].to("meta")], mode=mode)
    with pytest.raises(ValueError, match=sentence.replace("boxes", "batch_indices")):
        call(op, x, boxes[:, 1:], batch_indices=boxes[:, 0].int().to("meta"), mode=mode)


UNREADABLE: dict[str, Callable[[Any], Any]] = {
    "sparse": lambda x: x.to_sparse(),
    "compressed": lambda x: x.reshape(N, -1).to_sparse_csr(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "nested": lambda x: torch.nested.nested_tensor([x[0]]),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of prototypes
@pytest.mark.parametrize("kind", UNREADABLE)
def test_tensors_without_plain_memory(kind: str) -> None:
    with pytest.raises((TypeError, NotImplementedError), match=r"^roi_align: "):
        call("roi_align", UNREADABLE[kind](features_tensor()), boxes_tensor())
