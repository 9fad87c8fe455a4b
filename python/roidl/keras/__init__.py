"""RoIAlign, also on a pyramid, and RoIPool as layers of Keras 3, on each of its backends."""

from ._layers import MultiScaleRoIAlign, RoIAlign, RoIPool
from ._position_sensitive import PSRoIAlign, PSRoIPool

__all__ = ["MultiScaleRoIAlign", "PSRoIAlign", "PSRoIPool", "RoIAlign", "RoIPool"]
