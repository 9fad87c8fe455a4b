// The stack of a PyTorch kernel: its arguments read in order, owned and freed, its results made.
#pragma once
#include <cstdint>
#include <cstring>
#include <optional>

#include "abi/torch.h"
#include "tensor.h"

namespace roidl::bridge {

extern abi::TorchShim shim;

// No kernel reads or makes more.
inline constexpr int kMaxTensors = 4;

inline void check_shim(const char* op, abi::TorchError error) {
  if (error != 0) fail(ErrorKind::runtime, op, "PyTorch's own function failed");
}

inline abi::DLDataType dtype_of(int32_t dtype) {
  using abi::TorchDtype;
  constexpr uint8_t kComplex = 5, kBool = 6, kUnknown = 255;
  switch (static_cast<TorchDtype>(dtype)) {
    case TorchDtype::uint8:
      return {abi::kDLUInt, 8, 1};
    case TorchDtype::uint16:
      return {abi::kDLUInt, 16, 1};
    case TorchDtype::uint32:
      return {abi::kDLUInt, 32, 1};
    case TorchDtype::uint64:
      return {abi::kDLUInt, 64, 1};
    case TorchDtype::int8:
      return {abi::kDLInt, 8, 1};
    case TorchDtype::int16:
      return {abi::kDLInt, 16, 1};
    case TorchDtype::int32:
      return kInt32;
    case TorchDtype::int64:
      return {abi::kDLInt, 64, 1};
    case TorchDtype::float16:
      return kFloat16;
    case TorchDtype::bfloat16:
      return kBfloat16;
    case TorchDtype::float32:
      return kFloat32;
    case TorchDtype::float64:
      return kFloat64;
    case TorchDtype::complex32:
      return {kComplex, 32, 1};
    case TorchDtype::complex64:
      return {kComplex, 64, 1};
    case TorchDtype::complex128:
      return {kComplex, 128, 1};
    case TorchDtype::boolean:
      return {kBool, 8, 1};
  }
  return {kUnknown, 8, 1};
}

// Of a type that a result can have.
inline int32_t torch_dtype(abi::DLDataType dtype) {
  using abi::TorchDtype;
  return static_cast<int32_t>(dtype == kInt32      ? TorchDtype::int32
                              : dtype == kFloat16  ? TorchDtype::float16
                              : dtype == kBfloat16 ? TorchDtype::bfloat16
                              : dtype == kFloat64  ? TorchDtype::float64
                                                   : TorchDtype::float32);
}

class Stack {
 public:
  // `tensors` has a letter for each of the tensors that every schema begins with: t, or o for an
  // optional one. All are taken over at once, so that whatever fails they are freed.
  Stack(const char* op, const char* tensors, abi::StableIValue* values) : op_(op), values_(values) {
    for (; tensors[numbers_] != '\0'; ++numbers_) {
      abi::StableIValue value = values[numbers_];
      if (tensors[numbers_] == 'o' && value != 0) {
        const auto* inner = reinterpret_cast<abi::StableIValue*>(static_cast<uintptr_t>(value));
        value = *inner;
        delete inner;
      }
      arguments_[numbers_] = reinterpret_cast<abi::AtenTensorHandle>(static_cast<uintptr_t>(value));
    }
  }
  ~Stack() {
    for (const auto& handles : {arguments_, results_})
      for (int i = 0; i < kMaxTensors; ++i)
        if (handles[i] != nullptr) shim.aoti_torch_delete_tensor_object(handles[i]);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  const char* op() const { return op_; }

  Tensor tensor(const char* name) { return describe(arguments_[next_tensor_++], name); }
  std::optional<Tensor> optional_tensor(const char* name) {
    const abi::AtenTensorHandle handle = arguments_[next_tensor_++];
    if (handle == nullptr) return std::nullopt;
    return describe(handle, name);
  }

  // PyTorch's integers are all of 64 bits.
  void read(int64_t& field) { field = number<int64_t>(); }
  void read(int32_t& field) { field = static_cast<int32_t>(number<int64_t>()); }
  void read(double& field) { field = number<double>(); }
  void read(bool& field) { field = number<uint8_t>() != 0; }

  // A new tensor on CPU: the kernel's result number `place`.
  Tensor result(int place, const Shape& shape, const int64_t* strides, abi::DLDataType dtype) {
    check_shim(op_,
               shim.aoti_torch_empty_strided(shape.ndim, shape.size, strides, torch_dtype(dtype),
                                             abi::kTorchCpu, 0, &results_[place]));
    return describe(results_[place], "the result");
  }

  // Hands the results over to the caller.
  void finish(int count) {
    for (int place = 0; place < count; ++place) {
      values_[place] = static_cast<abi::StableIValue>(reinterpret_cast<uintptr_t>(results_[place]));
      results_[place] = nullptr;
    }
  }

 private:
  // Numbers lie in the first bytes.
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, &values_[numbers_++], sizeof value);
    return value;
  }

  Tensor describe(abi::AtenTensorHandle handle, const char* name) {
    abi::DLTensor source{};
    int64_t ndim = 0;
    int32_t dtype = 0;
    check_shim(op_, shim.aoti_torch_get_dim(handle, &ndim));
    check_shim(op_, shim.aoti_torch_get_sizes(handle, &source.shape));
    check_shim(op_, shim.aoti_torch_get_strides(handle, &source.strides));
    check_shim(op_, shim.aoti_torch_get_dtype(handle, &dtype));
    check_shim(op_, shim.aoti_torch_get_data_ptr(handle, &source.data));
    source.device = {abi::kDLCPU, 0};
    source.ndim = static_cast<int32_t>(ndim);
    source.dtype = dtype_of(dtype);
    return read_dltensor(source, op_, name);
  }

  const char* op_;
  abi::StableIValue* values_;
  int next_tensor_ = 0;
  int numbers_ = 0;  // where the next number lies
  abi::AtenTensorHandle arguments_[kMaxTensors] = {};
  abi::AtenTensorHandle results_[kMaxTensors] = {};
};

}  // namespace roidl::bridge
