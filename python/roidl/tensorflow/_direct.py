"""The short way: eager calls with arguments that most pass, whose parameters the core binds.

To describe them in Python takes a tenth of a small call. What is unusual, mistakes included, and
what is in a graph goes the long way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from tensorflow.python.eager.context import context as _context
from tensorflow.python.framework.ops import EagerTensor

from .. import _core
from .._params import ALIGN_MODES, LAYOUTS, POOL_MODES, F, standing_alone
from ._arguments import integers
from ._operators import node_of, results, wants_argmax


def untouched(function: F) -> F:
    """Have TensorFlow call a function as it is.

    AutoGraph rewrites what a tf.function calls, without this mark of its own do_not_convert (which
    would add time to an eager call).
    """
    vars(function)["autograph_info__"] = None
    return standing_alone(function)


def shorten(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The public function of an operator, with the short way for the calls that it is for."""
    pools = op == "roi_pool"
    modes = POOL_MODES if pools else ALIGN_MODES
    signature = inspect.signature(function)
    bind = _core.Shortcut(op, signature, EagerTensor, None, {}, modes, LAYOUTS).bind

    @untouched
    @functools.wraps(function)
    def shortened(*args: Any, **kwargs: Any) -> Any:
        call = bind(args, kwargs)
        if call is not None:
            context = _context()
            if context.executing_eagerly():
                params, asked = call.params(), call.return_argmax
                argmax = pools and wants_argmax(op, params[3], asked, eager=True)
                indices = integers(op, "batch_indices", call.batch_indices)
                node = node_of(op, params, None, argmax)
                made = node.eagerly(context, call.boxes, call.input, indices)
                if made is not None:
                    return results(made, argmax, asked)
        return function(*args, **kwargs)

    return shortened
