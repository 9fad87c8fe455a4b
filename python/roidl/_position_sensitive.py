"""The position-sensitive operators as users see them, like `_ops`: every bin has its channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._params import Call, grid_of, ps_align_params, ps_pool_params, shape_of

Array = Any


def ps_roi_align(
    input: Array,
    boxes: Array | Sequence[Array],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = -1,
    *,
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    out: Array | None = None,
) -> Call:
    """Pool regions of interest by bilinear sampling, each bin from channels of its own.

    As `roi_align` with ``aligned=True``, but bin (p, q) of channel c of the result is the mean of
    samples of the input's channel ``(c * PH + p) * PW + q``; a bin without samples is 0.

    Parameters
    ----------
    input : array [N, C * PH * PW, H, W] (or [N, H, W, C * PH * PW])
        Features: float16, bfloat16, float32 or float64; any strides; never copied nor written to.
    boxes, spatial_scale, sampling_ratio, layout, batch_indices, out
        As for `roi_align`.
    output_size : int or (height, width)
        Bins per region, PH and PW.

    Returns
    -------
    array [K, C, PH, PW] (or [K, PH, PW, C]; [N, L, ...] for boxes [N, L, 4])
        Of the library, dtype and device of ``input``.

    Raises
    ------
    ValueError, TypeError
        As `roi_align`; also for a number of channels that is no multiple of PH * PW.

    References
    ----------
    Li et al., Light-Head R-CNN, arXiv:1711.07264.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> features = np.ones((1, 4, 8, 8), np.float32) * np.arange(4, dtype=np.float32)[:, None, None]
    >>> boxes = np.array([[0, 0, 0, 8, 8]], np.float32)
    >>> roidl.ps_roi_align(features, boxes, output_size=2).round(3)
    array([[[[0., 1.],
             [2., 3.]]]], dtype=float32)
    """
    op = "ps_roi_align"
    params = ps_align_params(op, output_size, spatial_scale, sampling_ratio, layout)
    return Call(op, params, boxes, batch_indices, out, input, (input,))


def ps_roi_align_backward(
    grad_output: Array,
    boxes: Array | Sequence[Array],
    input_shape: Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = -1,
    *,
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    out: Array | None = None,
) -> Call:
    """Compute the gradient of `ps_roi_align` to its input.

    Parameters
    ----------
    grad_output : array [K, C, PH, PW] (or [K, PH, PW, C])
        The gradient to the result; any strides.
    boxes, spatial_scale, sampling_ratio, layout, batch_indices
        As in the forward call.
    input_shape : four ints
        The shape of the forward call's ``input``.
    out : array, optional
        Where to put the result; of its shape and dtype.

    Returns
    -------
    array of shape ``input_shape``
        Of ``grad_output``'s library, dtype and device. The same bits for any number of threads.

    Raises
    ------
    ValueError, TypeError
        As `ps_roi_align`.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> ones, boxes = np.ones((1, 1, 2, 2)), np.array([[0, 0.0, 0.0, 8.0, 8.0]])
    >>> roidl.ps_roi_align_backward(ones, boxes, (1, 4, 8, 8)).sum(axis=(2, 3))
    array([[1., 1., 1., 1.]])
    """
    op = "ps_roi_align_backward"
    size = grid_of(op, grad_output, layout)
    params = ps_align_params(op, size, spatial_scale, sampling_ratio, layout)
    arguments = (grad_output, shape_of(op, "input_shape", input_shape))
    return Call(op, params, boxes, batch_indices, out, grad_output, arguments)


def ps_roi_align_backward_boxes(
    grad_output: Array,
    input: Array,
    boxes: Array | Sequence[Array],
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = -1,
    *,
    layout: str = "NCHW",
    batch_indices: Array | None = None,
) -> Call:
    """Compute the gradient of `ps_roi_align` to its boxes.

    Parameters
    ----------
    grad_output : array [K, C, PH, PW] (or [K, PH, PW, C])
        The gradient to the result.
    input, boxes, spatial_scale, sampling_ratio, layout, batch_indices
        As in the forward call.

    Returns
    -------
    array shaped like ``boxes`` (a list of arrays for a list)
        As `roi_align_backward_boxes`.

    Raises
    ------
    ValueError, TypeError
        As `ps_roi_align`.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> ramp = np.tile(np.arange(8.0), (1, 1, 8, 1))  # rises by 1 along x
    >>> boxes, grad = np.array([[0, 1.0, 1.0, 5.0, 5.0]]), np.ones((1, 1, 1, 1))
    >>> roidl.ps_roi_align_backward_boxes(grad, ramp, boxes, sampling_ratio=2)
    array([[0. , 0.5, 0. , 0.5, 0. ]])
    """
    op = "ps_roi_align_backward_boxes"
    size = grid_of(op, grad_output, layout)
    params = ps_align_params(op, size, spatial_scale, sampling_ratio, layout)
    return Call(op, params, boxes, batch_indices, None, grad_output, (grad_output, input))


def ps_roi_pool(
    input: Array,
    boxes: Array | Sequence[Array],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    *,
    clip: str = "torchvision",
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    out: Array | None = None,
) -> Call:
    """Pool regions of interest over whole cells, each bin from channels of its own.

    Bin (p, q) of channel c of the result is the mean of the cells of that bin in the input's
    channel ``(c * PH + p) * PW + q``; a bin without cells is 0. The corners are rounded to cells as
    by `roi_pool`, but the cells of x2 and y2 are outside; a box has at least one cell along each
    axis. Bins are rounded outwards, so that neighbours may share cells. The result is constant in
    the boxes, except for these steps.

    Parameters
    ----------
    input : array [N, C * PH * PW, H, W] (or [N, H, W, C * PH * PW])
        Features: float16, bfloat16, float32 or float64; any strides; never copied nor written to.
    boxes, spatial_scale, layout, batch_indices, out
        As for `roi_align`.
    output_size : int or (height, width)
        Bins per region, PH and PW.
    clip : {"torchvision", "map"}
        Where the ends of bins are clipped: to the last row and column, so that these are never
        read, as torchvision's forward does; or to the map.

    Returns
    -------
    array [K, C, PH, PW] (or [K, PH, PW, C]; [N, L, ...] for boxes [N, L, 4])
        Of the library, dtype and device of ``input``.

    Raises
    ------
    ValueError, TypeError
        As `ps_roi_align`.

    References
    ----------
    Dai et al., R-FCN, arXiv:1605.06409.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> features = np.ones((1, 4, 8, 8), np.float32) * np.arange(4, dtype=np.float32)[:, None, None]
    >>> boxes = np.array([[0, 0, 0, 8, 8]], np.float32)
    >>> roidl.ps_roi_pool(features, boxes, output_size=2).round(3)
    array([[[[0., 1.],
             [2., 3.]]]], dtype=float32)
    """
    op = "ps_roi_pool"
    params = ps_pool_params(op, output_size, spatial_scale, clip, layout)
    return Call(op, params, boxes, batch_indices, out, input, (input,))


def ps_roi_pool_backward(
    grad_output: Array,
    boxes: Array | Sequence[Array],
    input_shape: Sequence[int],
    spatial_scale: float = 1.0,
    *,
    clip: str = "torchvision",
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    out: Array | None = None,
) -> Call:
    """Compute the gradient of `ps_roi_pool` to its input: the transpose of the forward.

    Parameters
    ----------
    grad_output : array [K, C, PH, PW] (or [K, PH, PW, C])
        The gradient to the result; any strides.
    boxes, spatial_scale, clip, layout, batch_indices
        As in the forward call.
    input_shape : four ints
        The shape of the forward call's ``input``.
    out : array, optional
        Where to put the result; of its shape and dtype.

    Returns
    -------
    array of shape ``input_shape``
        Of ``grad_output``'s library, dtype and device. The same bits for any number of threads.

    Raises
    ------
    ValueError, TypeError
        As `ps_roi_pool`.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> ones, boxes = np.ones((1, 1, 2, 2)), np.array([[0, 0.0, 0.0, 8.0, 8.0]])
    >>> roidl.ps_roi_pool_backward(ones, boxes, (1, 4, 8, 8)).sum(axis=(2, 3))
    array([[1., 1., 1., 1.]])
    """
    op = "ps_roi_pool_backward"
    size = grid_of(op, grad_output, layout)
    params = ps_pool_params(op, size, spatial_scale, clip, layout)
    arguments = (grad_output, shape_of(op, "input_shape", input_shape))
    return Call(op, params, boxes, batch_indices, out, grad_output, arguments)
