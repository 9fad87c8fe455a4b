// How kernels are written: the team of a block's threads, and the warp that works alone.
//
// A kernel is plain data with a call operator: kernel(team, shared) does what one block does, in
// phases that end with a barrier.
#pragma once
#include <cstdint>

#include <cuda_runtime.h>
#define ROIDL_DEVICE __device__ __forceinline__
#define ROIDL_DEVICE_CALL __device__ __noinline__  // for what is long and not hot

namespace roidl::cuda {

inline constexpr int kThreads = 256;  // of every block
inline constexpr int kLanes = 32;
inline constexpr int kWarps = kThreads / kLanes;

// One value per thread that outlives a phase.
template <class T>
struct PerThread {
  T value;
  ROIDL_DEVICE T& operator[](int) { return value; }
};

// The lanes of a warp, which works alone: what one phase wrote to shared memory its next one reads.
struct Warp {
  int number;  // in its block

  // visit(i) for i in [0, count), dealt out to the lanes. Must be reached by all of them.
  template <class Visit>
  ROIDL_DEVICE void each(int32_t count, Visit&& visit) const {
    for (int32_t i = threadIdx.x % kLanes; i < count; i += kLanes) visit(i);
    __syncwarp();
  }
};

struct Range {
  int32_t first, stop;
};

// The threads of a block. Every member must be reached by all of them, and ends with a barrier:
// what one phase wrote to shared memory the next one reads.
struct Team {
  int64_t block, blocks;

  ROIDL_DEVICE void sync() const { __syncthreads(); }

  // visit(i) for i in [0, count), dealt out to the threads.
  template <class Visit>
  ROIDL_DEVICE void each(int64_t count, Visit&& visit) const {
    for (int64_t i = threadIdx.x; i < count; i += kThreads) visit(i);
    __syncthreads();
  }

  // visit(row, column): a row is a warp's, its columns are the lanes'. No barrier.
  template <class Visit>
  ROIDL_DEVICE void rows(int count, int columns, Visit&& visit) const {
    for (int row = threadIdx.x / kLanes; row < count; row += kWarps)
      for (int column = threadIdx.x % kLanes; column < columns; column += kLanes)
        visit(row, column);
  }

  // visit(warp, i) for i in [0, count), dealt out to the warps. No barrier.
  template <class Visit>
  ROIDL_DEVICE void warps(int32_t count, Visit&& visit) const {
    const Warp warp{static_cast<int>(threadIdx.x) / kLanes};
    for (int32_t i = warp.number; i < count; i += kWarps) visit(warp, i);
  }

  // visit(thread) once for each thread. No barrier.
  template <class Visit>
  ROIDL_DEVICE void each_thread(Visit&& visit) const {
    // Read anew for every phase, and what follows from it computed anew: it is not worth registers
    // that the sums of all phases need.
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    visit(thread);
  }

  // words[i] becomes what test(i, lane) says for each of a warp's lanes, bit by bit, for the first
  // `asked` of `count`, and 0 for the others.
  template <class Test>
  ROIDL_DEVICE void ballots(int count, int asked, uint32_t* words, Test&& test) const {
    const int lane = threadIdx.x % kLanes;
    for (int i = threadIdx.x / kLanes; i < count; i += kWarps) {
      const uint32_t word = i < asked ? __ballot_sync(0xffffffffu, test(i, lane)) : 0;
      if (lane == 0) words[i] = word;
    }
    __syncthreads();
  }

  // Lists the bits that are set in kLanes words, in their order, and returns how many.
  ROIDL_DEVICE int list(int32_t* list, const uint32_t* words) const {
    const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
    const uint32_t mine = words[lane];
    int before = __popc(mine);  // bits of this word and of all before it
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, before, step);
      if (lane >= step) before += other;
    }
    const int total = __shfl_sync(0xffffffffu, before, kLanes - 1);
#pragma unroll
    for (int i = warp; i < kLanes; i += kWarps) {
      const uint32_t found = __shfl_sync(0xffffffffu, mine, i);
      const int stop = __shfl_sync(0xffffffffu, before, i);
      if ((found >> lane & 1u) != 0) list[stop - __popc(found >> lane)] = i * kLanes + lane;
    }
    __syncthreads();
    return total;
  }
};

// The same value, or pointer to global or shared memory, found once: the compiler likes to find one
// anew, with all its multiplications, in every loop that uses it.
ROIDL_DEVICE int32_t held(int32_t value) {
  asm("" : "+r"(value));
  return value;
}
template <class T>
ROIDL_DEVICE T* held_global(T* pointer) {
  asm("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}
template <class T>
ROIDL_DEVICE T* held_shared(T* pointer) {
  asm("" : "+l"(pointer));
  __builtin_assume(__isShared(pointer));
  return pointer;
}

}  // namespace roidl::cuda
