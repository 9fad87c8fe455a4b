"""The public functions of `roidl`: a call goes to the front end of the input's library."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _multiscale
from ._array_libraries import ADAPTED, library_of
from ._multiscale import LevelsCall
from ._numpy import fast_path, levels_of, run_here
from ._operators import FAMILIES
from ._params import Call, front_end
from ._public import DESCRIBED, FORWARD

Array = Any

# An adapter is imported at the first call on its arrays, by import statements: PyTorch's compiler
# follows nothing else.


def _adapter(name: str | None) -> tuple[Callable[[Call], Any], Callable[[LevelsCall], Any]] | None:
    """What runs calls on a library's arrays; None: the array front end does."""
    if name == "torch":
        from .torch._front import run_first, run_levels

        return run_first, run_levels
    if name == "jax":
        from .jax import run as run_jax
        from .jax._levels import run_levels as run_jax_levels

        return run_jax, run_jax_levels
    if name == "tensorflow":
        from .tensorflow import run as run_tensorflow
        from .tensorflow import run_levels as run_tensorflow_levels

        return run_tensorflow, run_tensorflow_levels
    return None


def run(call: Call) -> Any:
    """Run one call: by the adapter of the leader's library if there is one, else here."""
    if call.op in FORWARD and call.out is None:
        adapter = _adapter(library_of(call.leader).name)
        if adapter is not None:
            return adapter[0](call)
    return run_here(call)


def _run_levels(call: LevelsCall) -> Array:
    many = isinstance(call.boxes, (list, tuple))
    adapter = _adapter(library_of(call.boxes[0] if many and call.boxes else call.boxes).name)
    if adapter is not None:
        return adapter[1](call)
    if many:
        return [levels_of(call, boxes) for boxes in call.boxes]
    return levels_of(call, call.boxes)


def _shorten(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with a fast path for usual arguments."""
    bind = fast_path(op, function)

    @functools.wraps(function)
    def shortened(*args: Any, **kwargs: Any) -> Any:
        kind = type(args[0]) if args else None
        if kind is np.ndarray:
            call = bind(args, kwargs)
            if call is not None:
                return call.run()
        elif kind in ADAPTED:
            return ADAPTED[kind][op](*args, **kwargs)
        return function(*args, **kwargs)

    return shortened


_adapt = front_end(run)
PUBLIC = {
    name: _shorten(name, _adapt(describe)) if name in FAMILIES else _adapt(describe)
    for name, describe in DESCRIBED.items()
}
PUBLIC["assign_levels"] = front_end(_run_levels)(_multiscale.assign_levels)
