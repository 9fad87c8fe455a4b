"""PyTorch on several maps at once: AOTInductor, ONNX, TorchScript, and torch.fx."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import pytest

from test_torch_compile import Model, assert_equal, dynamic, to_onnx

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

SCALES = (1 / 2, 1 / 4)
RULE: Any = {"canonical_scale": 6, "canonical_level": 2}
# Of both maps of an image of 12 x 12 pixels; of no area; and one with x1 > x2.
BOXES = [
    [0, 1.1, 1.2, 5.3, 6.7],
    [1, 0.7, 1.3, 10.9, 9.1],
    [1, 2.2, 3.1, 8.4, 7.9],
    [0, 3.1, 2.0, 3.1, 5.0],
    [1, 9.1, 3.2, 4.7, 9.9],
]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name"),
]


def small(dtype: Any = None) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(5)
    maps = [torch.rand(2, 2, side, side, generator=generator) for side in (6, 3)]
    return tuple(tensor.to(dtype or torch.float32) for tensor in (*maps, torch.tensor(BOXES)))


def every(fine: Any, coarse: Any, boxes: Any) -> tuple[Any, ...]:
    maps = [fine, coarse]
    return (
        ops.multiscale_roi_align(maps, boxes, 2, SCALES, 2, True, **RULE),
        ops.multiscale_roi_pool(maps, boxes, (2, 3), SCALES, **RULE),
        ops.assign_levels(boxes, SCALES, **RULE),
    )


@pytest.mark.slow
def test_a_package_of_aotinductor(tmp_path: Path) -> None:
    shapes = ((None, None, dynamic("k")),)
    program = torch.export.export(Model(every), small(), dynamic_shapes=shapes)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "m.pt2"))
    package = torch._inductor.aoti_load_package(path)
    fine, coarse, boxes = small()
    for count in (5, 3):
        assert_equal(
            tuple(package(fine, coarse, boxes[:count])), every(fine, coarse, boxes[:count])
        )


def test_onnx(tmp_path: Path) -> None:
    def rows(fine: Any, coarse: Any, boxes: Any) -> tuple[Any, ...]:
        maps, corners = [fine, coarse], boxes[:, 1:]
        last = [map.permute(0, 2, 3, 1).half() for map in maps]
        levels = (boxes[:, 1] > 2).int()
        said = {"batch_indices": boxes[:, 0].int(), "levels": levels}
        return (
            *every(fine, coarse, boxes),
            ops.multiscale_roi_align(last, boxes, 2, SCALES, layout="NHWC", **RULE),
            ops.multiscale_roi_align(maps, corners, 2, SCALES, mode="max_onnx", **said),
        )

    shapes = (dynamic("n"), dynamic("n"), dynamic("k"))
    call = to_onnx(rows, small(), shapes, tmp_path / "rows.onnx")
    fine, coarse, boxes = small()
    assert set(ops.assign_levels(boxes, SCALES, **RULE).tolist()) == {0, 1}
    for count in (5, 2, 0):
        given = fine, coarse, boxes[:count]
        torch.testing.assert_close(call(*given), list(rows(*given)))

    def padded(fine: Any, coarse: Any, boxes: Any, counts: Any) -> tuple[Any, ...]:
        maps = [fine, coarse]
        levels = (boxes[..., 0] > 2).long()
        return (
            ops.multiscale_roi_align(maps, boxes, 2, SCALES, counts=counts, **RULE),
            ops.multiscale_roi_pool(maps, boxes, 2, SCALES, counts=counts, levels=levels),
        )

    corners = torch.stack([boxes[:3, 1:], boxes[1:4, 1:]])
    grouped: Any = (
        dynamic("n"),
        dynamic("n"),
        dynamic("n") | {1: torch.export.Dim("l")},
        dynamic("n"),
    )
    arguments = fine, coarse, corners, torch.tensor([3, 2])
    call = to_onnx(padded, arguments, grouped, tmp_path / "padded.onnx")
    corners = torch.cat([corners, torch.full((2, 2, 4), torch.nan)], 1)
    for counts in ([3, 1], [0, 2]):
        arguments = fine, coarse, corners, torch.tensor(counts)
        torch.testing.assert_close(call(*arguments), list(padded(*arguments)))


def test_levels_in_onnx_at_the_limits_of_the_rule(tmp_path: Path) -> None:
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    sides = torch.cat([2.0 ** torch.arange(-3, 13), 2.0 ** torch.arange(3, 12) * 0.999999])
    boxes = torch.zeros(len(sides), 4)
    boxes[:, 2], boxes[:, 3] = sides, sides * 49 / 256  # areas (7/16 side)^2: 112^2, 224^2, ...
    for dtype in (torch.float32, torch.float64):
        typed = boxes.to(dtype)
        call = to_onnx(
            lambda b: (ops.assign_levels(b, scales),), (typed,), None, tmp_path / "levels.onnx"
        )
        (levels,) = call(typed)
        assert torch.equal(levels, ops.assign_levels(typed, scales))
        assert set(levels.tolist()) == {0, 1, 2, 3}


def test_what_onnx_lacks(tmp_path: Path) -> None:
    def largest(fine: Any, coarse: Any, boxes: Any) -> Any:
        return ops.multiscale_roi_align([fine, coarse], boxes, 2, SCALES, mode="max")

    with pytest.raises(Exception, match=r"NotImplementedError.*multiscale_roi_align: ONNX has"):
        to_onnx(largest, small(), None, tmp_path / "no")


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_the_module_as_torchscript(mode: str) -> None:
    fine, coarse, boxes = small()
    arguments: Any = ["0", "1"], 2, 2
    pool = ops.MultiScaleRoIAlign(*arguments, aligned=True, mode=mode, **RULE)
    scripted, file = torch.jit.script(pool), io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    scripted = torch.jit.load(file)
    features = {"0": fine, "other": fine, "1": coarse}
    listed = [boxes[::3, 1:], boxes[1:3, 1:]]
    expected = pool(features, listed, [(12, 12), (9, 12)])
    assert torch.equal(scripted(features, listed, [(12, 12), (9, 12)]), expected)
    assert scripted.scales == list(SCALES)


def test_fx_sees_a_leaf() -> None:
    def call(fine: Any, coarse: Any, boxes: Any) -> Any:
        return ops.multiscale_roi_align([fine + 1, coarse], boxes, 2, SCALES, **RULE)

    graph = torch.fx.symbolic_trace(call)
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert targets[1:] == [ops.multiscale_roi_align]
    assert torch.equal(graph(*small()), call(*small()))
