// What a gather works on: a tile of a map, the bins that give to it, and where it has the windows
// and the weights of the RoIs from.
#pragma once
#include "plan.cuh"

namespace roidl::cuda {

inline constexpr int kTile = 16;  // cells along either axis: kThreads of them
inline constexpr int kTileStride = kTile + 1;
static_assert(kTile * kTile == kThreads, "a thread is a cell");

// A tile of an image of a map and some channels of it.
struct Tile {
  int64_t image, channel;
  int32_t map, channels, y, x;

  ROIDL_DEVICE bool meets(const Window& window) const {
    return window.image == image && window.map == map && window.y_begin - y < kTile &&
           window.y_end > y && window.x_begin - x < kTile && window.x_end > x;
  }

  // The thread of a cell of the map, or -1.
  ROIDL_DEVICE int32_t thread_of(int64_t row, int64_t column) const {
    const int64_t down = row - y, right = column - x;
    const bool inside = down >= 0 && down < kTile && right >= 0 && right < kTile;
    return inside ? static_cast<int32_t>(down * kTile + right) : -1;
  }
};

// A bin of a RoI of the list, on a channel of the tile, and where it is staged.
struct Place {
  int64_t at;
  int roi;
  int64_t k;
  int32_t c;
  int64_t p, q;
};

// Where the gather has its windows and weights from: the plan of a call.
template <class A, int kWeights>
struct FromPlan {
  static constexpr int kMostResident = 4;
  Plan<A, kWeights> plan;

  ROIDL_DEVICE Window window(int64_t k) const { return plan.windows[k]; }
  // visit(cell, weights) for the taps of bin p along the axis y or x of RoI k.
  template <class Visit>
  ROIDL_DEVICE void for_each_tap(bool along_y, int64_t k, int32_t p, Visit&& visit) const {
    const AxisPlan<A, kWeights>& axis = along_y ? plan.y : plan.x;
    const Tap<A, kWeights>* const taps = axis.taps_of(k);
    const Span span = axis.spans_of(k)[p];
    for (int32_t j = span.first; j < span.stop; ++j) visit(taps[j].cell, taps[j].weight);
  }
};

// Or the boxes themselves: every block finds for itself what it needs of them. A cell's weights
// come one by one, in the order in which a plan adds them up.
template <class A, class Rois>
struct FromBoxes {
  static constexpr int kMostResident = 2;
  Rois rois;

  ROIDL_DEVICE Window window(int64_t k) const { return window_of(rois.load(k)); }
  template <class Visit>
  ROIDL_DEVICE void for_each_tap(bool along_y, int64_t k, int32_t p, Visit&& visit) const {
    const auto roi = rois.load(k);
    const auto& axis = along_y ? roi.y : roi.x;
    axis.template for_each_tap<A>(
        p, [&](int32_t cell, A weight, int64_t, A) { visit(cell, &weight); });
  }
};

}  // namespace roidl::cuda
