// The checks of validation.
#include "check.h"

#include <cstdlib>
#include <utility>

namespace roidl {

Extent extent_of(const Tensor& tensor) {
  const char* data = static_cast<const char*>(tensor.data);
  Reach reach;
  if (data == nullptr || !find_reach(tensor, reach)) return {data, data};
  return {data + reach.low, data + reach.high};
}

void check_float(const char* op, const char* name, const Tensor& tensor) {
  if (!is_float(tensor.dtype))
    fail(ErrorKind::type, op, name, " must be float16, bfloat16, float32 or float64, got ",
         tensor.dtype);
}

void check_aligned(const char* op, const char* name, const Tensor& tensor) {
  if (!tensor.empty() && reinterpret_cast<uintptr_t>(tensor.data) % tensor.item_bytes() != 0)
    fail(ErrorKind::value, op, name, " is not aligned to its ", tensor.item_bytes(),
         "-byte elements; pass a copy");
}

void check_aligned_on_device(const char* op, const char* name, const Tensor& tensor) {
  const int32_t type = tensor.device.device_type;
  if (type == abi::kDLCUDA || type == abi::kDLCUDAManaged) check_aligned(op, name, tensor);
}

void check_same_dtype(const char* op, const char* name, const Tensor& tensor,
                      abi::DLDataType expected, const char* as) {
  if (tensor.dtype != expected)
    fail(ErrorKind::type, op, name, " must be ", expected, as, ", got ", tensor.dtype);
}

void check_shape(const char* op, const char* name, const Tensor& tensor, const Shape& expected) {
  bool same = tensor.ndim == expected.ndim;
  for (int i = 0; same && i < tensor.ndim; ++i) same = tensor.shape[i] == expected.size[i];
  if (!same)
    fail(ErrorKind::value, op, name, " must have shape ", expected, ", got ", shape_of(tensor));
}

// Pinned host memory counts as CPU memory, managed memory as memory of its device.
static abi::DLDevice place_of(abi::DLDevice device) {
  if (device.device_type == abi::kDLCUDAHost) return {abi::kDLCPU, 0};
  if (device.device_type == abi::kDLCUDAManaged) return {abi::kDLCUDA, device.device_id};
  return device;
}

void check_same_device(const char* op, const char* name, const Tensor& tensor,
                       abi::DLDevice device) {
  const abi::DLDevice a = place_of(tensor.device), b = place_of(device);
  if (a.device_type != b.device_type ||
      (a.device_type != abi::kDLCPU && a.device_id != b.device_id))
    fail(ErrorKind::value, op, name, " must be on the device of the features, ", device, ":",
         device.device_id, ", got ", tensor.device, ":", tensor.device.device_id);
}

void check_distinct_elements(const char* op, const char* name, const Tensor& tensor) {
  // With the dimensions sorted by stride, each stride must exceed the extent of all smaller
  // dimensions.
  std::pair<int64_t, int64_t> dims[kMaxDims];
  int count = 0;
  if (tensor.empty()) return;
  for (int i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] <= 1) continue;
    int j = count++;
    const std::pair<int64_t, int64_t> dim{std::llabs(tensor.strides[i]), tensor.shape[i]};
    for (; j > 0 && dims[j - 1] > dim; --j) dims[j] = dims[j - 1];
    dims[j] = dim;
  }
  int64_t reach = 0;
  for (int i = 0; i < count; ++i) {
    if (dims[i].first <= reach)
      fail(ErrorKind::value, op, name, " must not overlap itself, but its strides make it");
    reach += dims[i].first * (dims[i].second - 1);
  }
}

void check_no_overlap(const char* op, const char* name, const Tensor& written,
                      const char* other_name, const Tensor& other) {
  const Extent a = extent_of(written), b = extent_of(other);
  if (a.begin < b.end && b.begin < a.end)
    fail(ErrorKind::value, op, name, " must not share memory with ", other_name);
}

void check_count(const char* op, const char* name, int64_t value, int64_t most) {
  if (value < 1) fail(ErrorKind::value, op, name, " must be at least 1, got ", value);
  if (value > most) fail(ErrorKind::value, op, name, " must be at most ", most, ", got ", value);
}

void check_sampling(const char* op, int64_t height, int64_t width) {
  for (const int64_t samples : {height, width})
    if (samples > 0) check_count(op, "sampling_ratio", samples, INT32_MAX);
}

int64_t count_elements(const char* op, const Shape& shape) {
  int64_t elements = 1;
  for (int i = 0; i < shape.ndim; ++i)
    if (shape.size[i] == 0) return 0;
  for (int i = 0; i < shape.ndim; ++i)
    if (__builtin_mul_overflow(elements, shape.size[i], &elements) || elements > (int64_t{1} << 59))
      fail(ErrorKind::value, op, "a result of shape ", shape,
           " has more elements than can be addressed");
  return elements;
}

}  // namespace roidl
