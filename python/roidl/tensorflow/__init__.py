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
from .._params import Call, front_end
from . import _gradients as _gradients  # registers them
from ._boxes import as_tensor, boxes_of, check
from ._operators import ops, prepare

__all__ = ["roi_align", "roi_pool"]

Tensor = Any


def _refuse_xla(op: str) -> None:
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        raise NotImplementedError(
            f"{op}: there is no XLA kernel for TensorFlow's jit_compile=True; call it in a "
            f"tf.function without it, or use roidl.jax"
        )


def _execute(call: Call, input: Tensor, boxes: Tensor, indices: list[Tensor]) -> Any:
    prepared = prepare(call.op, call.params)
    grid, attributes = prepared.grid, prepared.attributes
    if call.op == "roi_align":
        return ops.roidl_roi_align(input, boxes, grid, indices, **attributes)
    return_argmax = call.arguments[1]
    number = 1 if attributes["mode"] == _gradients.POOL_MAX else 0
    if return_argmax and not number:
        raise ValueError("roi_pool: only mode 'max' has an argmax to return")
    pooled, argmax = ops.roidl_roi_pool(
        input, boxes, grid, indices, num_argmax=number, **attributes
    )
    return (pooled, argmax[0]) if return_argmax else pooled


def run(call: Call) -> Any:
    """Run one call on tensors: a node of TensorFlow's."""
    op = call.op
    input = as_tensor(op, "input", call.arguments[0])
    boxes, indices = boxes_of(call, input)
    if not tf.executing_eagerly():
        check(call, input, boxes, indices)
        _refuse_xla(op)
        return _execute(call, input, boxes, indices)
    try:
        return _execute(call, input, boxes, indices)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        failure = error
    check(call, input, boxes, indices)
    raise failure


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


def _for_tensorflow(describe: Callable[..., Call]) -> Callable[..., Call]:
    """The same operator as TensorFlow's users expect it: channels last, and no `out`."""
    name = describe.__name__

    @functools.wraps(describe)
    def described(*args: Any, **kwargs: Any) -> Call:
        if (out := kwargs.pop("out", None)) is not None:
            raise TypeError(
                f"{name}: out must be an array that can be written to as it is, "
                f"got {type(out).__name__}"
            )
        kwargs.setdefault("layout", "NHWC")
        return describe(*args, **kwargs)

    signature = inspect.signature(describe)
    parameters = [
        each.replace(default="NHWC") if each.name == "layout" else each
        for each in signature.parameters.values()
        if each.name != "out"
    ]
    vars(described)["__signature__"] = signature.replace(parameters=parameters)
    text, _, _ = (describe.__doc__ or "").partition("    >>>")
    for pattern, replacement in _DIFFERENT.items():
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    described.__doc__ = text + _EXAMPLES[name]
    return described


_adapt = front_end(run)
roi_align = _adapt(_for_tensorflow(_ops.roi_align))
roi_pool = _adapt(_for_tensorflow(_ops.roi_pool))
