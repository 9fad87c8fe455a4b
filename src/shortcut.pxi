# The fast path of public functions: the arguments of most calls are bound in compiled code, by the
# signature of the function and the catalogue; part of _core.pyx.

cdef object REQUIRED = object()

cdef enum Source:  # where the value of a field comes from
    PAIR, NUMBER, FLAG, CHOICE


@cython.final
cdef class Parameter:
    """The argument that a field of the parameters is read from, and how."""
    cdef Source source
    cdef Py_ssize_t place  # index of the argument
    cdef int field
    cdef dict choices


cdef class Shortcut:
    """Binds the arguments of an operator on one map if they are what most calls pass: plain arrays
    of one type in CPU memory, and numbers of Python's own types. Everything else, mistakes
    included, is left to the general path. Without `make` the caller runs the call: arrays are then
    checked for their type, but not read."""
    cdef const Operator* row
    cdef const Operator* backward_row  # the transpose along the first read
    cdef bytes op
    cdef bytes backward_op
    cdef object kind
    cdef object make
    cdef dict dtypes
    cdef object limit
    cdef object altered
    cdef dict places
    cdef list defaults
    cdef list parameters  # list of Parameter
    cdef Py_ssize_t num_positional
    cdef Py_ssize_t place_of_boxes
    cdef Py_ssize_t place_of_indices
    cdef Py_ssize_t place_of_flag  # the flag for the optional result; -1 if there is none
    cdef Py_ssize_t out_place  # behind all others if there is no out

    def __init__(self, str op, signature, kind, make, dict dtypes, dict choices, limit=None,
                 altered=None):
        """`signature` is the function's `inspect.Signature`. `make(shape, strides, dtypes[name])`
        makes a result; `limit()` returns how many threads may be used; `altered(array)` tells
        whether the values of an array differ from those in its memory. `choices` maps a field to
        the numbers of its words."""
        self.op = op.encode()
        self.row = row_of(op)
        self.backward_row = &kOperators[<int>self.row.reads[0].transpose.op]
        self.backward_op = self.backward_row.name
        self.kind, self.make, self.dtypes = kind, make, dtypes
        self.limit, self.altered = limit, altered
        given = list(signature.parameters.values())
        self.places = {each.name: place for place, each in enumerate(given)}
        self.defaults = [REQUIRED if each.default is each.empty else each.default
                         for each in given]
        self.num_positional = len([each for each in given if each.kind != each.KEYWORD_ONLY])
        self.out_place = self.places.get("out", len(given))
        self.place_of_boxes = self.places["boxes"]
        self.place_of_indices = self.places["batch_indices"]
        self.place_of_flag = -1
        if self.row.num_writes() > 1:
            self.place_of_flag = self.places["return_" + self.row.writes[1].name.decode()]
        self.parameters = [self.parameter(number, name, field_kind, choices)
                           for number, (name, field_kind)
                           in enumerate(param_fields(<int>self.row.family))]

    def parameter(self, int field, str name, str kind, dict choices):
        """Return how a field is read."""
        cdef Parameter parameter = Parameter.__new__(Parameter)
        axis = name.rpartition("_")[2]
        argument = name
        parameter.source = FLAG if kind == "bool" else NUMBER
        if axis in ("height", "width"):
            parameter.source = PAIR
            argument = {"output": "output_size", "sampling": "sampling_ratio"}[
                name[:-len(axis) - 1]]
        elif name in choices:
            parameter.source, parameter.choices = CHOICE, choices[name]
        parameter.place, parameter.field = self.places[argument], field
        return parameter

    def bind(self, tuple args, dict kwargs):
        """Return the call, ready to be run, or None."""
        cdef Py_ssize_t place, given = len(args)
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
        if self.out_place < len(values) and values[self.out_place] is not None:
            return None
        call = BoundCall.__new__(BoundCall)
        call.shortcut = self
        try:
            self.read_params(call, values)
            if self.place_of_flag >= 0:
                call.return_argmax = flag_of(values[self.place_of_flag])
            call.input, call.boxes = values[0], values[self.place_of_boxes]
            call.batch_indices = values[self.place_of_indices]
            call.x = self.plain(call.input, b"input")
            call.b = self.plain(call.boxes, b"boxes")
            if call.batch_indices is not None:
                call.i = self.plain(call.batch_indices, b"batch_indices")
        except Exception:
            return None
        return call

    cdef int read_params(self, BoundCall call, list values) except -1:
        cdef Parameter parameter
        cdef int axis
        for parameter in self.parameters:
            value = values[parameter.place]
            if parameter.source == PAIR:
                # The height comes before the width.
                axis = 1 if call.last_pair == parameter.place else 0
                call.numbers[parameter.field].whole = size_of(value, axis)
                call.last_pair = parameter.place
            elif parameter.source == NUMBER:
                call.numbers[parameter.field].real = number_of(value)
            elif parameter.source == FLAG:
                call.numbers[parameter.field].whole = flag_of(value)
            else:
                call.numbers[parameter.field].whole = parameter.choices[value]
        return 0

    cdef View plain(self, obj, const char* name):
        """Return a view of the array, or raise an error if it is not plain."""
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

    cdef new_array(self, const Shape& shape, cbool channels_last, dtype):
        cdef int64_t strides[64]
        dense_strides(shape, channels_last, strides)
        return self.make(shape_tuple(shape),
                         tuple([strides[axis] for axis in range(shape.ndim)]), self.dtypes[dtype])

    def backward(self, params, grad_output, boxes, batch_indices, other, tuple map_shape):
        """Return the gradient to the input of a call with this `map_shape` and these `params`, or
        None if the arrays are not plain. `other` is the second array that the gradient reads, or
        None."""
        cdef View g, b, i = None, o = None
        cdef CoreCall call = CoreCall.__new__(CoreCall)
        if self.make is None:
            return None
        call.begin(self.backward_row, self.backward_op,
                   params_of_tuple(self.row.family, params), None)
        try:
            g = self.plain(grad_output, self.backward_row.reads[0].name)
            call.take_read(0, g, Maps(&g.tensor))
            b = self.plain(boxes, b"boxes")
            if batch_indices is not None:
                i = self.plain(batch_indices, b"batch_indices")
            if other is not None:
                o = self.plain(other, self.backward_row.reads[1].name)
                call.take_read(1, o, Maps(&o.tensor))
        except Exception:
            return None
        cdef View map = View.__new__(View), y
        map.tensor = map_like(self.backward_row[0], self.backward_op, call.params, g.tensor,
                              b.tensor, map_shape[0], map_shape[1], map_shape[2])
        call.take_maps(map, Maps(&map.tensor))
        cdef ThreadLimit* limit = self.new_limit()
        try:
            call.describe(b, i)
            result = self.new_array(input_shape(base_of(call.problem)), map_shape[3],
                                    dtype_name(g.tensor))
            y = view_of_new(result, self.backward_op)
            call.arrays.writes[0] = Maps(&y.tensor)
            call.run()
        finally:
            del limit
        return result


@cython.freelist(8)
cdef class BoundCall:
    """A call whose arguments are bound."""
    cdef Shortcut shortcut
    cdef Number numbers[16]  # the parameters
    cdef Py_ssize_t last_pair
    cdef readonly cbool return_argmax
    cdef readonly object input
    cdef readonly object boxes
    cdef readonly object batch_indices
    cdef View x
    cdef View b
    cdef View i

    def __cinit__(self):
        self.last_pair = -1

    def run(self, cbool with_argmax=False):
        """Return the result, with the optional one if this call or the caller of the function asks
        for it."""
        if self.x is None:
            raise TypeError("the arrays of this call were not read")
        cdef Shortcut shortcut = self.shortcut
        cdef CoreCall call = CoreCall.__new__(CoreCall)
        cdef const Operator* row = shortcut.row
        cdef AnyParams params = params_from(row.family, self.numbers)
        cdef Shape shape
        cdef View y, z
        cdef cbool channels_last = layout_of(params) == 0 and has_channels_last(self.x.tensor)
        cdef ThreadLimit* limit = shortcut.new_limit()
        optional = None
        try:
            call.begin(row, shortcut.op, params, None)
            call.take_read(0, self.x, Maps(&self.x.tensor))
            call.describe(self.b, self.i)
            shape = pooled_shape(base_of(call.problem))
            result = shortcut.new_array(shape, channels_last, dtype_name(self.x.tensor))
            y = view_of_new(result, shortcut.op)
            call.arrays.writes[0] = Maps(&y.tensor)
            if with_argmax or self.return_argmax:
                optional = shortcut.new_array(shape, channels_last, "int32")
                z = view_of_new(optional, shortcut.op)
                call.arrays.writes[1] = Maps(&z.tensor)
            call.run()
        finally:
            del limit
        return result if optional is None else (result, optional)

    def params(self):
        """Return the fields of the parameters, in order."""
        cdef int family = <int>self.shortcut.row.family, i
        fields = []
        for i in range(PARAM_KINDS.counts[family]):
            kind = PARAM_KINDS.kinds[family][i]
            if kind == b"f":
                fields.append(self.numbers[i].real)
            else:
                fields.append(bool(self.numbers[i].whole) if kind == b"b" else
                              self.numbers[i].whole)
        return tuple(fields)

    @property
    def is_average(self):
        """Return whether the operator is linear in its input."""
        return is_average(self.shortcut.row[0], params_from(self.shortcut.row.family, self.numbers))

    def map_shape(self):
        """Return the images, height and width of the input, and whether its channels are neighbours
        in memory. Return None if the call did not run here."""
        if self.x is None:
            return None
        cdef int layout = layout_of(params_from(self.shortcut.row.family, self.numbers))
        cdef int64_t* sizes = self.x.tensor.shape
        if layout == 0:
            return sizes[0], sizes[2], sizes[3], has_channels_last(self.x.tensor)
        return sizes[0], sizes[1], sizes[2], False


cdef double number_of(value) except? -1:
    if type(value) is not float and type(value) is not int:
        raise TypeError
    return value


cdef int flag_of(value) except -1:
    if value is not True and value is not False:
        raise TypeError
    return value is True


cdef int64_t size_of(value, int axis) except? -1:
    """Return a size from an integer, or from a pair (height, width)."""
    if type(value) is tuple and len(<tuple>value) == 2:
        value = (<tuple>value)[axis]
    if type(value) is not int:
        raise TypeError
    return value
