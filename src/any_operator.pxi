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


def run_operator(str op, params, leader, boxes, batch_indices, other, input_shape, out,
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
        check_float(name, b"grad_output", x.first().tensor)
        features = shaped_like(x.first(), input_shape, name, p)
    elif number == ALIGN_BACKWARD_BOXES:
        features = o
    cdef Maps first = x.maps(name)
    cdef Maps second = maps_or_none(o, name)
    cdef Maps result = y.maps(name)
    cdef ThreadLimit* limit = new ThreadLimit(threads)
    try:
        if number < POOL:
            call_align(number, make_roi_align(name, align_params(params), features.maps(name),
                                              b.tensor, tensor_or_null(i), pyramid_or_null(p)),
                       first, b.tensor, second, result)
        else:
            call_pool(number, make_roi_pool(name, pool_params(params), features.maps(name),
                                            b.tensor, tensor_or_null(i), pyramid_or_null(p)),
                      first, b.tensor, second, result, tensor_or_null(a))
    finally:
        del limit


cdef Maps maps_or_none(MapList maps, const char* name) except *:
    if maps is None:
        return Maps()
    return maps.maps(name)


cdef int call_align(int number, RoiAlignProblem problem, const Maps& first, const Tensor& boxes,
                    const Maps& second, const Maps& result) except -1:
    """By the operator's number. What is one array, and no list of maps, is the first."""
    cdef AnswersSignals handlers
    handlers.begin()
    with nogil:
        if number == ALIGN:
            c_roi_align_forward(problem, first, boxes, result.tensors[0][0])
        elif number == ALIGN_BACKWARD:
            c_roi_align_backward(problem, first.tensors[0][0], boxes, second, result)
        elif number == ALIGN_BACKWARD_BOXES:
            c_roi_align_backward_boxes(problem, first.tensors[0][0], second, boxes,
                                       result.tensors[0][0])
        elif number == ALIGN_JVP:
            c_roi_align_jvp(problem, first, boxes, second, result.tensors[0][0])
        elif number == ALIGN_JVP_BOXES:
            c_roi_align_jvp_boxes(problem, first, boxes, second.tensors[0][0],
                                  result.tensors[0][0])
        else:
            c_roi_align_jvp_boxes_backward(problem, first.tensors[0][0], boxes,
                                           second.tensors[0][0], result)
    return 0


cdef int call_pool(int number, RoiPoolProblem problem, const Maps& first, const Tensor& boxes,
                   const Maps& second, const Maps& result, const Tensor* argmax) except -1:
    cdef AnswersSignals handlers
    handlers.begin()
    with nogil:
        if number == POOL:
            c_roi_pool_forward(problem, first, boxes, result.tensors[0][0], argmax)
        elif number == POOL_BACKWARD:
            c_roi_pool_backward(problem, first.tensors[0][0], boxes, second.tensors[0], result)
        else:
            c_roi_pool_jvp(problem, first, boxes, second.tensors[0], result.tensors[0][0])
    return 0
