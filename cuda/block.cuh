// The threads of a block and the lanes of a warp, the distribution of work among them, and their
// shared memory.
#pragma once
#include <cstdint>

#include "dtype.h"
#include "intrinsics.cuh"

namespace roidl::cuda {

inline constexpr int kThreads = 256;  // of every block
inline constexpr int kLanes = 32;
inline constexpr int kWarps = kThreads / kLanes;

// One value per thread that is kept from phase to phase.
template <class T>
struct PerThread {
  T value;
  ROIDL_DEVICE T& operator[](int) { return value; }
};

// The lanes of a warp, which runs independently: what one phase writes to shared memory, its next
// phase can read.
struct Warp {
  int number;  // number in its block

  // Calls visit(i) for i in [0, count), distributed among the lanes. All lanes must call it.
  template <class Visit>
  ROIDL_DEVICE void each(int32_t count, Visit&& visit) const {
    for (int32_t i = thread_index() % kLanes; i < count; i += kLanes) visit(i);
    sync_warp();
  }
};

struct Range {
  int32_t first, stop;
};

// The threads of a block. Unless it says otherwise, a member must be called by all threads and ends
// with a barrier: what one phase writes to shared memory, the next phase can read.
struct Block {
  int64_t index;

  ROIDL_DEVICE void sync() const { sync_block(); }

  // Calls visit(i) for i in [0, count), distributed among the threads.
  template <class Visit>
  ROIDL_DEVICE void each(int64_t count, Visit&& visit) const {
    for (int64_t i = thread_index(); i < count; i += kThreads) visit(i);
    sync_block();
  }

  // Calls visit(row, column): each row is done by one warp, its columns by the lanes. No barrier.
  template <class Visit>
  ROIDL_DEVICE void rows(int count, int columns, Visit&& visit) const {
    for (int row = thread_index() / kLanes; row < count; row += kWarps)
      for (int column = thread_index() % kLanes; column < columns; column += kLanes)
        visit(row, column);
  }

  // Calls visit(warp, i) for i in [0, count), distributed among the warps. No barrier.
  template <class Visit>
  ROIDL_DEVICE void warps(int32_t count, Visit&& visit) const {
    const Warp warp{static_cast<int>(thread_index()) / kLanes};
    for (int32_t i = warp.number; i < count; i += kWarps) visit(warp, i);
  }

  // Calls visit(thread) once for each thread. No barrier.
  template <class Visit>
  ROIDL_DEVICE void each_thread(Visit&& visit) const {
    // The index is read again in every phase, and the values that depend on it are computed again:
    // keeping them would take registers that the sums of all phases need.
    visit(thread_index_anew());
  }

  // Sets words[i] to the bits test(i, lane) of the lanes of a warp, for the first `asked` of
  // `count` words, and the others to 0.
  template <class Test>
  ROIDL_DEVICE void ballots(int count, int asked, uint32_t* words, Test&& test) const {
    const int lane = thread_index() % kLanes;
    for (int i = thread_index() / kLanes; i < count; i += kWarps) {
      const uint32_t word = i < asked ? ballot(test(i, lane)) : 0;
      if (lane == 0) words[i] = word;
    }
    sync_block();
  }

  // Lists the bits that are set in kLanes words, in order, and returns their number.
  ROIDL_DEVICE int list(int32_t* list, const uint32_t* words) const {
    const int warp = thread_index() / kLanes, lane = thread_index() % kLanes;
    const uint32_t mine = words[lane];
    int before = count_bits(mine);  // number of bits in this word and all before it
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) {
      const int other = shuffle_up(before, step);
      if (lane >= step) before += other;
    }
    const int total = shuffle(before, kLanes - 1);
#pragma unroll
    for (int i = warp; i < kLanes; i += kWarps) {
      const uint32_t found = shuffle(mine, i);
      const int stop = shuffle(before, i);
      if ((found >> lane & 1u) != 0) list[stop - count_bits(found >> lane)] = i * kLanes + lane;
    }
    sync_block();
    return total;
  }
};

// The shared memory that a block may use without opting in (on all devices), and how it is divided.
inline constexpr int kSharedBytes = 48 << 10;
inline constexpr int kSharedAlignment = 16;

struct Shared {
  char* next;

  template <class T>
  ROIDL_HOST_DEVICE T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(next);
    next += bytes_of<T>(count);
    return taken;
  }
  template <class T>
  ROIDL_HOST_DEVICE static int64_t bytes_of(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + kSharedAlignment - 1) / kSharedAlignment *
           kSharedAlignment;
  }
};

}  // namespace roidl::cuda
