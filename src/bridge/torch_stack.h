// The stack of a PyTorch kernel: its arguments read in order, owned and freed, its results made.
#pragma once
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

#include "abi/torch.h"
#include "operators.h"
#include "problem.h"

namespace roidl::bridge {

extern abi::TorchShim shim;
extern abi::TorchCudaShim cuda_shim;  // of no symbols where PyTorch is not built for CUDA
extern abi::TorchTagShim tag_shim;    // of none before PyTorch 2.12

inline constexpr int kMaxArguments = 32;  // of a schema
inline constexpr int kMaxResults = kMaxMaps + kMaxWrites;

// What an argument is, which says what of it has to be freed.
enum class Kind : uint8_t { number, tensor, optional, tensors, numbers };

struct Signature {
  int count = 0;
  Kind kinds[kMaxArguments] = {};

  constexpr void add(Kind kind, int times = 1) {
    while (times-- > 0) kinds[count++] = kind;
  }
};

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

inline abi::DLDevice device_of(int32_t type, int32_t index) {
  constexpr int32_t kElsewhere = 12;  // DLPack's number for what it does not know
  return type == abi::kTorchCpu
             ? abi::DLDevice{abi::kDLCPU, 0}
             : abi::DLDevice{type == abi::kTorchCuda ? abi::kDLCUDA : kElsewhere, index};
}

// The tensors of one argument or result: one, as many as a list has, or none.
struct TensorList {
  int64_t count = 0;
  Tensor tensors[kMaxMaps];  // more are refused when they become Maps

  void add(const Tensor& tensor) { tensors[count++] = tensor; }
  Maps needed(const char* op) const { return Maps(op, tensors, count); }
  Maps if_any(const char* op) const { return count == 0 ? Maps() : needed(op); }
};

class Stack {
 public:
  // All arguments are taken over at once, so that whatever fails they are freed.
  Stack(const char* op, const Signature& signature, abi::StableIValue* values)
      : op_(op), signature_(signature), values_(values) {
    std::memcpy(arguments_, values, signature.count * sizeof *values);
    for (int i = 0; i < signature.count; ++i) {
      if (signature.kinds[i] != Kind::optional || arguments_[i] == 0) continue;
      const auto* inner = reinterpret_cast<abi::StableIValue*>(arguments_[i]);
      arguments_[i] = *inner;
      delete inner;
    }
  }
  ~Stack() {
    for (int i = 0; i < signature_.count; ++i) free_argument(signature_.kinds[i], arguments_[i]);
    for (const abi::AtenTensorHandle result : results_)
      if (result != nullptr) shim.aoti_torch_delete_tensor_object(result);
    if (lent_ != nullptr) shim.aoti_torch_delete_tensor_object(lent_);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  const char* op() const { return op_; }

  // Every read takes the next argument.
  Tensor tensor(const char* name) { return describe(tensor_of(arguments_[next_++]), name); }
  std::optional<Tensor> optional_tensor(const char* name) {
    const abi::AtenTensorHandle handle = tensor_of(arguments_[next_++]);
    if (handle == nullptr) return std::nullopt;
    return describe(handle, name);
  }
  // One, a list, or what is absent.
  void tensors(const char* name, TensorList& list) {
    const bool listed = signature_.kinds[next_] == Kind::tensors;
    const abi::StableIValue given = arguments_[next_++];
    if (!listed) {
      if (given != 0) list.add(describe(tensor_of(given), name));
      return;
    }
    list.count = read_elements(given, kMaxMaps, [&](int64_t i, abi::StableIValue element) {
      list.tensors[i] = describe(tensor_of(element), name);
    });
  }

  template <class T>
  void read(T& field) {
    field = number<T>(arguments_[next_++]);
  }
  // Of a list, which may have more, the first `most`; returns its size.
  template <class T>
  int64_t read_list(T* fields, int64_t most) {
    return read_elements(arguments_[next_++], most, [&](int64_t i, abi::StableIValue element) {
      fields[i] = number<T>(element);
    });
  }

  // A new tensor on the device of the first that was read, to be handed over.
  Tensor make(const Shape& shape, const int64_t* strides, abi::DLDataType dtype) {
    abi::AtenTensorHandle& result = results_[made_++];
    check_shim(op_,
               shim.aoti_torch_empty_strided(shape.ndim, shape.size, strides, torch_dtype(dtype),
                                             device_type_, device_index_, &result));
    return describe(result, "the result");
  }

  // What the kernel has to run on: PyTorch's current stream of that device, if it has streams.
  void* stream() const {
    void* stream = nullptr;
    if (device_type_ == abi::kTorchCuda)
      check_shim(op_, cuda_shim.aoti_torch_get_current_cuda_stream(device_index_, &stream));
    return stream;
  }

  // Memory of that device, in the order of that stream, which PyTorch gets back at the end.
  Lender lender() {
    return {[](void* stack, int64_t bytes) { return static_cast<Stack*>(stack)->lend(bytes); },
            this};
  }

  // Hand what was made over to the caller, in the order in which it was made: the next one, or the
  // next ones as a list.
  void return_tensor() { values_[returned_++] = hand_over(); }
  void return_list(int count) {
    abi::StableListHandle list = nullptr;
    check_shim(op_, shim.torch_new_list_reserve_size(count, &list));
    // What was reserved can be pushed.
    for (int i = 0; i < count; ++i) shim.torch_list_push_back(list, hand_over());
    values_[returned_++] = reinterpret_cast<uintptr_t>(list);
  }

 private:
  char* lend(int64_t bytes) {
    constexpr int64_t kStride = 1;
    void* data = nullptr;
    check_shim(op_, shim.aoti_torch_empty_strided(1, &bytes, &kStride,
                                                  static_cast<int32_t>(abi::TorchDtype::uint8),
                                                  device_type_, device_index_, &lent_));
    check_shim(op_, shim.aoti_torch_get_data_ptr(lent_, &data));
    return static_cast<char*>(data);
  }

  static abi::AtenTensorHandle tensor_of(abi::StableIValue value) {
    return reinterpret_cast<abi::AtenTensorHandle>(static_cast<uintptr_t>(value));
  }
  static abi::StableListHandle list_of(abi::StableIValue value) {
    return reinterpret_cast<abi::StableListHandle>(static_cast<uintptr_t>(value));
  }

  abi::StableIValue hand_over() {
    abi::AtenTensorHandle& result = results_[handed_over_++];
    const auto value = static_cast<abi::StableIValue>(reinterpret_cast<uintptr_t>(result));
    result = nullptr;
    return value;
  }

  static void free_argument(Kind kind, abi::StableIValue value) {
    if (kind == Kind::number || value == 0) return;
    if (kind == Kind::tensor || kind == Kind::optional) {
      shim.aoti_torch_delete_tensor_object(tensor_of(value));
      return;
    }
    size_t size = 0;
    if (kind == Kind::tensors) shim.torch_list_size(list_of(value), &size);
    for (size_t i = 0; i < size; ++i) {
      abi::StableIValue element = 0;
      shim.torch_list_get_item(list_of(value), i, &element);
      if (element != 0) shim.aoti_torch_delete_tensor_object(tensor_of(element));
    }
    shim.torch_delete_list(list_of(value));
  }

  // Calls visit(index, element) for at most so many; returns the size of the list.
  template <class Visit>
  int64_t read_elements(abi::StableIValue list, int64_t most, Visit&& visit) {
    size_t size = 0;
    check_shim(op_, shim.torch_list_size(list_of(list), &size));
    for (size_t i = 0; i < size && static_cast<int64_t>(i) < most; ++i) {
      abi::StableIValue element = 0;
      check_shim(op_, shim.torch_list_get_item(list_of(list), i, &element));
      visit(static_cast<int64_t>(i), element);
    }
    return static_cast<int64_t>(size);
  }

  // Numbers lie in the first bytes; PyTorch's integers are all of 64 bits, its floats double.
  template <class T>
  static T number(abi::StableIValue value) {
    using Stored = std::conditional_t<std::is_same_v<T, bool>, uint8_t,
                                      std::conditional_t<std::is_integral_v<T>, int64_t, double>>;
    Stored stored;
    std::memcpy(&stored, &value, sizeof stored);
    return static_cast<T>(stored);
  }

  Tensor describe(abi::AtenTensorHandle handle, const char* name) {
    abi::DLTensor source{};
    int64_t ndim = 0, offset = 0, held = 0;
    int32_t dtype = 0, device_type = 0, device_index = 0;
    check_shim(op_, shim.aoti_torch_get_dim(handle, &ndim));
    check_shim(op_, shim.aoti_torch_get_sizes(handle, &source.shape));
    check_shim(op_, shim.aoti_torch_get_strides(handle, &source.strides));
    check_shim(op_, shim.aoti_torch_get_dtype(handle, &dtype));
    check_shim(op_, shim.aoti_torch_get_device_type(handle, &device_type));
    check_shim(op_, shim.aoti_torch_get_device_index(handle, &device_index));
    check_shim(op_, shim.aoti_torch_get_storage_offset(handle, &offset));
    check_shim(op_, shim.aoti_torch_get_storage_size(handle, &held));
    const abi::TorchError no_data = shim.aoti_torch_get_data_ptr(handle, &source.data);
    if (device_type_ < 0) {
      device_type_ = device_type;
      device_index_ = device_index;
    }
    source.device = device_of(device_type, device_index);
    source.ndim = static_cast<int32_t>(ndim);
    source.dtype = dtype_of(dtype);
    const Tensor tensor = read_dltensor(source, op_, name);
    check_storage(op_, name, tensor, offset, held);
    check_shim(op_, no_data);
    return tensor;
  }

  const char* op_;
  const Signature& signature_;
  abi::StableIValue* values_;
  int next_ = 0;  // of the arguments
  int made_ = 0, handed_over_ = 0, returned_ = 0;
  int32_t device_type_ = -1, device_index_ = 0;  // of the first tensor that was read
  abi::StableIValue arguments_[kMaxArguments];
  abi::AtenTensorHandle results_[kMaxResults] = {};
  abi::AtenTensorHandle lent_ = nullptr;
};

}  // namespace roidl::bridge
