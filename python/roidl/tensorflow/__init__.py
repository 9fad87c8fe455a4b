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
from tensorflow.python.eager.context import context as _context
from tensorflow.python.framework.ops import EagerTensor
from tensorflow.python.ops import control_flow_util

from .. import _multiscale
from .._array_libraries import ADAPTED
from .._derivatives import is_average
from .._multiscale import LevelsCall
from .._numpy import run_here
from .._operators import FAMILIES, operator_of
from .._params import Call, Pyramid, front_end
from .._public import FORWARD
from . import _gradients as _gradients  # registers them
from ._arguments import as_tensor, boxes_of, check, check_levels, integers, rows_of_ragged
from ._direct import shorten, untouched
from ._operators import Node, node_of, ops, params_of_rule, results, wanted_result

__all__ = [
    "assign_levels",
    "multiscale_roi_align",
    "multiscale_roi_pool",
    "ps_roi_align",
    "ps_roi_pool",
    "roi_align",
    "roi_pool",
]

Tensor = Any


def _refuse_xla(op: str) -> None:
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        raise NotImplementedError(
            f"{op}: there is no XLA kernel for TensorFlow's jit_compile=True; call it in a "
            f"tf.function without it, or use roidl.jax"
        )


@untouched
def run(call: Call) -> Any:
    """Run one call on tensors: a node of TensorFlow's."""
    op, params, boxes, indices, _, input, arguments, pyramid = call
    if pyramid is None:
        input = as_tensor(op, "input", input)
        boxes, indices = boxes_of(call, input)
        inputs: tuple[Any, ...] = input, indices
    else:
        maps = [as_tensor(op, f"input[{i}]", each) for i, each in enumerate(arguments[0])]
        boxes, indices = boxes_of(call, maps[0])
        levels = integers(op, "levels", pyramid.levels)
        counts = integers(op, "counts", pyramid.counts)
        inputs = maps, indices, levels, counts
        pyramid = Pyramid(*pyramid[:3], levels=None, counts=None)
    context = _context()
    eager = context.executing_eagerly()
    asked = True in arguments[1:]  # a flag for each result that is optional
    optional = wanted_result(op, is_average(operator_of(op), params), asked, eager)
    node = node_of(op, params, pyramid, optional)
    made = node.eagerly(context, boxes, *inputs) if eager else None
    if made is None:
        made = _slowly(call, node, boxes, *inputs)
    return results(made, optional, asked)


def _slowly(call: Call, node: Node, boxes: Tensor, *inputs: Any) -> Any:
    """Make a node in a graph, or an eager one of which an error is expected."""
    maps, *lists = inputs
    maps = maps if isinstance(maps, list) else [maps]
    if _context().executing_eagerly():
        try:
            return node.function(boxes, node.grid_tensor, *inputs, params=node.params)
        except (TypeError, ValueError, tf.errors.OpError):
            check(call, maps, boxes, *lists)  # the core's words, if shapes or types are wrong
            raise
    check(call, maps, boxes, *lists)
    _refuse_xla(call.op)
    return node.function(boxes, tf.constant(node.grid), *inputs, params=node.params)


@untouched
def run_levels(call: LevelsCall) -> Any:
    """Run one call of `assign_levels`: a node of TensorFlow's."""
    op, boxes, _ = call
    if isinstance(boxes, (list, tuple)):
        return [_levels(call, f"boxes[{i}]", each) for i, each in enumerate(boxes)]
    if isinstance(boxes, tf.RaggedTensor):
        return boxes.with_values(_levels(call, "boxes", rows_of_ragged(op, boxes)))
    return _levels(call, "boxes", boxes)


def _levels(call: LevelsCall, name: str, boxes: Any) -> Tensor:
    boxes, params = as_tensor(call.op, name, boxes), params_of_rule(call.pyramid)
    if not _context().executing_eagerly():
        check_levels(call, boxes)
        _refuse_xla(call.op)
        return ops.roidl_assign_levels(boxes, params=params)
    try:
        return ops.roidl_assign_levels(boxes, params=params)
    except (TypeError, ValueError, tf.errors.OpError):
        check_levels(call, boxes)
        raise


# Public functions ---------------------------------------------------------------------------------

_DIFFERENT = {
    # Axes the other way round, and no `out`: TensorFlow allocates results itself.
    r"(\[\w+, C, \w+, \w+\]) \(or (\[\w+, \w+, \w+, C\])": r"\2 (or \1",
    r"    out : array, optional\n.*?\n(?=\n)": "",
    r"any strides; never copied nor written to": "a tensor or a variable",
    r"; any strides\.": ".",
    r"array \[N, L, 4\], or a list of (N )?arrays \[L_i, 4\]": (
        r"array [N, L, 4],\n        a list of \1arrays [L_i, 4], or a tf.RaggedTensor [N, (L_i), 4]"
    ),
    r"For wrong shapes and values: a batch index (.*?)\n        infinite.": (
        r"For wrong shapes, in a graph while it is traced as far as they are known.\n"
        r"    tf.errors.InvalidArgumentError\n"
        r"        For wrong values: a batch index \1\n        infinite."
    ),
    r"; a list of arrays for a list\)": "; a list or a ragged tensor for one)",
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
    "multiscale_roi_align": """\
    >>> import tensorflow as tf, roidl.tensorflow
    >>> maps = [tf.fill([1, size, size, 1], float(size)) for size in (64, 32)]
    >>> boxes = tf.constant([[0, 0, 0, 100, 100], [0, 0, 0, 250, 250]], tf.float32)
    >>> pooled = roidl.tensorflow.multiscale_roi_align(maps, boxes, 1, [1 / 4, 1 / 8])
    >>> tf.reshape(pooled, [-1]).numpy().round(3).tolist()
    [64.0, 32.0]
    """,
    "multiscale_roi_pool": """\
    >>> import tensorflow as tf, roidl.tensorflow
    >>> maps = [tf.fill([1, size, size, 1], float(size)) for size in (64, 32)]
    >>> boxes = tf.constant([[[0, 0, 100, 100], [0, 0, 250, 250], [0, 0, 0, 0]]], tf.float32)
    >>> count = tf.constant([2])  # the third row is padding
    >>> pooled = roidl.tensorflow.multiscale_roi_pool(maps, boxes, 1, [1 / 4, 1 / 8], counts=count)
    >>> tf.reshape(pooled, [-1]).numpy().tolist()
    [64.0, 32.0, 0.0]
    """,
    "assign_levels": """\
    >>> import tensorflow as tf, roidl.tensorflow
    >>> boxes = tf.constant([[0.0, 0, 50, 50], [0, 0, 112, 112], [0, 0, 448, 448]])
    >>> roidl.tensorflow.assign_levels(boxes, [1 / 4, 1 / 8, 1 / 16, 1 / 32]).numpy().tolist()
    [0, 1, 3]
    """,
}


def _adapt(
    describe: Callable[..., Any], run: Callable[..., Any] = run, **defaults: Any
) -> Callable[..., Any]:
    """The same operator as TensorFlow's users expect it, without `out`."""
    name = describe.__name__

    described = functools.partial(describe, **defaults)

    @untouched
    @functools.wraps(describe)
    def function(*args: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            raise TypeError(f"{name}: TensorFlow allocates results itself, there is no out")
        return run(described(*args, **kwargs))

    signature = inspect.signature(describe)
    parameters = [
        each.replace(default=defaults.get(each.name, each.default))
        for each in signature.parameters.values()
        if each.name != "out"
    ]
    vars(function)["__signature__"] = signature.replace(
        parameters=parameters, return_annotation=Any
    )
    # NumPy's examples give way to TensorFlow's, if there are any.
    text, _, _ = (describe.__doc__ or "").partition(
        "    >>>" if name in _EXAMPLES else "    Examples"
    )
    for pattern, replacement in _DIFFERENT.items():
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    function.__doc__ = text + _EXAMPLES.get(name, "")
    function.__module__ = __name__
    return function


_PUBLIC = {
    name: shorten(name, function) if name in FAMILIES else function
    for name, describe in FORWARD.items()
    for function in [_adapt(describe, layout="NHWC")]
}
ps_roi_align = _PUBLIC["ps_roi_align"]
ps_roi_pool = _PUBLIC["ps_roi_pool"]
roi_align = _PUBLIC["roi_align"]
roi_pool = _PUBLIC["roi_pool"]
multiscale_roi_align = _PUBLIC["multiscale_roi_align"]
multiscale_roi_pool = _PUBLIC["multiscale_roi_pool"]
assign_levels = _adapt(_multiscale.assign_levels, run_levels)


def _run_general(call: Call) -> Any:
    """Run a call of `roidl`'s functions; `out`, which TensorFlow has no way to write to, is
    refused in the core's words."""
    return run(call) if call.out is None else run_here(call)


# The functions of `roidl` on TensorFlow's tensors.
ADAPTED[EagerTensor] = {
    name: shorten(name, front_end(_run_general)(FORWARD[name])) for name in FAMILIES
}
