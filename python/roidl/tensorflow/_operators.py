"""The operators as TensorFlow's own: loaded from the bridge, called with our parameters."""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.eager.context import context as _get_context

from .._bridge import bridge
from .._params import POOL_MODES, RoiAlignParams, RoiPoolParams
from .._shapes import check_params

Tensor = Any

# A node's parameters are the list `params`, in the order of the fields, without those that the
# shape of a result depends on: these are the shape of its input `grid`, as TensorFlow's C API lets
# a shape function read shapes, not attributes.
_OF_GRID = ("output_height", "output_width", "layout")
ALIGN_FIELDS = tuple(name for name in RoiAlignParams._fields if name not in _OF_GRID)


def _load() -> Any:
    path = bridge("tensorflow")
    try:
        module, reason = tf.load_op_library(path), ""
        failure = ctypes.CDLL(path).roidl_tensorflow_failure
        failure.restype = ctypes.c_char_p
        reason = failure().decode()
        # What TensorFlow does not accept, it may leave out without a word. (No call here to find
        # out: it would settle the devices of the process, which are the user's to choose.)
        if not reason and not hasattr(module, "roidl_refusal"):
            reason = "there are others of these names already"
    except (tf.errors.OpError, RuntimeError) as error:
        reason = str(error)
    if reason:
        raise ImportError(
            f"roidl.tensorflow: TensorFlow {tf.__version__} did not accept the operators: {reason}"
        )
    return module


ops = _load()


# What the generated functions of an eager call come down to, without their overloading by types,
# which takes a fifth of a small call.
_fast_path = getattr(getattr(ops, "pywrap_tfe", None), "TFE_Py_FastPathExecute", None)


def eager_context() -> Any:
    """What an eager call is made in; None while a graph is traced."""
    context = _get_context()
    return context if context.executing_eagerly() else None


class Node(NamedTuple):
    """What the nodes of an operator with the same parameters have in common."""

    name: str
    grid: Any  # NumPy's, of the shape that says the output size and the layout
    grid_tensor: Tensor  # the same as an eager tensor
    attributes: dict[str, Any]
    flat: tuple[Any, ...]  # the same, names and values in turn

    def in_graph(self, input: Tensor, boxes: Tensor, indices: list[Tensor]) -> Any:
        return self._generated(input, boxes, tf.constant(self.grid), indices)

    def eagerly(self, context: Any, input: Tensor, boxes: Tensor, indices: list[Tensor]) -> Any:
        if _fast_path is not None:
            name, _, grid, _, flat = self
            try:
                return _fast_path(context, name, None, input, boxes, grid, indices, *flat)
            except Exception:  # several of TensorFlow's own; what it was is told below
                pass
        return self._generated(input, boxes, self.grid_tensor, indices)

    def _generated(self, *inputs: Any) -> Any:
        function = ops.roidl_roi_align if self.name == "RoidlRoiAlign" else ops.roidl_roi_pool
        return function(*inputs, **self.attributes)


@functools.lru_cache(maxsize=1024)
def node_of(op: str, params: RoiAlignParams | RoiPoolParams) -> Node:
    """Check parameters in the words of the core, and bring them into the form of a node."""
    check_params(op, params)
    fields = params._asdict()
    bins = params.output_height, params.output_width
    grid = np.zeros((*bins, 0) if params.layout else (0, *bins), np.uint8)
    # All 64 bits: a float attribute of TensorFlow's is float32.
    (fields["spatial_scale"],) = struct.unpack("q", struct.pack("d", params.spatial_scale))
    values = [int(value) for name, value in fields.items() if name not in _OF_GRID]
    attributes: dict[str, Any] = {"params": values}
    if op == "roi_pool":
        attributes["num_argmax"] = int(params.mode == POOL_MODES["max"])
    name = {"roi_align": "RoidlRoiAlign", "roi_pool": "RoidlRoiPool"}[op]
    flat = tuple(part for pair in attributes.items() for part in pair)
    with tf.init_scope(), tf.device("CPU"):
        return Node(name, grid, tf.constant(grid), attributes, flat)
