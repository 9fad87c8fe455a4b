"""PyTorch on several maps at once: operator and gradients are those of each box on its map."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import oracle
import roidl
from conftest import Lib, NumpyArray
from test_multiscale import SCALES, SIZE, by_level, level_by_definition, problem
from trials import assert_close, from_nchw, to_nchw

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

# Of the small problem: two maps of an image of 12 x 12 pixels, and boxes of both levels, no sample
# of which lies at a pixel's centre, where the interpolation has a kink.
FINE = (1 / 2, 1 / 4)
RULE: Any = {"canonical_scale": 6, "canonical_level": 2}
BOXES = [[0, 1.1, 1.2, 5.3, 6.7], [1, 0.7, 1.3, 10.9, 9.1], [1, 2.2, 3.1, 8.4, 7.9]]
MODES = [
    ("multiscale_roi_align", "avg"),
    ("multiscale_roi_align", "max"),
    ("multiscale_roi_pool", "max"),
    ("multiscale_roi_pool", "avg"),
]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def lib(get_lib: Callable[[str], Lib]) -> Lib:
    return get_lib("torch")


def small(dtype: Any = None) -> tuple[list[Any], Any]:
    generator = torch.Generator().manual_seed(5)
    dtype = dtype or torch.float64
    maps = [torch.rand(2, 2, side, side, dtype=dtype, generator=generator) for side in (6, 3)]
    return maps, torch.tensor(BOXES, dtype=dtype)


def function(op: str, mode: str, **options: Any) -> Callable[..., Any]:
    """The operator of the boxes and of each map, as arguments of their own."""

    def call(boxes: Any, *maps: Any) -> Any:
        return getattr(ops, op)(list(maps), boxes, 2, FINE, mode=mode, **RULE, **options)

    return call


def leaves(*tensors: Any) -> list[Any]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


# Against the oracle -------------------------------------------------------------------------------


def of_each_map(
    op: str,
    mode: str,
    maps: list[NumpyArray],
    boxes: NumpyArray,
    gradient: NumpyArray,
    double: bool,
) -> tuple[NumpyArray, list[NumpyArray], NumpyArray]:
    """The result, the gradients to the maps, and that to the boxes, one map after the other."""
    options: Any = {"mode": mode, "coordinates": np.float64 if double else np.float32}
    out, to_boxes = np.zeros(gradient.shape), np.zeros(boxes.shape)
    to_maps = []
    for scale, features, rows in zip(SCALES, maps, by_level(boxes), strict=True):
        here, g = boxes[rows], gradient[rows]
        assert len(rows) > 0
        if op == "multiscale_roi_align":
            out[rows] = oracle.roi_align(features, here, SIZE, scale, 2, **options)
            to_maps.append(oracle.roi_align_backward(g, features, here, scale, 2, **options))
            to_boxes[rows] = oracle.roi_align_backward_boxes(g, features, here, scale, 2, **options)
            continue
        out[rows], argmax = oracle.roi_pool(features, here, SIZE, scale, **options)
        shape: Any = features.shape
        to_maps.append(oracle.roi_pool_backward(g, here, argmax, shape, scale, **options))
    return out, to_maps, to_boxes


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("op", "mode"), MODES)
def test_result_and_gradients(op: str, mode: str, dtype: str, layout: str, lib: Lib) -> None:
    maps, rows = problem(dtype)
    given = [lib.asarray(from_nchw(features, layout)).requires_grad_() for features in maps]
    boxes = lib.asarray(rows).requires_grad_()
    options = {"sampling_ratio": 2} if op == "multiscale_roi_align" else {}
    out = getattr(roidl, op)(given, boxes, SIZE, SCALES, mode=mode, layout=layout, **options)
    gradient = np.random.default_rng(3).standard_normal((len(rows), 5, *SIZE)).astype(maps[0].dtype)
    expected, to_maps, to_boxes = of_each_map(op, mode, maps, rows, gradient, dtype == "float64")
    assert out.dtype == given[0].dtype
    assert_close(to_nchw(lib.to_numpy(out.detach()), layout), expected)
    out.backward(lib.asarray(from_nchw(gradient, layout)))
    for tensor, to_map in zip(given, to_maps, strict=True):
        assert_close(to_nchw(lib.to_numpy(tensor.grad), layout), to_map)
    assert_close(lib.to_numpy(boxes.grad).astype(np.float64), to_boxes, 1e-5)


def test_every_form_of_boxes() -> None:
    maps, rows = problem("float32")
    rows[:, 0] = np.repeat([0, 1], 12)
    given, boxes = [torch.from_numpy(features) for features in maps], torch.from_numpy(rows)
    expected = torch.from_numpy(roidl.multiscale_roi_align(maps, rows, SIZE, SCALES))
    corners = boxes[:, 1:].contiguous()
    listed = leaves(corners[:12], corners[12:])
    grouped, flat = leaves(corners.reshape(2, 12, 4), corners)
    for form, indices in ((listed, None), (grouped, None), (flat, rows[:, 0].astype(np.int32))):
        out = ops.multiscale_roi_align(given, form, SIZE, SCALES, batch_indices=indices)
        assert torch.equal(out.reshape(expected.shape), expected)
        out.square().sum().backward()
    assert torch.equal(grouped.grad.reshape(24, 4), flat.grad)
    assert torch.equal(torch.cat([each.grad for each in listed]), flat.grad)
    assert flat.grad.abs().sum() > 0


def test_what_wants_no_gradient_gets_none() -> None:
    maps, boxes = small()
    (fine,) = leaves(maps[0])
    function("multiscale_roi_align", "avg")(boxes, fine, maps[1]).sum().backward()
    assert fine.grad.abs().sum() > 0
    assert maps[1].grad is None
    assert boxes.grad is None
    with torch.no_grad():
        assert function("multiscale_roi_align", "avg")(boxes, fine, maps[1]).grad_fn is None
    # Nor is memory held: of the maps, the boxes and the three that say more of them.
    saved = function("multiscale_roi_align", "avg")(boxes, fine, maps[1]).grad_fn.saved_tensors
    assert [tensor is not None for tensor in saved] == [False, False, True, *[False] * 3]


def test_a_map_without_boxes_has_a_gradient_of_zeros() -> None:
    maps, boxes = small()
    fine, coarse = leaves(*maps)
    function("multiscale_roi_align", "avg")(boxes[::2], fine, coarse).sum().backward()
    assert fine.grad.abs().sum() > 0
    assert torch.equal(coarse.grad, torch.zeros_like(coarse))


def test_padding_rows_have_no_gradient() -> None:
    maps, rows = problem("float32")
    corners = torch.from_numpy(rows[:, 1:]).reshape(2, 12, 4).clone()
    corners[0, 5:], corners[1] = torch.nan, torch.inf
    given = leaves(*map(torch.from_numpy, maps))
    alone = leaves(*map(torch.from_numpy, maps))
    boxes, few = leaves(corners, corners[0, :5])
    counts = torch.tensor([5, 0])
    out = ops.multiscale_roi_align(given, boxes, SIZE, SCALES, 2, counts=counts)
    indices = torch.zeros(5, dtype=torch.int32)
    expected = ops.multiscale_roi_align(alone, few, SIZE, SCALES, 2, batch_indices=indices)
    assert torch.equal(out[0, :5], expected)
    assert not out[0, 5:].any()
    assert not out[1].any()
    (out**2).sum().backward()
    (expected**2).sum().backward()
    for one, other in zip(given, alone, strict=True):
        assert torch.equal(one.grad, other.grad)
    assert torch.equal(boxes.grad[0, :5], few.grad)
    assert not boxes.grad[0, 5:].any()
    assert not boxes.grad[1].any()


def test_given_levels() -> None:
    maps, rows = problem("float32")
    levels = np.arange(len(rows)) % 4
    expected = roidl.multiscale_roi_align(maps, rows, SIZE, SCALES, levels=levels)
    given = leaves(*map(torch.from_numpy, maps))
    for passed in (levels, torch.from_numpy(levels)):
        out = ops.multiscale_roi_align(given, torch.from_numpy(rows), SIZE, SCALES, levels=passed)
        assert np.array_equal(out.detach().numpy(), expected)


def test_assign_levels() -> None:
    _, rows = problem("float32")
    expected = [level_by_definition(row[1:]) for row in rows]
    boxes = torch.from_numpy(rows).requires_grad_()
    for assign in (ops.assign_levels, roidl.assign_levels):
        assert assign(boxes, SCALES).tolist() == expected
        parts = assign([boxes[:5, 1:], boxes[5:, 1:]], SCALES)
        assert [part.dtype for part in parts] == [torch.int32] * 2
        assert torch.cat(parts).tolist() == expected


def test_channels_last() -> None:
    maps, rows = problem("float32")
    plain = leaves(*map(torch.from_numpy, maps))
    last = [each.detach().contiguous(memory_format=torch.channels_last) for each in plain]
    last = leaves(*last)
    boxes = torch.from_numpy(rows)
    results = [ops.multiscale_roi_align(each, boxes, SIZE, SCALES) for each in (plain, last)]
    assert results[1].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*results)
    for result in results:
        result.square().sum().backward()
    for one, other in zip(plain, last, strict=True):
        assert other.grad.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(one.grad, other.grad)


# Differences --------------------------------------------------------------------------------------


def test_both_maps_have_boxes() -> None:
    _, boxes = small()
    assert ops.assign_levels(boxes, FINE, **RULE).tolist() == [0, 1, 0]


@pytest.mark.parametrize(("op", "mode"), MODES)
def test_gradients_of_every_order_along_the_maps(op: str, mode: str) -> None:
    maps, boxes = small()
    call = function(op, mode)
    given = tuple(leaves(*maps))
    assert torch.autograd.gradcheck(lambda *a: call(boxes, *a), given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda *a: call(boxes, *a) ** 2, given)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradients_along_maps_and_boxes(mode: str) -> None:
    maps, boxes = small()
    call = function("multiscale_roi_align", mode, sampling_ratio=2)
    given = leaves(boxes[:, 1:], *maps)
    where = torch.tensor([0, 1, 1])

    def joined(corners: Any, *maps: Any) -> Any:
        return call(torch.cat([where[:, None].to(corners), corners], 1), *maps)

    assert torch.autograd.gradcheck(joined, given, check_forward_ad=mode == "avg")


def test_second_derivatives_along_the_boxes_are_refused() -> None:
    maps, boxes = small()
    boxes, *given = leaves(boxes, *maps)
    out = function("multiscale_roi_align", "avg")(boxes, *given)
    *_, to_boxes = torch.autograd.grad((out**2).sum(), (*given, boxes), create_graph=True)
    (by_map,) = torch.autograd.grad(to_boxes.sum(), given[0], retain_graph=True)
    assert by_map.abs().sum() > 0
    with pytest.raises(NotImplementedError, match="second derivatives along the boxes"):
        torch.autograd.grad(to_boxes.sum(), boxes)


def test_pooling_is_constant_along_the_boxes() -> None:
    maps, boxes = small()
    boxes, *given = leaves(boxes, *maps)
    pooled, argmax = ops.multiscale_roi_pool(given, boxes, 2, FINE, return_argmax=True, **RULE)
    assert not argmax.requires_grad
    pooled.sum().backward()
    assert not boxes.grad.any()
    expected = roidl.multiscale_roi_pool(
        [each.detach().numpy() for each in given], boxes.detach().numpy(), 2, FINE,
        return_argmax=True, **RULE,
    )  # fmt: skip
    assert np.array_equal(argmax.numpy(), expected[1])


def test_functorch() -> None:
    maps, boxes = small()
    call = function("multiscale_roi_align", "avg")
    fine, coarse = leaves(*maps)
    call(boxes, fine, coarse).square().sum().backward()
    got = torch.func.grad(lambda a, b: call(boxes, a, b).square().sum(), argnums=(0, 1))(*maps)
    assert torch.equal(got[0], fine.grad)
    assert torch.equal(got[1], coarse.grad)
    _, along = torch.func.jvp(lambda a: call(boxes, a, maps[1]), (maps[0],), (maps[0],))
    torch.testing.assert_close(along, call(boxes, maps[0], torch.zeros_like(maps[1])))


# Compilers ----------------------------------------------------------------------------------------


def test_compile_and_export() -> None:
    torch._dynamo.reset()
    maps, boxes = small(torch.float32)
    align, pool = function("multiscale_roi_align", "avg"), function("multiscale_roi_pool", "max")

    def both(boxes: Any, *maps: Any) -> Any:
        return align(boxes, *maps), pool(boxes, *maps)

    compiled = torch.compile(both, fullgraph=True, dynamic=True)
    for count in (3, 2, 0):
        grads = []
        for run in (both, compiled):
            given = leaves(boxes[:count], *maps)
            results = run(*given)
            sum((result**2).sum() for result in results).backward()
            grads.append([*results, *(each.grad for each in given)])
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other)

    class Model(torch.nn.Module):  # type: ignore[misc]
        def forward(self, boxes: Any, fine: Any, coarse: Any) -> Any:
            return both(boxes, fine, coarse)

    rows = torch.export.Dim("rows")
    exported = torch.export.export(
        Model(), (boxes, *maps), dynamic_shapes=({0: rows}, None, None)
    ).module()
    for count in (3, 2):
        for one, other in zip(
            exported(boxes[:count], *maps), both(boxes[:count], *maps), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("differentiable", [False, True])
def test_opcheck(differentiable: bool) -> None:
    maps, boxes = small(torch.float32)
    last = [each.contiguous(memory_format=torch.channels_last) for each in maps]
    gradient, tangent = torch.rand(3, 2, 2, 2), torch.rand(3, 5)
    if differentiable:
        for leaf in (*maps, *last, gradient, tangent):
            leaf.requires_grad_()
    rows: tuple[Any, ...] = (None, None, None)
    given = boxes[:, 1:].contiguous(), torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), None
    shapes = (2, [6, 6, 3, 3], [True, False])
    rule: tuple[Any, ...] = (FINE, 6.0, 2.0, 2, 2)
    align, pool = (*rule, 2, 2, False, 0, 0), (*rule, 0, 0)
    argmax = ops.multiscale_roi_pool(maps, boxes, 2, FINE, return_argmax=True, **RULE)[1]
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("align", (last, boxes, *rows, *align)),
        ("align_backward", (gradient, [], *given, *shapes, *align)),
        ("align_backward_boxes", (gradient, maps, boxes, *rows, *align)),
        ("align_jvp", (maps, [], *given, *align)),
        ("align_jvp_boxes", (maps, tangent, boxes, *rows, *align)),
        ("align_jvp_boxes_backward", (gradient, tangent, boxes, *rows, *shapes, *align)),
        ("pool", (last, *given, True, *pool)),
        ("pool_backward", (gradient, argmax, boxes, *rows, *shapes, *pool)),
        ("pool_jvp", (maps, argmax, boxes, *rows, *pool)),
    ]
    for name, arguments in calls:
        operator = getattr(torch.ops.roidl, f"multiscale_roi_{name}").default
        torch.library.opcheck(operator, arguments)


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"scales": SCALES[::-1]}, ValueError, "scales must not rise from map to map"),
        ({"inputs": None}, TypeError, "inputs must be a list, got Tensor"),
        ({"levels": np.full(24, 4)}, ValueError, "the level of row 0 is 4, but must be in [0, 4)"),
        ({"counts": np.zeros(2, int)}, ValueError, "boxes must have shape [N, L, 4] with counts"),
        (
            {"batch_indices": np.zeros(24, int)},
            ValueError,
            "boxes must have shape [K, 4] with batch_indices",
        ),
    ],
)
def test_mistakes_are_named(change: Any, error: type[Exception], words: str) -> None:
    maps, rows = problem("float32")
    given = leaves(*map(torch.from_numpy, maps))
    arguments: Any = {"inputs": given, "boxes": torch.from_numpy(rows), "output_size": SIZE}
    arguments |= {"scales": SCALES} | change
    if arguments["inputs"] is None:
        arguments["inputs"] = given[0]
    with pytest.raises(error) as caught:
        ops.multiscale_roi_align(**arguments)
    assert str(caught.value).startswith("multiscale_roi_align: ")
    assert words in str(caught.value)


def test_maps_that_do_not_fit_are_named() -> None:
    maps, rows = problem("float32")
    given = leaves(*map(torch.from_numpy, maps))
    boxes = torch.from_numpy(rows)
    wrong = [*given[:2], given[2][:, :3], given[3]]
    with pytest.raises(ValueError, match=r"input\[2\] must have shape \[2, 5, 10, 12\]"):
        ops.multiscale_roi_align(wrong, boxes, SIZE, SCALES)
    wrong = [*given[:3], given[3].double()]
    with pytest.raises(TypeError, match=r"input\[3\] must be float32 as input\[0\]"):
        ops.multiscale_roi_align(wrong, boxes, SIZE, SCALES)
    with pytest.raises(TypeError, match="boxes must be an array"):
        ops.assign_levels([boxes, 3], SCALES)
    with pytest.raises(NotImplementedError, match="not differentiable here"):
        ops.multiscale_roi_align(given, boxes, SIZE, SCALES, out=torch.empty(24, 5, *SIZE))
    away = [given[0].to("meta"), *given[1:]]
    with pytest.raises(ValueError, match=r"input\[1\] must be on the device of the features"):
        ops.multiscale_roi_align(away, boxes, SIZE, SCALES)
