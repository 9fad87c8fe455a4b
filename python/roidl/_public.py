"""The operators as described, by their names: what front ends make their public functions of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _multiscale, _ops, _position_sensitive
from ._operators import FAMILIES, OPERATORS

_MODULES = (_ops, _position_sensitive, _multiscale)
_DESCRIBED = {name: function for module in _MODULES for name, function in vars(module).items()}

# Of every operator that users call, on one map and on several.
DESCRIBED: dict[str, Callable[..., Any]] = {
    prefix + name: _DESCRIBED[prefix + name]
    for prefix in ("", "multiscale_")
    for name in OPERATORS
    if prefix + name in _DESCRIBED
}
# Those that an adapter differentiates; the derivatives by hand belong to the array front end.
FORWARD = {
    prefix + name: DESCRIBED[prefix + name]
    for prefix in ("", "multiscale_")
    for name in FAMILIES
    if prefix + name in DESCRIBED
}
