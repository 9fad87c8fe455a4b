"""PyTorch on several maps at once under `torch.func`: what `vmap` gives is what a loop gives."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

SCALES = (1 / 2, 1 / 4)
RULE: Any = {"canonical_scale": 6, "canonical_level": 2}
EXAMPLES = 3
MODES = [
    ("multiscale_roi_align", "avg"),
    ("multiscale_roi_align", "max"),
    ("multiscale_roi_pool", "max"),
    ("multiscale_roi_pool", "avg"),
]

pytestmark = pytest.mark.filterwarnings("error:.*batching rule.*")  # vmap by a loop


def maps_of(images: int = 2) -> list[Any]:
    """Two maps of an image of 12 x 12 pixels, for every example."""
    generator = torch.Generator().manual_seed(5)
    shapes = [(EXAMPLES, images, 2, side, side) for side in (6, 3)]
    return [torch.rand(shape, dtype=torch.float64, generator=generator) for shape in shapes]


def corners_of(*lead: int) -> Any:
    """Boxes of both levels."""
    generator = torch.Generator().manual_seed(7)
    start = torch.rand(*lead, 2, dtype=torch.float64, generator=generator) * 5
    size = 1 + 7 * torch.rand(*lead, 2, dtype=torch.float64, generator=generator)
    return torch.cat([start, start + size], -1)


# What is said of the boxes, an example's part in front, by the form of the boxes.
Said = dict[str, Any]
FORMS: dict[str, Said] = {
    "rows": {"boxes": torch.cat([torch.tensor([[0.0], [1], [1], [0]]).expand(3, 4, 1).double(),
                                 corners_of(3, 4)], -1)},
    "indexed": {"boxes": corners_of(3, 4), "batch_indices": torch.randint(2, (3, 4)),
                "levels": torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])},
    "grouped": {"boxes": corners_of(3, 2, 4),
                "levels": torch.tensor([[[0, 1, 1, 0], [1, 1, 0, 1]]]).expand(3, 2, 4)},
    "padded": {"boxes": corners_of(3, 2, 4), "counts": torch.tensor([[4, 2], [0, 1], [3, 4]])},
}  # fmt: skip


def call_of(op: str, mode: str, names: list[str]) -> Callable[..., Any]:
    """The operator of both maps and of what is said, one after the other."""

    def call(fine: Any, coarse: Any, *said: Any) -> Any:
        given = dict(zip(names, said, strict=True))
        boxes = given.pop("boxes")
        return getattr(ops, op)([fine, coarse], boxes, 2, SCALES, mode=mode, **RULE, **given)

    return call


def loop(call: Callable[..., Any], given: list[Any], dims: list[int | None]) -> Any:
    pairs = list(zip(given, dims, strict=True))
    examples = [
        call(*(one if dim is None else one.select(dim, i) for one, dim in pairs))
        for i in range(EXAMPLES)
    ]
    if isinstance(examples[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*examples, strict=True))
    return torch.stack(examples)


def test_both_maps_have_boxes() -> None:
    for said in FORMS.values():
        levels = ops.assign_levels(
            said["boxes"].reshape(-1, said["boxes"].shape[-1]), SCALES, **RULE
        )
        assert set(levels.tolist()) == {0, 1}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("op", "mode"), MODES)
def test_vmap(op: str, mode: str, form: str) -> None:
    said = FORMS[form]
    call = call_of(op, mode, list(said))
    given = [*maps_of(), *said.values()]
    every: list[int | None] = [0] * len(given)
    # One map, both, or neither, or all the boxes may be every example's.
    for shared in ([], [0], [0, 1], range(2, len(given)), range(1, len(given))):
        dims = [None if i in shared else 0 for i in range(len(given))]
        tensors = [one[0] if dim is None else one for one, dim in zip(given, dims, strict=True)]
        got = torch.vmap(call, tuple(dims))(*tensors)
        torch.testing.assert_close(got, loop(call, tensors, dims))

    def loss(*tensors: Any) -> Any:
        return (call(*tensors) ** 2).sum()

    grad = torch.func.grad(loss, argnums=(0, 1))
    torch.testing.assert_close(torch.vmap(grad)(*given), loop(grad, given, every))

    def along(*tensors: Any) -> Any:
        first = tensors[:2]
        return torch.func.jvp(lambda *maps: call(*maps, *tensors[2:]), first, first)[1]

    torch.testing.assert_close(torch.vmap(along)(*given), loop(along, given, every))


@pytest.mark.parametrize("form", FORMS)
def test_vmap_of_derivatives_along_the_boxes(form: str) -> None:
    said = FORMS[form]
    call = call_of("multiscale_roi_align", "avg", list(said))
    given = [*maps_of(), *said.values()]
    every: list[int | None] = [0] * len(given)
    grad = torch.func.grad(lambda *tensors: (call(*tensors) ** 2).sum(), argnums=2)
    torch.testing.assert_close(torch.vmap(grad)(*given), loop(grad, given, every))

    def along(*tensors: Any) -> Any:
        fine, coarse, boxes, *rest = tensors
        return torch.func.jvp(
            lambda boxes: call(fine, coarse, boxes, *rest), (boxes,), (torch.ones_like(boxes),)
        )[1]

    torch.testing.assert_close(torch.vmap(along)(*given), loop(along, given, every))


def test_vmap_of_other_axes_of_vmap_and_of_second_derivatives() -> None:
    fine, coarse = maps_of()
    boxes = FORMS["rows"]["boxes"]
    call = call_of("multiscale_roi_align", "avg", ["boxes"])
    expected = loop(call, [fine, coarse, boxes], [0, 0, 0])
    moved = torch.vmap(call, (4, 2, 1))(
        fine.movedim(0, 4), coarse.movedim(0, 2), boxes.movedim(0, 1)
    )
    torch.testing.assert_close(moved, expected)
    twice = torch.vmap(torch.vmap(call, (None, None, 0)), (0, 0, None))(fine, coarse, boxes)
    for i in range(EXAMPLES):
        torch.testing.assert_close(twice[i, i], expected[i])

    def curvature(fine: Any, coarse: Any, boxes: Any) -> Any:
        def loss(fine: Any) -> Any:
            return (call(fine, coarse, boxes) ** 3).sum()

        return torch.func.grad(lambda x: (torch.func.grad(loss)(x) ** 2).sum())(fine)

    given = [fine, coarse, boxes]
    torch.testing.assert_close(torch.vmap(curvature)(*given), loop(curvature, given, [0, 0, 0]))


def test_argmax_and_levels_under_vmap() -> None:
    said = FORMS["padded"]
    given = [*maps_of(), said["boxes"]]

    def call(fine: Any, coarse: Any, boxes: Any) -> Any:
        return ops.multiscale_roi_pool([fine, coarse], boxes, 2, SCALES, return_argmax=True, **RULE)

    for one, other in zip(torch.vmap(call)(*given), loop(call, given, [0, 0, 0]), strict=True):
        assert torch.equal(one, other)
    levels = torch.vmap(lambda boxes: ops.assign_levels(boxes, SCALES, **RULE), 1)
    expected = ops.assign_levels(said["boxes"].reshape(-1, 4), SCALES, **RULE)
    assert torch.equal(levels(said["boxes"].movedim(0, 1)).reshape(-1), expected)


def test_no_index_reaches_into_another_example() -> None:
    given = [*maps_of(), *FORMS["indexed"].values()]
    given[3] = torch.tensor([[0, 1, 1, 0], [0, 2, 1, 1], [1, 1, 0, 0]])
    call = call_of("multiscale_roi_align", "avg", list(FORMS["indexed"]))
    with pytest.raises(ValueError, match="the batch index of row 5 is 2, but must be"):
        torch.vmap(call)(*given)
    given[3], given[4] = torch.zeros(3, 4, dtype=torch.int64), torch.full((3, 4), 2)
    with pytest.raises(ValueError, match="the level of row 0 is 2"):
        torch.vmap(call)(*given)
    with pytest.raises(ValueError, match="boxes must have shape"):
        torch.vmap(call)(*given[:2], given[2][..., :3], *given[3:])
    with pytest.raises(ValueError, match="assign_levels: boxes must have shape"):
        torch.vmap(lambda boxes: ops.assign_levels(boxes, SCALES))(given[2][0])
