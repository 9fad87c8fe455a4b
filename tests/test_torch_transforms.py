"""PyTorch: derivatives of every order, forward mode, `torch.func` and `vmap`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from operators import OPERATORS, every_operator
from roidl import _ops

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

N, C, H, W, SIZE = 2, 2, 6, 7, (2, 3)
# No sample at a pixel's centre, where the interpolation has a kink.
BOXES = [[0, 0.13, 0.31, 4.27, 5.53], [1, 1.71, 0.93, 6.19, 4.67], [0, 2.22, 2.41, 5.83, 9.37]]
SMOOTH = OPERATORS[:2]  # those with a derivative along the boxes

pytestmark = pytest.mark.filterwarnings("error:.*batching rule.*")  # vmap by a loop


def tensors(seed: int = 0) -> tuple[Any, Any, Any]:
    """Features, corners and batch indices."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(N, C, H, W, dtype=torch.float64, generator=generator)
    boxes = torch.tensor(BOXES, dtype=torch.float64)
    return x, boxes[:, 1:].clone(), boxes[:, 0].to(torch.int32)


def function(op: str, mode: str, **options: Any) -> Callable[..., Any]:
    def call(x: Any, corners: Any, indices: Any) -> Any:
        return getattr(ops, op)(x, corners, SIZE, batch_indices=indices, mode=mode, **options)

    return call


# Autograd -----------------------------------------------------------------------------------------


@every_operator
def test_gradients_along_the_input(op: str, mode: str) -> None:
    x, corners, indices = tensors()
    x.requires_grad_()
    call = function(op, mode)
    check = torch.autograd.gradcheck
    assert check(lambda a: call(a, corners, indices), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(
        lambda a: call(a, corners, indices) ** 2, x, check_fwd_over_rev=True
    )


@pytest.mark.parametrize(("op", "mode"), SMOOTH)
def test_gradients_along_the_boxes(op: str, mode: str) -> None:
    x, corners, indices = tensors()
    leaves = x.requires_grad_(), corners.requires_grad_()
    call = function(op, mode)
    assert torch.autograd.gradcheck(
        lambda a, b: call(a, b, indices), leaves, check_forward_ad=mode == "avg"
    )


def test_mixed_second_derivatives() -> None:
    """Those that there are, against central differences of the first."""
    x, corners, indices = tensors()
    call, step = function("roi_align", "avg"), 1e-6
    x.requires_grad_(), corners.requires_grad_()

    def first(a: Any, b: Any) -> Any:
        return torch.autograd.grad((call(a, b, indices) ** 2).sum(), (a, b), create_graph=True)

    _, to_corners = first(x, corners)
    along = torch.rand_like(corners)
    # d/dx of the gradient to the boxes, and d/dboxes of the gradient to x, are each other's
    # transposes; the first needs no more than B, which is bilinear.
    (by_x,) = torch.autograd.grad((to_corners * along).sum(), x, retain_graph=True)
    ahead, behind = (first(x, corners + sign * step * along)[0] for sign in (1, -1))
    torch.testing.assert_close(by_x, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)
    with pytest.raises(NotImplementedError, match=r"^roi_align_backward_boxes: second derivatives"):
        torch.autograd.grad((to_corners * along).sum(), corners)


def test_linear_along_the_gradient() -> None:
    """The derivative of the backward along its boxes, of which g is a constant."""
    x, corners, indices = tensors()
    call, step = function("roi_align", "avg"), 1e-6
    x.requires_grad_(), corners.requires_grad_()
    weights = torch.rand(3, C, *SIZE, dtype=torch.float64)
    direction = torch.rand_like(x)

    def slope(b: Any) -> Any:
        (to_x,) = torch.autograd.grad((call(x, b, indices) * weights).sum(), x, create_graph=True)
        return (to_x * direction).sum()

    (got,) = torch.autograd.grad(slope(corners), corners)
    along = torch.rand_like(corners)
    expected = (slope(corners + step * along) - slope(corners - step * along)) / (2 * step)
    torch.testing.assert_close((got * along).sum(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("order", ["boxes twice", "max, then boxes", "forward"])
def test_what_is_not_offered_says_so(order: str) -> None:
    x, corners, indices = tensors()
    x.requires_grad_(), corners.requires_grad_()
    mode = "avg" if order == "boxes twice" else "max"
    call = function("roi_align", mode)
    if order == "forward":
        with pytest.raises(NotImplementedError, match=r"^roi_align: .* 'avg' only$"):
            torch.func.jvp(lambda b: call(x, b, indices), (corners,), (corners,))
        return
    result = (call(x, corners, indices) ** 2).sum()
    index = 1 if order == "boxes twice" else 0
    first = torch.autograd.grad(result, (x, corners), create_graph=True)[index]
    with pytest.raises(NotImplementedError, match=r"^roi_align_backward.*second derivatives"):
        torch.autograd.grad(first.sum(), corners)


def test_the_boxes_of_max_onnx_have_no_gradient() -> None:
    x, corners, indices = tensors()
    x.requires_grad_(), corners.requires_grad_()
    result = function("roi_align", "max_onnx")(x, corners, indices)
    sentence = "^roi_align: mode 'max_onnx' has no gradient to the boxes$"
    with pytest.raises(NotImplementedError, match=sentence):
        result.sum().backward()


# Forward mode: torchvision's operator and torch.library.custom_op give zeros without a word ------


@every_operator
def test_forward_mode(op: str, mode: str) -> None:
    x, corners, indices = tensors()
    tangent = torch.rand_like(x)
    call = function(op, mode)
    x.requires_grad_()
    result = call(x, corners, indices)
    weights = torch.rand_like(result)
    (gradient,) = torch.autograd.grad(result, x, weights)
    expected = (gradient * tangent).sum()  # adjoint

    def scalar(a: Any) -> Any:
        return (call(a, corners, indices) * weights).sum()

    _, along = torch.func.jvp(scalar, (x.detach(),), (tangent,))
    torch.testing.assert_close(along, expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), tangent)
        unpacked = torch.autograd.forward_ad.unpack_dual(scalar(dual))
        torch.testing.assert_close(unpacked.tangent, expected)
        # Also when the dispatcher's operator is called by itself.
        params = getattr(_ops, op)(dual, corners, SIZE, mode=mode).params
        extra = (False,) if op == "roi_pool" else ()
        direct = getattr(torch.ops.roidl, op)(dual, corners, indices, *extra, *params)
        direct = direct[0] if op == "roi_pool" else direct
        unpacked = torch.autograd.forward_ad.unpack_dual((direct * weights).sum())
        torch.testing.assert_close(unpacked.tangent, expected)


@every_operator
def test_func(op: str, mode: str) -> None:
    x, corners, indices = tensors()
    x = x[:, :1, :4, :5].contiguous()
    call = function(op, mode)

    def loss(a: Any) -> Any:
        return (call(a, corners, indices) ** 3).sum()

    y = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(y), y)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    hessian = torch.autograd.functional.hessian(loss, x)
    for got in (
        torch.func.hessian(loss)(x),  # forward over reverse
        torch.func.jacrev(torch.func.jacrev(loss))(x),
        torch.func.jacrev(torch.func.jacfwd(loss))(x),
        torch.func.jacfwd(torch.func.jacfwd(loss))(x),
    ):
        torch.testing.assert_close(got, hessian)
    assert hessian.abs().sum() > 0


def test_func_along_the_boxes() -> None:
    x, corners, indices = tensors()
    call = function("roi_align", "avg")
    forward = torch.func.jacfwd(lambda b: call(x, b, indices))(corners)
    reverse = torch.func.jacrev(lambda b: call(x, b, indices))(corners)
    torch.testing.assert_close(forward, reverse)
    assert forward.abs().sum() > 0


# vmap ---------------------------------------------------------------------------------------------

FORMS = ("rows", "indices", "grouped", "list", "single")


def _examples(form: str) -> tuple[tuple[Any, ...], Callable[..., dict[str, Any]]]:
    """Three examples, and the arguments of one of them."""
    three = zip(*map(tensors, range(3)), strict=True)
    x, corners, indices = (torch.stack(parts) for parts in three)
    corners = corners + torch.arange(3.0)[:, None, None] / 10
    indices[1] = 1 - indices[1]
    if form == "rows":
        rows = torch.cat([indices[..., None].double(), corners], -1)
        return (x, rows), lambda x, rows: {"input": x, "boxes": rows}
    if form == "indices":
        return (x, corners, indices), lambda x, b, i: {
            "input": x,
            "boxes": b,
            "batch_indices": i,
        }
    grouped = torch.stack([corners, corners[:, [1, 2, 0]]], 1)
    if form == "grouped":
        return (x, grouped), lambda x, b: {"input": x, "boxes": b}
    if form == "list":
        return (x, grouped[:, 0], grouped[:, 1]), lambda x, a, b: {"input": x, "boxes": [a, b]}
    return (x[:, :1], corners), lambda x, b: {"input": x, "boxes": b}


@pytest.mark.parametrize("form", FORMS)
@every_operator
def test_vmap(op: str, mode: str, form: str) -> None:
    examples, arguments = _examples(form)

    def call(*example: Any) -> Any:
        return getattr(ops, op)(**arguments(*example), output_size=SIZE, mode=mode)

    def loss(*example: Any) -> Any:
        return (call(*example) ** 2).sum()

    vmap, grad = torch.func.vmap, torch.func.grad

    def loop(one: Callable[..., Any], dims: Any = None) -> Any:
        dims = dims or [0] * len(examples)
        return torch.stack(
            [
                one(*(e if d is None else e[n] for e, d in zip(examples, dims, strict=True)))
                for n in range(3)
            ]
        )

    torch.testing.assert_close(vmap(call)(*examples), loop(call))
    torch.testing.assert_close(vmap(grad(loss))(*examples), loop(grad(loss)))
    for shared in range(len(examples)):  # one of the arguments is the same for all
        dims = tuple(None if n == shared else 0 for n in range(len(examples)))
        given = tuple(e[0] if d is None else e for e, d in zip(examples, dims, strict=True))
        for one in (call, grad(loss)):
            expected = torch.stack(
                [
                    one(*(g if d is None else g[n] for g, d in zip(given, dims, strict=True)))
                    for n in range(3)
                ]
            )
            torch.testing.assert_close(vmap(one, dims)(*given), expected)
    if mode == "avg" and op == "roi_align":
        along = vmap(lambda *e: torch.func.jvp(call, e, tuple(map(torch.ones_like, e)))[1])
        if form != "indices":  # integers have no tangent
            torch.testing.assert_close(
                along(*examples),
                loop(lambda *e: torch.func.jvp(call, e, tuple(map(torch.ones_like, e)))[1]),
            )


def test_vmap_of_other_axes_and_of_vmap() -> None:
    (x, rows), _ = _examples("rows")

    def call(a: Any, b: Any) -> Any:
        return ops.roi_align(a, b, SIZE)

    expected = torch.stack([torch.stack([call(a, b) for b in rows]) for a in x])
    inner = torch.vmap(call, (None, 2))
    outer = torch.vmap(inner, (1, None))
    torch.testing.assert_close(outer(x.movedim(0, 1), rows.movedim(0, 2)), expected)
    argmax = torch.vmap(lambda a, b: ops.roi_pool(a, b, SIZE, return_argmax=True)[1])(x, rows)
    for n in range(3):
        assert torch.equal(argmax[n], ops.roi_pool(x[n], rows[n], SIZE, return_argmax=True)[1])


@pytest.mark.parametrize("index", [N, 2 * N, 3 * N, -1, -7, 0.5, float("nan"), 1e30])
@every_operator
def test_an_index_never_reaches_another_example(op: str, mode: str, index: float) -> None:
    (x, rows), _ = _examples("rows")
    whole = abs(index) < 2**30 and index == int(index)
    said = f"is {int(index)}, but must be" if whole else "is no whole number"
    for example in range(3):
        wrong = rows.clone()
        wrong[example, 1, 0] = index
        with pytest.raises(ValueError, match=f"^{op}: the batch index of row [0-9]+ {said}"):
            torch.vmap(lambda a, b: getattr(ops, op)(a, b, SIZE, mode=mode))(x, wrong)
    if whole:
        (x, corners, indices), _ = _examples("indices")
        indices[1, 1] = int(index)
        with pytest.raises(ValueError, match=f"^{op}: the batch index of row [0-9]+ {said}"):
            torch.vmap(function(op, mode))(x, corners, indices)


def test_a_wrong_index_is_compared_with_the_images_of_its_example() -> None:
    (x, rows), _ = _examples("rows")
    for index in (-1, N, 3 * N):
        rows[1, 1, 0] = index
        with pytest.raises(ValueError, match=f"is {index}, but must be that of an image of its "):
            torch.vmap(lambda a, b: ops.roi_align(a, b, SIZE))(x, rows)


@every_operator
def test_vmap_over_no_examples(op: str, mode: str) -> None:
    for form in ("rows", "indices"):
        examples, arguments = _examples(form)

        def call(*example: Any, arguments: Callable[..., Any] = arguments) -> Any:
            return getattr(ops, op)(output_size=SIZE, mode=mode, **arguments(*example))

        results = torch.vmap(call)(*examples)
        assert len(results) > 0
        none = torch.vmap(call)(*[each[:0] for each in examples])
        assert none.shape == (0, *results.shape[1:])


def test_mistakes_under_vmap_are_those_of_an_example() -> None:
    (x, rows), _ = _examples("rows")
    with pytest.raises(ValueError, match=r"^roi_align: input must have shape .* got \[2, 6, 7\]$"):
        torch.vmap(lambda a, b: ops.roi_align(a, b, SIZE))(x[:, 0], rows)
    with pytest.raises(ValueError, match=r"^roi_align: boxes must have shape .* got \[3, 3\]$"):
        torch.vmap(lambda a, b: ops.roi_align(a, b, SIZE))(x, rows[..., :3])
