"""RoIAlign, also on a pyramid, and RoIPool as layers of Keras 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from .._params import align_params, check_flag, pool_params, pyramid_of
from .._shapes import Metadata, check_known, check_params
from ._base import Layer, PoolingLayer, Shape, Tensor, as_pair, metadata


@keras.saving.register_keras_serializable(package="roidl")
class RoIAlign(PoolingLayer):
    """Pool regions of interest by bilinear sampling; see `roidl.roi_align`.

    Parameters
    ----------
    output_size : int or (height, width)
        Bins per region.
    spatial_scale : float
        Cells of the map per pixel of the image, e.g. 1/16.
    sampling_ratio : int or (height, width)
        Samples per bin along each axis; 0 or less: as many as the bin has cells, rounded up.
    aligned : bool
        Shift by half a cell, so that pixel centres lie at integers + 1/2.
    mode : {"avg", "max", "max_onnx"}
        The mean of the samples, their maximum, or what ONNX calls max.
    data_format : {"channels_last", "channels_first"}, optional
        The order of the axes; default ``keras.config.image_data_format()``.
    **kwargs
        As of every layer: ``name``, ``dtype``, ...

    Call with ``input`` [N, H, W, C], ``boxes`` [N, L, 4] (or [K, 5], or [K, 4] with
    ``batch_indices``, or a list of N tensors [L_i, 4]) in pixels of the image, or with a list of
    these two; the result is [N, L, PH, PW, C] (or [K, PH, PW, C]), of the layer's compute dtype.
    Boxes are never cast.

    Raises
    ------
    ValueError, TypeError
        As `roidl.roi_align`.

    Examples
    --------
    >>> import keras, numpy as np, roidl.keras
    >>> features = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    >>> boxes = np.array([[[0, 0, 4, 4]]], np.float32)
    >>> layer = roidl.keras.RoIAlign(2, sampling_ratio=2, aligned=True, data_format="channels_last")
    >>> keras.ops.convert_to_numpy(layer(features, boxes))[0, 0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """

    op = "roi_align"

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int | tuple[int, int] = -1,
        aligned: bool = False,
        *,
        mode: str = "avg",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_size, spatial_scale, data_format, **kwargs)
        self.mode = mode
        self.sampling_ratio = as_pair(sampling_ratio)
        self.aligned = check_flag(self.op, "aligned", aligned)
        self.params = align_params(self.op, **self._options(), layout=self.layout)
        check_params(self.op, self.params)

    def _options(self) -> dict[str, Any]:
        more = {"sampling_ratio": self.sampling_ratio, "aligned": self.aligned, "mode": self.mode}
        return {**super()._options(), **more}


@keras.saving.register_keras_serializable(package="roidl")
class RoIPool(PoolingLayer):
    """Pool regions of interest over whole cells; see `roidl.roi_pool`.

    Parameters
    ----------
    output_size : int or (height, width)
        Bins per region.
    spatial_scale : float
        Cells of the map per pixel of the image.
    mode : {"max", "avg"}
        The maximum of a bin, or its mean.
    data_format : {"channels_last", "channels_first"}, optional
        The order of the axes; default ``keras.config.image_data_format()``.
    **kwargs
        As of every layer: ``name``, ``dtype``, ...

    Called as `RoIAlign` is.

    Raises
    ------
    ValueError, TypeError
        As `roidl.roi_pool`.

    Examples
    --------
    >>> import keras, numpy as np, roidl.keras
    >>> features = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    >>> boxes = np.array([[[0, 0, 3, 3]]], np.float32)
    >>> layer = roidl.keras.RoIPool(2, data_format="channels_last")
    >>> keras.ops.convert_to_numpy(layer(features, boxes))[0, 0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """

    op = "roi_pool"

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        *,
        mode: str = "max",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_size, spatial_scale, data_format, **kwargs)
        self.mode = mode
        self.params = pool_params(self.op, **self._options(), layout=self.layout)
        check_params(self.op, self.params)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "mode": self.mode}


@keras.saving.register_keras_serializable(package="roidl")
class MultiScaleRoIAlign(Layer):
    """Pool every region of interest from the map of its size; see `roidl.multiscale_roi_align`.

    Parameters
    ----------
    output_size : int or (height, width)
        Bins per region.
    scales : list of floats
        Cells of each map per pixel of the image, e.g. [1/4, 1/8, 1/16, 1/32].
    sampling_ratio, aligned, mode, data_format
        As of `RoIAlign`.
    canonical_scale, canonical_level : float
        A box of ``canonical_scale`` pixels belongs to the map of scale ``2**-canonical_level``.
    **kwargs
        As of every layer: ``name``, ``dtype``, ...

    Call with ``inputs``, a list of maps [N, H_i, W_i, C], finest first, and ``boxes`` as of
    `RoIAlign`, or with a list of these two. With ``boxes`` [N, L, 4], ``counts`` [N] says how many
    of the L rows of an image are boxes: the results of the others are 0, and they have no gradient.
    ``levels`` [K] (or [N, L]) are the indices of the boxes' maps, in place of the rule.

    Raises
    ------
    ValueError, TypeError
        As `roidl.multiscale_roi_align`.

    Examples
    --------
    >>> import keras, numpy as np, roidl.keras
    >>> maps = [np.full((1, size, size, 1), size, np.float32) for size in (64, 32)]
    >>> boxes = np.array([[[0, 0, 100, 100], [0, 0, 250, 250], [0, 0, 0, 0]]], np.float32)
    >>> layer = roidl.keras.MultiScaleRoIAlign(1, [1 / 4, 1 / 8], data_format="channels_last")
    >>> pooled = layer(maps, boxes, counts=np.array([2]))  # the third row is padding
    >>> keras.ops.convert_to_numpy(pooled).ravel().round(3).tolist()
    [64.0, 32.0, 0.0]
    """

    op = "multiscale_roi_align"

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: Sequence[float],
        sampling_ratio: int | tuple[int, int] = -1,
        aligned: bool = False,
        *,
        mode: str = "avg",
        canonical_scale: float = 224,
        canonical_level: float = 4,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_size, data_format, **kwargs)
        self.mode = mode
        self.sampling_ratio = as_pair(sampling_ratio)
        self.aligned = check_flag(self.op, "aligned", aligned)
        self.pyramid = pyramid_of(self.op, None, scales, canonical_scale, canonical_level)
        sampling = self.sampling_ratio, self.aligned
        self.params = align_params(self.op, output_size, 1.0, *sampling, mode, self.layout)
        one: Metadata = (1, 1, 1, 1), "float32"
        check_known(
            self.op, self.params, [one] * len(scales), ((0, 5), "float32"), None, self.pyramid
        )

    def _options(self) -> dict[str, Any]:
        return {
            **super()._options(),
            "mode": self.mode,
            "scales": list(self.pyramid.scales),
            "sampling_ratio": self.sampling_ratio,
            "aligned": self.aligned,
            "canonical_scale": self.pyramid.canonical_scale,
            "canonical_level": self.pyramid.canonical_level,
        }

    def call(
        self,
        inputs: Sequence[Any],
        boxes: Tensor = None,
        batch_indices: Tensor | None = None,
        counts: Tensor | None = None,
        levels: Tensor | None = None,
    ) -> Tensor:
        inputs, boxes = self._pair(inputs, boxes)
        return self._function()(
            self._cast(inputs),
            boxes,
            **self._options(),
            layout=self.layout,
            batch_indices=batch_indices,
            counts=counts,
            levels=levels,
        )

    def compute_output_spec(
        self,
        inputs: Sequence[Any],
        boxes: Tensor = None,
        batch_indices: Tensor | None = None,
        counts: Tensor | None = None,
        levels: Tensor | None = None,
    ) -> Any:
        inputs, boxes = self._pair(inputs, boxes)
        rule = self.pyramid
        pyramid_of(self.op, inputs, rule.scales, rule.canonical_scale, rule.canonical_level)
        pyramid = rule._replace(
            levels=None if levels is None else metadata(levels),
            counts=None if counts is None else metadata(counts),
        )
        return self._output_spec(inputs, boxes, batch_indices, pyramid)

    def compute_output_shape(
        self, inputs_shape: Sequence[Any], boxes_shape: Any = None, **shapes: Any
    ) -> Shape:
        maps, boxes = self._pair(inputs_shape, boxes_shape)
        return self._output_shape(maps[0], boxes)
