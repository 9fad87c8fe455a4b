// Which RoIs meet a tile, and what their bins give to it: known from a plan, or found on the spot.
#pragma once
#include "tile.cuh"
#include "tuning.h"

namespace roidl::cuda {

// Finds which RoIs meet which tiles, once for all channels; a thread is a tile. A group is as many
// RoIs as a word has bits; its words for all tiles lie together.
struct FindMeetings {
  static constexpr int kResident = 4;
  static constexpr int kGroup = 32;
  Tiling tiling;
  const Window* windows;
  uint32_t* words;  // [group][tile]
  int64_t count;    // of the RoIs
  int64_t blocks_of_tiles;

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    Window* const some = shared.take<Window>(kGroup);
    const int64_t group = team.block / blocks_of_tiles;
    const int64_t first = (team.block - group * blocks_of_tiles) * kThreads, k = group * kGroup;
    const int rois = count - k < kGroup ? static_cast<int>(count - k) : kGroup;
    const int64_t left = tiling.count - first;
    team.each(rois, [&](int64_t i) { some[i] = windows[k + i]; });
    team.each(left < kThreads ? left : kThreads, [&](int64_t i) {
      const Tile tile = tiling.tile_of(first + i);
      uint32_t word = 0;
      for (int roi = 0; roi < rois; ++roi)
        word |= static_cast<uint32_t>(tile.meets(some[roi])) << roi;
      words[group * tiling.count + first + i] = word;
    });
  }
};

// The same for one tile, by its block.
template <class WindowOf>
ROIDL_DEVICE void find_meeting(const Team& team, const Tile& tile, int64_t k, int64_t count,
                               uint32_t* found, WindowOf&& window_of) {
  const int64_t left = count - k;
  const int words =
      left < kLanes * kLanes ? static_cast<int>((left + kLanes - 1) / kLanes) : kLanes;
  team.ballots(kLanes, words, found, [&](int word, int lane) {
    const int64_t i = k + word * kLanes + lane;
    return i < count && tile.meets(window_of(i));
  });
}

// From the plan of a call.
template <class A, int kWeights>
struct FromPlan {
  static constexpr int kMostResident = 4;
  Plan<A, kWeights> plan;
  const uint32_t* words;  // of FindMeetings; null: every block finds for itself

  ROIDL_DEVICE Window window(int64_t k) const { return plan.windows[k]; }
  // Which of kLanes groups of RoIs from k on meet the tile.
  ROIDL_DEVICE void find(const Team& team, const Tiling& tiling, const Tile& tile, int64_t k,
                         int64_t count, uint32_t* found) const {
    if (words == nullptr)
      return find_meeting(team, tile, k, count, found, [&](int64_t i) { return window(i); });
    const uint32_t* const from = words + k / FindMeetings::kGroup * tiling.count + tile.number;
    team.each(kLanes, [&](int64_t i) {
      const bool exists = k + i * FindMeetings::kGroup < count;
      found[i] = exists ? from[i * tiling.count] : 0;
    });
  }
  // visit(cell, weights) for the taps of bin p along the axis y or x of RoI k.
  template <class Visit>
  ROIDL_DEVICE void for_each_tap(bool along_y, int64_t k, int32_t p, Visit&& visit) const {
    const AxisPlan<A, kWeights>& axis = along_y ? plan.y : plan.x;
    const Tap<A, kWeights>* const taps = axis.taps_of(k);
    const Span span = axis.spans_of(k)[p];
    for (int32_t j = span.first; j < span.stop; ++j) visit(taps[j].cell, taps[j].weight);
  }
};

// From the boxes themselves: every block finds for itself what it needs of them. A cell's weights
// come one by one, in the order in which a plan adds them up.
template <class A, class Rois>
struct FromBoxes {
  static constexpr int kMostResident = 2;
  Rois rois;

  ROIDL_DEVICE Window window(int64_t k) const { return window_of(rois.load(k)); }
  ROIDL_DEVICE void find(const Team& team, const Tiling&, const Tile& tile, int64_t k,
                         int64_t count, uint32_t* found) const {
    find_meeting(team, tile, k, count, found, [&](int64_t i) { return window(i); });
  }
  template <class Visit>
  ROIDL_DEVICE void for_each_tap(bool along_y, int64_t k, int32_t p, Visit&& visit) const {
    const auto roi = rois.load(k);
    const auto& axis = along_y ? roi.y : roi.x;
    axis.template for_each_tap<A>(
        p, [&](int32_t cell, A weight, int64_t, A) { visit(cell, &weight); });
  }
};

// Calls use(from) with the plan and the meetings of a call, which live as long as that takes.
// `most` is the number of tiles that is measured by. Among few RoIs a block has found those that it
// meets sooner than one more kernel, and the meetings of very many on very many tiles are too
// large.
template <class A, int kWeights, class Use>
void with_meetings(const Problem& problem, const Tiling& tiling, int64_t most,
                   const Plan<A, kWeights>& plan, Use&& use) {
  constexpr int64_t kMostWords = 16 << 20;
  const int64_t groups = divide_up(problem.rois, FindMeetings::kGroup);
  const bool apart =
      problem.rois >= ROIDL_TUNE_GATHER_MEETINGS && most > 0 && groups <= kMostWords / most;
  uint32_t* const words = take_scratch<uint32_t>(problem, apart ? groups * tiling.count : 0);
  if (apart) {
    const FindMeetings kernel{tiling, plan.windows, words, problem.rois,
                              divide_up(tiling.count, kThreads)};
    launch(problem, kernel, groups * kernel.blocks_of_tiles,
           Shared::bytes_of<Window>(FindMeetings::kGroup));
  }
  use(FromPlan<A, kWeights>{plan, words});
}

}  // namespace roidl::cuda
