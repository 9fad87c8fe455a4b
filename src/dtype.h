// The element types: storage of half and bfloat16, and the one switch from a DLPack dtype to a C++
// type.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "abi/dlpack.h"
#include "host_device.h"

namespace roidl {

// These functions are always inlined: the kernels are compiled once per instruction set, and a
// shared out-of-line copy could bring instructions of one set to a machine that lacks them.
#define ROIDL_INLINE [[gnu::always_inline]] ROIDL_HOST_DEVICE inline

template <class To, class From>
ROIDL_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// IEEE binary16 as storage. Written without branches, so that loops over it vectorise.
struct float16 {
  uint16_t bits;

  float16() = default;
  ROIDL_INLINE explicit float16(float value) {
    uint32_t x = bit_cast<uint32_t>(value);
    const uint32_t sign = (x >> 16) & 0x8000u;
    x &= 0x7fffffffu;
    // Below 2^-14 the addition of 0.5 lets the adder round to the subnormal's last place.
    const uint32_t tiny = bit_cast<uint32_t>(bit_cast<float>(x) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (x + 0xc8000fffu + ((x >> 13) & 1u)) >> 13;
    const uint32_t huge = x > 0x7f800000u ? 0x7e00u | ((x >> 13) & 0x3ffu) : 0x7c00u;
    bits = static_cast<uint16_t>(sign | (x < 0x38800000u    ? tiny
                                         : x >= 0x47800000u ? huge
                                                            : normal));
  }
  ROIDL_INLINE operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t rest = static_cast<uint32_t>(bits & 0x7fffu) << 13;
    // 2^112 moves the exponent from half's bias to float's, subnormals included.
    uint32_t magnitude = bit_cast<uint32_t>(bit_cast<float>(rest) * 0x1p112f);
    magnitude |= rest >= 0x0f800000u ? 0x7f800000u : 0u;
    return bit_cast<float>(sign | magnitude);
  }
};

struct bfloat16 {
  uint16_t bits;

  bfloat16() = default;
  ROIDL_INLINE explicit bfloat16(float value) {
    const uint32_t x = bit_cast<uint32_t>(value);
    const uint32_t rounded = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;
    const uint32_t quiet = (x >> 16) | 0x40u;
    bits = static_cast<uint16_t>((x & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
  ROIDL_INLINE operator float() const { return bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

// The type in which values of storage type T are added up.
template <class T>
using accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

ROIDL_HOST_DEVICE inline bool operator==(abi::DLDataType a, abi::DLDataType b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}
ROIDL_HOST_DEVICE inline bool operator!=(abi::DLDataType a, abi::DLDataType b) { return !(a == b); }

inline constexpr abi::DLDataType kFloat16{abi::kDLFloat, 16, 1};
inline constexpr abi::DLDataType kBfloat16{abi::kDLBfloat, 16, 1};
inline constexpr abi::DLDataType kFloat32{abi::kDLFloat, 32, 1};
inline constexpr abi::DLDataType kFloat64{abi::kDLFloat, 64, 1};
inline constexpr abi::DLDataType kInt32{abi::kDLInt, 32, 1};

template <class T>
struct Type {
  using type = T;
};

// Calls f(Type<T>{}) and returns true, or returns false if the dtype is not a float that is
// supported.
template <class F>
ROIDL_HOST_DEVICE bool visit_float(abi::DLDataType dtype, F&& f) {
  if (dtype == kFloat32) return f(Type<float>{}), true;
  if (dtype == kFloat64) return f(Type<double>{}), true;
  if (dtype == kFloat16) return f(Type<float16>{}), true;
  if (dtype == kBfloat16) return f(Type<bfloat16>{}), true;
  return false;
}

// Calls f(Type<A>{}) with the type in which values of this float type are added up.
template <class F>
void visit_accumulator(abi::DLDataType dtype, F&& f) {
  dtype == kFloat64 ? f(Type<double>{}) : f(Type<float>{});
}

template <class F>
ROIDL_HOST_DEVICE bool visit_integer(abi::DLDataType dtype, F&& f) {
  if (dtype.lanes != 1) return false;
  if (dtype.code == abi::kDLInt) {
    if (dtype.bits == 64) return f(Type<int64_t>{}), true;
    if (dtype.bits == 32) return f(Type<int32_t>{}), true;
    if (dtype.bits == 16) return f(Type<int16_t>{}), true;
    if (dtype.bits == 8) return f(Type<int8_t>{}), true;
  } else if (dtype.code == abi::kDLUInt) {
    if (dtype.bits == 64) return f(Type<uint64_t>{}), true;
    if (dtype.bits == 32) return f(Type<uint32_t>{}), true;
    if (dtype.bits == 16) return f(Type<uint16_t>{}), true;
    if (dtype.bits == 8) return f(Type<uint8_t>{}), true;
  }
  return false;
}

inline bool is_float(abi::DLDataType dtype) {
  return visit_float(dtype, [](auto) {});
}
inline bool is_integer(abi::DLDataType dtype) {
  return visit_integer(dtype, [](auto) {});
}

}  // namespace roidl
