"""Signature, docstring and parameters of the operators, shared by all front ends.

A function here checks its parameters and returns a `Call`; a front end makes its public functions
from these with `_params.front_end(run)`, which runs the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._params import Call, align_params, check_flag, grid_of, pool_params, shape_of

Array = Any


def roi_align(
    input: Array,
    boxes: Array | Sequence[Array],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    out: Array | None = None,
) -> Call:
    """Pool regions of interest by bilinear sampling (RoIAlign).

    Every box is divided into ``output_size`` bins, the features are interpolated at regularly
    spaced samples in each bin, and the samples of a bin are averaged (or their maximum is taken).
    Samples more than one cell outside the map are 0.

    Parameters
    ----------
    input : array [N, C, H, W] (or [N, H, W, C])
        Features: float16, bfloat16, float32 or float64; any strides; neither copied nor modified.
    boxes : array [K, 5], array [K, 4], array [N, L, 4], or a list of N arrays [L_i, 4]
        Rows ``(batch index, x1, y1, x2, y2)``, or ``(x1, y1, x2, y2)``, in pixels of the image, of
        any float or integer type. Coordinates are computed in float32, in float64 if ``input`` or
        ``boxes`` are float64.
    output_size : int or (height, width)
        Bins per region.
    spatial_scale : float
        Cells of the map per pixel of the image, e.g. 1/16.
    sampling_ratio : int or (height, width)
        Samples per bin along each axis; 0 or less: the bin's size in cells, rounded up.
    aligned : bool
        Shift by half a cell, so that pixel centres lie at integers + 1/2 (detectron2's and ONNX's
        ``half_pixel``). False, torchvision's default, also enlarges boxes smaller than one cell.
    mode : {"avg", "max", "max_onnx"}
        The mean of the samples, their maximum, or the maximum over weight * value of their corners
        (the max of ONNX and ONNX Runtime). For the max modes every product is rounded before it is
        added, so that the same sample is chosen on every machine.
    layout : {"NCHW", "NHWC"}
        The order of the axes of ``input`` and of the result.
    batch_indices : integer array [K], optional
        The image of each box, when ``boxes`` is [K, 4].
    out : array, optional
        An array of the result's shape and dtype that gets the result.

    Returns
    -------
    array [K, C, PH, PW] (or [K, PH, PW, C]; [N, L, ...] for boxes [N, L, 4])
        Of the library, dtype and device of ``input``.

    Raises
    ------
    ValueError
        For wrong shapes and values, e.g. a batch index without an image, or a coordinate that is
        NaN or infinite.
    TypeError
        For an argument that is not an array, or has an unsupported dtype.

    References
    ----------
    He et al., Mask R-CNN, arXiv:1703.06870, section 3.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> features = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> boxes = np.array([[0, 0, 0, 4, 4]], np.float32)
    >>> roidl.roi_align(features, boxes, output_size=2, sampling_ratio=2, aligned=True)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """
    op = "roi_align"
    params = align_params(op, output_size, spatial_scale, sampling_ratio, aligned, mode, layout)
    return Call(op, params, boxes, batch_indices, out, input, (input,))


def roi_align_backward(
    grad_output: Array,
    boxes: Array | Sequence[Array],
    input_shape: Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
    input: Array | None = None,
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    out: Array | None = None,
) -> Call:
    """Compute the gradient of `roi_align` to its input.

    Parameters
    ----------
    grad_output : array [K, C, PH, PW] (or [K, PH, PW, C])
        The gradient to the result of the forward call; any strides.
    boxes, spatial_scale, sampling_ratio, aligned, mode, layout, batch_indices
        As in the forward call.
    input_shape : four ints
        The shape of the forward call's ``input``.
    input : array, optional
        The forward call's ``input``; needed by the max modes.
    out : array, optional
        An array of the result's shape and dtype that gets the result.

    Returns
    -------
    array of shape ``input_shape``
        Of ``grad_output``'s library, dtype and device. The same bits for any number of threads.

    Raises
    ------
    ValueError, TypeError
        As `roi_align`; also for a max mode without ``input``.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> boxes = np.array([[0, 0, 0, 2, 2]], np.float32)
    >>> ones = np.ones((1, 1, 1, 1), np.float32)
    >>> roidl.roi_align_backward(ones, boxes, (1, 1, 2, 2), sampling_ratio=2, aligned=True)[0, 0]
    array([[0.25, 0.25],
           [0.25, 0.25]], dtype=float32)
    """
    op = "roi_align_backward"
    size = grid_of(op, grad_output, layout)
    params = align_params(op, size, spatial_scale, sampling_ratio, aligned, mode, layout)
    arguments = (grad_output, input, shape_of(op, "input_shape", input_shape))
    return Call(op, params, boxes, batch_indices, out, grad_output, arguments)


def roi_align_backward_boxes(
    grad_output: Array,
    input: Array,
    boxes: Array | Sequence[Array],
    spatial_scale: float = 1.0,
    sampling_ratio: int | tuple[int, int] = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
    layout: str = "NCHW",
    batch_indices: Array | None = None,
) -> Call:
    """Compute the gradient of `roi_align` to its boxes, for mode "avg" or "max".

    The number of adaptive samples is treated as a constant; samples that were clamped to the map,
    or are off the map, have no derivative.

    Parameters
    ----------
    grad_output : array [K, C, PH, PW] (or [K, PH, PW, C])
        The gradient to the result.
    input, boxes, spatial_scale, sampling_ratio, aligned, mode, layout, batch_indices
        As in the forward call.

    Returns
    -------
    array shaped like ``boxes`` (a list of arrays for a list)
        0 in the batch column. The dtype is that of the boxes if they are float32 or float64, else
        that of the coordinates.

    Raises
    ------
    ValueError, TypeError
        As `roi_align`.
    NotImplementedError
        For mode "max_onnx".

    Examples
    --------
    >>> import numpy as np, roidl
    >>> ramp = np.arange(16.0).reshape(1, 1, 4, 4)  # rises by 1 along x and by 4 along y
    >>> boxes = np.array([[0, 1.0, 1.0, 3.0, 3.0]])
    >>> grad = np.ones((1, 1, 1, 1))
    >>> roidl.roi_align_backward_boxes(grad, ramp, boxes, sampling_ratio=2, aligned=True)
    array([[0. , 0.5, 2. , 0.5, 2. ]])
    """
    op = "roi_align_backward_boxes"
    size = grid_of(op, grad_output, layout)
    params = align_params(op, size, spatial_scale, sampling_ratio, aligned, mode, layout)
    arguments = (grad_output, input)
    return Call(op, params, boxes, batch_indices, None, grad_output, arguments)


def roi_pool(
    input: Array,
    boxes: Array | Sequence[Array],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    *,
    mode: str = "max",
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    return_argmax: bool = False,
    out: Array | None = None,
) -> Call:
    """Pool regions of interest over whole cells (RoIPool).

    Boxes are rounded to cells and divided into ``output_size`` bins of whole cells, which may
    overlap by one; each bin yields its maximum (or its mean), and 0 if it is empty. The result is
    piecewise constant in the boxes: its gradient there is zero.

    Parameters
    ----------
    input : array [N, C, H, W] (or [N, H, W, C])
        Features: float16, bfloat16, float32 or float64; any strides; neither copied nor modified.
    boxes : array [K, 5], array [K, 4], array [N, L, 4], or a list of N arrays [L_i, 4]
        As for `roi_align`.
    output_size : int or (height, width)
        Bins per region.
    spatial_scale : float
        Cells of the map per pixel of the image.
    mode : {"max", "avg"}
        The maximum of a bin (NaN if it has one), or its mean.
    layout : {"NCHW", "NHWC"}
        The order of the axes of ``input`` and of the result.
    batch_indices : integer array [K], optional
        The image of each box, when ``boxes`` is [K, 4].
    return_argmax : bool
        Also return the position of each maximum, for `roi_pool_backward`.
    out : array, optional
        An array of the result's shape and dtype that gets the result.

    Returns
    -------
    array [K, C, PH, PW] (or [K, PH, PW, C]; [N, L, ...] for boxes [N, L, 4])
        Of the library, dtype and device of ``input``.
    argmax : int32 array of the same shape, if ``return_argmax``
        ``y * W + x`` of the first maximum in row-major order; -1 for an empty bin.

    Raises
    ------
    ValueError, TypeError
        As `roi_align`.
    NotImplementedError
        For mode "max" on a map of 2**31 cells or more.

    References
    ----------
    Girshick, Fast R-CNN, arXiv:1504.08083, section 2.1.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> features = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> boxes = np.array([[0, 0, 0, 3, 3]], np.float32)
    >>> roidl.roi_pool(features, boxes, output_size=2)[0, 0]
    array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """
    op = "roi_pool"
    params = pool_params(op, output_size, spatial_scale, mode, layout)
    arguments = (input, check_flag(op, "return_argmax", return_argmax))
    return Call(op, params, boxes, batch_indices, out, input, arguments)


def roi_pool_backward(
    grad_output: Array,
    boxes: Array | Sequence[Array],
    argmax: Array | None,
    input_shape: Sequence[int],
    spatial_scale: float = 1.0,
    *,
    mode: str = "max",
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    out: Array | None = None,
) -> Call:
    """Compute the gradient of `roi_pool` to its input.

    Parameters
    ----------
    grad_output : array [K, C, PH, PW] (or [K, PH, PW, C])
        The gradient to the result of the forward call; any strides.
    boxes, spatial_scale, mode, layout, batch_indices
        As in the forward call.
    argmax : int32 array shaped like grad_output, or None for mode "avg"
        The argmax that ``roi_pool(..., return_argmax=True)`` returned.
    input_shape : four ints
        The shape of the forward call's ``input``.
    out : array, optional
        An array of the result's shape and dtype that gets the result.

    Returns
    -------
    array of shape ``input_shape``
        Of ``grad_output``'s library, dtype and device. The same bits for any number of threads.

    Raises
    ------
    ValueError, TypeError
        As `roi_align`; also for an argmax outside the map, on CPU also for one outside the rows of
        its box.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> features = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> boxes = np.array([[0, 0, 0, 1, 1]], np.float32)
    >>> pooled, argmax = roidl.roi_pool(features, boxes, 1, return_argmax=True)
    >>> roidl.roi_pool_backward(np.ones_like(pooled), boxes, argmax, features.shape)[0, 0]
    array([[0., 0.],
           [0., 1.]], dtype=float32)
    """
    op = "roi_pool_backward"
    size = grid_of(op, grad_output, layout)
    params = pool_params(op, size, spatial_scale, mode, layout)
    arguments = (grad_output, argmax, shape_of(op, "input_shape", input_shape))
    return Call(op, params, boxes, batch_indices, out, grad_output, arguments)
