"""Arrays that a graph keeps for its gradients do not change with the caller's arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conftest import NumpyArray

GOOD = np.array([[1, 1, 3, 3], [0, 2, 3, 5]], np.float32)
OTHER = np.array([[4, 4, 5, 5], [1, 0, 2, 2]], np.float32)
MAPS = np.random.default_rng(5).standard_normal((2, 2, 1, 8, 8)).astype(np.float32)

# (the operator, the array before and after refilling, the arguments of the operator)
Form = tuple[str, tuple[Any, Any], Callable[[Any], dict[str, Any]]]


def _with_index(rows: NumpyArray) -> NumpyArray:
    return np.concatenate([np.zeros((2, 1), np.float32), rows], 1)


ROWS = _with_index(GOOD), _with_index(OTHER)
FIRST, SECOND = np.array([0, 0]), np.array([1, 1])
FORMS: dict[str, Form] = {
    "rows": ("roi_align", ROWS, lambda each: {"boxes": each}),
    "rows of float64": ("roi_align", (ROWS[0].astype(float), ROWS[1].astype(float)),
                        lambda each: {"boxes": each}),
    "rows, max": ("roi_align", ROWS, lambda each: {"boxes": each, "mode": "max"}),
    "rows, pooled": ("roi_pool", ROWS, lambda each: {"boxes": each}),
    "rows for several maps": ("multiscale_roi_align", ROWS, lambda each: {"boxes": each}),
    "a list": ("roi_align", (GOOD, OTHER), lambda each: {"boxes": [each, each]}),
    "a list of one": ("roi_align", (GOOD, OTHER), lambda each: {"boxes": [each], "images": 1}),
    "grouped": ("roi_align", (GOOD[None], OTHER[None]), lambda each: {"boxes": each, "images": 1}),
    "indices": ("roi_align", (FIRST, SECOND), lambda each: {"boxes": GOOD, "batch_indices": each}),
    "levels": ("multiscale_roi_align", (FIRST, SECOND),
               lambda each: {"boxes": ROWS[0], "levels": each}),
    "counts": ("multiscale_roi_align", (np.array([1]), np.array([2])),
               lambda each: {"boxes": GOOD[None], "counts": each, "images": 1}),
}  # fmt: skip


def _call(module: Any, op: str, maps: list[Any], arguments: dict[str, Any]) -> Any:
    images = arguments.get("images", 2)
    given = {name: value for name, value in arguments.items() if name != "images"}
    maps = [each[:images] for each in maps]
    boxes, several = given.pop("boxes"), op.startswith("multiscale")
    if "layout" not in given:
        given["layout"] = "NCHW"
    if several:
        return getattr(module, op)(maps, boxes, 1, [1.0, 0.5], **given)
    return getattr(module, op)(maps[0], boxes, 1, **given)


def _aligned(array: NumpyArray) -> NumpyArray:
    """A copy that is aligned for every library, so that none copies it."""
    memory = np.zeros(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _try(
    form: Form, own: Callable[[NumpyArray], Any], make: Callable[[Any, Any, Any], Any]
) -> None:
    """Refilling an array does not change a gradient, which make(op, x, arguments) computes."""
    op, (before, after), arguments = form
    buffer = _aligned(before)
    gradient = make(op, MAPS, arguments(own(buffer)))
    first = gradient()
    buffer[...] = after
    again = gradient()
    expected = make(op, MAPS, arguments(before.copy()))()
    changed = make(op, MAPS, arguments(after.copy()))()
    assert not np.array_equal(expected, changed)  # or the test would have no effect
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(again, expected)


every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def _of_pytorch(module: Any, wrap: Callable[[Any], Any] = lambda function: function) -> Any:
    import torch

    def make(op: str, maps: NumpyArray, arguments: dict[str, Any]) -> Callable[[], Any]:
        x = torch.tensor(maps, requires_grad=True)
        result = wrap(lambda x: _call(module, op, list(x), arguments))(x)
        return lambda: torch.autograd.grad(result.sum(), x, retain_graph=True)[0].numpy()

    return make


@every_form
def test_with_pytorch(form: Form) -> None:
    pytest.importorskip("torch")
    import roidl
    import roidl.torch

    for module in (roidl.torch, roidl):
        _try(form, lambda array: array, _of_pytorch(module))


@pytest.mark.parametrize("name", ["rows", "levels"])
@pytest.mark.parametrize("backend", ["aot_eager", "aot_eager_decomp_partition"])
def test_with_pytorch_compiled(name: str, backend: str) -> None:
    torch = pytest.importorskip("torch")
    import roidl.torch

    torch.compiler.reset()
    make = _of_pytorch(roidl.torch, lambda function: torch.compile(function, backend=backend))
    _try(FORMS[name], lambda array: array, make)


def test_maps_that_pytorch_keeps_for_the_boxes() -> None:
    torch = pytest.importorskip("torch")
    from roidl.torch import multiscale_roi_align

    buffer, boxes = MAPS[0].copy(), torch.tensor(ROWS[0], requires_grad=True)
    maps = [buffer, torch.tensor(MAPS[1])]
    result = multiscale_roi_align(maps, boxes, 2, [1.0, 0.5], levels=FIRST).sum()
    (expected,) = torch.autograd.grad(result, boxes, retain_graph=True)
    buffer[...] = 0
    assert torch.equal(torch.autograd.grad(result, boxes)[0], expected)
    assert expected.abs().sum() > 0


def test_nothing_is_copied_where_nothing_is_kept() -> None:
    torch = pytest.importorskip("torch")
    from roidl.torch import _front

    array = np.ones((2, 5), np.float32)
    kept = _front.may_be_kept([torch.ones(1), array])
    assert np.shares_memory(_front.as_tensor(array, kept).numpy(), array)
    with torch.no_grad():
        assert not _front.may_be_kept([torch.ones(1, requires_grad=True)])


def test_a_tensor_that_was_written_to_is_an_error_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    from roidl.torch import roi_align

    x, boxes = torch.tensor(MAPS[0], requires_grad=True), torch.tensor(ROWS[0])
    for given in (boxes, [boxes[:, 1:], torch.zeros(0, 4)][:1]):
        result = roi_align(x if given is boxes else x[:1], given, 1).sum()
        boxes.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.backward()


# A foreign array that exports DLPack, or NumPy's interface.
every_owner = pytest.mark.parametrize("owner", ["numpy", "torch"])


def _owner(name: str) -> Callable[[NumpyArray], Any]:
    if name == "numpy":
        return lambda array: array
    torch = pytest.importorskip("torch")
    return lambda array: torch.from_numpy(array)


@every_owner
@every_form
def test_with_jax(form: Form, owner: str) -> None:
    jax = pytest.importorskip("jax")
    import roidl.jax

    def make(op: str, maps: NumpyArray, arguments: dict[str, Any]) -> Callable[[], Any]:
        result, vjp = jax.vjp(
            lambda x: _call(roidl.jax, op, list(x), arguments), jax.numpy.array(maps)
        )
        return lambda: np.asarray(vjp(jax.numpy.ones_like(result))[0])

    _try(form, _owner(owner), make)


@every_owner
def test_with_jax_jitted(owner: str) -> None:
    jax = pytest.importorskip("jax")
    from roidl.jax import roi_align

    buffer = _aligned(ROWS[0])
    boxes = _owner(owner)(buffer)
    pool = jax.jit(lambda x: roi_align(x, boxes, 1))
    expected = np.asarray(pool(MAPS[0]))
    buffer[...] = ROWS[1]
    np.testing.assert_array_equal(pool(MAPS[0]), expected)


@every_owner
@every_form
def test_with_tensorflow(form: Form, owner: str) -> None:
    tf = pytest.importorskip("tensorflow")
    import roidl.tensorflow

    def make(op: str, maps: NumpyArray, arguments: dict[str, Any]) -> Callable[[], Any]:
        x = [tf.constant(each) for each in maps]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            result = _call(roidl.tensorflow, op, x, arguments)
        return lambda: np.stack(tape.gradient(result, x, unconnected_gradients="zero"))

    _try(form, _owner(owner), make)
