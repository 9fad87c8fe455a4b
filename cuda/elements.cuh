// Elements in kernels: their types in sums, and moves of several at once.
#pragma once
#include <cstdint>
#include <initializer_list>

#include "dtype.h"
#include "intrinsics.cuh"

namespace roidl::cuda {

// One instruction, while the conversions of float16 itself are arithmetic on bits.
ROIDL_DEVICE float widen(float16 value) { return half_to_float(value.bits); }
ROIDL_DEVICE void narrow(float value, float16& result) { result.bits = float_to_half(value); }

ROIDL_DEVICE float widen(bfloat16 value) { return value; }
ROIDL_DEVICE float widen(float value) { return value; }
ROIDL_DEVICE double widen(double value) { return value; }
ROIDL_DEVICE void narrow(float value, bfloat16& result) { result = bfloat16(value); }
ROIDL_DEVICE void narrow(float value, float& result) { result = value; }
ROIDL_DEVICE void narrow(double value, double& result) { result = value; }

template <class Vector>
ROIDL_DEVICE void store_vector(void* target, const Vector& value) {
  if constexpr (sizeof(Vector) == 16)
    store_16_bytes(target, value);
  else
    *static_cast<Vector*>(target) = value;
}

// `count` neighbouring elements that are read and written at once, or 16 bytes at a time.
template <class T, int count>
struct alignas(sizeof(T) * count < 16 ? sizeof(T) * count : 16) Vec {
  T at[count];
};

// Whether `count` neighbouring channels can be moved at once.
inline bool can_move_vectors(const void* data, std::initializer_list<int64_t> strides, int64_t c,
                             int64_t channels, int count, int item_bytes) {
  if (c != 1 || channels % count != 0) return false;
  if (reinterpret_cast<uintptr_t>(data) % (count * item_bytes) != 0) return false;
  for (const int64_t stride : strides)
    if (stride % count != 0) return false;
  return true;
}

}  // namespace roidl::cuda
