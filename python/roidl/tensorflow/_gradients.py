"""The gradients of the operators, of every order, as TensorFlow finds them: by the name of a node.

What they are is said by `roidl._derivatives`. Forward mode needs nothing of its own: TensorFlow
transposes the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from .. import _derivatives as rules
from .._derivatives import BOXES, Refused, Term
from .._operators import OPERATORS, Operator
from ._operators import name_of, needs_shapes, ops, params_of_node
from ._refusals import undefined, zero_along

Tensor = Any
Tensors = list[Tensor]  # of one read: one tensor, or one for every map

NO_ARGMAX = np.zeros(0, np.int32)  # what the average is given in its place


class _Node:
    """A node of ours: its parameters, boxes and lists are those of all nodes of its derivatives.

    Its inputs are boxes, grid, what it reads, and lists of no or one tensor.
    """

    def __init__(self, op: Any, operator: Operator, several: bool) -> None:
        self.op, self.operator, self.several = op, operator, several
        self.packed = op.get_attr("params")
        self.params, maps = params_of_node(operator.family, self.packed)
        self.inputs = list(op.inputs)
        self.places: dict[str, range] = {BOXES: range(1)}
        start = 2
        reads = [(read.name, read.role) for read in operator.reads]
        if needs_shapes(operator):
            reads.append(("input", "maps"))
        for name, role in reads:
            stop = start + (maps if several and role == "maps" else 1)
            self.places[name] = range(start, stop)
            start = stop
        self.lists = []
        for count in ("num_indices", "num_levels", "num_counts") if several else ("num_indices",):
            stop = start + op.get_attr(count)
            self.lists.append(self.inputs[start:stop])
            start = stop

    def given(self, name: str) -> Tensors:
        return [self.inputs[place] for place in self.places[name]]

    @property
    def boxes(self) -> Tensor:
        return self.inputs[0]

    @property
    def maps(self) -> Tensors:
        """Tensors of the shapes of the maps."""
        names = ["input", *(read.name for read in self.operator.reads if read.role == "maps")]
        return self.given(next(name for name in names if name in self.places))

    @property
    def called(self) -> str:
        family = self.operator.family.name
        return f"multiscale_{family}" if self.several else family

    def make(self, term: Term, direction: Tensors) -> Tensors:
        """The operator of a term, on a cotangent and on what this node was given."""
        term = rules.in_average(term, self.params)
        operator = OPERATORS[term.op]
        slots = [
            direction if read.name == term.at else self.read_again(read.name, read.role)
            for read in operator.reads
        ]
        if needs_shapes(operator):
            slots.append(self.maps)
        roles = [read.role for read in operator.reads] + ["maps"]
        listed = [
            slot if self.several and role == "maps" else slot[0]
            for slot, role in zip(slots, roles, strict=False)
        ]
        function = getattr(ops, name_of(operator, self.several))
        made = function(self.boxes, self.inputs[1], *listed, *self.lists, params=self.packed)
        return list(made) if self.several and operator.makes_maps else [made]

    def read_again(self, name: str, role: str) -> Tensors:
        """What a derivative reads besides the cotangent."""
        if name in self.places:
            return self.given(name)
        if role == "maps":
            return self.maps  # of which the average reads the shapes alone
        if rules.is_average(self.operator, self.params):
            return [NO_ARGMAX]
        return [self.optional_result(name)]

    def optional_result(self, name: str) -> Tensor:
        """What the operator makes where it is asked for; made again where this node made none."""
        if len(self.op.outputs) > 1:
            return self.op.outputs[1]
        reads = [self.given(read.name) for read in self.operator.reads]
        slots = reads if self.several else [one for (one,) in reads]
        function = getattr(ops, name_of(self.operator, self.several, name))
        return function(self.boxes, self.inputs[1], *slots, *self.lists, params=self.packed)[1]

    def needs(self, place: int) -> bool | None:
        """Whether the gradient to an input is asked for; None: a graph does not say.

        An integer has no gradient, and nothing flows past tf.stop_gradient.
        """
        input = self.inputs[place]
        if not input.dtype.is_floating:
            return False
        skipped = getattr(self.op, "skip_input_indices", None)
        if skipped is not None:
            return place not in skipped
        return False if input.op.type in ("StopGradient", "Const") else None

    def gradient(self, name: str, cotangent: Tensors) -> Tensors:
        """To what stands under a name, in the order of its tensors; None where there is none."""
        places = self.places[name]
        if all(self.needs(place) is False for place in places):
            return [None] * len(places)
        term = rules.pull(self.operator.name, name, self.params)
        if isinstance(term, Term):
            return self.make(term, cotangent)
        if isinstance(term, Refused):
            return self.refused(name, f"{self.called}: {term.sentence}", cotangent)
        # Zero: to boxes by itself, to maps as what is constant in them.
        return [tf.zeros_like(self.boxes)] if name == BOXES else [None] * len(places)

    def refused(self, name: str, sentence: str, cotangent: Tensors) -> Tensors:
        """In the place of a gradient that is not offered."""
        if name == BOXES:
            linear = [read.name for read in self.operator.reads if read.linear != "never"]
            operands = [*cotangent, *(each for other in linear for each in self.given(other))]
            return [undefined(sentence, self.boxes, operands, self.needs(0))]
        return [
            None if self.needs(place) is False else zero_along(sentence, cotangent[0], each)
            for place, each in zip(self.places[name], self.given(name), strict=True)
        ]

    def gradients(self, cotangent: Tensors) -> Tensors:
        """To all inputs, in their order."""
        found = [*self.gradient(BOXES, cotangent), None]
        for read in self.operator.reads:
            found += self.gradient(read.name, cotangent)
        return found + [None] * (len(self.inputs) - len(found))


def _gradient_of(operator: Operator, several: bool) -> Callable[..., Tensors]:
    def gradient(op: Any, *cotangents: Tensor) -> Tensors:
        made = cotangents if operator.makes_maps else cotangents[:1]
        return _Node(op, operator, several).gradients(list(made))

    return gradient


def _names(operator: Operator, several: bool) -> Sequence[str]:
    """Of its nodes: without and with each result that is optional."""
    optional = [write.name for write in operator.writes if write.optional]
    return [name_of(operator, several, name) for name in ("", *optional)]


for _operator in OPERATORS.values():
    for _several in (False, True):
        for _name in _names(_operator, _several):
            _node = "".join(map(str.capitalize, _name.split("_")))
            tf.RegisterGradient(_node)(_gradient_of(_operator, _several))
tf.no_gradient("RoidlAssignLevels")  # which map a box belongs to counts as a constant
