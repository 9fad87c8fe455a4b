// The C structs of XLA's FFI, declared from its public header (xla/ffi/api/c_api.h, API 0.3), which
// every runtime from jaxlib 0.5 on supports. tests/cpp/abi_xla_ffi.cpp compiles them against it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace roidl::abi::xla {

extern "C" {

enum ExtensionType : int32_t { kMetadata = 1 };

struct Extension {
  size_t struct_size;
  ExtensionType type;
  Extension* next;
};

enum ErrorCode : int32_t {
  kInvalidArgument = 3,
  kResourceExhausted = 8,
  kUnimplemented = 12,
  kInternal = 13
};

enum DataType : int32_t {
  kPred = 1,
  kS8 = 2,
  kS16 = 3,
  kS32 = 4,
  kS64 = 5,
  kU8 = 6,
  kU16 = 7,
  kU32 = 8,
  kU64 = 9,
  kF16 = 10,
  kF32 = 11,
  kF64 = 12,
  kC64 = 15,
  kBF16 = 16,
  kC128 = 18
};

struct Buffer {
  size_t struct_size;
  Extension* extension_start;
  DataType dtype;
  void* data;
  int64_t rank;
  int64_t* dims;
};

enum AttrType : int32_t { kScalar = 3 };

struct ByteSpan {
  const char* ptr;
  size_t len;
};

struct Scalar {
  DataType dtype;
  void* value;
};

enum Stage : int32_t { kInitialize = 2, kExecute = 3 };

struct Args {
  size_t struct_size;
  Extension* extension_start;
  int64_t size;
  int32_t* types;
  void** args;
};

struct Rets {
  size_t struct_size;
  Extension* extension_start;
  int64_t size;
  int32_t* types;
  void** rets;
};

struct Attrs {
  size_t struct_size;
  Extension* extension_start;
  int64_t size;
  AttrType* types;
  ByteSpan** names;
  void** attrs;
};

struct Api;
struct Context;
struct Failure;  // XLA_FFI_Error

// Declared up to `attrs`; members that later versions add behind it are not used.
struct CallFrame {
  size_t struct_size;
  Extension* extension_start;
  const Api* api;
  Context* ctx;
  Stage stage;
  Args args;
  Rets rets;
  Attrs attrs;
};

struct ApiVersion {
  size_t struct_size;
  Extension* extension_start;
  int major_version;
  int minor_version;
};

enum HandlerTraits : uint32_t { kCommandBufferCompatible = 1 };

struct Metadata {
  size_t struct_size;
  ApiVersion api_version;
  uint32_t traits;
};

struct MetadataExtension {
  Extension extension_base;
  Metadata* metadata;
};

struct ErrorCreateArgs {
  size_t struct_size;
  Extension* extension_start;
  const char* message;
  ErrorCode errc;
};

struct ErrorDestroyArgs {
  size_t struct_size;
  Extension* extension_start;
  Failure* error;
};

struct StreamGetArgs {
  size_t struct_size;
  Extension* extension_start;
  Context* ctx;
  void* stream;
};

struct NumThreadsArgs {
  size_t struct_size;
  Extension* extension_start;
  Context* ctx;
  int64_t* num_threads;
};

struct DeviceOrdinalGetArgs {
  size_t struct_size;
  Extension* extension_start;
  Context* ctx;
  int32_t device_ordinal;
};

// Declared up to the last function that is called; `struct_size` is the size of the runtime's own
// struct. Entries that are not called are declared for the layout.
struct Api {
  size_t struct_size;
  Extension* extension_start;
  ApiVersion api_version;
  const void* internal_api;
  Failure* (*Error_Create)(ErrorCreateArgs*);
  void (*Error_GetMessage)(void*);
  void (*Error_Destroy)(ErrorDestroyArgs*);
  void* (*Handler_Register)(void*);
  Failure* (*Stream_Get)(StreamGetArgs*);
  void* (*Type_Register)(void*);
  void* (*ExecutionContext_Get)(void*);
  void* (*State_Set)(void*);
  void* (*State_Get)(void*);
  void* (*DeviceMemory_Allocate)(void*);
  void* (*DeviceMemory_Free)(void*);
  void* (*ThreadPool_Schedule)(void*);
  Failure* (*ThreadPool_NumThreads)(NumThreadsArgs*);
  void* (*Future_Create)(void*);
  void* (*Future_SetAvailable)(void*);
  void* (*Future_SetError)(void*);
  void* (*RunId_Get)(void*);
  Failure* (*DeviceOrdinal_Get)(DeviceOrdinalGetArgs*);  // API 0.3
};

}  // extern "C"

}  // namespace roidl::abi::xla
