"""The array libraries: what each needs beyond the standard, one row each.

A row says what to do before DLPack reads an array and how to make a result. A row's module is
looked up in `sys.modules`, never imported for itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any


class Device(NamedTuple):
    """What the core must know of arrays on a CUDA device."""

    # The number of the stream that they are used on, as `__dlpack__` takes it; None: the core asks
    # the library's exchange API
    stream: int | None
    # (a list of [L, 4], whether float64 is needed): the rows joined, and the image of each
    join: Callable[[list[Array], bool], tuple[Array, Array]] | None
    # (shape, dtype's name): memory of the library's own, also for the kernels to use besides the
    # arrays; None: they allocate it
    empty: Callable[[tuple[int, ...], str], Array] | None


class Library(NamedTuple):
    """How arrays of one library are read and made."""

    prepare: Callable[[str, str, Array], Array]  # (op, name, array): what DLPack reads in its place
    adopt: Callable[[str, Array, Array], Array]  # (op, a NumPy array, the input): in this library
    # (shape, dtype's name, the input): memory of the library's own; None: NumPy's, to be adopted
    empty: Callable[[tuple[int, ...], str, Array], Array] | None = None
    writable: Callable[[Array], bool] = lambda array: True  # may be passed as out=
    # Of an array on a CUDA device; None of one that is not
    device: Callable[[Array], Device | None] = lambda array: None
    # (a result that `empty` made, a dtype's name): the same numbers
    cast: Callable[[Array, str], Array] = lambda array, dtype: array.astype(dtype)
    # An attribute of its arrays' types, where what else it defines would be taken for one
    mark: str | None = None
    name: str | None = None  # None: of any other library


def _as_it_is(op: str, name: str, array: Array) -> Array:
    return array


def numpy_dtype(name: str) -> Any:
    """NumPy's dtype of a name, bfloat16 included."""
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
    with like.device:
        return sys.modules["cupy"].empty(shape, numpy_dtype(dtype))


def _cupy_device(like: Array) -> Device:
    cupy = sys.modules["cupy"]

    def join(boxes: list[Array], wide: bool) -> tuple[Array, Array]:
        with like.device:
            rows = [array.astype("float64" if wide else "float32") for array in boxes]
            images = [cupy.full(len(array), i, "int32") for i, array in enumerate(boxes)]
            if not boxes:
                return cupy.empty((0, 4), "float32"), cupy.empty(0, "int32")
            return cupy.concatenate(rows), cupy.concatenate(images)

    with like.device:
        stream = cupy.cuda.get_current_stream().ptr or LEGACY_STREAM
    return Device(stream, join, lambda shape, dtype: _cupy_empty(shape, dtype, like))


def check_dense(op: str, name: str, tensor: Array) -> None:
    """Refuse a tensor of PyTorch's that no kernel reads, and say what to pass in its place."""
    if tensor.is_nested:
        dense = "boxes.unbind()" if name == "boxes" else f"torch.nested.to_padded_tensor({name}, 0)"
        found = f"a nested tensor; pass {dense}"
    elif tensor.is_quantized:
        found = f"a quantised tensor ({tensor.dtype}); pass {name}.dequantize()"
    elif tensor.layout is not sys.modules["torch"].strided:
        kind = "an MKL-DNN" if tensor.is_mkldnn else "a sparse"
        found = f"{kind} tensor ({tensor.layout}); pass {name}.to_dense()"
    else:
        return
    raise TypeError(f"{op}: {name} must be dense, got {found}")


def _torch_prepare(op: str, name: str, tensor: Array) -> Array:
    torch = sys.modules["torch"]
    # DLPack's exchange API looks neither at the graph nor at the bits that negate or conjugate.
    if tensor.requires_grad:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                f"{op}: not differentiable here; use roidl.torch without out, or pass "
                "tensor.detach()"
            )
        tensor = tensor.detach()
    check_dense(op, name, tensor)
    if tensor.is_neg() or tensor.is_conj():
        tensor = tensor.resolve_neg().resolve_conj()
    return tensor


def _torch_writable(tensor: Array) -> bool:
    # A view that negates or conjugates is read through a copy; a graph would not know of the write.
    return not (tensor.requires_grad or tensor.is_neg() or tensor.is_conj())


def _torch_empty(shape: tuple[int, ...], dtype: str, like: Array) -> Array:
    torch = sys.modules["torch"]
    return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)


def _torch_device(like: Array) -> Device | None:
    if not like.is_cuda:
        return None
    torch = sys.modules["torch"]

    def join(boxes: list[Array], wide: bool) -> tuple[Array, Array]:
        dtype = torch.float64 if wide else torch.float32
        rows = [array.to(dtype) for array in boxes] or [like.new_empty((0, 4), dtype=dtype)]
        images = [
            array.new_full((len(array),), i, dtype=torch.int32) for i, array in enumerate(boxes)
        ]
        return torch.cat(rows), torch.cat(images or [like.new_empty(0, dtype=torch.int32)])

    return Device(None, join, lambda shape, dtype: _torch_empty(shape, dtype, like))


def _torch_cast(tensor: Array, dtype: str) -> Array:
    return tensor.to(getattr(sys.modules["torch"], dtype))


def _torch_adopt(op: str, result: Array, like: Array) -> Array:
    return sys.modules["torch"].from_numpy(result)


def _jax_adopt(op: str, result: Array, like: Array) -> Array:
    (device,) = like.devices()
    return sys.modules["jax"].device_put(result, device)


def _tensorflow_prepare(op: str, name: str, tensor: Array) -> Array:
    tensorflow = sys.modules["tensorflow"]
    if isinstance(tensor, tensorflow.Variable):
        tensor = tensor.read_value()
    # TensorFlow ends the process when DLPack is asked for a tensor of strings.
    kind = getattr(tensor, "dtype", None)
    if kind is None:
        return tensor  # a TensorShape, for example
    if not (kind.is_floating or kind.is_integer or kind.is_bool or kind.is_complex):
        raise TypeError(f"{op}: {name} must be of a float or integer type, got {kind.name}")
    return tensor


def _tensorflow_adopt(op: str, result: Array, like: Array) -> Array:
    # Not by DLPack: TensorFlow ends the process when memory is not aligned as its own is.
    return sys.modules["tensorflow"].convert_to_tensor(result)


# CUDA's legacy default stream, as `__dlpack__` counts.
LEGACY_STREAM = 1


def _standard_device(array: Array) -> Device | None:
    """Of a library that says no stream: the one that all others wait for, unless told otherwise."""
    where = getattr(array, "__dlpack_device__", None)
    if where is None or isinstance(array, type):
        return None
    try:
        kind, _ = where()
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        return None  # a tracer, a deleted array: the core's words are better
    return Device(LEGACY_STREAM, None, None) if kind in (2, 13) else None


def _roots(kind: type) -> list[str]:
    """The top modules of a type and its bases."""
    return [base.__module__.partition(".")[0] for base in kind.__mro__]


def _from_dlpack(like: Array) -> Callable[[Array], Array] | None:
    """By the array API standard that of the array's namespace; else that of the library itself."""
    namespace = getattr(like, "__array_namespace__", None)
    places = [] if namespace is None else [namespace()]
    places += [sys.modules.get(root) for root in _roots(type(like))]
    functions = (getattr(place, "from_dlpack", None) for place in places)
    return next(filter(None, functions), None)


def _standard_adopt(op: str, result: Array, like: Array) -> Array:
    """The input's own library takes the memory over."""
    from_dlpack = _from_dlpack(like)
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


# The public functions of adapters that ran a call, by the type of the arrays that they take at
# once; only ever added to.
ADAPTED: dict[type, dict[str, Callable[..., Any]]] = {}

NUMPY = Library(_as_it_is, _unchanged, name="numpy")
STANDARD = Library(_as_it_is, _standard_adopt, device=_standard_device)
JAX = Library(_as_it_is, _jax_adopt, writable=_never, device=_standard_device, name="jax")
LIBRARIES = {
    "numpy": NUMPY,
    "cupy": Library(_as_it_is, _cupy_adopt, _cupy_empty, device=_cupy_device, name="cupy"),
    "torch": Library(
        _torch_prepare,
        _torch_adopt,
        _torch_empty,
        _torch_writable,
        _torch_device,
        _torch_cast,
        mark="__torch_function__",
        name="torch",
    ),
    "jax": JAX,
    "jaxlib": JAX,
    "tensorflow": Library(
        _tensorflow_prepare, _tensorflow_adopt, writable=_never, name="tensorflow"
    ),
}

# The library of every type seen so far; only ever added to.
_library_of_type: dict[type, Library] = {np.ndarray: NUMPY}


def library_of(array: Array) -> Library:
    """The row of an array's library; a subclass (torch.nn.Parameter) belongs to its base's."""
    kind = type(array)
    library = _library_of_type.get(kind)
    if library is None:
        library = next((LIBRARIES[root] for root in _roots(kind) if root in LIBRARIES), STANDARD)
        # Sizes, dtypes, devices and classes are no arrays.
        if issubclass(kind, type) or not (library.mark is None or hasattr(kind, library.mark)):
            library = STANDARD
        _library_of_type[kind] = library
    return library
