"""PyTorch's compilers: `torch.compile`, `torch.export`, AOTInductor, opcheck, and ONNX."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import roidl
from operators import every_operator

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

SIZE = (2, 3)
BOXES = [[0, 1.0, 1, 6, 6], [1, 2, 0, 7, 5], [0, 0, 0, 3, 3], [1, 3, 3, 6, 8]]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def tensors(n: int = 2, height: int = 8, width: int = 9) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, 4, height, width, generator=generator), torch.tensor(BOXES)


def all_operators(x: Any, boxes: Any) -> tuple[Any, ...]:
    """Every operator and mode in one graph; compiling it takes seconds."""
    return (
        roidl.roi_align(x, boxes, SIZE, 0.5, 2),
        ops.roi_align(x, boxes, SIZE, aligned=True, mode="max"),
        ops.roi_align(x, boxes, SIZE, mode="max_onnx"),
        ops.roi_pool(x, boxes, SIZE),
        ops.roi_pool(x, boxes, SIZE, mode="avg"),
        *ops.roi_pool(x, boxes, SIZE, return_argmax=True),
    )


def listed(x: Any, first: Any, second: Any) -> Any:
    return ops.roi_align(x, [first, second], SIZE, 0.5)


def assert_equal(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


# torch.compile ------------------------------------------------------------------------------------


def gradients(run: Callable[..., Any], *tensors: Any) -> list[Any]:
    leaves = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in tensors]
    results = run(*leaves)
    loss = sum((part**2).sum() for part in results if part.is_floating_point())
    loss.backward()
    return [leaf.grad for leaf in leaves]


def test_compile_with_dynamic_shapes() -> None:
    torch._dynamo.reset()
    x, boxes = tensors()

    def all_but_one(x: Any, boxes: Any) -> tuple[Any, ...]:
        # max_onnx has no gradient to the boxes
        return tuple(r for n, r in enumerate(all_operators(x, boxes)) if n != 2)

    compiled = torch.compile(all_but_one, fullgraph=True, dynamic=True)
    for count, *shape in ((4, 2, 8, 9), (1, 2, 5, 12), (0, 2, 8, 9), (3, 3, 9, 8)):
        x, boxes = tensors(*shape)
        assert_equal(compiled(x, boxes[:count]), all_but_one(x, boxes[:count]))
        expected = gradients(all_but_one, x, boxes[:count])
        torch.testing.assert_close(gradients(compiled, x, boxes[:count]), expected)


def test_compile_lists_channels_last_and_half() -> None:
    torch._dynamo.reset()
    x, boxes = tensors()
    compiled = torch.compile(lambda *a: (listed(*a),), fullgraph=True, dynamic=True)
    lists = boxes[:2, 1:].contiguous(), boxes[2:, 1:].contiguous()
    x = x.contiguous(memory_format=torch.channels_last)
    for features in (x, x.bfloat16()):
        (result,) = compiled(features, *lists)
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert_equal(result, listed(features, *lists))
        expected = gradients(lambda *a: (listed(*a),), features, *lists)
        torch.testing.assert_close(gradients(compiled, features, *lists), expected)


def test_compile_transforms() -> None:
    torch._dynamo.reset()
    x, boxes = tensors()

    def call(a: Any) -> Any:
        return ops.roi_align(a, boxes, SIZE)

    def transforms(a: Any) -> tuple[Any, ...]:
        return (
            torch.func.grad(lambda b: (call(b) ** 2).sum())(a),
            torch.vmap(call)(torch.stack([a, 2 * a])),
            torch.func.jvp(call, (a,), (2 * a,))[1],
        )

    compiled = torch.compile(transforms, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), transforms(x))


def test_mistakes_are_found_when_tracing() -> None:
    torch._dynamo.reset()
    x, boxes = tensors()
    sentence = r"roi_align: boxes must have shape \[K, 5\], got \[4, 3\]"
    compiled = torch.compile(lambda a, b: ops.roi_align(a, b, SIZE), backend="eager", dynamic=True)
    with pytest.raises(Exception, match=sentence):
        compiled(x, boxes[:, :3])
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        fake, rows = mode.from_tensor(x), mode.from_tensor(boxes)
        assert ops.roi_align(fake, rows, SIZE).shape == (4, 4, *SIZE)
        with pytest.raises(ValueError, match=sentence):
            ops.roi_align(fake, rows[:, :3], SIZE)
        with pytest.raises(TypeError, match=r"^roi_pool: input must be float16.* got int64$"):
            ops.roi_pool(fake.long(), rows, SIZE)
        with pytest.raises(ValueError, match=r"^roi_align: a list of boxes .* \(2\), got 1$"):
            ops.roi_align(fake, [rows[:, 1:]], SIZE)


# torch.export -------------------------------------------------------------------------------------


class Model(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, *arguments: Any) -> Any:
        return self.run(*arguments)


def dynamic(*names: str) -> dict[int, Any]:
    axes = {"n": 0, "k": 0, "l": 0, "h": 2, "w": 3}
    return {axes[name]: torch.export.Dim(name) for name in names}


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    shapes = ((dynamic("n", "h", "w"), dynamic("k")),)
    program = torch.export.export(
        Model(all_operators), tensors(), dynamic_shapes=shapes, strict=strict
    )
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"roidl.roi_align.default", "roidl.roi_pool.default"} <= targets
    for count in (4, 1, 0):
        x, boxes = tensors(3, 11, 7)
        assert_equal(program.module()(x, boxes[:count]), all_operators(x, boxes[:count]))


def test_export_of_as_many_boxes_as_there_are() -> None:
    def confident(x: Any, boxes: Any) -> Any:
        return ops.roi_align(x, boxes[boxes[:, 3] > 4], SIZE)

    x, boxes = tensors()
    program = torch.export.export(Model(confident), (x, boxes))
    for given in (boxes, boxes * torch.tensor([1, 0, 0, 0, 0])):
        assert_equal(program.module()(x, given), confident(x, given))


@pytest.mark.slow
def test_a_package_of_aotinductor(tmp_path: Path) -> None:
    shapes = ((dynamic("h", "w"), dynamic("k")),)
    program = torch.export.export(Model(all_operators), tensors(), dynamic_shapes=shapes)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "m.pt2"))
    x, boxes = tensors(2, 11, 7)
    assert_equal(tuple(torch._inductor.aoti_load_package(path)(x, boxes)), all_operators(x, boxes))


# opcheck ------------------------------------------------------------------------------------------


@every_operator
@pytest.mark.parametrize("differentiable", [False, True])
def test_opcheck(op: str, mode: str, differentiable: bool) -> None:
    from roidl import _ops

    x, boxes = tensors()
    corners, indices = boxes[:, 1:].contiguous(), boxes[:, 0].int()
    public = getattr(_ops, op)
    params = public(x, boxes, SIZE, mode=mode).params
    gradient, tangent = torch.rand(4, 4, *SIZE), torch.rand(4, 4)
    last = x.contiguous(memory_format=torch.channels_last)
    for leaf in (x, gradient, last, tangent):
        leaf.requires_grad_(differentiable)
    here = (corners, indices)
    shape = (2, 8, 9, True)
    if op == "roi_pool":
        argmax = None
        if mode == "max":
            argmax = ops.roi_pool(x, boxes, SIZE, return_argmax=True)[1]
        calls: list[tuple[str, tuple[Any, ...]]] = [
            ("roi_pool", (x, boxes, None, False)),
            ("roi_pool", (last, *here, mode == "max")),
            ("roi_pool_backward", (gradient, argmax, *here, *shape)),
            ("roi_pool_jvp", (x, argmax, *here)),
        ]
    else:
        calls = [
            ("roi_align", (last, boxes, None)),
            ("roi_align_backward", (gradient, x, *here, *shape)),
            ("roi_align_jvp", (x, last, *here)),
        ]
        if mode == "avg":
            moving = corners.clone().requires_grad_(differentiable)
            calls += [
                ("roi_align", (x, moving, indices)),
                ("roi_align_backward", (gradient, None, moving, indices, *shape)),
                ("roi_align_backward_boxes", (gradient, x, *here)),
                ("roi_align_jvp_boxes", (x, tangent, *here)),
                ("roi_align_jvp_boxes_backward", (gradient, tangent, *here, *shape)),
            ]
        elif mode == "max":
            calls.append(("roi_align_backward_boxes", (gradient.detach(), x.detach(), *here)))
    for name, arguments in calls:
        torch.library.opcheck(getattr(torch.ops.roidl, name).default, (*arguments, *params))


# ONNX ---------------------------------------------------------------------------------------------


def to_onnx(run: Callable[..., Any], arguments: Any, shapes: Any, path: Path) -> Any:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(
        Model(run).eval(),
        arguments,
        dynamo=True,
        opset_version=18,
        dynamic_shapes=None if shapes is None else (shapes,),
        custom_translation_table=ops.onnx_translation_table(),
        verbose=False,
    )
    program.save(path)
    session = onnxruntime.InferenceSession(path)

    def call(*tensors: Any) -> Any:
        names = [each.name for each in session.get_inputs()]
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return call


def test_onnx(tmp_path: Path) -> None:
    def rows(x: Any, boxes: Any, scale: float = 0.5) -> Any:
        corners, indices = boxes[:, 1:], boxes[:, 0].int()
        half = x.half()
        return (
            ops.roi_align(x, boxes, SIZE, scale, 2, aligned=True),
            ops.roi_align(x, corners, SIZE, scale, batch_indices=indices),
            ops.roi_align(half, boxes, SIZE, scale),
            ops.roi_pool(x, boxes, SIZE, scale),
            ops.roi_pool(x, corners, SIZE, scale, batch_indices=indices),
            ops.roi_align(x[:1], corners, SIZE, mode="max_onnx", sampling_ratio=1),
        )

    shapes = dynamic("n", "h", "w"), dynamic("k")
    call = to_onnx(rows, tensors(), shapes, tmp_path / "rows.onnx")
    for count in (4, 1, 0):
        x, boxes = tensors(3, 11, 7)
        torch.testing.assert_close(call(x, boxes[:count]), list(rows(x, boxes[:count])))

    def others(x: Any, first: Any, second: Any) -> Any:
        y, grouped = x.permute(0, 2, 3, 1), torch.stack([second, second + 1])
        return (
            listed(x, first, second),
            ops.roi_align(y, grouped, SIZE, layout="NHWC"),
            ops.roi_pool(y, grouped, SIZE, layout="NHWC"),
        )

    x, boxes = tensors()
    arguments = x, boxes[:, 1:].contiguous(), boxes[:2, 1:].contiguous()
    call = to_onnx(
        others, arguments, (dynamic("h", "w"), dynamic("k"), dynamic("l")), tmp_path / "others.onnx"
    )
    x = tensors(2, 12, 6)[0]
    arguments = x, boxes[:1, 1:].contiguous(), boxes[:, 1:].contiguous()
    torch.testing.assert_close(call(*arguments), list(others(*arguments)))


@pytest.mark.parametrize(
    "options",
    [{"mode": "max"}, {"sampling_ratio": (1, 2)}, {"op": "roi_pool", "mode": "avg"}],
    ids=str,
)
def test_what_onnx_lacks(options: dict[str, Any], tmp_path: Path) -> None:
    op = options.pop("op", "roi_align")
    with pytest.raises(Exception, match=rf"NotImplementedError.*{op}: ONNX has"):
        to_onnx(
            lambda x, b: getattr(ops, op)(x, b, SIZE, **options), tensors(), None, tmp_path / "no"
        )
