# Imports boxes: one array, or a list of one for every image, which is joined; part of _core.pyx.
cdef tuple read_boxes(boxes, batch_indices, const char* op, View features, device):
    """Return views of the boxes and of their batch indices (or None); a list is joined to one
    array."""
    cdef View view
    stream = stream_of(features)
    if not isinstance(boxes, (list, tuple)):
        return (view_of(boxes, op, b"boxes", stream),
                view_or_none(batch_indices, op, b"batch_indices", stream))
    if batch_indices is not None:
        raise ValueError(f"{op.decode()}: batch_indices must be None when boxes is a list")
    views = []
    for i, array in enumerate(boxes):
        view = view_of(array, op, f"boxes[{i}]".encode(), stream)
        check_listed_boxes(op, view.tensor, i)
        if device is None or device.join is None:
            check_listed_on_host(op, view.tensor)
        elif stream is not None:
            check_same_device(op, f"boxes[{i}]".encode(), view.tensor, features.tensor.device)
        views.append(view)
    if features.tensor.ndim == 4:
        check_list_length(op, len(views), features.tensor.shape[0])
    wide = any([is_double(view) for view in views])
    if stream is None or device is None or device.join is None:
        return joined_on_host(views, wide, op)
    rows, indices = device.join(boxes, wide)
    view = view_of(rows, op, b"boxes", stream)
    view.owner = [tensor_shape(each) for each in views]
    return view, view_of(indices, op, b"batch_indices", stream)


cdef tuple joined_on_host(list views, cbool wide, const char* op):
    cdef View view
    cdef int64_t at = 0
    cdef int32_t image
    count = sum([listed_rows(view) for view in views])
    cdef View rows = view_of(np.empty((count, 4), np.float64 if wide else np.float32), op, b"boxes")
    rows.owner = [tensor_shape(view) for view in views]
    cdef View indices = view_of(np.empty(count, np.int32), op, b"batch_indices")
    cdef int32_t* places = <int32_t*>indices.tensor.data
    for image in range(len(views)):
        view = views[image]
        if wide:
            join_boxes[double](
                view.tensor, image, <double*>rows.tensor.data + 4 * at, places + at)
        else:
            join_boxes[float](
                view.tensor, image, <float*>rows.tensor.data + 4 * at, places + at)
        at += view.tensor.shape[0]
    return rows, indices


cdef tuple tensor_shape(View view):
    return tuple([view.tensor.shape[i] for i in range(view.tensor.ndim)])


cdef is_double(View view):
    return view.tensor.dtype.code == 2 and view.tensor.dtype.bits == 64


cdef listed_rows(View view):
    return view.tensor.shape[0]
