"""Arguments as tensors: boxes in each of their forms, and the core's checks of shapes and types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from .. import _core
from .._multiscale import LevelsCall
from .._params import Call
from .._shapes import Metadata, check_known, check_known_levels, check_known_list

Tensor = Any
Boxes = tuple[Tensor, list[Tensor]]  # rows, and their batch indices: one tensor or none


def as_tensor(op: str, name: str, value: Any) -> Tensor:
    """A tensor from a tensor, a variable, or a copy of another library's array."""
    if isinstance(value, tf.Tensor):
        return value
    if not isinstance(value, tf.Variable):
        _core.check_array(op, name, value)
        if hasattr(value, "__array__"):
            value = np.asarray(value)  # the only arrays that TensorFlow is sure to copy
    return tf.convert_to_tensor(value)


def boxes_of(call: Call, input: Tensor) -> Boxes:
    """Rows and batch indices, from any form of boxes."""
    boxes, indices = call.boxes, call.batch_indices
    if isinstance(boxes, (list, tuple, tf.RaggedTensor)):
        if indices is not None:
            raise ValueError(f"{call.op}: batch_indices must be None when boxes is a list")
        if isinstance(boxes, tf.RaggedTensor):
            return _from_ragged(call.op, boxes, input)
        return _from_list(call.op, boxes, input)
    rows = as_tensor(call.op, "boxes", boxes)
    return rows, integers(call.op, "batch_indices", indices)


def integers(op: str, name: str, value: Any) -> list[Tensor]:
    """A node's list of no or one tensor; what is none of integers the core refuses."""
    if value is None:
        return []
    value = as_tensor(op, name, value)
    if value.dtype != tf.int64 and value.dtype.is_integer:
        value = tf.cast(value, tf.int64)
    return [value]


def _number_of_images(input: Tensor) -> int | None:
    return input.shape[0] if input.shape.rank == 4 else None


def _from_list(op: str, boxes: Sequence[Any], input: Tensor) -> Boxes:
    rows = [as_tensor(op, f"boxes[{i}]", part) for i, part in enumerate(boxes)]
    images = _number_of_images(input)
    if all(part.shape.rank is not None for part in rows):
        check_known_list(op, [_metadata(op, part) for part in rows], images)
    if not rows:
        rows = [tf.zeros([0, 4])]
    if len({part.dtype for part in rows}) > 1:
        wide = any(part.dtype == tf.float64 for part in rows)
        rows = [tf.cast(part, tf.float64 if wide else tf.float32) for part in rows]
    counts = [part.shape[0] for part in rows]
    if None in counts:
        lengths = tf.stack([tf.shape(part)[0] for part in rows])
        indices = tf.repeat(tf.range(len(rows), dtype=tf.int64), lengths)
    else:
        indices = tf.constant(np.repeat(np.arange(len(rows), dtype=np.int64), counts))
    if images is None:
        indices = _checked_later(op, indices, len(rows), input)
    return tf.concat(rows, 0), [indices]


def _from_ragged(op: str, boxes: Any, input: Tensor) -> Boxes:
    """[N, (L_i), 4]: the values of a ragged tensor are the rows."""
    rows, indices = rows_of_ragged(op, boxes), tf.cast(boxes.value_rowids(), tf.int64)
    count, images = boxes.shape[0], _number_of_images(input)
    if count is None or images is None:
        indices = _checked_later(op, indices, boxes.nrows(), input)
    else:
        check_known_list(op, [_metadata(op, rows)] * count, images)
    return rows, [indices]


def rows_of_ragged(op: str, boxes: Any) -> Tensor:
    """[K, 4], the images' boxes one after the other."""
    rows = boxes.values
    if boxes.ragged_rank > 2:
        raise ValueError(
            f"{op}: boxes must be ragged in one axis, [N, (L_i), 4], got {boxes.shape}"
        )
    if boxes.ragged_rank == 2:  # tf.ragged.constant calls the 4 ragged, too
        wrong = tf.debugging.assert_equal(
            tf.reduce_all(rows.row_lengths() == 4), True, f"{op}: boxes must have 4 coordinates"
        )
        with tf.control_dependencies([wrong] if wrong is not None else []):
            rows = tf.reshape(tf.identity(rows.flat_values), [-1, 4])
    return rows


def _checked_later(op: str, indices: Tensor, count: Any, input: Tensor) -> Tensor:
    """The indices, once it is known that there are boxes for each image."""
    images = tf.shape(input, tf.int64)[0]
    sentence = f"{op}: a list of boxes must have one array per image"
    wrong = tf.debugging.assert_equal(tf.cast(count, tf.int64), images, sentence)
    with tf.control_dependencies([wrong]):
        return tf.identity(indices)


# Shapes and types ---------------------------------------------------------------------------------


def _metadata(op: str, tensor: Tensor) -> Metadata:
    kind = tensor.dtype
    if not (kind.is_floating or kind.is_integer or kind.is_bool or kind.is_complex):
        raise TypeError(f"{op}: tensors must be of a float or integer type, got {kind.name}")
    return tensor.shape.as_list(), kind.name


def check(
    call: Call, maps: Sequence[Tensor], boxes: Tensor, indices: list[Tensor], *more: list[Tensor]
) -> None:
    """Raise the core's error if the shapes and types are wrong, as far as they are known.

    `more` are the levels and the counts, where there are several maps.
    """
    op, pyramid = call.op, call.pyramid
    tensors = [*maps, boxes, *indices, *(tensor for each in more for tensor in each)]
    if any(tensor.shape.rank is None for tensor in tensors):
        return
    rest = [_metadata(op, each[0]) if each else None for each in (indices, *more)]
    if pyramid is not None:
        pyramid = pyramid._replace(levels=rest[1], counts=rest[2])
    inputs = [_metadata(op, tensor) for tensor in maps]
    check_known(op, call.params, inputs, _metadata(op, boxes), rest[0], pyramid)


def check_levels(call: LevelsCall, boxes: Tensor) -> None:
    """The same for `assign_levels`."""
    if boxes.shape.rank is not None:
        check_known_levels(call.op, call.pyramid, _metadata(call.op, boxes))
