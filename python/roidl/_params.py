"""What a call of an operator is made of, and the checks that only Python can make."""

from __future__ import annotations

import functools
import inspect
import operator as _operator
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar, get_type_hints

from ._operators import operator_of

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")  # a Call, or what stands for one

# The numbers of the C++ enums Layout and PsRoiPoolClip.
LAYOUTS = {"NCHW": 0, "NHWC": 1}
CLIPS = {"torchvision": 0, "map": 1}


def choices_of(op: str) -> dict[str, dict[str, int]]:
    """The words that parameters of an operator's family may be, and their numbers."""
    modes = operator_of(op).family.modes
    numbers = {name: number for number, name in enumerate(modes)}
    return {"mode": numbers, "layout": LAYOUTS, "clip": CLIPS}


ALIGN_MODES = choices_of("roi_align")["mode"]
POOL_MODES = choices_of("roi_pool")["mode"]

# Along an axis; the limits of the C++ core.
MAX_BINS = 2**24
MAX_SAMPLES = 2**31 - 1
# Of a pyramid.
MAX_MAPS = 8


class RoiAlignParams(NamedTuple):
    """What was asked of RoIAlign; the fields of the C++ struct of the same name."""

    output_height: int
    output_width: int
    spatial_scale: float
    sampling_height: int
    sampling_width: int
    aligned: bool
    mode: int
    layout: int


class RoiPoolParams(NamedTuple):
    """What was asked of RoIPool; the fields of the C++ struct of the same name."""

    output_height: int
    output_width: int
    spatial_scale: float
    mode: int
    layout: int


class PsRoiAlignParams(NamedTuple):
    """What was asked of position-sensitive RoIAlign; the fields of the C++ struct of this name."""

    output_height: int
    output_width: int
    spatial_scale: float
    sampling_height: int
    sampling_width: int
    layout: int


class PsRoiPoolParams(NamedTuple):
    """What was asked of position-sensitive RoIPool; the fields of the C++ struct of this name."""

    output_height: int
    output_width: int
    spatial_scale: float
    clip: int
    layout: int


Params = RoiAlignParams | RoiPoolParams | PsRoiAlignParams | PsRoiPoolParams


class Pyramid(NamedTuple):
    """How boxes find their map among several; the fields of the C++ struct of the same name."""

    scales: tuple[float, ...]
    canonical_scale: float
    canonical_level: float
    levels: Any  # integers, one for every box; None: by the boxes' size
    counts: Any  # integers [N], for boxes [N, L, 4]; None: all rows are boxes


class Call(NamedTuple):
    """One call of an operator, ready to be run by a front end."""

    op: str  # the name of the compiled function
    params: Params
    boxes: Any
    batch_indices: Any
    out: Any
    leader: Any  # the array whose library, dtype and device the result has
    arguments: tuple[Any, ...]  # the compiled function's own, in its order
    pyramid: Pyramid | None = None  # None: input is one array, not a list


def _integer(op: str, name: str, value: Any) -> int:
    try:
        return _operator.index(value)
    except TypeError:
        raise TypeError(
            f"{op}: {name} must be an integer or a pair of integers, got {value!r}"
        ) from None


def _pair(op: str, name: str, value: Any, most: int) -> tuple[int, int]:
    """(height, width) from an integer or a pair.

    The compiled core checks the range, but counts in 64 bits: what they cannot hold is refused
    here, in the core's words.
    """
    if type(value) is int and -MAX_SAMPLES <= value <= MAX_SAMPLES:
        return value, value  # what most calls pass
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{op}: {name} must be an integer or a pair, got {value!r}")
        pair = _integer(op, name, value[0]), _integer(op, name, value[1])
    else:
        pair = (_integer(op, name, value),) * 2
    for size in pair:
        if size >= 2**63:
            raise ValueError(f"{op}: {name} must be at most {most}, got {size}")
        if size < -(2**63):
            raise ValueError(f"{op}: {name} must be at least 1, got {size}")
    return pair


def _number(op: str, name: str, value: Any) -> float:
    if type(value) is float:
        return value
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{op}: {name} must be a number, got {value!r}") from None


def _zero_or_one(value: Any) -> int:
    """Of a flag that is no bool of Python's, or of something else, which is refused or larger."""
    if type(value).__name__ == "SymBool":  # of PyTorch's tracing: its guards decide it
        return int(bool(value))
    try:
        return _operator.index(value)
    except TypeError:
        if value.dtype.kind == "b" and value.ndim == 0:  # NumPy's bools are no integers
            return int(value.item())
        raise


def check_flag(op: str, name: str, value: Any) -> bool:
    """True or False, of a bool of Python's or NumPy's, or of the integers 0 and 1."""
    if value is True or value is False:
        return value
    if isinstance(value, bool):  # what PyTorch's compiler has in its place
        return bool(value)
    try:
        number = _zero_or_one(value)
        if number in (0, 1):
            return number == 1
    except (TypeError, ValueError, AttributeError):
        pass  # the sentence below says more
    hint = "; the pooling mode is mode=" if name == "aligned" and isinstance(value, str) else ""
    raise TypeError(f"{op}: {name} must be True or False, got {value!r}{hint}")


def _choice(op: str, name: str, value: Any, choices: dict[str, int]) -> int:
    try:
        return choices[value]
    except (KeyError, TypeError):
        names = ", ".join(map(repr, choices))
        raise ValueError(f"{op}: {name} must be one of {names}, got {value!r}") from None


def standing_alone(function: F) -> F:
    """A wrapper with the signature and annotations of what it wraps, but no way to that.

    TensorFlow would call what a function wraps in its place; ours wrap what describes them. The
    names in annotations are the describing module's: they are resolved while it can be found.
    """
    annotations = get_type_hints(function)
    signature = inspect.signature(function).replace(
        return_annotation=annotations.get("return", inspect.Signature.empty)
    )
    function.__annotations__ = annotations
    vars(function).pop("__wrapped__", None)
    vars(function)["__signature__"] = signature
    return function


def front_end(run: Callable[[C], Any]) -> Callable[[Callable[P, C]], Callable[P, Any]]:
    """Make public functions: same name, signature and docstring, run by `run`."""

    def adapt(describe: Callable[P, C]) -> Callable[P, Any]:
        @functools.wraps(describe)
        def function(*args: P.args, **kwargs: P.kwargs) -> Any:
            return run(describe(*args, **kwargs))

        # Where users import it from: no file whose name begins with an underscore.
        function.__module__ = run.__module__.partition("._")[0]
        function.__annotations__ = {**describe.__annotations__, "return": Any}
        return standing_alone(function)

    return adapt


def align_params(
    op: str,
    output_size: Any,
    spatial_scale: Any,
    sampling_ratio: Any,
    aligned: Any,
    mode: Any,
    layout: Any,
) -> RoiAlignParams:
    height, width = _pair(op, "output_size", output_size, MAX_BINS)
    sampling_height, sampling_width = _pair(op, "sampling_ratio", sampling_ratio, MAX_SAMPLES)
    return RoiAlignParams(
        height,
        width,
        _number(op, "spatial_scale", spatial_scale),
        sampling_height,
        sampling_width,
        check_flag(op, "aligned", aligned),
        _choice(op, "mode", mode, ALIGN_MODES),
        _choice(op, "layout", layout, LAYOUTS),
    )


def pool_params(
    op: str, output_size: Any, spatial_scale: Any, mode: Any, layout: Any
) -> RoiPoolParams:
    height, width = _pair(op, "output_size", output_size, MAX_BINS)
    return RoiPoolParams(
        height,
        width,
        _number(op, "spatial_scale", spatial_scale),
        _choice(op, "mode", mode, POOL_MODES),
        _choice(op, "layout", layout, LAYOUTS),
    )


def ps_align_params(
    op: str, output_size: Any, spatial_scale: Any, sampling_ratio: Any, layout: Any
) -> PsRoiAlignParams:
    height, width = _pair(op, "output_size", output_size, MAX_BINS)
    sampling_height, sampling_width = _pair(op, "sampling_ratio", sampling_ratio, MAX_SAMPLES)
    return PsRoiAlignParams(
        height,
        width,
        _number(op, "spatial_scale", spatial_scale),
        sampling_height,
        sampling_width,
        _choice(op, "layout", layout, LAYOUTS),
    )


def ps_pool_params(
    op: str, output_size: Any, spatial_scale: Any, clip: Any, layout: Any
) -> PsRoiPoolParams:
    height, width = _pair(op, "output_size", output_size, MAX_BINS)
    return PsRoiPoolParams(
        height,
        width,
        _number(op, "spatial_scale", spatial_scale),
        _choice(op, "clip", clip, CLIPS),
        _choice(op, "layout", layout, LAYOUTS),
    )


def _as_sizes(shape: Any) -> tuple[int, ...] | None:
    """A shape as a tuple of integers, whatever a library makes of one; None of what is no shape."""
    try:
        return tuple([_operator.index(size) for size in shape])
    except Exception:  # what is none may raise anything
        return None


def shape_of(op: str, name: str, shape: Any) -> tuple[int, ...]:
    """A shape that was passed for that of an array; the compiled core checks its sizes."""
    sizes = _as_sizes(shape)
    if sizes is None:
        raise TypeError(f"{op}: {name} must be four integers, got {shape!r}")
    return sizes


def grid_of(op: str, grad_output: Any, layout: Any) -> tuple[int, int]:
    """The output size that a gradient was computed for."""
    try:
        shape = grad_output.shape
    except Exception:
        return 1, 1  # the core says that this is no array
    sizes = _as_sizes(shape)
    if sizes is None:
        raise TypeError(f"{op}: grad_output must have a shape of integers, got {shape!r}")
    if len(sizes) < 4:
        raise ValueError(f"{op}: grad_output must have the shape of the result, got {list(sizes)}")
    tail = sizes[-2:] if _choice(op, "layout", layout, LAYOUTS) == 0 else sizes[-3:-1]
    # An empty grid is of no size that a forward call could have had; the compiled core says so.
    return tail[0], tail[1]


def pyramid_of(
    op: str,
    maps: Any,
    scales: Any,
    canonical_scale: Any,
    canonical_level: Any,
    levels: Any = None,
    counts: Any = None,
) -> Pyramid:
    """From a list of maps (or None, where there are none to count) and their scales."""
    for name, value in (("inputs", maps), ("scales", scales)):
        if value is not None and not isinstance(value, (list, tuple)):
            raise TypeError(f"{op}: {name} must be a list, got {type(value).__name__}")
    if not 1 <= len(scales) <= MAX_MAPS:
        raise ValueError(f"{op}: from 1 to {MAX_MAPS} maps are understood, got {len(scales)}")
    if maps is not None and len(maps) != len(scales):
        raise ValueError(
            f"{op}: scales must have one number for each of the {len(maps)} maps, got {len(scales)}"
        )
    return Pyramid(
        tuple(_number(op, "scales", scale) for scale in scales),
        _number(op, "canonical_scale", canonical_scale),
        _number(op, "canonical_level", canonical_level),
        levels,
        counts,
    )
