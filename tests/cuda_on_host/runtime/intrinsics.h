// What cuda/intrinsics.cuh says in instructions of a GPU, said to the machine: the same functions,
// included before it and in its place.
#define ROIDL_CUDA_INTRINSICS
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_runtime.h"
#include "dtype.h"
#define ROIDL_DEVICE inline __attribute__((always_inline))
#define ROIDL_DEVICE_CALL __attribute__((noinline))

// The places from which these are called tell the machine whether threads meet at the same barrier.
namespace machine {
unsigned thread_index();
void sync_block();
void sync_warp();
uint32_t ballot(bool says);
uint32_t shuffle(uint32_t value, int from_lane);
uint32_t shuffle_up(uint32_t value, int lanes);
float some_reciprocal(float value);
void copy_later(void* shared, const void* global, int bytes);
void wait_for_copies();
void expect_global(const void* pointer);
void expect_shared(const void* pointer);
}  // namespace machine

namespace roidl::cuda {

ROIDL_DEVICE unsigned thread_index() { return machine::thread_index(); }
ROIDL_DEVICE int thread_index_anew() { return static_cast<int>(machine::thread_index()); }

ROIDL_DEVICE void sync_block() { machine::sync_block(); }
ROIDL_DEVICE void sync_warp() { machine::sync_warp(); }
ROIDL_DEVICE uint32_t ballot(bool says) { return machine::ballot(says); }
template <class Word>
ROIDL_DEVICE Word shuffle(Word value, int from_lane) {
  return static_cast<Word>(machine::shuffle(static_cast<uint32_t>(value), from_lane));
}
ROIDL_DEVICE int shuffle_up(int value, int lanes) {
  return static_cast<int>(machine::shuffle_up(static_cast<uint32_t>(value), lanes));
}

ROIDL_DEVICE int count_bits(uint32_t word) { return __builtin_popcount(word); }
ROIDL_DEVICE float reciprocal(float value) { return machine::some_reciprocal(value); }
ROIDL_DEVICE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
ROIDL_DEVICE double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

ROIDL_DEVICE float half_to_float(uint16_t bits) { return bit_cast<float16>(bits); }
ROIDL_DEVICE uint16_t float_to_half(float value) { return float16(value).bits; }

template <class T>
ROIDL_DEVICE void copy_async(T* shared, const T* global) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  machine::copy_later(shared, global, sizeof(T));
}
ROIDL_DEVICE void wait_for_copies() { machine::wait_for_copies(); }

template <class Vector>
ROIDL_DEVICE void store_16_bytes(void* target, const Vector& value) {
  static_assert(sizeof(Vector) == sizeof(int4));
  int4 bits;
  memcpy(&bits, &value, sizeof bits);
  *static_cast<int4*>(target) = bits;
}

ROIDL_DEVICE int32_t opaque(int32_t value) { return value; }
template <class T>
ROIDL_DEVICE T* opaque(T* pointer) {
  return pointer;
}
template <class T>
ROIDL_DEVICE T* opaque_global(T* pointer) {
  machine::expect_global(pointer);
  return pointer;
}
template <class T>
ROIDL_DEVICE T* opaque_shared(T* pointer) {
  machine::expect_shared(pointer);
  return pointer;
}

}  // namespace roidl::cuda
