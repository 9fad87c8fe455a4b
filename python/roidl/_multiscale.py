"""Signature, docstring and parameters of the operators on several maps (a feature pyramid)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ._params import (
    Call,
    Pyramid,
    align_params,
    check_flag,
    grid_of,
    pool_params,
    pyramid_of,
    shape_of,
)

Array = Any


def _first_map(arrays: Any) -> Any:
    """The first of a list of arrays; other values are refused by `pyramid_of`."""
    return arrays[0] if isinstance(arrays, (list, tuple)) and arrays else arrays


def _shapes(op: str, input_shapes: Sequence[Any]) -> list[tuple[int, ...]]:
    return [shape_of(op, f"input_shapes[{i}]", each) for i, each in enumerate(input_shapes)]


def multiscale_roi_align(
    inputs: Sequence[Array],
    boxes: Array | Sequence[Array],
    output_size: int | tuple[int, int],
    scales: Sequence[float],
    sampling_ratio: int | tuple[int, int] = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    counts: Array | None = None,
    levels: Array | None = None,
    canonical_scale: float = 224,
    canonical_level: float = 4,
    out: Array | None = None,
) -> Call:
    """Pool every region of interest from one of several maps by bilinear sampling (RoIAlign).

    The map of a box is chosen by its size, as in Feature Pyramid Networks: the map whose scale is
    ``2**-k`` with ``k = floor(canonical_level + log2(sqrt(width * height) / canonical_scale))``,
    or the nearest one. Its index is ``k - k0``, where ``2**-k0`` is the first scale and k is
    clamped to the range of the scales, as in torchvision. So the first of several maps of equal
    scale gets all their boxes. The results are in the order of the boxes.

    Parameters
    ----------
    inputs : list of up to 8 arrays [N, C, H_i, W_i] (or [N, H_i, W_i, C])
        The maps, finest first, of one dtype: float16, bfloat16, float32 or float64; any strides.
    boxes : array [K, 5], array [K, 4], array [N, L, 4], or a list of N arrays [L_i, 4]
        As for `roi_align`, in pixels of the image.
    output_size : int or (height, width)
        Bins per region.
    scales : list of floats
        Cells of each map per pixel of the image, e.g. [1/4, 1/8, 1/16, 1/32]; in
        descending order (equal scales are allowed), unless ``levels`` is given.
    sampling_ratio, aligned, mode, layout, batch_indices
        As for `roi_align`.
    counts : integer array [N], optional
        How many of the L rows of an image are boxes, when ``boxes`` is [N, L, 4]. The other rows
        are padding: they are not read, their results are 0, and they have no gradient.
    levels : integer array [K] (or [N, L]), optional
        The index of every box's map, instead of the rule.
    canonical_scale, canonical_level : float
        Parameters of the rule: a box of ``canonical_scale`` pixels belongs to the map of scale
        ``2**-canonical_level``.
    out : array, optional
        An array of the result's shape and dtype that gets the result.

    Returns
    -------
    array [K, C, PH, PW] (or [K, PH, PW, C]; [N, L, ...] for boxes [N, L, 4])
        Of the library, dtype and device of ``inputs``.

    Raises
    ------
    ValueError, TypeError
        As `roi_align`; also for maps that differ in N, C or dtype.

    References
    ----------
    Lin et al., Feature Pyramid Networks for Object Detection, arXiv:1612.03144, equation 1.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> maps = [np.full((1, 1, size, size), size, np.float32) for size in (64, 32)]
    >>> boxes = np.array([[0, 0, 0, 100, 100], [0, 0, 0, 250, 250]], np.float32)
    >>> roidl.multiscale_roi_align(maps, boxes, 1, scales=[1 / 4, 1 / 8]).ravel().round(3)
    array([64., 32.], dtype=float32)
    """
    op = "multiscale_roi_align"
    pyramid = pyramid_of(op, inputs, scales, canonical_scale, canonical_level, levels, counts)
    params = align_params(op, output_size, 1.0, sampling_ratio, aligned, mode, layout)
    return Call(op, params, boxes, batch_indices, out, _first_map(inputs), (list(inputs),), pyramid)


def multiscale_roi_align_backward(
    grad_output: Array,
    boxes: Array | Sequence[Array],
    input_shapes: Sequence[Sequence[int]],
    scales: Sequence[float],
    sampling_ratio: int | tuple[int, int] = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
    inputs: Sequence[Array] | None = None,
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    counts: Array | None = None,
    levels: Array | None = None,
    canonical_scale: float = 224,
    canonical_level: float = 4,
) -> Call:
    """Compute the gradients of `multiscale_roi_align` to its inputs.

    Parameters
    ----------
    grad_output : array [K, C, PH, PW] (or [K, PH, PW, C])
        The gradient to the result of the forward call; any strides.
    input_shapes : list of shapes
        Of the forward call's ``inputs``.
    inputs : list of arrays, optional
        The forward call's ``inputs``; needed by the max modes.
    boxes, scales, sampling_ratio, aligned, mode, layout
        As in the forward call.
    batch_indices, counts, levels, canonical_scale, canonical_level
        As in the forward call.

    Returns
    -------
    list of arrays of shapes ``input_shapes``
        Of ``grad_output``'s library, dtype and device; 0 where a map has no boxes.

    Raises
    ------
    ValueError, TypeError
        As `multiscale_roi_align`; also for a max mode without ``inputs``.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> boxes, ones = np.array([[0, 0, 0, 100, 100]], np.float32), np.ones((1, 1, 1, 1), np.float32)
    >>> shapes, scales = [(1, 1, 64, 64), (1, 1, 32, 32)], [1 / 4, 1 / 8]
    >>> grads = roidl.multiscale_roi_align_backward(ones, boxes, shapes, scales)
    >>> [round(float(grad.sum()), 3) for grad in grads]
    [1.0, 0.0]
    """
    op = "multiscale_roi_align_backward"
    pyramid = pyramid_of(op, input_shapes, scales, canonical_scale, canonical_level, levels, counts)
    size = grid_of(op, grad_output, layout)
    params = align_params(op, size, 1.0, sampling_ratio, aligned, mode, layout)
    shapes = _shapes(op, input_shapes)
    arguments = (grad_output, None if inputs is None else list(inputs), shapes)
    return Call(op, params, boxes, batch_indices, None, grad_output, arguments, pyramid)


def multiscale_roi_align_backward_boxes(
    grad_output: Array,
    inputs: Sequence[Array],
    boxes: Array | Sequence[Array],
    scales: Sequence[float],
    sampling_ratio: int | tuple[int, int] = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    counts: Array | None = None,
    levels: Array | None = None,
    canonical_scale: float = 224,
    canonical_level: float = 4,
) -> Call:
    """Compute the gradient of `multiscale_roi_align` to its boxes, for mode "avg" or "max".

    Parameters
    ----------
    grad_output : array [K, C, PH, PW] (or [K, PH, PW, C])
        The gradient to the result.
    inputs, boxes, scales, sampling_ratio, aligned, mode, layout
        As in the forward call.
    batch_indices, counts, levels, canonical_scale, canonical_level
        As in the forward call.

    Returns
    -------
    array shaped like ``boxes`` (a list of arrays for a list)
        As `roi_align_backward_boxes`; the choice of the map is treated as a constant.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `roi_align_backward_boxes`.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> ramp = np.arange(16.0).reshape(1, 1, 4, 4)  # rises by 1 along x and by 4 along y
    >>> boxes, grad = np.array([[0, 1.0, 1.0, 3.0, 3.0]]), np.ones((1, 1, 1, 1))
    >>> roidl.multiscale_roi_align_backward_boxes(grad, [ramp], boxes, [1.0], 2, aligned=True)
    array([[0. , 0.5, 2. , 0.5, 2. ]])
    """
    op = "multiscale_roi_align_backward_boxes"
    pyramid = pyramid_of(op, inputs, scales, canonical_scale, canonical_level, levels, counts)
    size = grid_of(op, grad_output, layout)
    params = align_params(op, size, 1.0, sampling_ratio, aligned, mode, layout)
    arguments = (grad_output, list(inputs))
    return Call(op, params, boxes, batch_indices, None, grad_output, arguments, pyramid)


def multiscale_roi_pool(
    inputs: Sequence[Array],
    boxes: Array | Sequence[Array],
    output_size: int | tuple[int, int],
    scales: Sequence[float],
    *,
    mode: str = "max",
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    counts: Array | None = None,
    levels: Array | None = None,
    canonical_scale: float = 224,
    canonical_level: float = 4,
    return_argmax: bool = False,
) -> Call:
    """Pool every region of interest from one of several maps over whole cells (RoIPool).

    Parameters
    ----------
    inputs, boxes, output_size, scales, layout, batch_indices
        As for `multiscale_roi_align`.
    counts, levels, canonical_scale, canonical_level
        As for `multiscale_roi_align`.
    mode : {"max", "avg"}
        The maximum of a bin (NaN if it has one), or its mean.
    return_argmax : bool
        Also return the position of each maximum, for `multiscale_roi_pool_backward`.

    Returns
    -------
    array [K, C, PH, PW] (or [K, PH, PW, C]; [N, L, ...] for boxes [N, L, 4])
        Of the library, dtype and device of ``inputs``.
    argmax : int32 array of the same shape, if ``return_argmax``
        ``y * W + x`` on the box's map; -1 for an empty bin or a padding row.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `roi_pool`.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> maps = [np.full((1, 1, size, size), size, np.float32) for size in (64, 32)]
    >>> boxes = np.array([[[0, 0, 100, 100], [0, 0, 250, 250], [0, 0, 0, 0]]], np.float32)
    >>> count = np.array([2])  # the third row is padding
    >>> roidl.multiscale_roi_pool(maps, boxes, 1, [1 / 4, 1 / 8], counts=count).ravel()
    array([64., 32.,  0.], dtype=float32)
    """
    op = "multiscale_roi_pool"
    pyramid = pyramid_of(op, inputs, scales, canonical_scale, canonical_level, levels, counts)
    params = pool_params(op, output_size, 1.0, mode, layout)
    arguments = (list(inputs), check_flag(op, "return_argmax", return_argmax))
    return Call(op, params, boxes, batch_indices, None, _first_map(inputs), arguments, pyramid)


def multiscale_roi_pool_backward(
    grad_output: Array,
    boxes: Array | Sequence[Array],
    argmax: Array | None,
    input_shapes: Sequence[Sequence[int]],
    scales: Sequence[float],
    *,
    mode: str = "max",
    layout: str = "NCHW",
    batch_indices: Array | None = None,
    counts: Array | None = None,
    levels: Array | None = None,
    canonical_scale: float = 224,
    canonical_level: float = 4,
) -> Call:
    """Compute the gradients of `multiscale_roi_pool` to its inputs.

    Parameters
    ----------
    grad_output : array [K, C, PH, PW] (or [K, PH, PW, C])
        The gradient to the result of the forward call; any strides.
    argmax : int32 array shaped like grad_output, or None for mode "avg"
        The argmax that ``multiscale_roi_pool(..., return_argmax=True)`` returned.
    input_shapes : list of shapes
        Of the forward call's ``inputs``.
    boxes, scales, mode, layout, batch_indices, counts, levels, canonical_scale, canonical_level
        As in the forward call.

    Returns
    -------
    list of arrays of shapes ``input_shapes``
        Of ``grad_output``'s library, dtype and device; 0 where a map has no boxes.

    Raises
    ------
    ValueError, TypeError
        As `roi_pool_backward`.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> maps, scales = [np.ones((1, 1, 64, 64)), np.ones((1, 1, 32, 32))], [1 / 4, 1 / 8]
    >>> boxes = np.array([[0, 0, 0, 100, 100]])
    >>> pooled, argmax = roidl.multiscale_roi_pool(maps, boxes, 1, scales, return_argmax=True)
    >>> shapes = [array.shape for array in maps]
    >>> grads = roidl.multiscale_roi_pool_backward(pooled, boxes, argmax, shapes, scales)
    >>> [float(grad.sum()) for grad in grads]
    [1.0, 0.0]
    """
    op = "multiscale_roi_pool_backward"
    pyramid = pyramid_of(op, input_shapes, scales, canonical_scale, canonical_level, levels, counts)
    size = grid_of(op, grad_output, layout)
    params = pool_params(op, size, 1.0, mode, layout)
    arguments = (grad_output, argmax, _shapes(op, input_shapes))
    return Call(op, params, boxes, batch_indices, None, grad_output, arguments, pyramid)


class LevelsCall(NamedTuple):
    """A call of `assign_levels`, which a front end runs."""

    op: str
    boxes: Any
    pyramid: Pyramid


def assign_levels(
    boxes: Array | Sequence[Array],
    scales: Sequence[float],
    *,
    canonical_scale: float = 224,
    canonical_level: float = 4,
) -> LevelsCall:
    """Find the map of every box, by the rule of `multiscale_roi_align`.

    Parameters
    ----------
    boxes : array [K, 5], array [K, 4], array [N, L, 4], or a list of arrays [L_i, 4]
        In pixels of the image.
    scales : list of floats
        Cells of each map per pixel of the image, in descending order (equal ones are allowed).
    canonical_scale, canonical_level : float
        A box of ``canonical_scale`` pixels belongs to the map of scale ``2**-canonical_level``.

    Returns
    -------
    int32 array [K] (or [N, L]; a list of arrays for a list)
        Indices into ``scales``; of the boxes' library.

    Raises
    ------
    ValueError, TypeError
        As `multiscale_roi_align`.

    Examples
    --------
    >>> import numpy as np, roidl
    >>> boxes = np.array([[0.0, 0, 50, 50], [0, 0, 112, 112], [0, 0, 448, 448], [0, 0, 9999, 9999]])
    >>> roidl.assign_levels(boxes, [1 / 4, 1 / 8, 1 / 16, 1 / 32])
    array([0, 1, 3, 3], dtype=int32)
    """
    op = "assign_levels"
    pyramid = pyramid_of(op, None, scales, canonical_scale, canonical_level)
    return LevelsCall(op, boxes, pyramid)
