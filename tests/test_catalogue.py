"""The catalogue's rules: derivatives against differences, transposes against adjoints.

The tests iterate over the catalogue, so that they include every new operator.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from roidl import _core
from roidl._derivatives import (
    BOXES,
    Refused,
    Term,
    in_average,
    mode_of,
    pull,
    push,
    reads,
    transpose,
    why_not,
)
from roidl._operators import FAMILIES, OPERATORS, Operator

NumpyArray = npt.NDArray[Any]
Values = dict[str, NumpyArray]

ROIS, HEIGHT, WIDTH = 5, 9, 11
GRID = (2, 3)
FIELDS: dict[str, Any] = {
    "output_height": GRID[0],
    "output_width": GRID[1],
    "spatial_scale": 0.5,
    "sampling_height": 2,
    "sampling_width": 2,
    "aligned": True,
    "layout": 0,
}


Params = Any  # a named tuple of the fields of a family's parameters


def _params(operator: Operator, mode: int) -> Params:
    names = tuple(field.name for field in operator.family.fields)
    values = [mode if name == "mode" else FIELDS.get(name, 0) for name in names]
    params: Any = namedtuple("Params", names)  # type: ignore[misc]
    return params(*values)


def _cases() -> Iterator[Any]:
    for operator in OPERATORS.values():
        for mode, name in enumerate(operator.family.modes or ("",)):
            params = _params(operator, mode)
            if why_not(operator.name, params) is None:
                yield pytest.param(operator, params, id=f"{operator.name}-{name}")


each_case = pytest.mark.parametrize(("operator", "params"), list(_cases()))


def _boxes(rng: np.random.Generator) -> NumpyArray:
    """Boxes on the map whose samples are inside cells, where small steps do not change cells."""
    corners = np.array([[1.1, 2.3, 15.4, 13.7], [3.2, 0.9, 9.3, 12.6], [2.2, 2.6, 18.1, 8.2]])
    rows = corners[rng.integers(0, len(corners), ROIS)] + rng.uniform(-0.2, 0.2, (ROIS, 4))
    return np.concatenate([rng.integers(0, 2, (ROIS, 1)), rows], 1)


def _values(operator: Operator, params: Params, seed: int = 0) -> Values:
    """An array for each operand of an operator, by name."""
    rng = np.random.default_rng(seed)
    bins = GRID[0] * GRID[1]
    channels = 2 * bins if operator.family.channels_per_bin else 2
    pooled = (ROIS, 2, *GRID)
    shapes = {"maps": (2, channels, HEIGHT, WIDTH), "pooled": pooled, "boxes": (ROIS, 5)}
    values: Values = {BOXES: _boxes(rng)}
    for read in operator.reads:
        if read.role != "argmax":
            values[read.name] = rng.standard_normal(shapes[read.role])
            if read.role == "boxes":
                values[read.name][:, 0] = 0
    if any(read.role == "argmax" for read in operator.reads):
        features = rng.standard_normal(shapes["maps"])
        if "argmax" in reads(operator.name, params):
            forward = OPERATORS[operator.family.name]
            values["argmax"] = _run(
                forward, params, {"input": features, BOXES: values[BOXES]}, [True]
            )[1]
    return values


def _allocate(shape: tuple[int, ...], dtype: str) -> NumpyArray:
    return np.empty(shape, dtype)


def _run(
    operator: Operator, params: Params, values: Values, flags: list[bool] | None = None
) -> Any:
    """The results of an operator on these arrays."""
    arrays: list[Any] = [
        values[read.name] if read.name in reads(operator.name, params) else None
        for read in operator.reads
    ]
    if operator.makes_maps:
        bins = GRID[0] * GRID[1] if operator.family.channels_per_bin else 1
        arrays.append((2, 2 * bins, HEIGHT, WIDTH))
    arrays += flags or [False] * sum(write.optional for write in operator.writes)
    made = _core.run(
        operator.name, params, values[BOXES], None, _allocate, None, None, tuple(arrays), None
    )
    return made[0] if operator.writes[0].role == "boxes" else made


def _run_term(term: Term, params: Params, values: Values, direction: NumpyArray) -> NumpyArray:
    result: NumpyArray = _run(OPERATORS[term.op], params, values | {term.at: direction})
    return result


def _names(operator: Operator, params: Params) -> list[str]:
    """The operands that have derivatives."""
    argmax = [read.name for read in operator.reads if read.role == "argmax"]
    return [name for name in (*reads(operator.name, params), BOXES) if name not in argmax]


def _difference(
    run: Callable[[NumpyArray], NumpyArray], at: NumpyArray, along: NumpyArray
) -> NumpyArray:
    step = 1e-6
    moved: NumpyArray = run(at + step * along) - run(at - step * along)
    return moved / (2 * step)


def _direction(operator: Operator, values: Values, name: str) -> NumpyArray:
    direction: NumpyArray = np.random.default_rng(7).standard_normal(values[name].shape)
    if values[name].shape == (ROIS, 5):
        direction[:, 0] = 0  # batch indices are constant
    return direction


def _with_argmax(operator: Operator, params: Params, values: Values) -> Values:
    """The arrays with the operator's argmax, which a derivative may read."""
    optional = [write.name for write in operator.writes if write.optional]
    family = operator.family
    if not optional or mode_of(params) == family.average:
        return values
    return values | {optional[0]: _run(operator, params, values, [True])[1]}


@each_case
def test_derivatives_are_those_of_differences(operator: Operator, params: Params) -> None:
    values = _values(operator, params)
    given = _with_argmax(operator, params, values)
    for name in _names(operator, params):
        term = push(operator.name, name, params)
        if isinstance(term, Refused):
            continue
        along = _direction(operator, values, name)

        def run(moved: NumpyArray, name: str = name) -> NumpyArray:
            made: NumpyArray = _run(operator, params, values | {name: moved})
            return made

        numbers = _difference(run, values[name], along)
        if term is None:
            assert np.abs(numbers).max() == 0, name
        else:
            found = _run_term(term, params, given, along)
            assert np.abs(found - numbers).max() < 1e-6 * max(1, np.abs(numbers).max()), name


@each_case
def test_gradients_are_the_adjoints_of_derivatives(operator: Operator, params: Params) -> None:
    values = _values(operator, params)
    given = _with_argmax(operator, params, values)
    for name in _names(operator, params):
        forward, backward = (rule(operator.name, name, params) for rule in (push, pull))
        if not isinstance(forward, Term) or not isinstance(backward, Term):
            continue
        along = _direction(operator, values, name)
        moved = _run_term(forward, params, given, along)
        cotangent: NumpyArray = np.random.default_rng(8).standard_normal(moved.shape)
        if operator.writes[0].role == "boxes":
            cotangent[:, 0] = 0
        gradient = _run_term(backward, params, given, cotangent)
        here, there = (moved * cotangent).sum(), (along * gradient).sum()
        assert abs(here - there) < 1e-10 * np.linalg.norm(moved) * np.linalg.norm(cotangent), name


@each_case
def test_linearity(operator: Operator, params: Params) -> None:
    values = _values(operator, params)
    for read in operator.reads:
        linear = read.linear == "always" or (
            read.linear == "in_average" and mode_of(params) == operator.family.average
        )
        if not linear:
            continue
        one, other = _direction(operator, values, read.name), values[read.name]
        parts = [_run(operator, params, values | {read.name: part}) for part in (one, other)]
        whole = _run(operator, params, values | {read.name: 2 * one - other})
        assert np.abs(whole - (2 * parts[0] - parts[1])).max() < 1e-12 * np.abs(whole).max()


@each_case
def test_transposes_come_in_pairs(operator: Operator, params: Params) -> None:
    for read in operator.reads:
        if read.transpose.op is None:
            continue
        there = transpose(operator.name, read.name)
        if why_not(there.op, params) is not None or there.at not in reads(there.op, params):
            continue
        back = transpose(there.op, there.at)
        ours = Term(operator.name, read.name)
        same = in_average(ours, params), in_average(back, params)
        # In a max mode the derivative is linear, and the operator is not.
        assert same[0] == same[1] or push(*ours, params) == back


def test_every_name_leads_to_a_row() -> None:
    assert set(FAMILIES) <= set(OPERATORS)
    for operator in OPERATORS.values():
        for read in operator.reads:
            for rule in (read.derivative, read.transpose):
                if rule.op is not None:
                    assert rule.at in [each.name for each in OPERATORS[rule.op].reads]
                    assert OPERATORS[rule.op].family is operator.family
