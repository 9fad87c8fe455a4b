# The C++ declarations of the core's functions that _core.pyx calls.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libcpp cimport bool as cbool


cdef extern from "abi/dlpack.h" namespace "roidl::abi" nogil:
    const uint64_t kDLReadOnly
    const uint64_t kDLIsCopied
    ctypedef struct DLDevice:
        int32_t device_type
        int32_t device_id
    ctypedef struct DLDataType:
        uint8_t code
        uint8_t bits
        uint16_t lanes
    ctypedef struct DLTensor:
        void* data
        DLDevice device
        int32_t ndim
        DLDataType dtype
        int64_t* shape
        int64_t* strides
        uint64_t byte_offset
    ctypedef struct DLPackVersion:
        uint32_t major
        uint32_t minor
    ctypedef struct DLManagedTensor:
        DLTensor dl_tensor
        void (*deleter)(DLManagedTensor*) noexcept
    ctypedef struct DLManagedTensorVersioned:
        DLPackVersion version
        void (*deleter)(DLManagedTensorVersioned*) noexcept
        uint64_t flags
        DLTensor dl_tensor
    ctypedef struct DLPackExchangeAPIHeader:
        DLPackVersion version
        DLPackExchangeAPIHeader* prev_api
    ctypedef struct DLPackExchangeAPI:
        DLPackExchangeAPIHeader header
        int (*managed_tensor_from_py_object_no_sync)(void*, DLManagedTensorVersioned**) except *
        int (*dltensor_from_py_object_no_sync)(void*, DLTensor*) except *
        int (*current_work_stream)(int32_t, int32_t, void**) except *

cdef extern from "python_error.h" namespace "roidl" nogil:
    void raise_python_error()
    ctypedef struct Lender:
        pass
    cppclass PythonLender:
        char* (*give)(void*, int64_t) except NULL with gil
        void* array
        Lender lender()

cdef extern from "python_signals.h" namespace "roidl" nogil:
    cppclass AnswersSignals:
        void begin()
    cppclass RaisedByHandler:
        cbool throw_ "raise"()
    RaisedByHandler raised_by_handler

cdef extern from "floating_point.h" namespace "roidl" nogil:
    cppclass FloatingPoint:
        FloatingPoint()

cdef extern from "tensor.h" namespace "roidl" nogil:
    ctypedef struct Shape:
        int ndim
        int64_t* size
    cppclass Tensor:
        void* data
        DLDevice device
        DLDataType dtype
        int ndim
        int64_t* shape
        int64_t* strides
        cbool empty()
    Shape shape_of(const Tensor&)
    Tensor read_dltensor(const DLTensor&, const char*, const char*) except +raise_python_error
    void check_storage(
        const char*, const char*, const Tensor&, int64_t, int64_t) except +raise_python_error

cdef extern from "memory_order.h" namespace "roidl" nogil:
    cbool has_channels_last(const Tensor&)
    void dense_strides(const Shape&, cbool, int64_t*)

cdef extern from "check.h" namespace "roidl" nogil:
    void check_float(const char*, const char*, const Tensor&) except +raise_python_error
    void check_same_device(
        const char*, const char*, const Tensor&, DLDevice) except +raise_python_error

cdef extern from "boxes.h" namespace "roidl" nogil:
    void check_listed_boxes(const char*, const Tensor&, int64_t) except +raise_python_error
    void check_listed_on_host(const char*, const Tensor&) except +raise_python_error
    void check_list_length(const char*, int64_t, int64_t) except +raise_python_error
    void join_boxes[T](const Tensor&, int32_t, T*, int32_t*) except +raise_python_error

cdef extern from "problem.h" namespace "roidl" nogil:
    cppclass Problem:
        int64_t rois
        int64_t images
        void* stream
        Lender lender
        cbool double_coordinates
    Shape pooled_shape(const Problem&) except +raise_python_error
    Shape input_shape(const Problem&)

    const int kMaxMaps
    cppclass Maps:
        int count
        const Tensor** tensors
        Maps()
        Maps(const Tensor*)
        Maps(const char*, const Tensor*, int64_t) except +raise_python_error
    cppclass Pyramid:
        double* scales
        double canonical_scale
        double canonical_level
        const Tensor* levels
        const Tensor* counts

cdef extern from "operators.h" namespace "roidl" nogil:
    const int64_t kCatalogueVersion
    const int kNumFamilies
    const int kNumOperators
    const int kMaxReads
    const int kMaxWrites
    const int kMaxModes
    enum class Family(int32_t):
        pass
    enum class Op(int32_t):
        none
    enum class Role(int32_t):
        maps
        pooled
        boxes
        argmax
    enum class Need(int32_t):
        of_maximum
    enum class Linear(int32_t):
        pass
    enum class RuleKind "roidl::Rule::Kind"(int32_t):
        pass
    ctypedef struct Rule:
        RuleKind kind
        Op op
        const char* at
        cbool only_average
    ctypedef struct Read:
        const char* name
        Role role
        Need need
        Linear linear
        Rule derivative
        Rule transpose
    ctypedef struct Write:
        const char* name
        Role role
        cbool optional
    cppclass Operator:
        Op op
        const char* name
        Family family
        Read* reads
        Write* writes
        Rule boxes
        uint32_t modes
        Op in_average
        int num_reads()
        int num_writes()
    ctypedef struct FamilyInfo:
        const char* name
        int columns
        const char** modes
        int average
        cbool channels_per_bin
    const Operator* kOperators
    const FamilyInfo* kFamilies
    uint32_t modes_with_box_gradient(Family)

cdef extern from "pyramid.h" namespace "roidl" nogil:
    void c_assign_levels "roidl::assign_levels"(
        const char*, const Pyramid&, int, const Tensor&, int32_t*, void*,
    ) except +raise_python_error

cdef extern from "run.h" namespace "roidl" nogil:
    ctypedef struct Field:
        const char* name
        char kind
    const int kMaxFields
    int fields_of(Family, Field*)
    ctypedef struct Number:
        int64_t whole
        double real
    cppclass AnyParams:
        pass
    AnyParams params_from(Family, const Number*)
    int32_t layout_of(const AnyParams&)
    cbool is_average(const Operator&, const AnyParams&)
    cppclass AnyProblem:
        pass
    void c_describe "roidl::describe"(
        AnyProblem&, const Operator&, const char*, const AnyParams&, const Maps&, const Tensor&,
        const Tensor*, const Pyramid*,
    ) except +raise_python_error
    Problem& base_of(AnyProblem&)
    Tensor map_like(
        const Operator&, const char*, const AnyParams&, const Tensor&, const Tensor&, int64_t,
        int64_t, int64_t,
    ) except +raise_python_error
    cppclass Arrays:
        Maps* reads
        Maps* writes
    void c_run "roidl::run"(
        const Operator&, AnyProblem&, const Tensor&, const Arrays&,
    ) except +raise_python_error
    int64_t c_cuda_workspace "roidl::cuda_workspace"(
        const Operator&, AnyProblem&) except +raise_python_error

cdef extern from "device_library.h" namespace "roidl" nogil:
    cppclass DeviceLibrary:
        const char* architectures
        const char* (*why_unusable)()
    const DeviceLibrary* cuda_library() except +raise_python_error
    cbool c_get_check_boxes "roidl::get_check_boxes"()
    void c_set_check_boxes "roidl::set_check_boxes"(cbool)

cdef extern from "cpu/parallel.h" namespace "roidl::cpu" nogil:
    cppclass ThreadLimit:
        ThreadLimit(int) except +raise_python_error
    int c_get_num_threads "roidl::cpu::get_num_threads"() except +raise_python_error
    void c_set_num_threads "roidl::cpu::set_num_threads"(int)

cdef extern from "cpu/isa.h" namespace "roidl::cpu" nogil:
    ctypedef struct InstructionSet:
        const char* name
        cbool stress
    const InstructionSet& instruction_set() except +raise_python_error
