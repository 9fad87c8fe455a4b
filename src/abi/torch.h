// The C interface of PyTorch's stable ABI that the bridge calls, declared from its public headers
// (torch/csrc/inductor/aoti_torch/c/shim.h and torch/csrc/stable/c/shim.h, PyTorch 2.10 and later).
// Nothing is linked: every symbol is looked up by name in libtorch_cpu.so, those for CUDA in
// libtorch_cuda.so.
#pragma once
#include <cstddef>
#include <cstdint>

namespace roidl::abi {

// An argument or a result on the stack of a kernel. A number is stored in the first bytes; a tensor
// is an owned handle; an optional is 0, or an owned pointer to such a value; a list is an owned
// handle, whose deletion does not delete what its elements own.
using StableIValue = uint64_t;
using StableKernel = void (*)(StableIValue* stack, uint64_t num_arguments, uint64_t num_results);
using AtenTensorHandle = struct AtenTensorOpaque*;
using StableListHandle = struct StableListOpaque*;
using TorchLibraryHandle = struct TorchLibraryOpaque*;
using TorchError = int32_t;  // 0: no error

// c10::ScalarType and c10::DeviceType, whose existing numbers never change.
enum class TorchDtype : int32_t {
  uint8 = 0,
  int8 = 1,
  int16 = 2,
  int32 = 3,
  int64 = 4,
  float16 = 5,
  float32 = 6,
  float64 = 7,
  complex32 = 8,
  complex64 = 9,
  complex128 = 10,
  boolean = 11,
  bfloat16 = 15,
  uint16 = 27,
  uint32 = 28,
  uint64 = 29,
};
inline constexpr int32_t kTorchCpu = 0, kTorchCuda = 1;

struct TorchShim {
  TorchError (*aoti_torch_library_init_def)(const char* ns, const char* file, uint32_t line,
                                            TorchLibraryHandle* library);
  TorchError (*aoti_torch_library_def)(TorchLibraryHandle library, const char* schema);
  TorchError (*aoti_torch_library_init_impl)(const char* ns, const char* dispatch_key,
                                             const char* file, uint32_t line,
                                             TorchLibraryHandle* library);
  TorchError (*aoti_torch_library_impl)(TorchLibraryHandle library, const char* op,
                                        StableKernel kernel);
  TorchError (*aoti_torch_get_data_ptr)(AtenTensorHandle tensor, void** data);
  TorchError (*aoti_torch_get_dim)(AtenTensorHandle tensor, int64_t* ndim);
  TorchError (*aoti_torch_get_sizes)(AtenTensorHandle tensor, int64_t** sizes);
  TorchError (*aoti_torch_get_strides)(AtenTensorHandle tensor, int64_t** strides);
  TorchError (*aoti_torch_get_dtype)(AtenTensorHandle tensor, int32_t* dtype);
  TorchError (*aoti_torch_get_device_type)(AtenTensorHandle tensor, int32_t* type);
  TorchError (*aoti_torch_get_device_index)(AtenTensorHandle tensor, int32_t* index);
  TorchError (*aoti_torch_get_storage_offset)(AtenTensorHandle tensor, int64_t* elements);
  TorchError (*aoti_torch_get_storage_size)(AtenTensorHandle tensor, int64_t* bytes);
  TorchError (*aoti_torch_empty_strided)(int64_t ndim, const int64_t* sizes, const int64_t* strides,
                                         int32_t dtype, int32_t device_type, int32_t device_index,
                                         AtenTensorHandle* tensor);
  TorchError (*aoti_torch_delete_tensor_object)(AtenTensorHandle tensor);
  TorchError (*torch_new_list_reserve_size)(size_t size, StableListHandle* list);
  TorchError (*torch_list_size)(StableListHandle list, size_t* size);
  TorchError (*torch_list_get_item)(StableListHandle list, size_t index, StableIValue* element);
  TorchError (*torch_list_push_back)(StableListHandle list, StableIValue element);
  TorchError (*torch_delete_list)(StableListHandle list);
  TorchError (*torch_get_num_threads)(uint32_t* threads);
};

// Present in PyTorch built for CUDA, whose streams are those of the CUDA runtime.
struct TorchCudaShim {
  TorchError (*aoti_torch_get_current_cuda_stream)(int32_t device_index, void** stream);
};

// Present in PyTorch 2.12 and later.
struct TorchTagShim {
  TorchError (*torch_library_def_with_tags)(TorchLibraryHandle library, const char* schema,
                                            const int32_t* tags, int32_t num_tags);
  int32_t (*torch_tag_pt2_compliant_tag)();
};

// Calls visit(name, pointer) for each symbol.
template <class Visit>
void visit_symbols(TorchShim& shim, Visit&& visit) {
  visit("aoti_torch_library_init_def", shim.aoti_torch_library_init_def);
  visit("aoti_torch_library_def", shim.aoti_torch_library_def);
  visit("aoti_torch_library_init_impl", shim.aoti_torch_library_init_impl);
  visit("aoti_torch_library_impl", shim.aoti_torch_library_impl);
  visit("aoti_torch_get_data_ptr", shim.aoti_torch_get_data_ptr);
  visit("aoti_torch_get_dim", shim.aoti_torch_get_dim);
  visit("aoti_torch_get_sizes", shim.aoti_torch_get_sizes);
  visit("aoti_torch_get_strides", shim.aoti_torch_get_strides);
  visit("aoti_torch_get_dtype", shim.aoti_torch_get_dtype);
  visit("aoti_torch_get_device_type", shim.aoti_torch_get_device_type);
  visit("aoti_torch_get_device_index", shim.aoti_torch_get_device_index);
  visit("aoti_torch_get_storage_offset", shim.aoti_torch_get_storage_offset);
  visit("aoti_torch_get_storage_size", shim.aoti_torch_get_storage_size);
  visit("aoti_torch_empty_strided", shim.aoti_torch_empty_strided);
  visit("aoti_torch_delete_tensor_object", shim.aoti_torch_delete_tensor_object);
  visit("torch_new_list_reserve_size", shim.torch_new_list_reserve_size);
  visit("torch_list_size", shim.torch_list_size);
  visit("torch_list_get_item", shim.torch_list_get_item);
  visit("torch_list_push_back", shim.torch_list_push_back);
  visit("torch_delete_list", shim.torch_delete_list);
  visit("torch_get_num_threads", shim.torch_get_num_threads);
}

template <class Visit>
void visit_symbols(TorchCudaShim& shim, Visit&& visit) {
  visit("aoti_torch_get_current_cuda_stream", shim.aoti_torch_get_current_cuda_stream);
}

template <class Visit>
void visit_symbols(TorchTagShim& shim, Visit&& visit) {
  visit("torch_library_def_with_tags", shim.torch_library_def_with_tags);
  visit("torch_tag_pt2_compliant_tag", shim.torch_tag_pt2_compliant_tag);
}

}  // namespace roidl::abi
