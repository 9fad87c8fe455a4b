// Everything in the kernels that is not C++: PTX instructions and compiler built-ins, each in a
// function that kernels call by name.
//
// A file that defines ROIDL_CUDA_INTRINSICS before provides other bodies for the same functions,
// for machines without a GPU (tests/cuda_on_host).
#ifndef ROIDL_CUDA_INTRINSICS
#define ROIDL_CUDA_INTRINSICS
#include <cstdint>
#include <cstring>

#include <cuda_runtime.h>
#define ROIDL_DEVICE __device__ __forceinline__
#define ROIDL_DEVICE_CALL __device__ __noinline__  // for long functions outside of inner loops

namespace roidl::cuda {

// Threads
// ------------------------------------------------------------------------------------------

ROIDL_DEVICE unsigned thread_index() { return threadIdx.x; }
// The same, read again at every call, and so is what depends on it: for values that are not worth a
// register in between.
ROIDL_DEVICE int thread_index_anew() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// A barrier: all threads of a block must call it. Writes before it are visible after it.
ROIDL_DEVICE void sync_block() { __syncthreads(); }

// All lanes of a warp must call these functions; only this one orders memory.
ROIDL_DEVICE void sync_warp() { __syncwarp(); }
ROIDL_DEVICE uint32_t ballot(bool says) { return __ballot_sync(0xffffffffu, says); }
template <class Word>  // 32 bits
ROIDL_DEVICE Word shuffle(Word value, int from_lane) {
  return __shfl_sync(0xffffffffu, value, from_lane);
}
// Returns the value of the lane `lanes` below; the lowest lanes get their own.
ROIDL_DEVICE int shuffle_up(int value, int lanes) {
  return __shfl_up_sync(0xffffffffu, value, lanes);
}

// Arithmetic
// ---------------------------------------------------------------------------------------

ROIDL_DEVICE int count_bits(uint32_t word) { return __popc(word); }

// A few instructions, with an error of at most two ulps.
ROIDL_DEVICE float reciprocal(float value) { return __fdividef(1.0f, value); }

ROIDL_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
ROIDL_DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

// IEEE binary16, as bits.
ROIDL_DEVICE float half_to_float(uint16_t bits) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(bits));
  return wide;
}
ROIDL_DEVICE uint16_t float_to_half(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// Memory
// -------------------------------------------------------------------------------------------

// Starts an asynchronous copy of an element of 4 or 8 bytes to shared memory. wait_for_copies()
// must come before the barrier after which it is read.
template <class T>
ROIDL_DEVICE void copy_async(T* shared, const T* global) {
#if __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(sizeof(T))
               : "memory");
#else
  *shared = *global;
#endif
}
ROIDL_DEVICE void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Stores 16 bytes at once that are not read soon. Without this instruction, the compiler stores
// them element by element.
template <class Vector>
ROIDL_DEVICE void store_16_bytes(void* target, const Vector& value) {
  static_assert(sizeof(Vector) == sizeof(int4));
  int4 bits;
  memcpy(&bits, &value, sizeof bits);
  __stcs(static_cast<int4*>(target), bits);
}

// Returns the same value, or pointer to global or shared memory, but hides its computation from the
// compiler, which tends to repeat it, with all its multiplications, in every loop that uses it.
ROIDL_DEVICE int32_t opaque(int32_t value) {
  asm("" : "+r"(value));
  return value;
}
template <class T>
ROIDL_DEVICE T* opaque(T* pointer) {  // a pointer that may be null
  asm("" : "+l"(pointer));
  return pointer;
}
template <class T>
ROIDL_DEVICE T* opaque_global(T* pointer) {
  asm("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}
template <class T>
ROIDL_DEVICE T* opaque_shared(T* pointer) {
  asm("" : "+l"(pointer));
  __builtin_assume(__isShared(pointer));
  return pointer;
}

}  // namespace roidl::cuda

#endif
