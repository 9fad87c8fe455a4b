"""RoIAlign and RoIPool for PyTorch, in the place of torchvision's.

``from roidl import torch as ops`` replaces ``from torchvision import ops`` for these names.

The functions are differentiable, to any order with respect to the input, in reverse and forward
mode; they work under `torch.func`, `torch.compile`, `torch.export`, autocast and DTensor.
"""

from . import _vmap
from ._front import PUBLIC
from ._modules import RoIAlign, RoIPool
from ._onnx import onnx_translation_table
from ._poolers import MultiScaleRoIAlign
from ._position_sensitive import PSRoIAlign, PSRoIPool

_vmap.register()

ps_roi_align = PUBLIC["ps_roi_align"]
ps_roi_pool = PUBLIC["ps_roi_pool"]
roi_align = PUBLIC["roi_align"]
roi_pool = PUBLIC["roi_pool"]
multiscale_roi_align = PUBLIC["multiscale_roi_align"]
multiscale_roi_pool = PUBLIC["multiscale_roi_pool"]
assign_levels = PUBLIC["assign_levels"]

__all__ = [
    "MultiScaleRoIAlign",
    "PSRoIAlign",
    "PSRoIPool",
    "RoIAlign",
    "RoIPool",
    "assign_levels",
    "multiscale_roi_align",
    "multiscale_roi_pool",
    "onnx_translation_table",
    "ps_roi_align",
    "ps_roi_pool",
    "roi_align",
    "roi_pool",
]
