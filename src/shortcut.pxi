# The short way of a public function: arguments that most calls pass are taken straight to the
# operator; part of _core.pyx.

cdef object REQUIRED = object()


cdef class Shortcut:
    """Binds the arguments of `roi_align` or `roi_pool` if they are what most calls pass: plain
    arrays of one type in CPU memory, and numbers of Python's own types. Everything else, mistakes
    included, is left to the long way. Without `make` the call is the caller's to run: then arrays
    are of that type, and not read."""
    cdef cbool aligns  # or pools
    cdef bytes op
    cdef object kind
    cdef object make
    cdef dict dtypes
    cdef object limit
    cdef object altered
    cdef dict modes
    cdef dict layouts
    cdef dict places
    cdef list defaults
    cdef Py_ssize_t num_positional
    cdef Py_ssize_t mode_place
    cdef Py_ssize_t out_place  # behind all others, where there is no out

    def __init__(self, str op, signature, kind, make, dict dtypes, dict modes, dict layouts,
                 limit=None, altered=None):
        """Of a function of that `inspect.Signature`. A result is make(shape, strides,
        dtypes[name]); limit() says how many threads may be used; altered(array) whether the array's
        values are not those in its memory."""
        self.aligns = op == "roi_align"
        self.op = op.encode()
        self.kind, self.make, self.dtypes = kind, make, dtypes
        self.limit, self.altered = limit, altered
        self.modes, self.layouts = modes, layouts
        parameters = list(signature.parameters.values())
        self.places = {each.name: place for place, each in enumerate(parameters)}
        self.defaults = [REQUIRED if each.default is each.empty else each.default
                         for each in parameters]
        self.num_positional = len([each for each in parameters if each.kind != each.KEYWORD_ONLY])
        self.mode_place = self.places["mode"]
        self.out_place = self.places.get("out", len(parameters))

    def bind(self, tuple args, dict kwargs):
        """The call, ready to be run; or None."""
        cdef Py_ssize_t place, given = len(args), mode_place = self.mode_place
        cdef list values = self.defaults[:]
        cdef BoundCall call
        if given > self.num_positional:
            return None
        for place in range(given):
            values[place] = args[place]
        for key, value in kwargs.items():
            found = self.places.get(key)
            if found is None or <Py_ssize_t>found < given:
                return None
            values[<Py_ssize_t>found] = value
        if REQUIRED is values[2]:
            return None
        if self.out_place < len(values) and values[self.out_place] is not None:
            return None
        call = BoundCall.__new__(BoundCall)
        call.shortcut = self
        try:
            # The order is that of _ops.py.
            if self.aligns:
                if values[5] is not True and values[5] is not False:
                    return None
                call.align.aligned = values[5]
                call.align.spatial_scale = number_of(values[3])
                pair_of(values[2], &call.align.output_height, &call.align.output_width)
                pair_of(values[4], &call.align.sampling_height, &call.align.sampling_width)
                call.align.mode = self.modes[values[mode_place]]
                call.align.layout = self.layouts[values[mode_place + 1]]
            else:
                if values[7] is not True and values[7] is not False:
                    return None
                call.return_argmax = values[7]
                call.pool.spatial_scale = number_of(values[3])
                pair_of(values[2], &call.pool.output_height, &call.pool.output_width)
                call.pool.mode = self.modes[values[mode_place]]
                call.pool.layout = self.layouts[values[mode_place + 1]]
            call.input, call.boxes = values[0], values[1]
            call.batch_indices = values[mode_place + 2]
            call.x = self.plain(call.input, b"input")
            call.b = self.plain(call.boxes, b"boxes")
            if call.batch_indices is not None:
                call.i = self.plain(call.batch_indices, b"batch_indices")
        except Exception:
            return None
        return call

    cdef View plain(self, obj, const char* name):
        """The array, or an error if it is not plain."""
        if type(obj) is not self.kind or (self.altered is not None and self.altered(obj)):
            raise TypeError
        if self.make is None:
            return None
        cdef View view = view_of(obj, self.op, name)
        if view.tensor.device.device_type != 1:
            raise TypeError
        return view

    cdef ThreadLimit* new_limit(self) except NULL:
        return new ThreadLimit(0x7fffffff if self.limit is None else self.limit())

    def backward(self, params, grad_output, boxes, batch_indices, other, tuple map_shape):
        """The gradient to the input of a call whose `map_shape` and `params` these are; or None.
        `other` is the input, the argmax or None, as the operator needs it."""
        cdef View g, b, i = None, o = None
        if self.make is None:
            return None
        try:
            g = self.plain(grad_output, b"grad_output")
            b = self.plain(boxes, b"boxes")
            if batch_indices is not None:
                i = self.plain(batch_indices, b"batch_indices")
            if other is not None:
                o = self.plain(other, b"input" if self.aligns else b"argmax")
        except Exception:
            return None
        cdef ThreadLimit* limit = self.new_limit()
        try:
            if self.aligns:
                return new_align_backward(align_params(params), g, b, i, o, map_shape, self.make,
                                          self.dtypes)
            return new_pool_backward(pool_params(params), g, b, i, o, map_shape, self.make,
                                     self.dtypes)
        finally:
            del limit


@cython.freelist(8)
cdef class BoundCall:
    """A call whose arguments are bound."""
    cdef Shortcut shortcut
    cdef RoiAlignParams align
    cdef RoiPoolParams pool
    cdef readonly cbool return_argmax
    cdef readonly object input
    cdef readonly object boxes
    cdef readonly object batch_indices
    cdef View x
    cdef View b
    cdef View i

    def run(self, cbool with_argmax=False):
        """The result; of RoIPool with the argmax, if it is asked for, here or by the caller."""
        if self.x is None:
            raise TypeError("the arrays of this call were not read")
        cdef ThreadLimit* limit = self.shortcut.new_limit()
        try:
            if self.shortcut.aligns:
                return new_align(self.align, self.x, self.b, self.i, self.shortcut.make,
                                 self.shortcut.dtypes)
            with_argmax = with_argmax or self.return_argmax
            pair = new_pool(self.pool, self.x, self.b, self.i, with_argmax, self.shortcut.make,
                            self.shortcut.dtypes)
            return pair if with_argmax else pair[0]
        finally:
            del limit

    def params(self):
        """The fields of the parameters, in the struct's order."""
        if self.shortcut.aligns:
            return (self.align.output_height, self.align.output_width, self.align.spatial_scale,
                    self.align.sampling_height, self.align.sampling_width, self.align.aligned,
                    self.align.mode, self.align.layout)
        return (self.pool.output_height, self.pool.output_width, self.pool.spatial_scale,
                self.pool.mode, self.pool.layout)

    def map_shape(self):
        """The input's images, height, width, and whether its channels lie next to each other; of a
        call that ran here: None of others."""
        if self.x is None:
            return None
        cdef int layout = self.align.layout if self.shortcut.aligns else self.pool.layout
        cdef int64_t* sizes = self.x.tensor.shape
        if layout == 0:
            return sizes[0], sizes[2], sizes[3], has_channels_last(self.x.tensor)
        return sizes[0], sizes[1], sizes[2], False


cdef double number_of(value) except? -1:
    if type(value) is not float and type(value) is not int:
        raise TypeError
    return value


cdef int pair_of(value, int64_t* first, int64_t* second) except -1:
    if type(value) is int:
        first[0] = second[0] = value
        return 0
    if type(value) is not tuple or len(<tuple>value) != 2:
        raise TypeError
    one, other = <tuple>value
    if type(one) is not int or type(other) is not int:
        raise TypeError
    first[0], second[0] = one, other
    return 0
