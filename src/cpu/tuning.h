// The numbers of the CPU's kernels that choose a path or a size, but never a result. Each has a
// second value, for a build with ROIDL_STRESS: so small that tests with small maps take the paths
// of large ones. Compiled under every instruction set: constants only.
#pragma once
#include <cstdint>

namespace roidl::cpu {

#ifdef ROIDL_STRESS
inline constexpr bool kStress = true;
#else
inline constexpr bool kStress = false;
#endif

template <class T>
constexpr T tuned(T usual, T under_stress) {
  return kStress ? under_stress : usual;
}

// ---- threads (parallel.cpp, schedule.cpp) ----

// The work that justifies another thread: on a busy machine a hand-over costs milliseconds, so
// small work stays on the caller's thread.
inline constexpr double kNanosecondsPerThread = tuned(150e3, 1e-3);
// The time of one cell or bin in one channel, measured on one core with AVX-512: accurate enough to
// decide whether to wake a second thread.
inline constexpr double kNanoseconds = 0.05;
// There are more tasks than threads, so that the others need not wait for a slow one.
inline constexpr int64_t kTasksPerThread = 4;
// A call can only be interrupted between tasks. The real time may be several times the estimate.
inline constexpr double kNanosecondsPerTask = 10e6;

// ---- tables of RoIs (batches.cpp, tables.cpp) ----

// The bytes of tables: of all RoIs, or of a batch that all threads share; and of one thread's own.
inline constexpr int64_t kSharedBytes = tuned(4 << 20, 4 << 10);
inline constexpr int64_t kThreadBytes = tuned(512 << 10, 1 << 10);
// The bytes that an arena takes from the system at a time.
inline constexpr int64_t kArenaBytes = tuned(64 << 10, 256);

// ---- where features are read (schedule.cpp) ----

// How many RoIs, read in place, form a group: neighbouring RoIs read the same cells.
inline constexpr int64_t kDirectRois = tuned(8, 2);
// The largest mean window that is read in place, in bytes: about the L2 cache of a core.
inline constexpr double kDirectWindow = tuned(2 << 20, 8 << 10);
// Blocks of channels that are read in place together: the processor prefetches four contiguous
// lines, but not single lines at the distance of a cell.
inline constexpr int kBlocksTogether = 4;
// The rows of a map that a thread keeps packed, in bytes; at least two rows.
inline constexpr int64_t kRingBytes = tuned(8 << 20, 8 << 10);

// ---- sums (kernels.h, kernels_forward.h, kernels_pool.h) ----

// How many output rows of bins are computed together: their sums stay in L1.
inline constexpr int kRowsTogether = tuned(8, 3);
// The sums of rows that are computed together, in bytes: fewer rows if they are long.
inline constexpr int64_t kRowsBytes = tuned(4 << 20, 1 << 10);
// How many rows of a map RoIPool's maximum reads in one pass.
inline constexpr int kPoolRows = tuned(32, 3);
// Up to so many samples in a bin, the max modes' gradient compares each for all channels at once.
inline constexpr int64_t kFewSamples = tuned(9, 4);

// ---- the sweep of averages (schedule.cpp, parts.cpp) ----

// The rows of a map that a sweep keeps packed, in bytes: the ring shares the L2 cache with the data
// that is streamed through it. With fewer rows than kLowestRing, windows would fall into too many
// parts; on maps that are too wide for so many rows, the general kernel is used.
inline constexpr int64_t kSweepBytes = tuned(1 << 20, 6 << 10);
inline constexpr int64_t kLowestRing = tuned(8, 2);
inline constexpr int64_t kSweepWidth = tuned(4096, 96);
// The sums of RoIs that are computed in parts, in bytes; beyond it, the map is packed again.
inline constexpr int64_t kSlotBytes = tuned(1 << 20, 2 << 10);

// ---- gradients to the maps (schedule.cpp, gradient_rows.h) ----

// The sums of a task in one block of channels, in bytes: most of the L2 cache of a core. Bands of
// fewer rows than kShortestBand would process the same RoIs too often.
inline constexpr int64_t kGradientBytes = tuned(7 << 18, 4 << 10);
inline constexpr int64_t kShortestBand = tuned(8, 2);
// How many columns of a map are summed at a time: whole tiles.
inline constexpr int kGradientColumns = tuned(2048, 32);
// The mean window of the blocks of channels that are summed together, in bytes. They are neighbours
// in memory, which gains more than fitting the L2 cache, unless windows are large.
inline constexpr double kBlocksWindow = tuned(512 << 10, 32 << 10);
inline constexpr int kMostGradientBlocks = 4;
// How many cells are set to zero at a time if the sums are the gradient itself.
inline constexpr int64_t kClearedCells = tuned(2048, 24);

// ---- results (schedule.cpp, pages.cpp) ----

// Results of more bytes than this bypass the caches, which they would only evict.
inline constexpr double kStreamBytes = tuned(4 << 20, 1 << 10);
// From so many bytes on, the system is asked for huge pages under a result; at least two pages.
inline constexpr int64_t kHugeBytes = tuned(4 << 20, 256 << 10);

}  // namespace roidl::cpu
