# cython: language_level=3, freethreading_compatible=True, binding=True
# distutils: language=c++
"""The binding to Python: arrays in through DLPack, errors out as Python's own."""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_SetName
from core_api cimport *
from libc.stdint cimport int32_t, int64_t, uint8_t, uintptr_t
from libcpp cimport bool as cbool

import numpy as np

include "dlpack.pxi"
include "listed_boxes.pxi"


cdef inline const Tensor* tensor_or_null(View view):
    if view is None:
        return NULL
    return &view.tensor


cdef stream_asked(device):
    """Return the stream that the front end gives for its arrays, or None."""
    return None if device is None else device.stream


cdef class Scratch:
    """CUDA memory that the arrays' library lends to one call."""
    cdef PythonLender lender
    cdef object empty  # the function of Device
    cdef uintptr_t stream
    cdef View memory


cdef char* lend_scratch(void* scratch, int64_t size) except NULL with gil:
    cdef Scratch lent = <Scratch>scratch
    array = lent.empty((size,), "uint8")
    lent.memory = view_of(array, b"roidl", b"scratch memory", stream_number(lent.stream))
    return <char*>lent.memory.tensor.data


cdef Scratch place_of(Problem& problem, View leader, device):
    """Set the stream and the lender of a problem. The returned object must live until it has run.
    """
    cdef Scratch scratch = None
    problem.stream = <void*>leader.stream
    if device is not None and device.empty is not None:
        scratch = Scratch.__new__(Scratch)
        scratch.empty = device.empty
        scratch.stream = leader.stream
        scratch.lender.give = lend_scratch
        scratch.lender.array = <void*>scratch
        problem.lender = scratch.lender.lender()
    return scratch


cdef tuple shape_tuple(const Shape& shape):
    return tuple([shape.size[i] for i in range(shape.ndim)])


cdef str dtype_name(const Tensor& tensor):
    """Return the name of a dtype that check_float accepted."""
    if tensor.dtype.bits == 32:
        return "float32"
    if tensor.dtype.bits == 64:
        return "float64"
    return "bfloat16" if tensor.dtype.code == 4 else "float16"


cdef class MapList:
    """The maps of one call: one array, or as many as a pyramid has levels."""
    cdef Maps given  # of the views, at most kMaxMaps
    cdef list views

    cdef Maps maps(self, const char* op) except *:
        if not 1 <= len(self.views) <= kMaxMaps:
            return Maps(op, NULL, len(self.views))  # raises an error
        return self.given

    cdef View first(self):
        return self.views[0]


cdef MapList maps_from(list views):
    cdef MapList result = MapList.__new__(MapList)
    cdef View view
    cdef int i
    result.views = views
    result.given.count = min(len(views), kMaxMaps)
    for i in range(result.given.count):
        view = views[i]
        result.given.tensors[i] = &view.tensor
    return result


cdef MapList maps_of(arrays, const char* op, const char* name, PyramidView pyramid, stream=None,
                     cbool writable=False):
    if pyramid is None:
        return maps_from([writable_view_of(arrays, op, name, stream) if writable else
                          view_of(arrays, op, name, stream)])
    views = []
    for i, array in enumerate(arrays):
        each = f"{name.decode()}[{i}]".encode()
        views.append(writable_view_of(array, op, each, stream) if writable else
                     view_of(array, op, each, stream))
    return maps_from(views)


cdef MapList shaped_like(View leader, input_shape, const char* op, PyramidView pyramid):
    """Return inputs without data from their shapes, tuples of integers; dtype and device are the
    leader's."""
    if pyramid is None:
        return maps_from([one_shaped_like(leader, input_shape, op, "input_shape")])
    return maps_from([one_shaped_like(leader, shape, op, f"input_shapes[{number}]")
                      for number, shape in enumerate(input_shape)])


cdef View one_shaped_like(View leader, tuple sizes, const char* op, str name):
    cdef View view = View.__new__(View)
    cdef int i
    if len(sizes) != 4 or any(not 0 <= size < 2**59 for size in sizes):
        raise ValueError(f"{op.decode()}: {name} must be four sizes, got {sizes!r}")
    view.tensor = leader.tensor
    view.stream = leader.stream
    view.tensor.data = NULL
    view.tensor.ndim = 4
    for i in range(4):
        view.tensor.shape[i] = sizes[i]
        view.tensor.strides[i] = 0
    return view


cdef class PyramidView:
    """The assignment of boxes to maps, from Python's Pyramid."""
    cdef Pyramid pyramid
    cdef View levels
    cdef View counts


cdef PyramidView pyramid_view(pyramid, const char* op, stream=None, cbool described=False):
    """Return the view of a pyramid of arrays, or of their metadata if they are only `described`."""
    cdef PyramidView view
    cdef int i
    if pyramid is None:
        return None
    view = PyramidView.__new__(PyramidView)
    for i, scale in enumerate(pyramid.scales[:kMaxMaps]):
        view.pyramid.scales[i] = scale
    view.pyramid.canonical_scale = pyramid.canonical_scale
    view.pyramid.canonical_level = pyramid.canonical_level
    if not described:
        view.levels = view_or_none(pyramid.levels, op, b"levels", stream)
        view.counts = view_or_none(pyramid.counts, op, b"counts", stream)
    else:
        view.levels = described_or_none(pyramid.levels, op, b"levels")
        view.counts = described_or_none(pyramid.counts, op, b"counts")
    view.pyramid.levels = tensor_or_null(view.levels)
    view.pyramid.counts = tensor_or_null(view.counts)
    return view


cdef inline const Pyramid* pyramid_or_null(PyramidView view):
    if view is None:
        return NULL
    return &view.pyramid


include "catalogue.pxi"
include "call.pxi"


def assign_levels(bytes op, boxes, pyramid, allocate=None, device=None):
    """Return the index of the map of every box, in the shape of the boxes without their columns, as
    an array that `allocate` makes, or a NumPy array."""
    cdef PyramidView p = pyramid_view(pyramid, op, None)
    cdef View b = view_of(boxes, op, b"boxes", stream_asked(device))
    shape = tensor_shape(b)[:-1]
    levels = np.empty(shape, np.int32) if allocate is None else allocate(shape, "int32")
    cdef View y = view_of(levels, op, b"levels", stream_of(b))
    cdef int count = len(pyramid.scales)
    cdef void* stream = <void*>b.stream
    cdef const char* name = op
    check_same_device(op, b"levels", y.tensor, b.tensor.device)
    cdef AnswersSignals handlers
    handlers.begin()
    with nogil:
        c_assign_levels(name, p.pyramid, count, b.tensor, <int32_t*>y.tensor.data, stream)
    return levels


include "shortcut.pxi"
include "shapes_alone.pxi"


# ---- the process -------------------------------------------------------------------------------

def answering_signals(function, *args):
    """Return function(*args), and run Python's signal handlers meanwhile: kernels that another
    library calls on this thread may take long. The exception of a handler is raised here."""
    cdef AnswersSignals handlers
    handlers.begin()
    try:
        return function(*args)
    except BaseException:
        raise_from_handler()
        raise


cdef int raise_from_handler() except -1:
    return -1 if raised_by_handler.throw_() else 0


def rounded(array, str dtype):
    """Return array.astype(dtype), rounded as the core rounds, whatever the mode of this thread."""
    cdef FloatingPoint* mode = new FloatingPoint()
    try:
        return array.astype(dtype)
    finally:
        del mode


def get_num_threads():
    return c_get_num_threads()


def set_num_threads(int threads):
    c_set_num_threads(threads)


def get_check_boxes():
    return c_get_check_boxes()


def set_check_boxes(cbool check):
    c_set_check_boxes(check)


def cuda_info():
    """Return whether the CUDA library exists, why it cannot be used (or None), and its
    architectures."""
    cdef const DeviceLibrary* library = cuda_library()
    if library == NULL:
        return False, "it is not built", ""
    cdef const char* reason = library.why_unusable()
    return True, None if reason == NULL else reason.decode(), library.architectures.decode()


def instruction_set_name():
    return instruction_set().name.decode()


def is_stress_build():
    return instruction_set().stress
