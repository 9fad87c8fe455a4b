# Any operator by its name, those of forward mode included, for an adapter without kernels of its
# own; part of _core.pyx.

cdef enum Operator:
    ALIGN, ALIGN_BACKWARD, ALIGN_BACKWARD_BOXES, ALIGN_JVP, ALIGN_JVP_BOXES
    ALIGN_JVP_BOXES_BACKWARD, POOL, POOL_BACKWARD, POOL_JVP

cdef dict OPERATOR_NUMBERS = {
    "roi_align": ALIGN, "roi_align_backward": ALIGN_BACKWARD,
    "roi_align_backward_boxes": ALIGN_BACKWARD_BOXES, "roi_align_jvp": ALIGN_JVP,
    "roi_align_jvp_boxes": ALIGN_JVP_BOXES,
    "roi_align_jvp_boxes_backward": ALIGN_JVP_BOXES_BACKWARD,
    "roi_pool": POOL, "roi_pool_backward": POOL_BACKWARD, "roi_pool_jvp": POOL_JVP,
}


def run_operator(str op, tuple params, leader, boxes, batch_indices, other, input_shape, out,
                 argmax, int threads, pyramid=None):
    """Run any operator, those of forward mode included, for an adapter without kernels of its own.
    `leader` is the features, a tangent of them, or a gradient of the result; `other` the array
    that the operator takes besides, or None; `input_shape` is that of a result shaped like the
    features; `out`, and for RoIPool `argmax` or None, are written to. With a pyramid, all that is
    said of features is a list. No more threads are used than `threads`."""
    cdef bytes encoded = op.encode()
    cdef const char* name = encoded
    cdef int number = OPERATOR_NUMBERS[op.removeprefix("multiscale_")]
    cdef PyramidView p = pyramid_view(pyramid, name)
    reads_maps = input_shape is None and number != ALIGN_BACKWARD_BOXES
    other_maps = number in (ALIGN_BACKWARD, ALIGN_BACKWARD_BOXES, ALIGN_JVP)
    cdef MapList x = maps_of(leader, name, b"input" if reads_maps else b"grad_output",
                             p if reads_maps else None)
    cdef View b = view_of(boxes, name, b"boxes")
    cdef View i = view_or_none(batch_indices, name, b"batch_indices")
    cdef MapList o = None
    if other is not None:
        o = maps_of(other, name, b"input" if other_maps else b"the second array",
                    p if other_maps else None)
    cdef MapList y = maps_of(out, name, b"out", None if input_shape is None else p, None,
                             True)
    cdef View a = None if argmax is None else writable_view_of(argmax, name, b"argmax")
    cdef MapList features = x
    if input_shape is not None:
        check_float(name, b"grad_output", x.tensors[0])
        features = shaped_like(x.first(), input_shape, name, p)
    elif number == ALIGN_BACKWARD_BOXES:
        features = o
    cdef ThreadLimit* limit = new ThreadLimit(threads)
    try:
        if number < POOL:
            run_align(number, name, params, features, x, b, i, o, y, p)
        else:
            run_pool(number, name, params, features, x, b, i, o, y, a, p)
    finally:
        del limit


cdef Maps maps_or_none(MapList maps, const char* name) except *:
    if maps is None:
        return Maps()
    return maps.maps(name)


cdef inline const Tensor* first_or_null(MapList maps):
    if maps is None:
        return NULL
    return &maps.tensors[0]


cdef run_align(int number, const char* name, tuple params, MapList features, MapList x, View b,
               View i, MapList o, MapList y, PyramidView p):
    cdef RoiAlignParams fields = RoiAlignParams(
        params[0], params[1], params[2], params[3], params[4], params[5], params[6], params[7])
    cdef Maps first = x.maps(name)
    cdef Maps second = maps_or_none(o, name)
    cdef Maps result = y.maps(name)
    cdef const Tensor* g = first_or_null(x)
    cdef const Tensor* other = first_or_null(o)
    cdef const Tensor* out = first_or_null(y)
    cdef RoiAlignProblem problem = make_roi_align(name, fields, features.maps(name), b.tensor,
                                                  tensor_or_null(i), pyramid_or_null(p))
    with nogil:
        if number == ALIGN:
            c_roi_align_forward(problem, first, b.tensor, out[0])
        elif number == ALIGN_BACKWARD:
            c_roi_align_backward(problem, g[0], b.tensor, second, result)
        elif number == ALIGN_BACKWARD_BOXES:
            c_roi_align_backward_boxes(problem, g[0], second, b.tensor, out[0])
        elif number == ALIGN_JVP:
            c_roi_align_jvp(problem, first, b.tensor, second, out[0])
        elif number == ALIGN_JVP_BOXES:
            c_roi_align_jvp_boxes(problem, first, b.tensor, other[0], out[0])
        else:
            c_roi_align_jvp_boxes_backward(problem, g[0], b.tensor, other[0], result)


cdef run_pool(int number, const char* name, tuple params, MapList features, MapList x, View b,
              View i, MapList o, MapList y, View a, PyramidView p):
    cdef RoiPoolParams fields = RoiPoolParams(
        params[0], params[1], params[2], params[3], params[4])
    cdef Maps first = x.maps(name)
    cdef Maps result = y.maps(name)
    cdef const Tensor* g = first_or_null(x)
    cdef const Tensor* second = first_or_null(o)
    cdef const Tensor* out = first_or_null(y)
    cdef const Tensor* cells = tensor_or_null(a)
    cdef RoiPoolProblem problem = make_roi_pool(name, fields, features.maps(name), b.tensor,
                                                tensor_or_null(i), pyramid_or_null(p))
    with nogil:
        if number == POOL:
            c_roi_pool_forward(problem, first, b.tensor, out[0], cells)
        elif number == POOL_BACKWARD:
            c_roi_pool_backward(problem, g[0], b.tensor, second, result)
        else:
            c_roi_pool_jvp(problem, first, b.tensor, second, out[0])
