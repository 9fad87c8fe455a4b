"""PyTorch, past the dispatcher: graphs of autograd, what they hold, and how long."""

from __future__ import annotations

import gc
import importlib
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

from cases import random_boxes
from operators import every_operator

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

N, C, H, W, SIZE = 2, 18, 7, 9, (2, 3)
RNG = np.random.default_rng(71)
ROWS = random_boxes(RNG, 6, N, H, W, 0.5)
FEATURES = RNG.standard_normal((N, C, H, W))


def features(dtype: Any = torch.float32) -> Any:
    return torch.from_numpy(FEATURES).to(dtype)


def rows() -> Any:
    return torch.from_numpy(ROWS).float()


def call(op: str, input: Any, boxes: Any, **options: Any) -> Any:
    return getattr(ops, op)(input, boxes, SIZE, 0.5, **options)


# Derivatives --------------------------------------------------------------------------------------


@every_operator
def test_derivatives_of_derivatives(op: str, mode: str) -> None:
    x, boxes = features(torch.float64).requires_grad_(), rows()
    result = call(op, x, boxes, mode=mode)
    weights = torch.randn(result.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    weights.requires_grad_()
    (first,) = torch.autograd.grad(result, x, weights, create_graph=True)
    other = torch.from_numpy(RNG.standard_normal(first.shape))
    (second,) = torch.autograd.grad(first, weights, other)
    # Linear in the gradient: its derivative is the forward's own along `other`.
    torch.testing.assert_close((second * weights).sum(), (first * other).sum())


@every_operator
def test_gradients_in_a_batch(op: str, mode: str) -> None:
    x = features().requires_grad_()
    result = call(op, x, rows(), mode=mode)
    weights = torch.stack([torch.ones_like(result), torch.rand_like(result)])
    grads = torch.autograd.grad(result, x, weights, is_grads_batched=True, retain_graph=True)[0]
    for weight, grad in zip(weights, grads, strict=True):
        torch.testing.assert_close(
            grad, torch.autograd.grad(result, x, weight, retain_graph=True)[0]
        )


def test_a_graph_is_gone_after_its_gradient() -> None:
    x = features().requires_grad_()
    result = call("roi_align", x, rows())
    result.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        result.sum().backward()


def test_boxes_that_changed_are_noticed() -> None:
    x, boxes = features().requires_grad_(), rows()
    result = call("roi_align", x, boxes)
    boxes += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_saved_tensors_pass_the_hooks_and_checkpoints() -> None:
    from torch.utils.checkpoint import checkpoint

    x, boxes = features().requires_grad_(), rows()
    (expected,) = torch.autograd.grad(call("roi_pool", x, boxes).sum(), x)
    packed: list[Any] = []

    def pack(tensor: Any) -> int:
        packed.append(tensor)
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda place: packed[place].clone()):
        result = call("roi_pool", x, boxes)
    assert any(each is boxes for each in packed)
    assert torch.equal(torch.autograd.grad(result.sum(), x)[0], expected)
    again = checkpoint(lambda x: call("roi_pool", x, boxes), x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(again.sum(), x)[0], expected)


# Lifetime -----------------------------------------------------------------------------------------


@every_operator
def test_results_outlive_and_nothing_is_held(op: str, mode: str) -> None:
    selects = (op, mode) in (("roi_align", "max"), ("roi_align", "max_onnx"))
    x, boxes = features(), rows()
    expected = call(op, x, boxes, mode=mode).clone()
    y = x.clone().requires_grad_()
    middle = y * 1
    gone = weakref.ref(middle)
    result = call(op, middle, boxes, mode=mode)
    del middle
    gc.collect()
    assert (gone() is None) == (not selects)  # the graph keeps what the gradient needs
    del x
    gc.collect()
    assert torch.equal(result, expected)

    def counts() -> tuple[int, ...]:
        return tuple(map(sys.getrefcount, (y, boxes, result)))

    def train() -> None:
        call(op, y, boxes, mode=mode).sum().backward()
        call(op, y.detach(), boxes, mode=mode)
        for wrong in (y.detach()[0], y.detach().int()):
            with pytest.raises((TypeError, ValueError)):
                call(op, wrong, boxes, mode=mode)

    train()
    gc.collect()
    before = counts()
    for _ in range(20):
        train()
    gc.collect()
    assert counts() == before


def test_results_are_tensors_like_any_other() -> None:
    result = call("roi_align", features(), rows())
    result.resize_(3)  # not memory that somebody else owns
    assert not result.is_inference()
    with torch.inference_mode():
        assert call("roi_align", features(), rows()).is_inference()
    torch.set_default_dtype(torch.float64)
    try:
        assert call("roi_align", features(), rows()).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_interpreter_is_free_meanwhile() -> None:
    """Another thread of Python runs during a call, forward and backward."""
    x = torch.rand(1, 256, 64, 64, requires_grad=True)
    boxes = torch.tensor([[0, 1.0, 1, 60, 60]]).repeat(256, 1)  # long enough on a busy machine
    done, ticks = threading.Event(), [0]

    def tick() -> None:
        while not done.is_set():
            ticks[0] += 1
            time.sleep(1e-4)

    switch = sys.getswitchinterval()
    thread = threading.Thread(target=tick)
    thread.start()
    try:
        sys.setswitchinterval(100)  # the interpreter is given away, not taken
        start = ticks[0]
        result = ops.roi_align(x, boxes, 14, sampling_ratio=4)
        forward = ticks[0]
        torch.autograd.grad(result, x, torch.ones_like(result))
        backward = ticks[0]
    finally:
        sys.setswitchinterval(switch)
        done.set()
        thread.join()
    # Making a result gives it away for a moment, too.
    assert min(forward - start, backward - forward) > 5
