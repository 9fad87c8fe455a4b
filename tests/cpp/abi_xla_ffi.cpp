// Compiled by tests/test_jax.py: src/abi/xla_ffi.h agrees with the official c_api.h, or this is no
// C++.
#include "abi/xla_ffi.h"

#include <xla/ffi/api/c_api.h>

#include <cstddef>
#include <type_traits>

namespace ours = roidl::abi::xla;

// Ours may end before theirs does.
#define SAME_FIELD(type, theirs, field)                                   \
  static_assert(offsetof(ours::type, field) == offsetof(theirs, field) && \
                    sizeof(ours::type::field) == sizeof(theirs::field),   \
                #type "." #field)
#define SAME_FUNCTION(name)                                                           \
  static_assert(offsetof(ours::Api, name) == offsetof(XLA_FFI_Api, XLA_FFI_##name) && \
                    sizeof(ours::Api::name) == sizeof(XLA_FFI_Api::XLA_FFI_##name),   \
                #name)
#define SAME_VALUE(ours_, theirs) static_assert(int{ours::ours_} == int{theirs}, #theirs)
#define SAME_DTYPE(name, theirs) SAME_VALUE(name, XLA_FFI_DataType_##theirs)

SAME_VALUE(kMetadata, XLA_FFI_Extension_Metadata);
SAME_VALUE(kInvalidArgument, XLA_FFI_Error_Code_INVALID_ARGUMENT);
SAME_VALUE(kResourceExhausted, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
SAME_VALUE(kUnimplemented, XLA_FFI_Error_Code_UNIMPLEMENTED);
SAME_VALUE(kInternal, XLA_FFI_Error_Code_INTERNAL);
SAME_VALUE(kScalar, XLA_FFI_AttrType_SCALAR);
SAME_VALUE(kInitialize, XLA_FFI_ExecutionStage_INITIALIZE);
SAME_VALUE(kExecute, XLA_FFI_ExecutionStage_EXECUTE);
SAME_VALUE(kCommandBufferCompatible, XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE);
SAME_DTYPE(kPred, PRED);
SAME_DTYPE(kS8, S8);
SAME_DTYPE(kS16, S16);
SAME_DTYPE(kS32, S32);
SAME_DTYPE(kS64, S64);
SAME_DTYPE(kU8, U8);
SAME_DTYPE(kU16, U16);
SAME_DTYPE(kU32, U32);
SAME_DTYPE(kU64, U64);
SAME_DTYPE(kF16, F16);
SAME_DTYPE(kF32, F32);
SAME_DTYPE(kF64, F64);
SAME_DTYPE(kBF16, BF16);
SAME_DTYPE(kC64, C64);
SAME_DTYPE(kC128, C128);

// Its name changed with jaxlib 0.12, as did those of functions that are not called.
using TheirExtension = std::remove_pointer_t<decltype(XLA_FFI_Buffer::extension_start)>;
SAME_FIELD(Extension, TheirExtension, struct_size);
SAME_FIELD(Extension, TheirExtension, type);
SAME_FIELD(Extension, TheirExtension, next);

SAME_FIELD(Buffer, XLA_FFI_Buffer, extension_start);
SAME_FIELD(Buffer, XLA_FFI_Buffer, dtype);
SAME_FIELD(Buffer, XLA_FFI_Buffer, data);
SAME_FIELD(Buffer, XLA_FFI_Buffer, rank);
SAME_FIELD(Buffer, XLA_FFI_Buffer, dims);

SAME_FIELD(ByteSpan, XLA_FFI_ByteSpan, ptr);
SAME_FIELD(ByteSpan, XLA_FFI_ByteSpan, len);

SAME_FIELD(Scalar, XLA_FFI_Scalar, dtype);
SAME_FIELD(Scalar, XLA_FFI_Scalar, value);

SAME_FIELD(Args, XLA_FFI_Args, size);
SAME_FIELD(Args, XLA_FFI_Args, types);
SAME_FIELD(Args, XLA_FFI_Args, args);

SAME_FIELD(Rets, XLA_FFI_Rets, size);
SAME_FIELD(Rets, XLA_FFI_Rets, types);
SAME_FIELD(Rets, XLA_FFI_Rets, rets);

SAME_FIELD(Attrs, XLA_FFI_Attrs, size);
SAME_FIELD(Attrs, XLA_FFI_Attrs, types);
SAME_FIELD(Attrs, XLA_FFI_Attrs, names);
SAME_FIELD(Attrs, XLA_FFI_Attrs, attrs);

SAME_FIELD(CallFrame, XLA_FFI_CallFrame, extension_start);
SAME_FIELD(CallFrame, XLA_FFI_CallFrame, api);
SAME_FIELD(CallFrame, XLA_FFI_CallFrame, ctx);
SAME_FIELD(CallFrame, XLA_FFI_CallFrame, stage);
SAME_FIELD(CallFrame, XLA_FFI_CallFrame, args);
SAME_FIELD(CallFrame, XLA_FFI_CallFrame, rets);
SAME_FIELD(CallFrame, XLA_FFI_CallFrame, attrs);

SAME_FIELD(ApiVersion, XLA_FFI_Api_Version, major_version);
SAME_FIELD(ApiVersion, XLA_FFI_Api_Version, minor_version);

SAME_FIELD(Metadata, XLA_FFI_Metadata, api_version);
SAME_FIELD(Metadata, XLA_FFI_Metadata, traits);

SAME_FIELD(MetadataExtension, XLA_FFI_Metadata_Extension, extension_base);
SAME_FIELD(MetadataExtension, XLA_FFI_Metadata_Extension, metadata);

SAME_FIELD(ErrorCreateArgs, XLA_FFI_Error_Create_Args, message);
SAME_FIELD(ErrorCreateArgs, XLA_FFI_Error_Create_Args, errc);
static_assert(sizeof(ours::ErrorCreateArgs) == sizeof(XLA_FFI_Error_Create_Args), "size");

SAME_FIELD(ErrorDestroyArgs, XLA_FFI_Error_Destroy_Args, error);
static_assert(sizeof(ours::ErrorDestroyArgs) == sizeof(XLA_FFI_Error_Destroy_Args), "size");

SAME_FIELD(StreamGetArgs, XLA_FFI_Stream_Get_Args, ctx);
SAME_FIELD(StreamGetArgs, XLA_FFI_Stream_Get_Args, stream);
static_assert(sizeof(ours::StreamGetArgs) == sizeof(XLA_FFI_Stream_Get_Args), "size");

SAME_FIELD(NumThreadsArgs, XLA_FFI_ThreadPool_NumThreads_Args, ctx);
SAME_FIELD(NumThreadsArgs, XLA_FFI_ThreadPool_NumThreads_Args, num_threads);
static_assert(sizeof(ours::NumThreadsArgs) == sizeof(XLA_FFI_ThreadPool_NumThreads_Args), "size");

SAME_FIELD(Api, XLA_FFI_Api, api_version);
SAME_FIELD(Api, XLA_FFI_Api, internal_api);
SAME_FUNCTION(Error_Create);
SAME_FUNCTION(Error_Destroy);
SAME_FUNCTION(Stream_Get);
SAME_FUNCTION(ThreadPool_Schedule);
SAME_FUNCTION(ThreadPool_NumThreads);
#if XLA_FFI_API_MINOR >= 3  // handlers ask how far a runtime's own reaches
SAME_FUNCTION(DeviceOrdinal_Get);
SAME_FIELD(DeviceOrdinalGetArgs, XLA_FFI_DeviceOrdinal_Get_Args, ctx);
SAME_FIELD(DeviceOrdinalGetArgs, XLA_FFI_DeviceOrdinal_Get_Args, device_ordinal);
#endif
