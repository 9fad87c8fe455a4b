"""The rule alone by which boxes find their map, in PyTorch's dispatcher."""

from __future__ import annotations

from typing import Any

import torch

from .. import _core
from .._params import Pyramid
from ._arguments import Tensor
from ._library import own_error, register

_NAME = "assign_levels"


def _fake(boxes: Tensor, *rule: Any) -> Tensor:
    return boxes.new_empty(tuple(boxes.shape[:-1]), dtype=torch.int32)


def _core_kernel(
    boxes: Tensor, scales: Any, canonical_scale: float, canonical_level: float
) -> Tensor:
    """For a PyTorch without the stable C interface."""
    pyramid = Pyramid(tuple(scales), canonical_scale, canonical_level, None, None)
    return torch.from_numpy(_core.assign_levels(_NAME.encode(), boxes.detach(), pyramid))


register(_NAME, _fake, _core_kernel)
OVERLOAD = torch.ops.roidl.assign_levels.default


def assign_levels(boxes: Tensor, pyramid: Pyramid) -> Tensor:
    """The index of the map of every box."""
    if torch.compiler.is_compiling():
        return OVERLOAD(boxes, *pyramid[:3])
    try:
        return _core.answering_signals(OVERLOAD, boxes, *pyramid[:3])
    except RuntimeError as error:
        raise own_error(_NAME, error) from None
