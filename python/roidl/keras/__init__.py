"""RoIAlign, also on a pyramid, and RoIPool as layers of Keras 3, on each of its backends."""

from ._layers import MultiScaleRoIAlign, RoIAlign, RoIPool

__all__ = ["MultiScaleRoIAlign", "RoIAlign", "RoIPool"]
