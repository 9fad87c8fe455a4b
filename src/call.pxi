# One call of any operator of the catalogue: its arrays are read by their roles, the front end
# allocates its results, and the core runs it; part of _core.pyx.

@cython.freelist(8)
cdef class CoreCall:
    """A call: its arrays, its checked problem and its results. The caller, or `views`, keeps the
    views."""
    cdef const Operator* row
    cdef bytes op  # the name in errors
    cdef AnyParams params
    cdef AnyProblem problem
    cdef Arrays arrays
    cdef Maps maps  # read or made by the operator
    cdef View first_map
    cdef View leader  # the first array that is read; it determines the device and the stream
    cdef View boxes
    cdef View indices
    cdef PyramidView pyramid
    cdef list views

    cdef int begin(self, const Operator* row, bytes op, const AnyParams& params,
                   PyramidView pyramid) except -1:
        self.row, self.op, self.params, self.pyramid = row, op, params, pyramid
        return 0

    cdef int take_maps(self, View first, const Maps& maps) except -1:
        self.first_map, self.maps = first, maps
        return 0

    cdef int take_read(self, int place, View first, const Maps& arrays) except -1:
        """Take an array that is read, or, if it is a list of one for each map, its first array and
        all of them."""
        if self.leader is None:
            self.leader = first
        if self.first_map is None and self.row.reads[place].role == Role.maps:
            self.take_maps(first, arrays)
        self.arrays.reads[place] = arrays
        return 0

    cdef int read(self, int place, array, stream) except -1:
        cdef const Read* what = &self.row.reads[place]
        cdef MapList read
        if array is None and what.need == Need.of_maximum:
            return 0  # the core fails if it is needed
        pyramid = self.pyramid if what.role == Role.maps else None
        if self.leader is not None:
            stream = stream_of(self.leader)
        read = maps_of(array, self.op, what.name, pyramid, stream)
        self.keep(read)
        return self.take_read(place, read.first(), read.maps(self.op))

    cdef MapList shapes(self, map_shapes):
        """Return maps without data if the operator makes maps, else None."""
        cdef MapList maps
        if self.row.writes[0].role != Role.maps:
            return None
        check_float(self.op, self.row.reads[0].name, self.leader.tensor)
        maps = shaped_like(self.leader, map_shapes, self.op, self.pyramid)
        self.keep(maps)
        self.take_maps(maps.first(), maps.maps(self.op))
        return maps

    cdef int describe(self, View boxes, View indices) except -1:
        self.boxes, self.indices = boxes, indices
        c_describe(self.problem, self.row[0], self.op, self.params, self.maps, boxes.tensor,
                   tensor_or_null(indices), pyramid_or_null(self.pyramid))
        return 0

    cdef int write(self, int place, array) except -1:
        cdef const Write* what = &self.row.writes[place]
        pyramid = self.pyramid if what.role == Role.maps else None
        cdef MapList written = maps_of(array, self.op, what.name, pyramid, stream_of(self.leader),
                                       writable=True)
        self.keep(written)
        self.arrays.writes[place] = written.maps(self.op)
        return 0

    cdef int keep(self, MapList views) except -1:
        if self.views is None:
            self.views = []
        self.views.append(views)
        return 0

    cdef int run(self) except -1:
        cdef AnswersSignals handlers
        handlers.begin()
        with nogil:
            c_run(self.row[0], self.problem, self.boxes.tensor, self.arrays)
        return 0


cdef CoreCall new_call(op, bytes called, params, PyramidView pyramid):
    cdef CoreCall call = CoreCall.__new__(CoreCall)
    cdef const Operator* row = row_of(op)
    call.begin(row, called, params_of_tuple(row.family, params), pyramid)
    return call


def run(str op, params, boxes, batch_indices, allocate, device, out, tuple arguments, pyramid):
    """Run any operator, called `op` by the user, and return its results.

    `params` are the fields of the family's parameters. `arguments` are the arrays that the operator
    reads, in the catalogue's order, None for an absent one; then, if it makes maps, their shapes;
    then a flag for each optional result. `allocate(shape, name of the dtype)` makes a result that
    is not given as `out`. `device` is None on CPU, else an _array_libraries.Device. With a pyramid,
    the arrays of maps and their shapes are lists.

    A result in the shape of the boxes is float64 (joined, if they are a list). It is returned with
    a list of the shapes of the boxes that were passed, and whether their coordinates were float64.
    """
    cdef bytes called = op.encode()
    stream = stream_asked(device)
    cdef CoreCall call = new_call(op, called, params, pyramid_view(pyramid, called, stream))
    cdef int place, after = call.row.num_reads()
    cdef MapList maps
    cdef View b, i
    for place in range(after):
        call.read(place, arguments[place], stream)
    maps = call.shapes(arguments[after] if call.row.writes[0].role == Role.maps else None)
    after += maps is not None
    b, i = read_boxes(boxes, batch_indices, called, call.first_map, device)
    call.describe(b, i)
    cdef list results = [made(call, 0, allocate, maps) if out is None else out]
    call.write(0, results[0])
    for place in range(1, call.row.num_writes()):
        if arguments[after + place - 1]:
            results.append(made(call, place, allocate, None))
            call.write(place, results[place])
    cdef Scratch _scratch = place_of(base_of(call.problem), call.leader, device)
    call.run()
    if call.row.writes[0].role == Role.boxes:
        shapes = b.owner if isinstance(boxes, (list, tuple)) else [tensor_shape(b)]
        return results[0], shapes, base_of(call.problem).double_coordinates
    return results[0] if len(results) == 1 else tuple(results)


cdef made(CoreCall call, int place, allocate, MapList maps):
    """Return a new result, or a list of one for each of the maps."""
    cdef Role role = call.row.writes[place].role
    cdef View view
    if role == Role.boxes:
        return allocate(tensor_shape(call.boxes), "float64")
    dtype = dtype_name(call.leader.tensor)
    if role == Role.maps:
        results = [allocate(tensor_shape(view), dtype) for view in maps.views]
        return results[0] if call.pyramid is None else results
    shape = shape_tuple(pooled_shape(base_of(call.problem)))
    return allocate(shape, "int32" if role == Role.argmax else dtype)


def run_operator(str op, params, list reads, boxes, batch_indices, map_shapes, list writes,
                 int threads, pyramid=None):
    """Run any operator into existing arrays, for an adapter without kernels of its own.

    `reads` and `writes` are in the catalogue's order, None for an absent array; with a pyramid,
    those of maps are lists. `map_shapes` are the shapes of maps that are made. At most `threads`
    threads are used."""
    cdef bytes called = op.encode()
    cdef CoreCall call = new_call(op, called, params, pyramid_view(pyramid, called))
    cdef int place
    for place in range(len(reads)):
        call.read(place, reads[place], None)
    call.shapes(map_shapes)
    call.describe(view_of(boxes, called, b"boxes"),
                  view_or_none(batch_indices, called, b"batch_indices"))
    for place in range(len(writes)):
        if writes[place] is not None:
            call.write(place, writes[place])
    cdef ThreadLimit* limit = new ThreadLimit(threads)
    try:
        call.run()
    finally:
        del limit
