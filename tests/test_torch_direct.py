"""PyTorch, past the dispatcher: the same bits and sentences, and only where nobody listens."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import roidl
from cases import random_boxes
from operators import every_operator
from trials import from_nchw

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken
direct: Any = importlib.import_module("roidl.torch._direct")
calls: Any = importlib.import_module("roidl.torch._calls")

N, C, H, W, SIZE = 2, 18, 7, 9, (2, 3)
RNG = np.random.default_rng(67)
ROWS = random_boxes(RNG, 6, N, H, W, 0.5)
ROWS[:, 0] = [0, 1, 0, 1, 0, 1]
FEATURES = RNG.standard_normal((N, C, H, W))


def features(dtype: Any = torch.float32) -> Any:
    return torch.from_numpy(FEATURES).to(dtype)


def rows(dtype: Any = torch.float32) -> Any:
    return torch.from_numpy(ROWS).to(dtype)


def call(op: str, input: Any, boxes: Any, **options: Any) -> Any:
    return getattr(ops, op)(input, boxes, SIZE, 0.5, **options)


@contextmanager
def long_way(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(direct, "is_quiet", lambda: False)
        yield


@contextmanager
def kernels_called() -> Iterator[list[str]]:
    """The names of the kernels that are asked of the dispatcher meanwhile."""
    names: list[str] = []
    run_kernel = calls._run_kernel

    def record(operator: Any, call: Any) -> Any:
        names.append(operator.name)
        return run_kernel(operator, call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "_run_kernel", record)
        yield names


# The same bits ------------------------------------------------------------------------------------


def _results(op: str, mode: str, x: Any, layout: str, boxes: Any, indices: Any) -> list[Any]:
    """The result without a graph and with one, the argmax, and gradients in several orders."""
    options: Any = {"mode": mode, "layout": layout, "batch_indices": indices}
    plain = call(op, x, boxes, **options)
    argmax: list[Any] = []
    if op == "roi_pool" and mode == "max":
        argmax = [call(op, x, boxes, return_argmax=True, **options)[1]]
    leaf = x.detach().requires_grad_()
    result = call(op, leaf, boxes, **options)
    assert result.grad_fn is not None
    gradients = []
    for gradient in (
        torch.linspace(-1, 1, result.numel()).to(x.dtype).reshape(result.shape),
        torch.ones((), dtype=x.dtype).expand(result.shape),
        torch.ones_like(result).transpose(-1, -2).contiguous().transpose(-1, -2),
    ):
        gradients += torch.autograd.grad(result, leaf, gradient, retain_graph=True)
    return [plain, result.detach(), *argmax, *gradients]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("memory", ["contiguous", "channels last", "sliced"])
@every_operator
def test_both_ways_give_the_same_bits(
    op: str, mode: str, memory: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dtype, box_dtype in (
        ("float32", "float32"),
        ("float64", "int64"),
        ("bfloat16", "float64"),
        ("float16", "bfloat16"),
    ):
        x = torch.from_numpy(from_nchw(FEATURES, layout)).to(getattr(torch, dtype))
        if memory == "channels last":
            x = x.contiguous(memory_format=torch.channels_last)
        elif memory == "sliced":
            x = torch.cat([x, x], 2)[:, :, : x.shape[2]]
        table = rows(getattr(torch, box_dtype))
        for boxes, indices in (
            (table, None),
            (table[:, 1:], table[:, 0].int()),
            (table[:, 1:].reshape(N, 3, 4), None),
            (table[:0], None),
        ):
            with kernels_called() as kernels:
                short = _results(op, mode, x, layout, boxes, indices)
            assert kernels == []
            with long_way(monkeypatch), kernels_called() as kernels:
                long = _results(op, mode, x, layout, boxes, indices)
            assert f"{op}_backward" in kernels
            for one, other in zip(short, long, strict=True):
                assert (one.dtype, one.stride()) == (other.dtype, other.stride())
                assert torch.equal(one, other)


def test_arguments_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x, boxes = features(), rows()
    for arguments, options in (
        ((x, boxes, 2), {}),
        ((x, boxes), {"output_size": (2, 1)}),
        ((x,), {"boxes": boxes, "output_size": 2, "spatial_scale": 1, "aligned": True}),
        ((), {"input": x, "boxes": boxes, "output_size": 2, "mode": "max"}),
        ((x, boxes, 2, 0.5, (1, 2), True), {"mode": "max_onnx"}),
    ):
        with kernels_called() as kernels:
            short = ops.roi_align(*arguments, **options)
        assert kernels == []
        with long_way(monkeypatch):
            assert torch.equal(short, ops.roi_align(*arguments, **options))
        if arguments:
            assert torch.equal(short, roidl.roi_align(*arguments, **options))


MISTAKES: dict[str, Callable[[Any, Any], Any]] = {
    "no arguments": lambda x, b: ops.roi_align(),
    "too few": lambda x, b: ops.roi_align(x, b),
    "too many": lambda x, b: ops.roi_align(x, b, 2, 1.0, 2, False, "avg"),
    "twice": lambda x, b: ops.roi_align(x, b, 2, input=x),
    "unknown": lambda x, b: ops.roi_align(x, b, 2, size=3),
    "a size of 0": lambda x, b: ops.roi_align(x, b, 0),
    "a size of half a bin": lambda x, b: ops.roi_align(x, b, 2.5),
    "a huge size": lambda x, b: ops.roi_align(x, b, 2**70),
    "three sizes": lambda x, b: ops.roi_align(x, b, (1, 2, 3)),
    "no scale": lambda x, b: ops.roi_align(x, b, 2, float("nan")),
    "a scale in words": lambda x, b: ops.roi_align(x, b, 2, "1"),
    "a huge scale": lambda x, b: ops.roi_align(x, b, 2, 10**400),
    "another mode": lambda x, b: ops.roi_align(x, b, 2, mode="min"),
    "a list for a mode": lambda x, b: ops.roi_align(x, b, 2, mode=[]),
    "aligned to an array": lambda x, b: ops.roi_align(x, b, 2, aligned=np.ones(2)),
    "argmax of an array": lambda x, b: ops.roi_pool(x, b, 2, return_argmax=np.ones(2)),
    "another layout": lambda x, b: ops.roi_pool(x, b, 2, layout="CHWN"),
    "an argmax of means": lambda x, b: ops.roi_pool(x, b, 2, mode="avg", return_argmax=True),
    "an argmax of means, in a graph": lambda x, b: ops.roi_pool(
        x.requires_grad_(), b, 2, mode="avg", return_argmax=True
    ),
    "three axes": lambda x, b: ops.roi_pool(x[0], b, 2),
    "nine axes": lambda x, b: ops.roi_pool(x[(None,) * 5], b, 2),
    "integers": lambda x, b: ops.roi_pool(x.int(), b, 2),
    "complex numbers": lambda x, b: ops.roi_pool((x + 1j).conj(), b, 2),
    "complex boxes": lambda x, b: ops.roi_pool(x, (b + 1j).conj(), 2),
    "six columns": lambda x, b: ops.roi_pool(x, b[:, [0, 0, 1, 2, 3, 4]], 2),
    "four columns": lambda x, b: ops.roi_align(x[:1].expand(3, -1, -1, -1), b[:, 1:], 2),
    "indices besides": lambda x, b: ops.roi_pool(x, b, 2, batch_indices=b[:, 0].int()),
    "too few indices": lambda x, b: ops.roi_pool(x, b[:, 1:], 2, batch_indices=b[1:, 0].int()),
    "an image that is not": lambda x, b: ops.roi_align(x, b + 7, 2),
    "no coordinate": lambda x, b: ops.roi_align(x, b * torch.nan, 2),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_both_ways_say_the_same_of_mistakes(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def error_of() -> tuple[type, str]:
        with pytest.raises((TypeError, ValueError, NotImplementedError)) as caught:
            MISTAKES[mistake](features(), rows())
        return caught.type, str(caught.value)

    short = error_of()
    with long_way(monkeypatch):
        assert error_of() == short


# Whoever listens hears ----------------------------------------------------------------------------


def test_a_dispatch_mode_sees_the_operators() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Recorder(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **kwargs or {})

    x = features().requires_grad_()
    result = call("roi_align", x, rows())  # its graph is of the short way
    with Recorder():
        call("roi_pool", x.detach(), rows())
        result.sum().backward()
        call("roi_align", x, rows()).sum().backward()
    assert [name for name in seen if name.startswith("roidl")] == [
        "roidl.roi_pool.default",
        "roidl.roi_align_backward.default",
        "roidl.roi_align.default",
        "roidl.roi_align_backward.default",
    ]


def test_a_function_mode_sees_the_functions() -> None:
    from torch.overrides import TorchFunctionMode

    seen: list[Any] = []

    class Recorder(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **kwargs or {})

    with Recorder():
        call("roi_align", features(), rows())
    assert ops.roi_align in seen


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_a_tracer_sees_the_operator(pre_dispatch: bool) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    trace = make_fx(lambda x: call("roi_align", x, rows()), pre_dispatch=pre_dispatch)
    graph = trace(features()).graph
    assert "roidl.roi_align" in {str(node.target).removesuffix(".default") for node in graph.nodes}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_and_fx_see_the_operator() -> None:
    boxes = rows()
    traced = torch.jit.trace(lambda x: call("roi_align", x, boxes), features())
    assert "roidl::roi_align" in str(traced.graph)
    symbolic = torch.fx.symbolic_trace(lambda x: ops.roi_align(x, boxes, 2))
    assert ops.roi_align in {node.target for node in symbolic.graph.nodes}


def test_a_profile_has_the_operators() -> None:
    x = features().requires_grad_()
    with torch.profiler.profile() as profile:
        call("roi_align", x, rows()).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"roidl::roi_align", "roidl::roi_align_backward"} <= names


def test_compiled_before_and_after_an_eager_call() -> None:
    """`roidl.roi_align` finds its way to PyTorch at the first eager call."""
    arrays: Any = importlib.import_module("roidl._array_libraries")
    before = dict(arrays.ADAPTED)
    arrays.ADAPTED.clear()
    try:
        compiled = torch.compile(
            lambda x: roidl.roi_align(x, rows(), 2), backend="eager", fullgraph=True
        )
        first = compiled(features())
        assert arrays.ADAPTED == {}
        eager = roidl.roi_align(features(), rows(), 2)
        assert torch.Tensor in arrays.ADAPTED
        assert torch.equal(first, eager)
        assert torch.equal(compiled(features()), eager)
    finally:
        arrays.ADAPTED.update(before)


KINDS: dict[str, Callable[[Any], Any]] = {
    "a parameter": torch.nn.Parameter,
    "a negative view": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
    "zeros without memory": lambda x: torch._efficientzerotensor(x.shape),
    "functional": torch._to_functional_tensor,
    "meta": lambda x: x.to("meta"),
    "freed": lambda x: _freed(x.clone()),
}


def _freed(x: Any) -> Any:
    x.untyped_storage().resize_(0)
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_other_tensors_take_the_long_way(kind: str) -> None:
    bind = direct._core.Shortcut(
        "roi_align",
        direct.inspect.signature(ops.roi_align),
        torch.Tensor,
        direct._make,
        direct._DTYPES,
        direct.choices_of("roi_align"),
        torch.get_num_threads,
        torch.Tensor.is_neg,
    ).bind
    x, boxes = features(), rows()
    assert bind((x, boxes, 2), {}) is not None
    assert bind((KINDS[kind](x), boxes, 2), {}) is None
    assert bind((x, KINDS[kind](boxes), 2), {}) is None


def test_negative_gradients() -> None:
    x = features().requires_grad_()
    for sign in (1, -1):
        result = call("roi_align", x, rows())
        weights = torch.complex(torch.zeros_like(result), sign * torch.ones_like(result))
        (grad,) = torch.autograd.grad(result, x, weights.conj().imag)
        assert torch.equal(grad.sign(), -sign * grad.sign().abs())
