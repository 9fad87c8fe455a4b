# The operators and their gradients on one map, with results that the caller's library makes; part
# of _core.pyx. A result is what make(shape, strides, dtypes[name]) returns: the strides are those
# of a dense array in the map's order in memory; others serve as well.

cdef new_align(const RoiAlignParams& params, View x, View b, View i, make, dict dtypes):
    cdef RoiAlignProblem problem = make_roi_align(b"roi_align", params, Maps(&x.tensor), b.tensor,
                                                  tensor_or_null(i), NULL)
    result = made(make, pooled_shape(problem), is_channels_last(params.layout, x),
                  dtypes[dtype_name(x.tensor)])
    cdef View y = view_of_new(result, b"roi_align")
    call_align(ALIGN, problem, Maps(&x.tensor), b.tensor, Maps(), Maps(&y.tensor))
    return result


cdef new_align_backward(const RoiAlignParams& params, View g, View b, View i, View x,
                        tuple map_shape, make, dict dtypes):
    cdef const char* op = b"roi_align_backward"
    cdef Tensor features = map_of_shape(op, g, b, map_shape, params.layout)
    cdef RoiAlignProblem problem = make_roi_align(op, params, Maps(&features), b.tensor,
                                                  tensor_or_null(i), NULL)
    result = made(make, input_shape(problem), map_shape[3], dtypes[dtype_name(g.tensor)])
    cdef View y = view_of_new(result, op)
    call_align(ALIGN_BACKWARD, problem, Maps(&g.tensor), b.tensor, Maps(tensor_or_null(x)),
               Maps(&y.tensor))
    return result


cdef tuple new_pool(const RoiPoolParams& params, View x, View b, View i, cbool with_argmax, make,
                    dict dtypes):
    """The result, and the argmax or None."""
    cdef cbool channels_last = is_channels_last(params.layout, x)
    cdef RoiPoolProblem problem = make_roi_pool(b"roi_pool", params, Maps(&x.tensor), b.tensor,
                                                tensor_or_null(i), NULL)
    result = made(make, pooled_shape(problem), channels_last, dtypes[dtype_name(x.tensor)])
    argmax = None
    if with_argmax:
        argmax = made(make, pooled_shape(problem), channels_last, dtypes["int32"])
    cdef View y = view_of_new(result, b"roi_pool")
    cdef View a = view_or_none(argmax, b"roi_pool", b"argmax")
    call_pool(POOL, problem, Maps(&x.tensor), b.tensor, Maps(), Maps(&y.tensor),
              tensor_or_null(a))
    return result, argmax


cdef new_pool_backward(const RoiPoolParams& params, View g, View b, View i, View argmax,
                       tuple map_shape, make, dict dtypes):
    cdef const char* op = b"roi_pool_backward"
    cdef Tensor features = map_of_shape(op, g, b, map_shape, params.layout)
    cdef RoiPoolProblem problem = make_roi_pool(op, params, Maps(&features), b.tensor,
                                                tensor_or_null(i), NULL)
    result = made(make, input_shape(problem), map_shape[3], dtypes[dtype_name(g.tensor)])
    cdef View y = view_of_new(result, op)
    call_pool(POOL_BACKWARD, problem, Maps(&g.tensor), b.tensor, Maps(tensor_or_null(argmax)),
              Maps(&y.tensor), NULL)
    return result


cdef cbool is_channels_last(int layout, View features):
    return layout == 0 and has_channels_last(features.tensor)


cdef made(make, const Shape& shape, cbool channels_last, dtype):
    cdef int64_t strides[64]
    dense_strides(shape, channels_last, strides)
    return make(shape_tuple(shape), tuple([strides[axis] for axis in range(shape.ndim)]), dtype)


cdef Tensor map_of_shape(const char* op, View gradient, View boxes, tuple map_shape,
                         int layout) except *:
    """A map without data, of (images, height, width, whether channels lie next to each other). The
    gradient to the result has its channels, and boxes that are grouped by image have its images:
    where arrays are sharded, these are the shard's."""
    check_float(op, b"grad_output", gradient.tensor)
    cdef int ndim = gradient.tensor.ndim
    if ndim < 4:
        raise ValueError(f"{op.decode()}: grad_output must have the shape of the result, "
                         f"got {list(tensor_shape(gradient))}")
    cdef Tensor features = gradient.tensor
    cdef int64_t images = boxes.tensor.shape[0] if boxes.tensor.ndim == 3 else map_shape[0]
    features.data = NULL
    features.ndim = 4
    features.shape[0] = images
    if layout == 0:
        features.shape[1], features.shape[2], features.shape[3] = (
            gradient.tensor.shape[ndim - 3], map_shape[1], map_shape[2])
    else:
        features.shape[1], features.shape[2], features.shape[3] = (
            map_shape[1], map_shape[2], gradient.tensor.shape[ndim - 1])
    return features
