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


def run_operator(str op, tuple params, leader, boxes, batch_indices, other, tuple input_shape,
                 out, argmax, int threads):
    """Run any operator, those of forward mode included, for an adapter without kernels of its own.
    `leader` is the features, a tangent of them, or a gradient of the result; `other` the tensor
    that the operator takes besides, or None; `input_shape` is that of a result shaped like the
    features; `out`, and for RoIPool `argmax` or None, are written to. No more threads are used
    than `threads`."""
    cdef bytes encoded = op.encode()
    cdef const char* name = encoded
    cdef int number = OPERATOR_NUMBERS[op]
    cdef View x = view_of(leader, name, b"input" if input_shape is None else b"grad_output")
    cdef View b = view_of(boxes, name, b"boxes")
    cdef View i = view_or_none(batch_indices, name, b"batch_indices")
    cdef View o = view_or_none(other, name, b"the second array")
    cdef View y = writable_view_of(out, name, b"out")
    cdef View a = None if argmax is None else writable_view_of(argmax, name, b"argmax")
    cdef View features = x
    if input_shape is not None:
        check_float(name, b"grad_output", x.tensor)
        features = one_shaped_like(x, input_shape, name)
    elif number == ALIGN_BACKWARD_BOXES:
        features = o
    cdef ThreadLimit* limit = new ThreadLimit(threads)
    try:
        if number < POOL:
            run_align(number, name, params, features, x, b, i, o, y)
        else:
            run_pool(number, name, params, features, x, b, i, o, y, a)
    finally:
        del limit


cdef Maps map_or_none(View view, const char* name) except *:
    if view is None:
        return Maps()
    return Maps(name, &view.tensor, 1)


cdef run_align(int number, const char* name, tuple params, View features, View x, View b, View i,
               View o, View y):
    cdef RoiAlignParams fields = RoiAlignParams(
        params[0], params[1], params[2], params[3], params[4], params[5], params[6], params[7])
    cdef Maps shapes = map_or_none(features, name)
    cdef Maps first = map_or_none(x, name)
    cdef Maps second = map_or_none(o, name)
    cdef Maps result = map_or_none(y, name)
    cdef const Tensor* other = tensor_or_null(o)
    cdef RoiAlignProblem problem = make_roi_align(name, fields, shapes, b.tensor,
                                                  tensor_or_null(i), NULL)
    with nogil:
        if number == ALIGN:
            c_roi_align_forward(problem, first, b.tensor, y.tensor)
        elif number == ALIGN_BACKWARD:
            c_roi_align_backward(problem, x.tensor, b.tensor, second, result)
        elif number == ALIGN_BACKWARD_BOXES:
            c_roi_align_backward_boxes(problem, x.tensor, second, b.tensor, y.tensor)
        elif number == ALIGN_JVP:
            c_roi_align_jvp(problem, first, b.tensor, second, y.tensor)
        elif number == ALIGN_JVP_BOXES:
            c_roi_align_jvp_boxes(problem, first, b.tensor, other[0], y.tensor)
        else:
            c_roi_align_jvp_boxes_backward(problem, x.tensor, b.tensor, other[0], result)


cdef run_pool(int number, const char* name, tuple params, View features, View x, View b, View i,
              View o, View y, View a):
    cdef RoiPoolParams fields = RoiPoolParams(
        params[0], params[1], params[2], params[3], params[4])
    cdef Maps shapes = map_or_none(features, name)
    cdef Maps first = map_or_none(x, name)
    cdef Maps result = map_or_none(y, name)
    cdef RoiPoolProblem problem = make_roi_pool(name, fields, shapes, b.tensor,
                                                tensor_or_null(i), NULL)
    cdef const Tensor* second = tensor_or_null(o)
    cdef const Tensor* cells = tensor_or_null(a)
    with nogil:
        if number == POOL:
            c_roi_pool_forward(problem, first, b.tensor, y.tensor, cells)
        elif number == POOL_BACKWARD:
            c_roi_pool_backward(problem, x.tensor, b.tensor, second, result)
        else:
            c_roi_pool_jvp(problem, first, b.tensor, second, y.tensor)
