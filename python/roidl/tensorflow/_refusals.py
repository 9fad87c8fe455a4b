"""Derivatives that are not offered: an error where one is used, never a silent zero.

An eager tape says which gradients it needs. Inside of a graph nodes are made for gradients that
nobody may ask for, so that there the node fails when it is computed, if the tape needs it. A graph
that is differentiated from outside computes the gradients to all that it was given, and to fail
would refuse those that are there: there it is NaN, and a warning says so.
"""

from __future__ import annotations

import warnings
from typing import Any

import tensorflow as tf

from ._operators import ops

Tensor = Any

UNKNOWN = (
    "{}; this is part of a function that is differentiated from outside, where it is not known "
    "which gradients will be used: that one is NaN. Where none should go there, pass "
    "tf.stop_gradient(boxes)"
)


def undefined(sentence: str, boxes: Tensor, operands: list[Tensor], needed: bool | None) -> Tensor:
    """In the place of a gradient shaped like `boxes`, linear in each of the operands.

    `needed` is None where that is not known.
    """
    if needed and tf.executing_eagerly():
        raise NotImplementedError(sentence)
    if needed is None:
        warnings.warn(UNKNOWN.format(sentence), UserWarning, stacklevel=2)

    def stand_in(*operands: Tensor) -> Any:
        value = tf.fill(tf.shape(boxes), tf.constant(float("nan"), boxes.dtype))
        if needed:
            refusal = ops.roidl_refusal(True, sentence=sentence)
            value += tf.cast(refusal, boxes.dtype)
        value.set_shape(boxes.shape)

        def gradient(direction: Tensor) -> list[Tensor]:
            return [zero_along(sentence, direction, operand) for operand in operands]

        return value, gradient

    return tf.custom_gradient(stand_in)(*operands)


def zero_along(sentence: str, direction: Tensor, like: Tensor) -> Tensor:
    """What is linear in `direction`: zero where that is zero, and else not offered.

    Forward mode passes a direction for every input, of zeros for those that stay.
    """
    moves = tf.reduce_any(tf.not_equal(direction, tf.zeros([], direction.dtype)))
    refusal = ops.roidl_refusal(moves, sentence=sentence)
    return tf.zeros_like(like) + tf.cast(refusal, like.dtype)
