"""RoIAlign and RoIPool for TensorFlow: eager and in graphs, with gradients of every order.

The functions are those of `roidl` with ``layout="NHWC"`` as the default. Results and gradients are
TensorFlow's own nodes: importing this module registers them, also for a SavedModel that has them.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from .. import _ops
from .._params import POOL_MODES, Call
from . import _gradients as _gradients  # registers them
from ._boxes import as_tensor, boxes_of, check
from ._operators import eager_context, node_of

__all__ = ["roi_align", "roi_pool"]

Tensor = Any
_Tensor = tf.Tensor


def _refuse_xla(op: str) -> None:
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        raise NotImplementedError(
            f"{op}: there is no XLA kernel for TensorFlow's jit_compile=True; call it in a "
            f"tf.function without it, or use roidl.jax"
        )


def run(call: Call) -> Any:
    """Run one call on tensors: a node of TensorFlow's."""
    op, params, boxes, indices, _, input, arguments, _ = call
    if not isinstance(input, _Tensor):
        input = as_tensor(op, "input", input)
    if indices is None and isinstance(boxes, _Tensor):  # saves a small call 4%
        indices = []
    else:
        boxes, indices = boxes_of(call, input)
    node = node_of(op, params)
    return_argmax = op == "roi_pool" and arguments[1]
    if return_argmax and params.mode != POOL_MODES["max"]:
        raise ValueError("roi_pool: only mode 'max' has an argmax to return")
    if (context := eager_context()) is not None:
        try:
            result = node.eagerly(context, input, boxes, indices)
        except (TypeError, ValueError, tf.errors.OpError):
            check(call, input, boxes, indices)  # the core's words, if shapes or types are wrong
            raise
    else:
        check(call, input, boxes, indices)
        _refuse_xla(op)
        result = node.in_graph(input, boxes, indices)
    if op == "roi_align":
        return result
    pooled, argmax = result
    return (pooled, argmax[0]) if return_argmax else pooled


# Public functions ---------------------------------------------------------------------------------

_DIFFERENT = {
    # Axes the other way round, and no `out`: TensorFlow allocates results itself.
    r"(\[\w+, C, \w+, \w+\]) \(or (\[\w+, \w+, \w+, C\])": r"\2 (or \1",
    r"    out : array, optional\n.*?\n(?=\n)": "",
    r"any strides; never copied nor written to": "a tensor or a variable",
    r"array \[N, L, 4\], or a list of N arrays \[L_i, 4\]": (
        r"array [N, L, 4],\n        a list of N arrays [L_i, 4], or a tf.RaggedTensor [N, (L_i), 4]"
    ),
    r"For wrong shapes and values: a batch index (.*?)\n        infinite.": (
        r"For wrong shapes, in a graph while it is traced as far as they are known.\n"
        r"    tf.errors.InvalidArgumentError\n"
        r"        For wrong values: a batch index \1\n        infinite."
    ),
}
_EXAMPLES = {
    "roi_align": """\
    >>> import tensorflow as tf, roidl.tensorflow
    >>> features = tf.reshape(tf.range(16.0), [1, 4, 4, 1])
    >>> boxes = tf.constant([[0, 0.0, 0.0, 4.0, 4.0]])
    >>> pooled = roidl.tensorflow.roi_align(features, boxes, 2, sampling_ratio=2, aligned=True)
    >>> pooled[0, :, :, 0].numpy().tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """,
    "roi_pool": """\
    >>> import tensorflow as tf, roidl.tensorflow
    >>> features = tf.reshape(tf.range(16.0), [1, 4, 4, 1])
    >>> boxes = tf.constant([[0, 0.0, 0.0, 3.0, 3.0]])
    >>> roidl.tensorflow.roi_pool(features, boxes, 2)[0, :, :, 0].numpy().tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """,
}


def _adapt(describe: Callable[..., Call]) -> Callable[..., Any]:
    """The same operator as TensorFlow's users expect it: channels last, and no `out`."""
    name = describe.__name__

    @functools.wraps(describe)
    def function(*args: Any, layout: str = "NHWC", **kwargs: Any) -> Any:
        if "out" in kwargs:
            raise TypeError(f"{name}: TensorFlow allocates results itself, there is no out")
        return run(describe(*args, layout=layout, **kwargs))

    signature = inspect.signature(describe)
    parameters = [
        each.replace(default="NHWC") if each.name == "layout" else each
        for each in signature.parameters.values()
        if each.name != "out"
    ]
    vars(function)["__signature__"] = signature.replace(
        parameters=parameters, return_annotation=Any
    )
    text, _, _ = (describe.__doc__ or "").partition("    >>>")
    for pattern, replacement in _DIFFERENT.items():
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    function.__doc__ = text + _EXAMPLES[name]
    function.__module__ = __name__
    return function


roi_align = _adapt(_ops.roi_align)
roi_pool = _adapt(_ops.roi_pool)
