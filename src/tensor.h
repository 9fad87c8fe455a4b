// Tensor: a DLTensor whose strides are always present, and whose shape and type can be printed.
#pragma once
#include <cstdint>
#include <ostream>

#include "dtype.h"
#include "error.h"

namespace roidl {

inline constexpr int kMaxDims = 8;

struct Tensor {
  void* data = nullptr;  // the first element; NULL when only the metadata is known (tracing)
  abi::DLDevice device{abi::kDLCPU, 0};
  abi::DLDataType dtype{};
  int ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};  // in elements

  int item_bytes() const { return dtype.bits / 8; }
  bool empty() const {
    for (int i = 0; i < ndim; ++i)
      if (shape[i] == 0) return true;
    return false;
  }
};

struct Shape {
  int ndim = 0;
  int64_t size[kMaxDims] = {};
};

inline void print_dims(std::ostream& stream, const int64_t* dims, int ndim) {
  stream << '[';
  for (int i = 0; i < ndim; ++i) stream << (i ? ", " : "") << dims[i];
  stream << ']';
}
inline std::ostream& operator<<(std::ostream& stream, const Shape& shape) {
  print_dims(stream, shape.size, shape.ndim);
  return stream;
}
inline Shape shape_of(const Tensor& tensor) {
  Shape shape;
  shape.ndim = tensor.ndim;
  for (int i = 0; i < tensor.ndim; ++i) shape.size[i] = tensor.shape[i];
  return shape;
}

namespace abi {  // in this namespace for argument-dependent look-up

inline std::ostream& operator<<(std::ostream& stream, DLDataType dtype) {
  const char* name = dtype.code == kDLInt      ? "int"
                     : dtype.code == kDLUInt   ? "uint"
                     : dtype.code == kDLFloat  ? "float"
                     : dtype.code == kDLBfloat ? "bfloat"
                     : dtype.code == 5         ? "complex"
                     : dtype.code == 6         ? "bool"
                                               : nullptr;
  if (name == nullptr) return stream << "DLPack type code " << int{dtype.code};
  stream << name;
  if (dtype.code != 6) stream << int{dtype.bits};
  if (dtype.lanes != 1) stream << 'x' << dtype.lanes;
  return stream;
}

// The names that frameworks give to DLPack's device numbers.
inline std::ostream& operator<<(std::ostream& stream, DLDevice device) {
  const char* name = nullptr;
  switch (device.device_type) {
    case 1:
      name = "cpu";
      break;
    case 2:
      name = "cuda";
      break;
    case 3:
      name = "cuda_host";
      break;
    case 4:
      name = "opencl";
      break;
    case 7:
      name = "vulkan";
      break;
    case 8:
      name = "mps";
      break;
    case 10:
      name = "rocm";
      break;
    case 11:
      name = "rocm_host";
      break;
    case 13:
      name = "cuda_managed";
      break;
    case 14:
      name = "xpu";
      break;
    default:
      return stream << "DLPack device " << device.device_type;
  }
  return stream << name;
}

}  // namespace abi

// The bytes that the elements of a tensor span, counted from the first element: [low, high).
struct Reach {
  int64_t low = 0, high = 0;
};

// Returns false if the span exceeds every address space.
inline bool find_reach(const Tensor& tensor, Reach& reach) {
  constexpr int64_t kMost = int64_t{1} << 62;
  reach = {};
  if (tensor.empty()) return true;
  reach.high = tensor.item_bytes();
  for (int i = 0; i < tensor.ndim; ++i) {
    int64_t bytes = 0;
    if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &bytes) ||
        __builtin_mul_overflow(bytes, int64_t{tensor.item_bytes()}, &bytes))
      return false;
    int64_t& end = bytes < 0 ? reach.low : reach.high;
    if (__builtin_add_overflow(end, bytes, &end) || end < -kMost || end > kMost) return false;
  }
  return true;
}

// Reads what a producer exported, which may be wrong in every field; `op` and `name` are for the
// error if it is. Later arithmetic on the strides cannot overflow.
inline Tensor read_dltensor(const abi::DLTensor& source, const char* op, const char* name) {
  if (source.ndim < 0 || source.ndim > kMaxDims)
    fail(ErrorKind::value, op, name, " has ", source.ndim, " dimensions, at most ", kMaxDims,
         " are understood");
  if (source.ndim > 0 && source.shape == nullptr)
    fail(ErrorKind::value, op, name, " has ", source.ndim, " dimensions, but no shape");
  Tensor tensor;
  tensor.device = source.device;
  tensor.dtype = source.dtype;
  tensor.ndim = source.ndim;
  int64_t elements = 1;
  for (int i = source.ndim - 1; i >= 0; --i) {
    const int64_t size = source.shape[i];
    if (size < 0) fail(ErrorKind::value, op, name, " has a negative dimension: ", size);
    tensor.shape[i] = size;
    tensor.strides[i] = source.strides != nullptr ? source.strides[i] : elements;
    // The stride of such an axis reaches no element, so a producer may leave any value in it.
    constexpr int64_t kLong = int64_t{1} << 59;
    if (size <= 1 && (tensor.strides[i] > kLong || tensor.strides[i] < -kLong))
      tensor.strides[i] = elements;
    if (__builtin_mul_overflow(elements, size > 0 ? size : 1, &elements) || elements > kLong)
      fail(ErrorKind::value, op, name, " has more elements than can be addressed");
  }
  constexpr int64_t kMost = int64_t{1} << 57;  // bytes that a processor can address
  const uintptr_t base = reinterpret_cast<uintptr_t>(source.data);
  uintptr_t first = 0, last = 0;
  Reach reach;
  if (!find_reach(tensor, reach) ||
      (base != 0 && (reach.low < -kMost || reach.high > kMost ||
                     __builtin_add_overflow(base, source.byte_offset, &first) ||
                     __builtin_add_overflow(first, reach.high, &last) ||
                     __builtin_add_overflow(first, reach.low, &last))))
    fail(ErrorKind::value, op, name, " has strides or an offset that lead beyond any memory");
  tensor.data = reinterpret_cast<void*>(first);
  return tensor;
}

// Checks a tensor whose library can free or shrink its memory: `held` bytes of storage, of which
// the tensor begins after `offset` elements, must be enough for its shape and strides.
inline void check_storage(const char* op, const char* name, const Tensor& tensor, int64_t offset,
                          int64_t held) {
  Reach reach;
  int64_t needed = 0;
  const bool exists = find_reach(tensor, reach) &&
                      !__builtin_mul_overflow(offset, int64_t{tensor.item_bytes()}, &needed) &&
                      !__builtin_add_overflow(needed, reach.high, &needed);
  if (tensor.empty() || (exists && needed <= held)) return;
  fail(ErrorKind::value, op, name, " needs ", needed, " bytes for its shape and strides, but has ",
       held, ": its storage was freed or shrunk");
}

}  // namespace roidl
