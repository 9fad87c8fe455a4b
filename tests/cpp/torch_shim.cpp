// What the bridge to PyTorch calls of it, for tensors that claim to be on a GPU: a stand-in that
// says in lines of JSON what is made and freed, and calls the kernels for CUDA. It stands for both
// of PyTorch's libraries, under the name that it is linked with.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <string>

#include "abi/torch.h"

using namespace roidl::abi;

namespace {

constexpr int32_t kDevice = 3;
constexpr uintptr_t kStream = 0x9ABC;

std::map<std::string, StableKernel> kernels;
std::string registers_for;

}  // namespace

struct roidl::abi::AtenTensorOpaque {
  void* data;
  int64_t bytes;  // of the storage, at whose beginning the tensor lies
  int64_t ndim, sizes[5], strides[5];
  int32_t dtype;
};

namespace {

AtenTensorHandle make(int32_t dtype, int64_t ndim, const int64_t* sizes) {
  auto* tensor = new AtenTensorOpaque{nullptr, 0, ndim, {}, {}, dtype};
  int64_t count = 1;
  for (int64_t i = ndim - 1; i >= 0; --i) {
    tensor->sizes[i] = sizes[i];
    tensor->strides[i] = count;
    count *= sizes[i];
  }
  tensor->bytes = (count * 8 + 63) / 64 * 64;
  tensor->data = std::aligned_alloc(64, static_cast<size_t>(tensor->bytes));
  return tensor;
}

StableIValue value_of(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }
StableIValue value_of(double number) {
  StableIValue value;
  std::memcpy(&value, &number, sizeof value);
  return value;
}

}  // namespace

extern "C" {

TorchError aoti_torch_library_init_def(const char*, const char*, uint32_t, TorchLibraryHandle*) {
  return 0;
}
TorchError aoti_torch_library_def(TorchLibraryHandle, const char*) { return 0; }
TorchError aoti_torch_library_init_impl(const char*, const char* key, const char*, uint32_t,
                                        TorchLibraryHandle*) {
  registers_for = key;
  return 0;
}
TorchError aoti_torch_library_impl(TorchLibraryHandle, const char* op, StableKernel kernel) {
  kernels[registers_for + " " + op] = kernel;
  return 0;
}
TorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor, void** data) {
  return *data = tensor->data, 0;
}
TorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* ndim) {
  return *ndim = tensor->ndim, 0;
}
TorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** sizes) {
  return *sizes = tensor->sizes, 0;
}
TorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** strides) {
  return *strides = tensor->strides, 0;
}
TorchError aoti_torch_get_storage_offset(AtenTensorHandle, int64_t* elements) {
  return *elements = 0, 0;
}
TorchError aoti_torch_get_storage_size(AtenTensorHandle tensor, int64_t* bytes) {
  return *bytes = tensor->bytes, 0;
}
TorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* dtype) {
  return *dtype = tensor->dtype, 0;
}
TorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* type) {
  return *type = kTorchCuda, 0;
}
TorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* index) {
  return *index = kDevice, 0;
}
TorchError aoti_torch_empty_strided(int64_t ndim, const int64_t* sizes, const int64_t*,
                                    int32_t dtype, int32_t device_type, int32_t device_index,
                                    AtenTensorHandle* tensor) {
  *tensor = make(dtype, ndim, sizes);
  std::printf("{\"made\": %lld, \"dtype\": %d, \"ndim\": %lld, \"size\": %lld, \"on\": [%d, %d]}\n",
              static_cast<long long>(value_of((*tensor)->data)), dtype,
              static_cast<long long>(ndim), static_cast<long long>(sizes[0]), device_type,
              device_index);
  std::fflush(stdout);
  return 0;
}
TorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor) {
  std::printf("{\"freed\": %lld}\n", static_cast<long long>(value_of(tensor->data)));
  std::fflush(stdout);
  std::free(tensor->data);
  delete tensor;
  return 0;
}
TorchError torch_new_list_reserve_size(size_t, StableListHandle*) { return 1; }
TorchError torch_list_size(StableListHandle, size_t*) { return 1; }
TorchError torch_list_get_item(StableListHandle, size_t, StableIValue*) { return 1; }
TorchError torch_list_push_back(StableListHandle, StableIValue) { return 1; }
TorchError torch_delete_list(StableListHandle) { return 1; }
TorchError torch_get_num_threads(uint32_t* threads) { return *threads = 1, 0; }
TorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  return *stream = reinterpret_cast<void*>(kStream), 0;
}

// roi_align of two boxes; returns 0, or 1 after an error.
int call_roi_align() {
  const int64_t features[] = {1, 2, 5, 5}, boxes[] = {2, 5};
  constexpr int32_t kFloat32 = static_cast<int32_t>(TorchDtype::float32);
  StableIValue stack[] = {value_of(make(kFloat32, 4, features)),
                          value_of(make(kFloat32, 2, boxes)),
                          0,  // no indices
                          3,
                          3,
                          value_of(1.0),
                          2,
                          2,
                          0,
                          0,
                          0};
  try {
    kernels.at("CUDA roi_align")(stack, sizeof stack / sizeof *stack, 1);
    aoti_torch_delete_tensor_object(reinterpret_cast<AtenTensorHandle>(stack[0]));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // extern "C"
