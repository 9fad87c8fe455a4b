"""PyTorch's module for a pyramid, as torchvision has it."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
ops: Any = importlib.import_module("roidl.torch")  # must not be skipped when it is broken

# Two maps of an image of 12 x 12 pixels, and boxes of both levels.
SCALES = (1 / 2, 1 / 4)
RULE: Any = {"canonical_scale": 6, "canonical_level": 2}
BOXES = [[0, 1.1, 1.2, 5.3, 6.7], [1, 0.7, 1.3, 10.9, 9.1], [1, 2.2, 3.1, 8.4, 7.9]]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def small() -> tuple[list[Any], Any]:
    generator = torch.Generator().manual_seed(5)
    maps = [torch.rand(2, 2, side, side, generator=generator) for side in (6, 3)]
    return maps, torch.tensor(BOXES)


def test_the_module_is_torchvisions() -> None:
    pool: Any = ops.MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=6, canonical_level=2)
    text = "(featmap_names=['0', '1'], output_size=(2, 2), sampling_ratio=2)"
    assert repr(pool) == "MultiScaleRoIAlign" + text
    assert (pool.scales, pool.map_levels) == (None, None)
    maps, boxes = small()
    features = OrderedDict([("0", maps[0]), ("other", maps[0]), ("1", maps[1])])
    listed = [boxes[:1, 1:], boxes[1:, 1:]]
    out = pool(features, listed, [(11, 12), (12, 10)])
    assert pool.scales == list(SCALES)
    assert (pool.map_levels.k_min, pool.map_levels.k_max) == (1, 2)
    assert pool.map_levels(listed).tolist() == [0, 1, 0]
    assert torch.equal(out, ops.multiscale_roi_align(maps, boxes, 2, SCALES, 2, **RULE))
    # Scales are kept until they are taken away.
    assert torch.equal(pool(features, listed, [(3, 3)]), out)
    pool.scales = None
    assert pool.map_levels is None
    with pytest.raises(ValueError, match="images list should not be empty"):
        pool(features, listed, [])
    one = ops.MultiScaleRoIAlign(["1"], (2, 3), 2, aligned=True, mode="max")
    assert repr(one).endswith("output_size=(2, 3), sampling_ratio=2, aligned=True, mode=max)")
    expected = ops.roi_align(maps[1], boxes, (2, 3), 1 / 4, 2, True, mode="max")
    assert torch.equal(one(features, listed, [(12, 12)]), expected)


def test_the_module_compiles_and_takes_maps_of_mixed_dtypes() -> None:
    torch._dynamo.reset()
    maps, boxes = small()
    listed = [boxes[:1, 1:], boxes[1:, 1:]]
    pool = ops.MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=6, canonical_level=2)
    fresh = ops.MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=6, canonical_level=2)
    features = {"0": maps[0].bfloat16(), "1": maps[1]}
    expected = pool(features, listed, [(12, 12)])
    assert expected.dtype == torch.bfloat16
    compiled = torch.compile(fresh, fullgraph=True)
    assert torch.equal(compiled(features, listed, [(12, 12)]), expected)
    assert torch.equal(compiled(features, listed, [(12, 12)]), expected)


# Scales and names, in eager and in scripted form --------------------------------------------------

NAMES = ["0", "1"]
FORMS = [
    pytest.param(lambda module: module, id="eager"),
    pytest.param(torch.jit.script, id="script"),
]
Form = Callable[[Any], Any]


def pyramid(height: int, width: int, doublings: tuple[int, ...] = (2, 3)) -> dict[str, Any]:
    """Maps of two images of this size, as a backbone with padding makes them."""
    generator = torch.Generator().manual_seed(6)
    sizes = [(-(-height // 2**k), -(-width // 2**k)) for k in doublings]
    return {str(i): torch.rand(2, 3, *size, generator=generator) for i, size in enumerate(sizes)}


CORNERS = torch.tensor([[0.0, 0, 5, 5], [1, 1, 14, 4], [2, 3, 13, 95]])
LISTED = [CORNERS[:1], CORNERS[1:]]
NARROW = [(14, 100), (13, 97)]


@pytest.mark.parametrize("form", FORMS)
def test_scales_that_are_given_are_kept(form: Form) -> None:
    maps, scales = pyramid(32, 128), [1 / 4, 1 / 8]
    rows = torch.cat([torch.tensor([[0.0], [1], [1]]), CORNERS], 1)
    expected = ops.multiscale_roi_align(list(maps.values()), rows, 2, scales, 2)
    passed = form(ops.MultiScaleRoIAlign(NAMES, 2, 2, scales=tuple(scales)))
    assigned = ops.MultiScaleRoIAlign(NAMES, 2, 2)
    assigned.scales = scales
    for pool in (passed, form(assigned)):
        assert torch.equal(pool(maps, LISTED, NARROW), expected)
        assert torch.equal(pool(maps, LISTED, []), expected)  # nothing is inferred of images
        assert pool.scales == scales


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("transposed", [False, True])
def test_the_axis_that_is_padded_less_tells_the_scale(form: Form, transposed: bool) -> None:
    images = [shape[::-1] for shape in NARROW] if transposed else NARROW
    maps = pyramid(128, 32) if transposed else pyramid(32, 128)
    pool = form(ops.MultiScaleRoIAlign(NAMES, 2, 2))
    pool(maps, LISTED, images)
    assert pool.scales == [1 / 4, 1 / 8]
    pool(pyramid(200, 333), LISTED, [(200, 333), (180, 333)])
    assert pool.scales == [1 / 4, 1 / 8]


@pytest.mark.parametrize("form", FORMS)
def test_images_that_are_larger_than_a_map_are_named(form: Form) -> None:
    def refuses(pool: Any, maps: Any, images: Any) -> str:
        with pytest.raises((ValueError, RuntimeError), match="pass scales=") as caught:
            pool(maps, LISTED, images)
        return str(caught.value)

    # Both axes padded to twice their length: wrong, unseen, and told by the first larger image.
    pool = form(ops.MultiScaleRoIAlign(NAMES, 2, 2))
    pool(pyramid(32, 32), LISTED, [(17, 17), (16, 16)])
    assert pool.scales == [1 / 2, 1 / 4]
    said = refuses(pool, pyramid(32, 64), [(17, 17), (32, 60)])
    assert "the map '0' has 8 x 16 cells, but an image of 32 x 60 pixels has more" in said
    # A map of floor(size * scale) cells is large enough.
    given = form(ops.MultiScaleRoIAlign(["0"], 2, 2, scales=[1 / 4]))
    given({"0": torch.rand(2, 3, 8, 8)}, LISTED, [(35, 35)])
    refuses(given, {"0": torch.rand(2, 3, 8, 8)}, [(35, 36)])
    # Five pixels to a cell are no power of two: nothing is kept of that.
    fresh = form(ops.MultiScaleRoIAlign(["0"], 2, 2))
    refuses(fresh, {"0": torch.rand(2, 3, 20, 20)}, [(100, 100)])
    refuses(fresh, {"0": torch.rand(2, 3, 20, 20)}, [(0, 100)])
    assert fresh.scales is None


@pytest.mark.parametrize("form", FORMS)
def test_attributes_that_are_changed_after_a_call_count(form: Form) -> None:
    maps = pyramid(32, 128)
    pool = form(ops.MultiScaleRoIAlign(NAMES, 2, 2, canonical_scale=224.0, canonical_level=4.0))
    first = pool(maps, LISTED, NARROW)
    for attribute, value in (("canonical_scale", 20.0), ("canonical_level", 9.0)):
        before = getattr(pool, attribute)
        setattr(pool, attribute, value)
        changed = pool(maps, LISTED, NARROW)
        fresh = form(ops.MultiScaleRoIAlign(NAMES, 2, 2, **{attribute: value}))
        assert torch.equal(changed, fresh(maps, LISTED, NARROW))
        assert not torch.equal(changed, first)
        setattr(pool, attribute, before)
    wrong: dict[str, Any] = {"mode": "nonsense", "aligned": 2, "output_size": [1, 2, 3]}
    for attribute in wrong:
        broken = ops.MultiScaleRoIAlign(NAMES, 2, 2)
        setattr(broken, attribute, wrong[attribute])
        with pytest.raises((ValueError, TypeError, RuntimeError), match=f"roi_align: {attribute}"):
            form(broken)(maps, LISTED, NARROW)
    resized = ops.MultiScaleRoIAlign(NAMES, 2, 2)
    resized.output_size = [7, 5]
    assert form(resized)(maps, LISTED, NARROW).shape == (3, 3, 7, 5)


@pytest.mark.parametrize("form", FORMS)
def test_maps_of_equal_scales(form: Form) -> None:
    maps = pyramid(64, 64, (5, 5))
    pool = form(ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 2, 2))  # torchvision's default
    expected = ops.roi_align(maps["0"], LISTED, 2, 1 / 32, 2)
    assert torch.equal(pool(maps, LISTED, [(64, 64)]), expected)
    assert pool.scales == [1 / 32, 1 / 32]
    rising = form(ops.MultiScaleRoIAlign(NAMES, 2, 2))
    with pytest.raises((ValueError, RuntimeError), match="scales must not rise from map to map"):
        rising(pyramid(64, 64, (3, 2)), LISTED, [(64, 64)])


@pytest.mark.parametrize("names", [["z"], ["z", "y"], ["0", "z"], ["0", "1", "2"], [0], ["0", 7]])
def test_names_that_are_not_there_are_listed(names: Any) -> None:
    maps = pyramid(32, 128)
    missing = str([name for name in names if name not in NAMES])
    for pool in (
        ops.MultiScaleRoIAlign(names, 2, 2),
        ops.MultiScaleRoIAlign(names, 2, 2, scales=[2.0**-k for k in range(len(names))]),
    ):
        with pytest.raises(ValueError) as caught:
            pool(maps, LISTED, NARROW)
        said = str(caught.value)
        assert f"featmap_names names the maps {missing}" in said
        assert said.endswith("those present, ['0', '1']")
    if isinstance(names[-1], str):
        scripted = torch.jit.script(ops.MultiScaleRoIAlign(names, 2, 2))
        with pytest.raises(RuntimeError, match="featmap_names names the maps"):
            scripted(maps, LISTED, NARROW)


def test_a_tensor_or_a_list_in_place_of_the_dictionary() -> None:
    maps = pyramid(32, 128)
    for x in (maps["0"], list(maps.values()), None):
        with pytest.raises(ValueError, match=r"featmap_names names, \['0', '1'\], got a "):
            ops.MultiScaleRoIAlign(NAMES, 2, 2)(x, LISTED, NARROW)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"featmap_names": "01"}, TypeError, "featmap_names must be a list of names, got '01'"),
        ({"featmap_names": []}, ValueError, "featmap_names must name a map"),
        ({"mode": "mean"}, ValueError, "mode must be one of"),
        ({"aligned": "max"}, TypeError, "aligned must be True or False"),
        ({"output_size": (7,)}, ValueError, "output_size must be an integer or a pair"),
        ({"output_size": 0}, ValueError, "output_size must be at least 1"),
        ({"sampling_ratio": None}, TypeError, "sampling_ratio must be an integer"),
        ({"scales": 0.25}, TypeError, "scales must be a list"),
        ({"scales": [0.25]}, ValueError, "one number for each of the 2 maps, got 1"),
        ({"scales": [0.125, 0.25]}, ValueError, "scales must not rise from map to map"),
        ({"scales": [0.25, 0.0]}, ValueError, "scales must be positive and finite"),
        ({"canonical_scale": 0}, ValueError, "canonical_scale must be positive and finite"),
        ({"canonical_level": "4"}, TypeError, "canonical_level must be a number"),
    ],
)
def test_the_constructor_checks(change: Any, error: type[Exception], words: str) -> None:
    options = {"featmap_names": NAMES, "output_size": 2, "sampling_ratio": 2} | change
    with pytest.raises(error) as caught:
        ops.MultiScaleRoIAlign(**options)
    assert str(caught.value).startswith("multiscale_roi_align: ")
    assert words in str(caught.value)


# Tracers ------------------------------------------------------------------------------------------


class Head(torch.nn.Module):  # type: ignore[misc]
    """A module with a pooler that was never called."""

    def __init__(self, images: Any = None, **options: Any) -> None:
        super().__init__()
        self.pool, self.images = ops.MultiScaleRoIAlign(NAMES, 2, 2, **options), images

    def forward(self, fine: Any, coarse: Any, boxes: Any, images: Any = None) -> Any:
        return self.pool({"0": fine + 1, "1": coarse}, boxes, self.images or images) * 2


@pytest.mark.parametrize("options", [{}, {"scales": [1 / 4, 1 / 8]}])
def test_fx_traces_a_module_that_was_never_called(options: Any) -> None:
    maps, pool = pyramid(32, 128), ops.MultiScaleRoIAlign(NAMES, 2, 2, **options)
    graph = torch.fx.symbolic_trace(pool)
    assert pool.scales == options.get("scales")  # tracing keeps nothing
    assert torch.equal(graph(maps, LISTED, NARROW), pool(maps, LISTED, NARROW))
    head, arguments = Head(**options), (*maps.values(), LISTED, NARROW)
    graph = torch.fx.symbolic_trace(head)
    assert torch.equal(graph(*arguments), head(*arguments))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_dynamic_sizes_wants_scales(strict: bool) -> None:
    height = torch.export.Dim("height", min=2, max=1000)
    dynamic = ({2: 2 * height}, {2: height}, [None, None])

    def export(head: Any) -> Any:
        return torch.export.export(
            head, (*pyramid(64, 128).values(), LISTED), dynamic_shapes=dynamic, strict=strict
        )

    images = [(64, 128)] * 2
    given = Head(images, scales=[1 / 4, 1 / 8])
    exported = export(given).module()
    maps = pyramid(96, 128).values()
    assert torch.equal(exported(*maps, LISTED), given(*maps, LISTED))
    with pytest.raises(Exception, match="sizes are dynamic; pass scales="):  # the compiler's own
        export(Head(images))
