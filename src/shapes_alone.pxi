# Checks of calls that a framework traces, where only shapes and dtypes are known, with the errors
# of run time; part of _core.pyx.

cdef dict TYPE_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5, "bool": 6}


cdef View described_or_none(metadata, const char* op, const char* name):
    return None if metadata is None else view_of_metadata(metadata, op, name)


cdef View view_of_metadata(metadata, const char* op, const char* name):
    """Return a view without data, in CPU memory, from (shape, name of the dtype)."""
    cdef View view = View.__new__(View)
    cdef int64_t sizes[64]
    cdef DLTensor source
    shape, dtype = metadata
    kind = dtype.rstrip("0123456789")
    source.data = NULL
    source.device.device_type = 1
    source.device.device_id = 0
    source.dtype.code = TYPE_CODES.get(kind, 255)
    source.dtype.bits = int(dtype[len(kind):] or 8)
    source.dtype.lanes = 1
    source.ndim = len(shape)
    for axis, size in enumerate(shape[:64]):
        sizes[axis] = size
    source.shape = sizes
    source.strides = NULL
    source.byte_offset = 0
    view.tensor = read_dltensor(source, op, name)
    return view


def result_shape(str op, params, input, boxes, batch_indices, pyramid=None):
    """Return the shape of a forward call's result, or raise the error of the call. Each array is a
    pair (shape, name of the dtype); batch_indices may be None. With a pyramid, whose own arrays are
    pairs, too, input is a list."""
    cdef CoreCall call = described(op, params, input, boxes, batch_indices, pyramid)
    return shape_tuple(pooled_shape(base_of(call.problem)))


def cuda_workspace(str op, str entry, params, input, boxes, batch_indices, pyramid=None):
    """Return how many bytes of workspace the operator `entry` takes on a CUDA device, or raise an
    error if there is no library for CUDA. The arguments are those of result_shape."""
    cdef CoreCall call = described(op, params, input, boxes, batch_indices, pyramid)
    return c_cuda_workspace(row_of(entry)[0], call.problem)


cdef CoreCall described(str op, params, input, boxes, batch_indices, pyramid):
    """Return a call whose arrays are known by shape and dtype alone."""
    cdef bytes called = op.encode()
    cdef CoreCall call = new_call(op, called, params, pyramid_view(pyramid, called, None, True))
    cdef MapList maps
    if pyramid is None:
        maps = maps_from([view_of_metadata(input, called, b"input")])
    else:
        maps = maps_from([view_of_metadata(each, called, f"input[{number}]".encode())
                          for number, each in enumerate(input)])
    call.take_maps(maps.first(), maps.maps(called))
    call.describe(view_of_metadata(boxes, called, b"boxes"),
                  described_or_none(batch_indices, called, b"batch_indices"))
    return call


def check_array(str op, str name, value):
    """Raise the error of a call with this argument if `value` is not an array."""
    view_of(value, op.encode(), name.encode())


def check_box_list(str op, list boxes, int64_t images):
    """Check a list of boxes, each a pair (shape, name of the dtype): one array [L, 4] per image."""
    cdef bytes name = op.encode()
    cdef View view
    for index, metadata in enumerate(boxes):
        view = view_of_metadata(metadata, name, f"boxes[{index}]".encode())
        check_listed_boxes(name, view.tensor, index)
    check_list_length(name, len(boxes), images)
