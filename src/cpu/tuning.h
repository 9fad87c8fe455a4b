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

// Work that is worth another thread: on a busy machine a hand-over costs milliseconds, so small
// work stays where it is.
inline constexpr double kNanosecondsPerThread = tuned(150e3, 1e-3);
// Work of one cell or bin in one channel, measured on one core with AVX-512: enough to decide
// whether a second thread is worth waking.
inline constexpr double kNanoseconds = 0.05;
// More tasks than threads, so that a slow one does not keep the others waiting.
inline constexpr int64_t kTasksPerThread = 4;
// Only between tasks can a call be interrupted; what is slower than the estimate takes several
// times as long.
inline constexpr double kNanosecondsPerTask = 10e6;

// ---- tables of RoIs (batches.cpp, tables.cpp) ----

// Tables in bytes: of all RoIs, or of a batch that all threads share; and of one thread's own.
inline constexpr int64_t kSharedBytes = tuned(4 << 20, 4 << 10);
inline constexpr int64_t kThreadBytes = tuned(512 << 10, 1 << 10);
// What an arena takes from the system at a time, in bytes.
inline constexpr int64_t kArenaBytes = tuned(64 << 10, 256);

// ---- where features are read (schedule.cpp) ----

// Neighbouring RoIs read the same cells: they stay together.
inline constexpr int64_t kDirectRois = tuned(8, 2);
// The mean window that is still read in place, in bytes: about what a core's L2 holds.
inline constexpr double kDirectWindow = tuned(2 << 20, 8 << 10);
// Blocks of channels that are read together where they lie: four lines that follow each other are
// fetched ahead, single ones at the distance of a cell are not.
inline constexpr int kBlocksTogether = 4;
// Rows of a map that a thread keeps packed, in bytes; two at least.
inline constexpr int64_t kRingBytes = tuned(8 << 20, 8 << 10);

// ---- sums (kernels.h, kernels_forward.h, kernels_pool.h) ----

// Bins of this many output rows are worked on together: their sums stay in L1.
inline constexpr int kRowsTogether = tuned(8, 3);
// Sums of the rows that are worked on together, in bytes: fewer rows where they are long.
inline constexpr int64_t kRowsBytes = tuned(4 << 20, 1 << 10);
// Rows of a map whose maximum RoIPool takes in one go.
inline constexpr int kPoolRows = tuned(32, 3);
// Of so many samples in a bin, the max modes' gradient looks at each for all channels at once.
inline constexpr int64_t kFewSamples = tuned(9, 4);

// ---- the sweep of averages (schedule.cpp, parts.cpp) ----

// Rows of a map that a sweep keeps packed, in bytes: the ring shares the L2 with what is streamed
// through it. Of fewer rows than the lowest ring's, windows would fall into too many parts; of
// wider maps, they would be too many bytes.
inline constexpr int64_t kSweepBytes = tuned(1 << 20, 6 << 10);
inline constexpr int64_t kLowestRing = tuned(8, 2);
inline constexpr int64_t kSweepWidth = tuned(4096, 96);
// The sums of RoIs that are worked on in parts; with more of them, the map is packed again.
inline constexpr int64_t kSlotBytes = tuned(1 << 20, 2 << 10);

// ---- gradients to the maps (schedule.cpp, gradient_rows.h) ----

// The sums of a task in one block of channels, in bytes: most of what a core's L2 holds. Shorter
// bands than these rows would work through the same RoIs too often.
inline constexpr int64_t kGradientBytes = tuned(7 << 18, 4 << 10);
inline constexpr int64_t kShortestBand = tuned(8, 2);
// How many columns of a map are summed up at a time: whole tiles.
inline constexpr int kGradientColumns = tuned(2048, 32);
// The mean window of several blocks of channels, in bytes: they lie together in memory, which is
// worth more than the L2 unless windows are large.
inline constexpr double kBlocksWindow = tuned(512 << 10, 32 << 10);
inline constexpr int kMostGradientBlocks = 4;
// Cells that become zero together where sums lie in the gradient itself.
inline constexpr int64_t kClearedCells = tuned(2048, 24);

// ---- results (schedule.cpp, pages.cpp) ----

// Results of more bytes than this would only push everything else out of the caches.
inline constexpr double kStreamBytes = tuned(4 << 20, 1 << 10);
// From so many bytes on, the system is asked for huge pages under a result; two pages at least.
inline constexpr int64_t kHugeBytes = tuned(4 << 20, 256 << 10);

}  // namespace roidl::cpu
