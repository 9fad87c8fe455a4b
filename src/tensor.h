// Tensor: a DLTensor with a voice: strides always present, shape and dtype printable.
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

namespace abi {  // where argument-dependent look-up finds them

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

// DLPack's numbers of the devices that people have; the names are the frameworks' own.
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

// Reads what a producer exported; `op` and `name` are for the sentence when it cannot be read.
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
    if (__builtin_mul_overflow(elements, size > 0 ? size : 1, &elements) ||
        elements > (int64_t{1} << 59))
      fail(ErrorKind::value, op, name, " has more elements than can be addressed");
  }
  if (source.data != nullptr) tensor.data = static_cast<char*>(source.data) + source.byte_offset;
  return tensor;
}

}  // namespace roidl
