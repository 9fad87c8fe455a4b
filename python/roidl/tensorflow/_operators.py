"""The operators as TensorFlow's own: loaded from the bridge, called with our parameters."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from .._bridge import bridge
from .._derivatives import no_optional
from .._operators import VERSION, Family, Operator, operator_of
from .._params import Pyramid
from .._shapes import check_params

Tensor = Any

# A node's parameters are the bytes `params`, as src/bridge/tensorflow_attributes.h reads them: the
# catalogue's version and the fields in their order, without those that the shape of a result
# depends on: these are the shape of its input `grid`, as TensorFlow's C API lets a shape function
# read shapes, not attributes.
_OF_GRID = ("output_height", "output_width", "layout")
_OF_RULE = 2  # canonical_scale and canonical_level, before the scales of several maps


def _pack(numbers: Iterable[float]) -> bytes:
    """64 bits for each: a float attribute of TensorFlow's is float32."""
    return b"".join(struct.pack("d" if type(each) is float else "q", each) for each in numbers)


class NodeParams(NamedTuple):
    """What the derivatives of a node depend on."""

    mode: int


@functools.lru_cache(maxsize=1024)
def params_of_node(family: Family, packed: bytes) -> tuple[NodeParams, int]:
    """The mode of a node and, if it is on several maps, how many they are."""
    fields = [field.name for field in family.fields if field.name not in _OF_GRID]
    _, *numbers = struct.unpack(f"{len(packed) // 8}q", packed)
    mode = numbers[fields.index("mode")] if "mode" in fields else 0
    return NodeParams(mode), len(numbers) - len(fields) - _OF_RULE


def needs_shapes(operator: Operator) -> bool:
    """Whether its nodes have an input that says the shapes of the maps that they make."""
    return operator.makes_maps and all(read.role != "maps" for read in operator.reads)


def name_of(operator: Operator, several: bool, optional: str = "") -> str:
    """Of TensorFlow's function that makes its nodes, with a result that is optional or without."""
    called = f"multiscale_{operator.name}" if several else operator.name
    return f"roidl_{called}_{optional}" if optional else f"roidl_{called}"


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
fast_path = getattr(getattr(ops, "pywrap_tfe", None), "TFE_Py_FastPathExecute", None)


def _unknown() -> bool:
    return False


# Whether nobody records what eager calls do.
no_tape = getattr(getattr(ops, "pywrap_tfe", None), "TFE_Py_TapeSetIsEmpty", _unknown)


def wanted_result(op: str, average: bool, asked: bool, eager: bool) -> str:
    """The optional result that a call makes, to return it or for a gradient; "" for none.

    In a graph it is not known whether there will be a gradient.
    """
    writes = operator_of(op).writes
    if len(writes) == 1:
        return ""
    if not average:
        return writes[1].name if asked or not (eager and no_tape()) else ""
    if asked:
        raise ValueError(f"{op}: {no_optional(operator_of(op))}")
    return ""


def results(made: Any, optional: str, asked: bool) -> Any:
    """What a call returns of what its node made, with an optional result that was asked for or
    not."""
    if not optional:
        return made
    return (made[0], made[1]) if asked else made[0]


class Node(NamedTuple):
    """What the nodes of an operator with the same parameters have in common."""

    name: str
    function: Any  # TensorFlow's generated one
    grid: Any  # NumPy's, of the shape that says the output size and the layout
    grid_tensor: Tensor  # the same as an eager tensor
    params: bytes

    def eagerly(self, context: Any, boxes: Tensor, *inputs: Any) -> Any:
        """The result; or None, if it is to be made, or refused, by TensorFlow's function."""
        if fast_path is None:
            return None
        grid, params = self.grid_tensor, self.params
        try:
            return fast_path(context, self.name, None, boxes, grid, *inputs, "params", params)
        except Exception:  # several of TensorFlow's own; what it was is told by its function
            return None


def rule_of(pyramid: Pyramid) -> bytes:
    """How boxes find their map: the last of a node's parameters."""
    return _pack((pyramid.canonical_scale, pyramid.canonical_level, *pyramid.scales))


def params_of_rule(pyramid: Pyramid) -> bytes:
    """The parameters of a node that finds the map of every box."""
    return _pack((VERSION,)) + rule_of(pyramid)


@functools.lru_cache(maxsize=1024)
def node_of(
    op: str,
    described: tuple[Any, ...],
    pyramid: Pyramid | None = None,
    optional: str = "",
) -> Node:
    """Check parameters in the words of the core, and bring them into the form of a node.

    They are of the types that the fields have, so that those which are equal are the same.
    """
    operator = operator_of(op)
    check_params(op, described)
    params = {
        field.name: value for field, value in zip(operator.family.fields, described, strict=True)
    }
    fields = [value for name, value in params.items() if name not in _OF_GRID]
    values = _pack((VERSION, *fields))
    if pyramid is not None:
        values += rule_of(pyramid)
    bins = params["output_height"], params["output_width"]
    grid = np.zeros((*bins, 0) if params["layout"] else (0, *bins), np.uint8)
    called = name_of(operator, op != operator.name, optional)
    function = getattr(ops, called)
    name = "".join(map(str.capitalize, called.split("_")))
    with tf.init_scope(), tf.device("CPU"):
        return Node(name, function, grid, tf.constant(grid), values)
