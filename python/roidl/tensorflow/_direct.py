"""The fast path: eager calls whose usual arguments are bound by the core.

To bind them in Python takes a tenth of a small call. Unusual arguments, mistakes included, and
calls in graphs take the general path.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from tensorflow.python.eager.context import context as _context
from tensorflow.python.framework.ops import EagerTensor

from .. import _core
from .._params import F, choices_of, standing_alone
from ._arguments import integers
from ._operators import node_of, results, wanted_result


def untouched(function: F) -> F:
    """Have TensorFlow call a function as it is.

    AutoGraph rewrites what a tf.function calls, without this mark of its own do_not_convert (which
    would add time to an eager call).
    """
    vars(function)["autograph_info__"] = None
    return standing_alone(function)


def shorten(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The public function of an operator, with a fast path for usual arguments."""
    signature = inspect.signature(function)
    bind = _core.Shortcut(op, signature, EagerTensor, None, {}, choices_of(op)).bind

    @untouched
    @functools.wraps(function)
    def shortened(*args: Any, **kwargs: Any) -> Any:
        call = bind(args, kwargs)
        if call is not None:
            context = _context()
            if context.executing_eagerly():
                asked = call.return_argmax
                optional = wanted_result(op, call.is_average, asked, eager=True)
                indices = integers(op, "batch_indices", call.batch_indices)
                node = node_of(op, call.params(), None, optional)
                made = node.eagerly(context, call.boxes, call.input, indices)
                if made is not None:
                    return results(made, optional, asked)
        return function(*args, **kwargs)

    return shortened
