"""The operators as TensorFlow's own: loaded from the bridge, called with our parameters."""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from .. import _core
from .._bridge import bridge
from .._params import RoiAlignParams, RoiPoolParams

Tensor = Any

# What the shape of a result depends on is not an attribute of a node, but the shape of its input
# `grid`: TensorFlow's C API lets a shape function read shapes, not attributes.
_OF_GRID = ("output_height", "output_width", "layout")
ALIGN_ATTRIBUTES = tuple(name for name in RoiAlignParams._fields if name not in _OF_GRID)
POOL_ATTRIBUTES = tuple(name for name in RoiPoolParams._fields if name not in _OF_GRID)


def _load() -> Any:
    path = bridge("tensorflow")
    try:
        module, reason = tf.load_op_library(path), ""
    except (tf.errors.OpError, RuntimeError) as error:
        reason = str(error)
    if not reason:
        failure = ctypes.CDLL(path).roidl_tensorflow_failure
        failure.restype = ctypes.c_char_p
        reason = failure().decode()
    if reason:
        raise ImportError(
            f"roidl.tensorflow: TensorFlow {tf.__version__} did not accept the operators: {reason}"
        )
    return module


ops = _load()


class Prepared(NamedTuple):
    """Parameters as a node takes them."""

    grid_array: Any  # NumPy's, of the shape that says the output size and the layout
    grid_tensor: Tensor  # the same as an eager tensor
    attributes: dict[str, Any]

    @property
    def grid(self) -> Tensor:
        return self.grid_tensor if tf.executing_eagerly() else tf.constant(self.grid_array)


@functools.lru_cache(maxsize=1024)
def prepare(op: str, params: RoiAlignParams | RoiPoolParams) -> Prepared:
    """Check parameters in the words of the core, and bring them into the form of a node."""
    nothing = (1, 1, 1, 1), "float32"
    _core.result_shape(op, params._asdict(), nothing, ((0, 5), "float32"), None)
    bins = params.output_height, params.output_width
    grid = np.zeros((*bins, 0) if params.layout else (0, *bins), np.uint8)
    attributes = {k: v for k, v in params._asdict().items() if k not in _OF_GRID}
    # All 64 bits: a float attribute of TensorFlow's is float32.
    (attributes["spatial_scale"],) = struct.unpack("q", struct.pack("d", params.spatial_scale))
    with tf.init_scope(), tf.device("CPU"):
        return Prepared(grid, tf.constant(grid), attributes)
