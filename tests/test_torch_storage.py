"""PyTorch's tensors whose storage was freed or shrunk, as sharded training does, are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import roidl
from producers import OPERATORS, arrays_of, call, every_argument

torch = pytest.importorskip("torch")
ops = pytest.importorskip("roidl.torch")

Tensor = Any


def _freed(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    copy.untyped_storage().resize_(0)
    return copy


def _shrunk(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    copy.untyped_storage().resize_(copy.untyped_storage().nbytes() - 1)
    return copy


def _shrunk_behind_an_offset(tensor: Tensor) -> Tensor:
    """The storage has as many bytes as the tensor, but the tensor does not begin with it."""
    flat = torch.cat([tensor.new_zeros(3), tensor.flatten()])
    view = flat[3:].view(tensor.shape)
    flat.untyped_storage().resize_(tensor.numel() * tensor.element_size())
    return view


SPOILERS = [_freed, _shrunk, _shrunk_behind_an_offset]
spoil_each = pytest.mark.parametrize("spoil", SPOILERS)
GONE = r"needs \d+ bytes for its shape and strides, but has \d+: its storage was freed or shrunk"


def _tensors(op: str) -> dict[str, Any]:
    arguments = every_argument(op)
    return arguments | {name: torch.from_numpy(a) for name, a in arrays_of(arguments).items()}


@spoil_each
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("out", [False, True])
def test_every_argument(op: str, out: bool, spoil: Callable[[Tensor], Tensor]) -> None:
    given = _tensors(op)
    if not out:
        given.pop("out", None)
    for name in arrays_of(every_argument(op)).keys() & given.keys():
        with pytest.raises(ValueError, match=f"^{op}: {name} {GONE}"):
            call(op, **given | {name: spoil(given[name])})


@spoil_each
@pytest.mark.parametrize("op", ["roi_align", "roi_pool"])
def test_the_short_way_and_the_dispatcher(op: str, spoil: Callable[[Tensor], Tensor]) -> None:
    x, boxes = torch.ones(1, 3, 8, 8), torch.tensor([[0, 1.0, 1, 6, 5]])
    for position, name in enumerate(("input", "boxes")):
        for grad in (False, True):
            given: list[Tensor] = [x.clone().requires_grad_(grad), boxes]
            with torch.no_grad():
                given[position] = spoil(given[position])
            if grad:
                given[0].requires_grad_()
            for keywords in ({}, {"layout": "NCHW"}, {"batch_indices": None}):
                with pytest.raises(ValueError, match=f"^{op}: {name} {GONE}"):
                    getattr(ops, op)(*given, 2, **keywords)


@spoil_each
def test_several_maps(spoil: Callable[[Tensor], Tensor]) -> None:
    maps = [torch.ones(2, 3, 16, 16), torch.ones(2, 3, 8, 8)]
    boxes = torch.tensor([[[1.0, 1, 6, 5]], [[2.0, 1, 9, 9]]])
    more = {"levels": torch.tensor([[0], [1]]), "counts": torch.tensor([1, 1])}
    for name in (*more, "boxes", "input"):
        x, b, given = list(maps), boxes, dict(more)
        if name in more:
            given[name] = spoil(given[name])
        elif name == "boxes":
            b = spoil(b)
        else:
            x[1] = spoil(x[1])
        for run in (ops.multiscale_roi_align, ops.multiscale_roi_pool):
            with pytest.raises(ValueError, match=rf"multiscale_roi_\w+: {name}.* {GONE}"):
                run(x, b, 2, [1.0, 0.5], **given)
    with pytest.raises(ValueError, match=f"^assign_levels: boxes {GONE}"):
        ops.assign_levels(spoil(boxes), [1.0, 0.5])


@spoil_each
@pytest.mark.parametrize("what", ["boxes", "input"])
def test_what_was_kept_for_a_backward(what: str, spoil: Callable[[Tensor], Tensor]) -> None:
    """Its storage is freed between the two calls."""
    x, boxes = torch.ones(1, 3, 8, 8), torch.tensor([[0, 1.0, 1, 6, 5]])
    leaf = x.requires_grad_()
    kept = {"boxes": boxes, "input": leaf}[what]
    result = ops.roi_align(leaf, boxes, 2, mode="max" if what == "input" else "avg")
    size = kept.untyped_storage().nbytes()
    kept.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=f"^roi_align_backward: {what} {GONE}"):
        result.sum().backward(retain_graph=True)
    kept.untyped_storage().resize_(size)
    with torch.no_grad():
        kept.copy_(torch.tensor([[0, 1.0, 1, 6, 5]]) if what == "boxes" else torch.ones_like(x))
    assert leaf.grad is None


def test_lists_of_boxes() -> None:
    x = torch.ones(2, 3, 8, 8)
    boxes = [torch.tensor([[1.0, 1, 6, 5]]), _freed(torch.tensor([[1.0, 1, 6, 5]]))]
    with pytest.raises(ValueError, match=rf"^roi_align: boxes\[1\] {GONE}"):
        ops.roi_align(x, boxes, 2)
    with pytest.raises(ValueError, match=rf"^multiscale_roi_pool: boxes\[1\] {GONE}"):
        ops.multiscale_roi_pool([x], boxes, 2, [1.0])
    with pytest.raises(ValueError, match=rf"^roi_align: boxes\[1\] {GONE}"):
        roidl.roi_align(x.numpy(), boxes, 2)


def test_what_holds_all_that_it_needs_is_taken() -> None:
    """Views, expanded and empty tensors, and storage that is larger than it needs to be."""
    features = torch.arange(2.0 * 3 * 8 * 8).view(2, 3, 8, 8)
    boxes = torch.tensor([[0, 1.0, 1, 6, 5], [1, 0, 0, 7, 7]])
    wide = torch.zeros(2, 3, 8, 11)
    wide[..., 3:] = features
    larger = features.clone()
    larger.untyped_storage().resize_(larger.untyped_storage().nbytes() + 100)
    expected = ops.roi_align(features, boxes, 2)
    for same in (wide[..., 3:], larger, torch.nn.Parameter(features)):
        assert torch.equal(ops.roi_align(same, boxes, 2), expected)
        assert torch.equal(ops.roi_align(same, boxes, 2, mode="avg", batch_indices=None), expected)
        out = torch.empty_like(expected)
        assert torch.equal(roidl.roi_align(same.detach(), boxes, 2, out=out), expected)
    expanded = features[:, :1].expand(2, 3, 8, 8)
    assert torch.equal(
        ops.roi_align(expanded, boxes, 2), ops.roi_align(expanded.contiguous(), boxes, 2)
    )
    for nothing in (boxes[:0], _freed(boxes[:0]), torch.empty(0, 5)):
        assert ops.roi_align(features, nothing, 2).shape == (0, 3, 2, 2)
    assert ops.roi_align(_freed(features[:, :0]), boxes, 2).shape == (2, 0, 2, 2)
    np.testing.assert_array_equal(
        roidl.roi_align(features.numpy(), boxes, 2), roidl.roi_align(features, boxes, 2).numpy()
    )
