# Any operator on one map with results that the caller's library makes, for an adapter whose arrays
# are plain memory; part of _core.pyx.

cdef const char* LEADERS[9]  # what the first array is called in a sentence
LEADERS[:] = [b"input", b"grad_output", b"grad_output", b"input_tangent", b"input", b"grad_output",
              b"input", b"grad_output", b"input_tangent"]
cdef const char* OTHERS[9]
OTHERS[:] = [b"", b"input", b"input", b"input", b"boxes_tangent", b"boxes_tangent",
             b"", b"argmax", b"argmax"]


def new_result(str op, params, leader, boxes, batch_indices, other, extra, make, int threads):
    """Run any operator on one map; `leader` and `other` are as for `run_operator`.

    The result is one of make(shape, strides, dtype's name): dense, in the map's order in memory.
    Where there is no map, `extra` is (images, height, width, whether its channels lie next to each
    other); for RoIPool it is (whether the argmax is wanted,). Returns the result; of RoIPool a
    pair, of the result and the argmax or None."""
    cdef int number = OPERATOR_NUMBERS[op]
    cdef const char* name = OPERATOR_NAMES[number]
    cdef View x = view_of(leader, name, LEADERS[number])
    cdef View b = view_of(boxes, name, b"boxes")
    cdef View i = view_or_none(batch_indices, name, b"batch_indices")
    cdef View o = view_or_none(other, name, OTHERS[number])
    cdef ThreadLimit* limit = new ThreadLimit(threads)
    try:
        if number < POOL:
            return new_align(number, align_params(params), x, b, i, o, <tuple>extra, make)
        return new_pool(number, pool_params(params), x, b, i, o, <tuple>extra, make)
    finally:
        del limit


cdef new_align(int number, const RoiAlignParams& params, View x, View b, View i, View o,
               tuple extra, make):
    cdef const char* name = OPERATOR_NAMES[number]
    cdef cbool gives_map = number == ALIGN_BACKWARD or number == ALIGN_JVP_BOXES_BACKWARD
    cdef cbool channels_last = False
    cdef Tensor features = x.tensor
    if gives_map:
        features = map_of_shape(name, x, b, extra, params.layout)
    elif number == ALIGN_BACKWARD_BOXES:
        features = o.tensor
    cdef RoiAlignProblem problem = make_roi_align(name, params, Maps(&features), b.tensor,
                                                  tensor_or_null(i), NULL)
    if gives_map:
        result = made(make, input_shape(problem), extra[3], dtype_name(x.tensor))
    elif number == ALIGN_BACKWARD_BOXES:
        check_float(name, b"boxes", b.tensor)
        result = made(make, shape_of(b.tensor), False, dtype_name(b.tensor))
    else:
        channels_last = params.layout == 0 and has_channels_last(features)
        result = made(make, pooled_shape(problem), channels_last, dtype_name(x.tensor))
    cdef View y = view_of(result, name, b"the result")
    call_align(number, problem, Maps(&x.tensor), b.tensor, Maps(tensor_or_null(o)),
               Maps(&y.tensor))
    return result


cdef new_pool(int number, const RoiPoolParams& params, View x, View b, View i, View o, tuple extra,
              make):
    cdef const char* name = OPERATOR_NAMES[number]
    cdef cbool channels_last = False
    cdef Tensor features = x.tensor
    if number == POOL_BACKWARD:
        features = map_of_shape(name, x, b, extra, params.layout)
    cdef RoiPoolProblem problem = make_roi_pool(name, params, Maps(&features), b.tensor,
                                                tensor_or_null(i), NULL)
    argmax = None
    if number == POOL_BACKWARD:
        result = made(make, input_shape(problem), extra[3], dtype_name(x.tensor))
    else:
        channels_last = params.layout == 0 and has_channels_last(features)
        result = made(make, pooled_shape(problem), channels_last, dtype_name(x.tensor))
        if number == POOL and extra[0]:
            argmax = made(make, pooled_shape(problem), channels_last, "int32")
    cdef View y = view_of(result, name, b"the result")
    cdef View a = view_or_none(argmax, name, b"argmax")
    call_pool(number, problem, Maps(&x.tensor), b.tensor, Maps(tensor_or_null(o)),
              Maps(&y.tensor), tensor_or_null(a))
    return (result, argmax) if number == POOL else result


cdef made(make, const Shape& shape, cbool channels_last, str dtype):
    cdef int64_t strides[64]
    dense_strides(shape, channels_last, strides)
    return make(shape_tuple(shape), tuple([strides[axis] for axis in range(shape.ndim)]), dtype)


cdef Tensor map_of_shape(const char* op, View gradient, View boxes, tuple extra,
                         int layout) except *:
    """A map without data. The gradient to the result has its channels, and boxes that are grouped
    by image have its images: where arrays are sharded, these are the shard's."""
    check_float(op, b"grad_output", gradient.tensor)
    cdef int ndim = gradient.tensor.ndim
    if ndim < 4:
        raise ValueError(f"{op.decode()}: grad_output must have the shape of the result, "
                         f"got {list(tensor_shape(gradient))}")
    cdef Tensor features = gradient.tensor
    cdef int64_t images = boxes.tensor.shape[0] if boxes.tensor.ndim == 3 else extra[0]
    features.data = NULL
    features.ndim = 4
    features.shape[0] = images
    if layout == 0:
        features.shape[1], features.shape[2], features.shape[3] = (
            gradient.tensor.shape[ndim - 3], extra[1], extra[2])
    else:
        features.shape[1], features.shape[2], features.shape[3] = (
            extra[1], extra[2], gradient.tensor.shape[ndim - 1])
    return features
