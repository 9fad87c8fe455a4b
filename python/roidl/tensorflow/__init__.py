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

from .. import _arrays, _multiscale, _ops
from .._libraries import ADAPTED
from .._multiscale import LevelsCall
from .._params import Call, Pyramid, RoiPoolParams, front_end
from . import _gradients as _gradients  # registers them
from ._arguments import as_tensor, boxes_of, check, check_levels, integers, rows_of_ragged
from ._direct import shorten, untouched
from ._operators import Node, node_of, ops, results, rule_of, wants_argmax

__all__ = [
    "assign_levels",
    "multiscale_roi_align",
    "multiscale_roi_pool",
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
    pools = type(params) is RoiPoolParams
    asked = pools and arguments[1]
    argmax = pools and wants_argmax(op, params.mode, asked, eager)
    node = node_of(op, params, pyramid, argmax)
    made = node.eagerly(context, boxes, *inputs) if eager else None
    if made is None:
        made = _slowly(call, node, boxes, *inputs)
    return results(made, argmax, asked)


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
    boxes, params = as_tensor(call.op, name, boxes), rule_of(call.pyramid)
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
    text, _, _ = (describe.__doc__ or "").partition("    >>>")
    for pattern, replacement in _DIFFERENT.items():
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    function.__doc__ = text + _EXAMPLES[name]
    function.__module__ = __name__
    return function


roi_align = shorten("roi_align", _adapt(_ops.roi_align, layout="NHWC"))
roi_pool = shorten("roi_pool", _adapt(_ops.roi_pool, layout="NHWC"))
multiscale_roi_align = _adapt(_multiscale.multiscale_roi_align, layout="NHWC")
multiscale_roi_pool = _adapt(_multiscale.multiscale_roi_pool, layout="NHWC")
assign_levels = _adapt(_multiscale.assign_levels, run_levels)

# The functions of `roidl` on TensorFlow's tensors.
_general = front_end(_arrays.run)
ADAPTED[EagerTensor] = {
    "roi_align": shorten("roi_align", _general(_ops.roi_align)),
    "roi_pool": shorten("roi_pool", _general(_ops.roi_pool)),
}
