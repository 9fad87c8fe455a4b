"""Position-sensitive RoIAlign and RoIPool as layers of Keras 3."""

from __future__ import annotations

from typing import Any

import keras

from .._params import ps_align_params, ps_pool_params
from .._shapes import check_params
from ._base import PoolingLayer, as_pair


@keras.saving.register_keras_serializable(package="roidl")
class PSRoIAlign(PoolingLayer):
    """Pool regions of interest, each bin from channels of its own; see `roidl.ps_roi_align`.

    Parameters
    ----------
    output_size, spatial_scale, sampling_ratio, data_format, **kwargs
        As of `RoIAlign`.

    Called as `RoIAlign` is, with ``input`` [N, H, W, C * PH * PW].

    Raises
    ------
    ValueError, TypeError
        As `roidl.ps_roi_align`.

    Examples
    --------
    >>> import keras, numpy as np, roidl.keras
    >>> features, boxes = np.ones((1, 8, 8, 4), np.float32), np.zeros((1, 3, 4), np.float32)
    >>> layer = roidl.keras.PSRoIAlign(2, data_format="channels_last", sampling_ratio=2)
    >>> tuple(layer(features, boxes).shape)
    (1, 3, 2, 2, 1)
    """

    op = "ps_roi_align"

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int | tuple[int, int] = -1,
        *,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_size, spatial_scale, data_format, **kwargs)
        self.sampling_ratio = as_pair(sampling_ratio)
        self.params = ps_align_params(self.op, **self._options(), layout=self.layout)
        check_params(self.op, self.params)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "sampling_ratio": self.sampling_ratio}


@keras.saving.register_keras_serializable(package="roidl")
class PSRoIPool(PoolingLayer):
    """Pool regions of interest, each bin from channels of its own; see `roidl.ps_roi_pool`.

    Parameters
    ----------
    output_size, spatial_scale, data_format, **kwargs
        As of `RoIAlign`.
    clip : {"torchvision", "map"}
        As of `roidl.ps_roi_pool`.

    Called as `RoIAlign` is, with ``input`` [N, H, W, C * PH * PW].

    Raises
    ------
    ValueError, TypeError
        As `roidl.ps_roi_pool`.

    Examples
    --------
    >>> import keras, numpy as np, roidl.keras
    >>> features, boxes = np.ones((1, 8, 8, 4), np.float32), np.zeros((1, 3, 4), np.float32)
    >>> layer = roidl.keras.PSRoIPool(2, data_format="channels_last")
    >>> tuple(layer(features, boxes).shape)
    (1, 3, 2, 2, 1)
    """

    op = "ps_roi_pool"

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        *,
        clip: str = "torchvision",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_size, spatial_scale, data_format, **kwargs)
        self.clip = clip
        self.params = ps_pool_params(self.op, **self._options(), layout=self.layout)
        check_params(self.op, self.params)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "clip": self.clip}
