// Compiled by tests/test_dlpack.py: src/abi/dlpack.h agrees with the official dlpack.h, or this is
// no C++.
#include <dlpack/dlpack.h>

#include <cstddef>
#include <type_traits>

#include "abi/dlpack.h"

namespace ours = roidl::abi;

#define SAME_SIZE(type)                                                                         \
  static_assert(sizeof(ours::type) == sizeof(::type) && alignof(ours::type) == alignof(::type), \
                "size or alignment of " #type)
#define SAME_FIELD(type, field)                                           \
  static_assert(offsetof(ours::type, field) == offsetof(::type, field) && \
                    sizeof(ours::type::field) == sizeof(::type::field),   \
                #type "." #field)
#define SAME_VALUE(name) static_assert(int{ours::name} == int{::name}, #name)

SAME_VALUE(kDLCPU);
SAME_VALUE(kDLCUDA);
SAME_VALUE(kDLCUDAHost);
SAME_VALUE(kDLInt);
SAME_VALUE(kDLUInt);
SAME_VALUE(kDLFloat);
SAME_VALUE(kDLBfloat);
static_assert(ours::kDLReadOnly == DLPACK_FLAG_BITMASK_READ_ONLY, "kDLReadOnly");
static_assert(sizeof(ours::DLDeviceType) == sizeof(::DLDeviceType), "DLDeviceType");

SAME_SIZE(DLDevice);
SAME_FIELD(DLDevice, device_type);
SAME_FIELD(DLDevice, device_id);

SAME_SIZE(DLDataType);
SAME_FIELD(DLDataType, code);
SAME_FIELD(DLDataType, bits);
SAME_FIELD(DLDataType, lanes);

SAME_SIZE(DLTensor);
SAME_FIELD(DLTensor, data);
SAME_FIELD(DLTensor, device);
SAME_FIELD(DLTensor, ndim);
SAME_FIELD(DLTensor, dtype);
SAME_FIELD(DLTensor, shape);
SAME_FIELD(DLTensor, strides);
SAME_FIELD(DLTensor, byte_offset);

SAME_SIZE(DLPackVersion);
SAME_FIELD(DLPackVersion, major);
SAME_FIELD(DLPackVersion, minor);

SAME_SIZE(DLManagedTensor);
SAME_FIELD(DLManagedTensor, dl_tensor);
SAME_FIELD(DLManagedTensor, manager_ctx);
SAME_FIELD(DLManagedTensor, deleter);

SAME_SIZE(DLManagedTensorVersioned);
SAME_FIELD(DLManagedTensorVersioned, version);
SAME_FIELD(DLManagedTensorVersioned, manager_ctx);
SAME_FIELD(DLManagedTensorVersioned, deleter);
SAME_FIELD(DLManagedTensorVersioned, flags);
SAME_FIELD(DLManagedTensorVersioned, dl_tensor);

SAME_SIZE(DLPackExchangeAPIHeader);
SAME_FIELD(DLPackExchangeAPIHeader, version);
SAME_FIELD(DLPackExchangeAPIHeader, prev_api);

SAME_SIZE(DLPackExchangeAPI);
SAME_FIELD(DLPackExchangeAPI, header);
SAME_FIELD(DLPackExchangeAPI, managed_tensor_allocator);
SAME_FIELD(DLPackExchangeAPI, managed_tensor_from_py_object_no_sync);
SAME_FIELD(DLPackExchangeAPI, managed_tensor_to_py_object_no_sync);
SAME_FIELD(DLPackExchangeAPI, dltensor_from_py_object_no_sync);
SAME_FIELD(DLPackExchangeAPI, current_work_stream);

// The one entry that is called takes and returns what ours does, by the C calling convention.
static_assert(std::is_same_v<decltype(::DLPackExchangeAPI::managed_tensor_from_py_object_no_sync),
                             int (*)(void*, ::DLManagedTensorVersioned**)>,
              "managed_tensor_from_py_object_no_sync");
