// Finds which RoIs overlap a tile, and the taps of their bins: from a plan, or in the block itself.
#pragma once
#include "tile.cuh"
#include "tuning.h"

namespace roidl::cuda {

// Finds which RoIs overlap which tiles, once for all channels; each thread does one tile. The RoIs
// are in groups of as many as a word has bits; the words of a group for all tiles are contiguous.
struct FindOverlaps {
  static constexpr int kMinBlocks = 4;
  static constexpr int kGroup = 32;
  Tiling tiling;
  const Window* windows;
  uint32_t* words;  // [group][tile]
  int64_t count;    // number of RoIs
  int64_t blocks_of_tiles;

  ROIDL_DEVICE void operator()(const Block& block, Shared shared) const {
    Window* const group_windows = shared.take<Window>(kGroup);
    const int64_t group = block.index / blocks_of_tiles;
    const int64_t first = (block.index - group * blocks_of_tiles) * kThreads, k = group * kGroup;
    const int rois = count - k < kGroup ? static_cast<int>(count - k) : kGroup;
    const int64_t left = tiling.count - first;
    block.each(rois, [&](int64_t i) { group_windows[i] = windows[k + i]; });
    block.each(left < kThreads ? left : kThreads, [&](int64_t i) {
      const Tile tile = tiling.tile_of(first + i);
      uint32_t word = 0;
      for (int roi = 0; roi < rois; ++roi)
        word |= static_cast<uint32_t>(tile.overlaps(group_windows[roi])) << roi;
      words[group * tiling.count + first + i] = word;
    });
  }
};

// Finds the RoIs that overlap one tile, by the threads of its block.
template <class WindowOf>
ROIDL_DEVICE void find_overlaps(const Block& block, const Tile& tile, int64_t k, int64_t count,
                                uint32_t* found, WindowOf&& window_of) {
  const int64_t left = count - k;
  const int words =
      left < kLanes * kLanes ? static_cast<int>((left + kLanes - 1) / kLanes) : kLanes;
  block.ballots(kLanes, words, found, [&](int word, int lane) {
    const int64_t i = k + word * kLanes + lane;
    return i < count && tile.overlaps(window_of(i));
  });
}

// The Geometry of a gather (gather.cuh), from the plan of a call.
template <class A, int kWeights>
struct PlanGeometry {
  static constexpr int kMaxMinBlocks = 4;
  Plan<A, kWeights> plan;
  const uint32_t* words;  // from FindOverlaps; null: every block finds its own

  ROIDL_DEVICE Window window(int64_t k) const { return plan.windows[k]; }
  // Finds which RoIs overlap the tile, in kLanes groups of RoIs from k on.
  ROIDL_DEVICE void find(const Block& block, const Tiling& tiling, const Tile& tile, int64_t k,
                         int64_t count, uint32_t* found) const {
    if (words == nullptr)
      return find_overlaps(block, tile, k, count, found, [&](int64_t i) { return window(i); });
    const uint32_t* const from = words + k / FindOverlaps::kGroup * tiling.count + tile.number;
    block.each(kLanes, [&](int64_t i) {
      const bool exists = k + i * FindOverlaps::kGroup < count;
      found[i] = exists ? from[i * tiling.count] : 0;
    });
  }
  // Calls visit(cell, weights) for the taps of bin p along the axis y or x of RoI k.
  template <class Visit>
  ROIDL_DEVICE void for_each_tap(bool along_y, int64_t k, int32_t p, Visit&& visit) const {
    const AxisPlan<A, kWeights>& axis = along_y ? plan.y : plan.x;
    for (const auto& tap : axis.bin(k, p)) visit(tap.cell, tap.weight);
  }
};

// The Geometry of a gather without a plan: every block computes from the boxes what it needs. The
// weights of a cell come one by one, in the order in which a plan adds them up.
template <class A, class Rois>
struct BoxGeometry {
  static constexpr int kMaxMinBlocks = 2;
  Rois rois;

  ROIDL_DEVICE Window window(int64_t k) const { return window_of(rois.load(k)); }
  ROIDL_DEVICE void find(const Block& block, const Tiling&, const Tile& tile, int64_t k,
                         int64_t count, uint32_t* found) const {
    find_overlaps(block, tile, k, count, found, [&](int64_t i) { return window(i); });
  }
  template <class Visit>
  ROIDL_DEVICE void for_each_tap(bool along_y, int64_t k, int32_t p, Visit&& visit) const {
    const auto roi = rois.load(k);
    const auto& axis = along_y ? roi.y : roi.x;
    axis.template for_each_tap<A>(
        p, [&](int32_t cell, A weight, int64_t, A) { visit(cell, &weight); });
  }
};

inline constexpr int64_t kOverlapRois = ROIDL_TUNE_OVERLAP_ROIS;  // 0: never

// Calls use(geometry) with the plan of a call, and with the overlaps of RoIs and tiles if a kernel
// finds them. It does not for few RoIs, which a block tests faster itself, nor for very many RoIs
// and tiles, whose words would take too much memory. `max_tiles` is the number of tiles for which
// memory is measured.
template <class A, int kWeights, class Use>
void with_overlaps(const Problem& problem, const Tiling& tiling, int64_t max_tiles,
                   const Plan<A, kWeights>& plan, Use&& use) {
  constexpr int64_t kMaxWords = 16 << 20;
  uint32_t* words = nullptr;
  if constexpr (kOverlapRois > 0) {
    const int64_t groups = divide_up(problem.rois, FindOverlaps::kGroup);
    if (problem.rois >= kOverlapRois && max_tiles > 0 && groups <= kMaxWords / max_tiles) {
      words = take_scratch<uint32_t>(problem, groups * tiling.count);
      const FindOverlaps kernel{tiling, plan.windows, words, problem.rois,
                                divide_up(tiling.count, kThreads)};
      launch(problem, kernel, groups * kernel.blocks_of_tiles,
             Shared::bytes_of<Window>(FindOverlaps::kGroup));
    }
  }
  use(PlanGeometry<A, kWeights>{plan, words});
}

}  // namespace roidl::cuda
