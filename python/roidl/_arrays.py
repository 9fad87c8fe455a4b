"""The array front end: NumPy, CuPy and any object with `__dlpack__`.

Results are of the input's library. `LIBRARIES` has one row per library that needs more than the
standard: what to do before DLPack reads an array, and how to make a result. A row's module is
looked up in `sys.modules`, never imported for itself.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _core, _multiscale, _ops
from ._multiscale import LevelsCall
from ._params import Call, front_end

Array = Any


class Library(NamedTuple):
    """How arrays of one library are read and made."""

    prepare: Callable[[str, Array], Array]  # (op, array): what DLPack reads in its place
    adopt: Callable[[str, Array, Array], Array]  # (op, a NumPy array, the input): in this library
    # (shape, dtype's name, the input): memory of the library's own; None: NumPy's, to be adopted
    empty: Callable[[tuple[int, ...], str, Array], Array] | None = None
    writable: Callable[[Array], bool] = lambda array: True  # may be passed as out=
    # The module whose `run` runs calls on this library's arrays; None: this front end does
    adapter: str | None = None
    # What it runs, in that case; the rest this front end does.
    operators: tuple[str, ...] = ("roi_align", "roi_pool")


def _as_it_is(op: str, array: Array) -> Array:
    return array


def _numpy_dtype(name: str) -> Any:
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes  # NumPy has no bfloat16 of its own
    except ImportError as error:
        raise NotImplementedError(
            "a bfloat16 result in NumPy needs the package ml_dtypes; or pass out="
        ) from error
    return np.dtype(ml_dtypes.bfloat16)


def _never(array: Array) -> bool:
    return False


def _unchanged(op: str, result: Array, like: Array) -> Array:
    return result


def _cupy_adopt(op: str, result: Array, like: Array) -> Array:
    return sys.modules["cupy"].asarray(result)


def _cupy_empty(shape: tuple[int, ...], dtype: str, like: Array) -> Array:
    return sys.modules["cupy"].empty(shape, dtype)


def _torch_prepare(op: str, tensor: Array) -> Array:
    torch = sys.modules["torch"]
    # DLPack's exchange API looks neither at the graph nor at the bits that negate or conjugate.
    if tensor.requires_grad:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                f"{op}: not differentiable here; use roidl.torch, or pass tensor.detach()"
            )
        tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        raise TypeError(f"{op}: tensors must be strided, got layout {tensor.layout}")
    if tensor.is_neg() or tensor.is_conj():
        tensor = tensor.resolve_neg().resolve_conj()
    return tensor


def _torch_writable(tensor: Array) -> bool:
    # A view that negates or conjugates is read through a copy; a graph would not know of the write.
    return not (tensor.requires_grad or tensor.is_neg() or tensor.is_conj())


def _torch_empty(shape: tuple[int, ...], dtype: str, like: Array) -> Array:
    torch = sys.modules["torch"]
    return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)


def _torch_adopt(op: str, result: Array, like: Array) -> Array:
    return sys.modules["torch"].from_numpy(result)


def _jax_adopt(op: str, result: Array, like: Array) -> Array:
    (device,) = like.devices()
    return sys.modules["jax"].device_put(result, device)


def _tensorflow_prepare(op: str, tensor: Array) -> Array:
    tensorflow = sys.modules["tensorflow"]
    if isinstance(tensor, tensorflow.Variable):
        tensor = tensor.read_value()
    # TensorFlow ends the process when DLPack is asked for a tensor of strings.
    kind = getattr(tensor, "dtype", None)
    if kind is None:
        return tensor  # a TensorShape, for example
    if not (kind.is_floating or kind.is_integer or kind.is_bool or kind.is_complex):
        raise TypeError(f"{op}: tensors must be of a float or integer type, got {kind.name}")
    return tensor


def _tensorflow_adopt(op: str, result: Array, like: Array) -> Array:
    # Not by DLPack: TensorFlow ends the process when memory is not aligned as its own is.
    return sys.modules["tensorflow"].convert_to_tensor(result)


def _standard_adopt(op: str, result: Array, like: Array) -> Array:
    """By the array API standard: the input's own namespace takes the memory over."""
    namespace = getattr(like, "__array_namespace__", None)
    from_dlpack = getattr(namespace(), "from_dlpack", None) if namespace is not None else None
    if from_dlpack is None:
        raise TypeError(
            f"{op}: cannot make a result of type {type(like).__name__}, whose library has no "
            f"from_dlpack; pass out="
        )
    try:
        return from_dlpack(result)
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{op}: {type(like).__name__} cannot hold a result of dtype {result.dtype}: {error}"
        ) from error


NUMPY = Library(_as_it_is, _unchanged)
STANDARD = Library(_as_it_is, _standard_adopt)
# Differentiable; the derivatives by hand belong to this front end alone.
_DIFFERENTIABLE = ("roi_align", "roi_pool", "multiscale_roi_align", "multiscale_roi_pool")
JAX = Library(
    _as_it_is,
    _jax_adopt,
    writable=_never,
    adapter=".jax",
    operators=(*_DIFFERENTIABLE, "assign_levels"),
)
LIBRARIES = {
    "numpy": NUMPY,
    "cupy": Library(_as_it_is, _cupy_adopt, _cupy_empty),
    "torch": Library(
        _torch_prepare, _torch_adopt, _torch_empty, _torch_writable, adapter=".torch._front"
    ),
    "jax": JAX,
    "jaxlib": JAX,
    "tensorflow": Library(
        _tensorflow_prepare, _tensorflow_adopt, writable=_never, adapter=".tensorflow"
    ),
}

# The library of every type seen so far; only ever added to.
_library_of_type: dict[type, Library] = {np.ndarray: NUMPY}


def library_of(array: Array) -> Library:
    """The row of an array's library; a subclass (torch.nn.Parameter) belongs to its base's."""
    kind = type(array)
    library = _library_of_type.get(kind)
    if library is None:
        roots = [base.__module__.partition(".")[0] for base in kind.__mro__]
        library = next((LIBRARIES[root] for root in roots if root in LIBRARIES), STANDARD)
        _library_of_type[kind] = library
    return library


def _prepare(op: str, value: Any) -> Any:
    if value is None or type(value) is np.ndarray:
        return value
    if isinstance(value, list):
        return [_prepare(op, each) for each in value]
    # What is no array (a shape, None, a mistake) belongs to no row: the core gets it as it is.
    return library_of(value).prepare(op, value)


def _writable(call: Call) -> Array:
    """What DLPack writes to in place of out."""
    library = library_of(call.out)
    if not library.writable(call.out):
        raise TypeError(
            f"{call.op}: out must be an array that can be written to as it is, "
            f"got {type(call.out).__name__}"
        )
    return library.prepare(call.op, call.out)


@functools.cache
def _function(op: str) -> Callable[..., Any]:
    return functools.partial(getattr(_core, op.removeprefix("multiscale_")), op.encode())


def _compiled(call: Call, allocate: Callable[[tuple[int, ...], str], Array]) -> Any:
    """Call the core's function with arrays that it can read."""
    op, boxes, pyramid = call.op, call.boxes, call.pyramid
    boxes = _prepare(op, list(boxes) if isinstance(boxes, tuple) else boxes)
    arguments = [_prepare(op, argument) for argument in call.arguments]
    indices = _prepare(op, call.batch_indices)
    if pyramid is not None:
        levels, counts = _prepare(op, pyramid.levels), _prepare(op, pyramid.counts)
        pyramid = pyramid._replace(levels=levels, counts=counts)
    out = None if call.out is None else _writable(call)
    function, params = _function(op), call.params._asdict()
    result = function(params, boxes, indices, allocate, out, *arguments, pyramid)
    if out is None:
        return result
    return (call.out, *result[1:]) if isinstance(result, tuple) else call.out


# Results of more bytes are stored by whole cache lines, which NumPy's memory does not begin at.
_LARGE, _LINE = 4 << 20, 64


def _numpy_empty(shape: tuple[int, ...], dtype: str) -> Array:
    kind = _numpy_dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size <= _LARGE:
        return np.empty(shape, kind)
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size].view(kind).reshape(shape)


def run_like_leader(call: Call) -> Any:
    """The result is of the library of the features or of their gradient."""
    library = library_of(call.leader)
    empty, leader = library.empty, call.leader
    if empty is not None:
        return _compiled(call, lambda shape, dtype: empty(shape, dtype, leader))
    result = _compiled(call, _numpy_empty)
    if call.out is not None or library is NUMPY:
        return result
    if isinstance(result, (tuple, list)):
        return type(result)(library.adopt(call.op, part, leader) for part in result)
    return library.adopt(call.op, result, leader)


def _run_like_boxes(call: Call) -> Any:
    """The result is shaped like the boxes as they were passed, and of their library."""
    grads, shapes, double = _compiled(call, _numpy_empty)

    def like(boxes: Array, values: Array) -> Array:
        dtype = getattr(boxes, "dtype", None)
        name = getattr(dtype, "name", str(dtype)).removeprefix("torch.")
        if name not in ("float32", "float64"):
            name = "float64" if double else "float32"
        return library_of(boxes).adopt(call.op, values.astype(name), boxes)

    if not isinstance(call.boxes, (list, tuple)):
        return like(call.boxes, grads)
    parts = np.split(grads, np.cumsum([shape[0] for shape in shapes]))[:-1]
    return [like(*each) for each in zip(call.boxes, parts, strict=True)]


@functools.cache
def _function_of(adapter: str, name: str) -> Callable[[Any], Any]:
    # The array exists, so its library is imported; the adapter is, at the first call.
    function: Callable[[Any], Any] = getattr(importlib.import_module(adapter, __package__), name)
    return function


def run(call: Call) -> Any:
    """Run one call: by the adapter of the leader's library if there is one, else here."""
    library = library_of(call.leader)
    if library.adapter is not None and call.op in library.operators and call.out is None:
        return _function_of(library.adapter, "run")(call)
    if call.op.endswith("backward_boxes"):
        return _run_like_boxes(call)
    return run_like_leader(call)


_adapt = front_end(run)
roi_align = _adapt(_ops.roi_align)
roi_align_backward = _adapt(_ops.roi_align_backward)
roi_align_backward_boxes = _adapt(_ops.roi_align_backward_boxes)
roi_pool = _adapt(_ops.roi_pool)
roi_pool_backward = _adapt(_ops.roi_pool_backward)
multiscale_roi_align = _adapt(_multiscale.multiscale_roi_align)
multiscale_roi_align_backward = _adapt(_multiscale.multiscale_roi_align_backward)
multiscale_roi_align_backward_boxes = _adapt(_multiscale.multiscale_roi_align_backward_boxes)
multiscale_roi_pool = _adapt(_multiscale.multiscale_roi_pool)
multiscale_roi_pool_backward = _adapt(_multiscale.multiscale_roi_pool_backward)


def _run_levels(call: LevelsCall) -> Array:
    boxes = call.boxes[0] if isinstance(call.boxes, (list, tuple)) and call.boxes else call.boxes
    library = library_of(boxes)
    if library.adapter is not None and call.op in library.operators:
        return _function_of(library.adapter, "run_levels")(call)

    def levels_of(boxes: Array) -> Array:
        levels = _core.assign_levels(call.op.encode(), _prepare(call.op, boxes), call.pyramid)
        return library_of(boxes).adopt(call.op, levels, boxes)

    if isinstance(call.boxes, (list, tuple)):
        return [levels_of(boxes) for boxes in call.boxes]
    return levels_of(call.boxes)


assign_levels = front_end(_run_levels)(_multiscale.assign_levels)
