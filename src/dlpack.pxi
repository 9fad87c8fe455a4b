# Imports arrays: objects with __dlpack__, and NumPy arrays that DLPack refuses, become Views; part
# of _core.pyx.
cdef tuple MAX_VERSION = (1, 3)
# Types whose __dlpack__ takes no max_version. Types are never removed.
cdef set OLD_TYPES = set()
# The ArrayType of every type that was imported. Types are never removed.
cdef dict ARRAY_TYPES = {}


cdef class ArrayType:
    """What a type of arrays offers besides `__dlpack__`. DLPack requires that an exchange API
    belongs to the type and lives as long as the process."""
    cdef DLPackExchangeAPI* api  # or NULL
    cdef object storage  # PyTorch's only: returns the storage, which can be freed or shrunk
    cdef object offset  # PyTorch's only: returns the number of elements before the first


@cython.freelist(8)
cdef class View:
    """One imported array. The object releases what the import acquired when it dies."""
    cdef Tensor tensor
    cdef cbool read_only
    cdef cbool copied
    cdef DLManagedTensor* legacy
    cdef DLManagedTensorVersioned* versioned
    cdef uintptr_t stream  # on CUDA: the stream on which pending work on the array is ordered
    cdef object owner  # the owner of the memory; of joined boxes, the shapes that were passed

    def __dealloc__(self):
        if self.versioned != NULL and self.versioned.deleter != NULL:
            self.versioned.deleter(self.versioned)
        if self.legacy != NULL and self.legacy.deleter != NULL:
            self.legacy.deleter(self.legacy)

    cdef int read_capsule(self, capsule, const char* op, const char* name) except -1:
        if PyCapsule_IsValid(capsule, "dltensor_versioned"):
            self.versioned = <DLManagedTensorVersioned*>PyCapsule_GetPointer(
                capsule, "dltensor_versioned")
            PyCapsule_SetName(capsule, "used_dltensor_versioned")
            self.read_versioned(op, name)
        elif PyCapsule_IsValid(capsule, "dltensor"):
            self.legacy = <DLManagedTensor*>PyCapsule_GetPointer(capsule, "dltensor")
            PyCapsule_SetName(capsule, "used_dltensor")
            self.tensor = read_dltensor(self.legacy.dl_tensor, op, name)
        else:
            raise TypeError(f"{op.decode()}: {name.decode()}: __dlpack__ returned no capsule "
                            f"of DLPack, but {type(capsule).__name__}")
        return 0

    cdef int read_versioned(self, const char* op, const char* name) except -1:
        if self.versioned.version.major != 1:
            raise BufferError(f"{op.decode()}: {name.decode()}: DLPack version "
                              f"{self.versioned.version.major} is not understood")
        self.read_only = (self.versioned.flags & kDLReadOnly) != 0
        self.copied = (self.versioned.flags & kDLIsCopied) != 0
        self.tensor = read_dltensor(self.versioned.dl_tensor, op, name)
        return 0

    cdef int read_array_interface(self, obj, const char* op, const char* name) except -1:
        """Read a NumPy array that DLPack refuses: read-only (NumPy 2.0), or ml_dtypes' bfloat16."""
        array = np.ndarray.view(obj, np.ndarray)  # a subclass may override any attribute
        cdef DLTensor source
        cdef int64_t shape[64]  # NumPy's maximum
        cdef int64_t strides[64]
        cdef int i
        cdef int64_t bytes_per_item = array.itemsize
        kinds = {"f": 2, "i": 0, "u": 1, "b": 6, "c": 5}
        if array.dtype.name == "bfloat16":
            source.dtype.code = 4
        elif array.dtype.kind in kinds and array.dtype.isnative:
            source.dtype.code = kinds[array.dtype.kind]
        else:
            raise TypeError(f"{op.decode()}: {name.decode()} has dtype {array.dtype!r}, which "
                            f"DLPack cannot carry; convert it to a native float type")
        for i in range(array.ndim):
            shape[i] = array.shape[i]
            strides[i] = array.strides[i] // bytes_per_item
            if array.strides[i] % bytes_per_item != 0 and array.shape[i] > 1:
                raise ValueError(f"{op.decode()}: {name.decode()} has strides that are no "
                                 f"multiple of its {bytes_per_item}-byte elements; pass a copy")
        address, self.read_only = array.__array_interface__["data"]
        source.data = <void*><uintptr_t>address
        source.device.device_type = 1
        source.device.device_id = 0
        source.ndim = array.ndim
        source.dtype.bits = <uint8_t>(8 * bytes_per_item)
        source.dtype.lanes = 1
        source.shape = shape
        source.strides = strides
        source.byte_offset = 0
        self.owner = array
        self.tensor = read_dltensor(source, op, name)
        return 0


cdef cbool is_on_cuda(View view):
    return view.tensor.device.device_type in (2, 13)  # device memory, or managed memory


cdef ArrayType array_type(type kind):
    known = ARRAY_TYPES.get(kind)
    if known is not None:
        return known
    cdef ArrayType made = ArrayType.__new__(ArrayType)
    cdef DLPackExchangeAPI* api = NULL
    capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
    if capsule is not None and PyCapsule_IsValid(capsule, "dlpack_exchange_api"):
        api = <DLPackExchangeAPI*>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
        if api.header.version.major != 1 or api.managed_tensor_from_py_object_no_sync == NULL:
            api = NULL
    made.api = api
    made.storage = getattr(kind, "untyped_storage", None)
    made.offset = getattr(kind, "storage_offset", None)
    ARRAY_TYPES[kind] = made
    return made


cdef View exchanged(obj, DLPackExchangeAPI* api, const char* op, const char* name, stream,
                    cbool writable):
    """Import by the exchange API of the type. Return None if it has none, or if the array is on
    CUDA and its library works on another stream: only `__dlpack__` makes one stream wait for the
    other."""
    cdef View view
    cdef DLTensor source
    cdef void* current = NULL
    cdef int status
    if api == NULL:
        return None
    view = View.__new__(View)
    source.ndim = -1  # still -1 if the call exported nothing
    # The cheapest call owns nothing, and does not tell whether the array is read-only.
    cdef cbool owned = writable or api.dltensor_from_py_object_no_sync == NULL
    try:
        if owned:
            status = api.managed_tensor_from_py_object_no_sync(<void*>obj, &view.versioned)
        else:
            status = api.dltensor_from_py_object_no_sync(<void*>obj, &source)
        if status != 0 or (view.versioned == NULL if owned else source.ndim == -1):
            raise BufferError("its exchange API made no tensor and gave no reason")
    except Exception as error:
        raise unreadable(op, name, error) from error
    if owned:
        view.read_versioned(op, name)
    else:
        view.owner = obj
        view.tensor = read_dltensor(source, op, name)
    if is_on_cuda(view):
        if api.current_work_stream != NULL:
            api.current_work_stream(2, view.tensor.device.device_id, &current)
        view.stream = <uintptr_t>current
        if stream is not None and stream_number(view.stream) != stream:
            return None
    return view


cdef stream_number(uintptr_t stream):
    """Return the number that `__dlpack__` takes, in which 1 is CUDA's legacy default stream."""
    return stream or 1


cdef stream_of(View leader):
    """Return the number of the stream for the other arrays of a call."""
    return stream_number(leader.stream) if is_on_cuda(leader) else None


cdef View view_of(obj, const char* op, const char* name, stream=None, cbool writable=False):
    """Import by the exchange API of the type, else by a versioned capsule, else by a legacy one.

    `stream`, if not None, is the number of the CUDA stream on which the array will be used. The
    view is sure to know whether the array is read-only only if `writable`."""
    cdef ArrayType known = array_type(type(obj))
    cdef View view = exchanged(obj, known.api, op, name, stream, writable)
    if view is None:
        view = exported(obj, op, name, stream)
    if known.storage is not None:
        check_held(view, known, obj, op, name)
    return check_memory(view, op, name)


cdef View view_of_new(obj, const char* op):
    """Import a result that was made for this call, whose storage needs no check."""
    cdef ArrayType known = array_type(type(obj))
    cdef View view = exchanged(obj, known.api, op, b"the result", None, False)
    return check_memory(exported(obj, op, b"the result", None) if view is None else view, op,
                        b"the result")


cdef View exported(obj, const char* op, const char* name, stream):
    """Import by `__dlpack__`."""
    cdef type kind = type(obj)
    cdef View view = View.__new__(View)
    export = getattr(obj, "__dlpack__", None)
    if export is None or isinstance(obj, type):
        raise TypeError(f"{op.decode()}: {name.decode()} must be an array (an object with "
                        f"__dlpack__), got {kind.__name__}")
    if stream is not None and obj.__dlpack_device__()[0] in (2, 13):
        view.stream = 0 if stream == 1 else stream
    else:
        stream = None
    try:
        capsule = None
        if kind not in OLD_TYPES:
            try:
                if stream is None:
                    capsule = export(max_version=MAX_VERSION)
                else:
                    capsule = export(max_version=MAX_VERSION, stream=stream)
            except TypeError:
                OLD_TYPES.add(kind)
        if capsule is None:
            capsule = export() if stream is None else export(stream=stream)
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(obj, np.ndarray):
            view.read_array_interface(obj, op, name)
            return view
        raise unreadable(op, name, error) from error
    view.read_capsule(capsule, op, name)
    return view


cdef int check_held(View view, ArrayType known, obj, const char* op, const char* name) except -1:
    """Check that the memory under the array was not freed or shrunk, which DLPack does not report.
    """
    cdef int64_t held, offset
    try:
        held = len(known.storage(obj))
        offset = known.offset(obj)
    except Exception:
        return 0  # a wrapper of tensors may have no storage, and then none is resized
    check_storage(op, name, view.tensor, offset, held)
    return 0


cdef unreadable(const char* op, const char* name, error):
    # The first line of PyTorch's message is the reason; a stack of C++ frames follows.
    lines = str(error).splitlines() or [type(error).__name__]
    return TypeError(f"{op.decode()}: {name.decode()} cannot be read through DLPack: {lines[0]}")


cdef View check_memory(View view, const char* op, const char* name):
    if view.tensor.data == NULL and not view.tensor.empty():
        raise ValueError(f"{op.decode()}: {name.decode()} has a shape but no memory "
                         f"(a fake or meta tensor?)")
    return view


cdef View view_or_none(obj, const char* op, const char* name, stream=None):
    return None if obj is None else view_of(obj, op, name, stream)


cdef View writable_view_of(obj, const char* op, const char* name, stream=None):
    cdef View view = view_of(obj, op, name, stream, True)
    if view.read_only:
        raise ValueError(f"{op.decode()}: {name.decode()} is read-only")
    if view.copied:
        raise ValueError(f"{op.decode()}: {name.decode()} is exported as a copy, which would take "
                         f"the result with it")
    return view
