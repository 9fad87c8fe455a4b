// What a gather works on: a tile of a map, the bins that give to it, and where it has the windows
// and the weights of the RoIs from.
#pragma once
#include "plan.cuh"

namespace roidl::cuda {

inline constexpr int kTileColumns = 16;

// What of a tile a warp sums up. A lane has a channel, so whatever the warp decides, it decides for
// all of its lanes.
template <int kPatchRows, int kPatchColumns>
struct Patches {
  static constexpr int kRows = kPatchRows, kColumns = kPatchColumns, kCells = kRows * kColumns;
  static constexpr int kAcross = kTileColumns / kColumns;
  static constexpr int kTileRows = kWarps / kAcross * kRows, kTileCells = kTileRows * kTileColumns;
  static_assert(kTileColumns % kColumns == 0 && kWarps % kAcross == 0, "patches fill a tile");

  ROIDL_DEVICE static int row_of(int warp) { return warp / kAcross * kRows; }
  ROIDL_DEVICE static int column_of(int warp) { return warp % kAcross * kColumns; }
  // As bits of a mask of the tile's rows or columns.
  ROIDL_DEVICE static int32_t rows_of(int warp) { return ((1 << kRows) - 1) << row_of(warp); }
  ROIDL_DEVICE static int32_t columns_of(int warp) {
    return ((1 << kColumns) - 1) << column_of(warp);
  }
};

// A bin of a RoI of the list, on a channel of the tile; the rows and columns of the tile that it
// gives to, bit by bit; and where it is staged.
struct Place {
  int64_t k, channel;
  int32_t roi, map, p, q, rows, columns, at;
};

// A tile of an image of a map and some channels of it.
struct Tile {
  int64_t image, channel;
  int32_t map, channels, y, x, rows;

  ROIDL_DEVICE bool meets(const Window& window) const {
    return window.image == image && window.map == map && window.y_begin - y < rows &&
           window.y_end > y && window.x_begin - x < kTileColumns && window.x_end > x;
  }

  // The number within the tile of a cell of the map that a bin gives to, or -1.
  ROIDL_DEVICE int32_t cell_of(const Place& place, int64_t row, int64_t column) const {
    const int64_t down = row - y, right = column - x;
    if (down < 0 || down >= rows || right < 0 || right >= kTileColumns) return -1;
    const bool gives = (place.rows >> down & place.columns >> right & 1) != 0;
    return gives ? static_cast<int32_t>(down * kTileColumns + right) : -1;
  }
};

// Of one axis: which rows or columns of the tile a bin gives to, bit by bit, and what to each.
template <class A>
struct Table {
  static constexpr int kStride = kTileColumns + 16 / static_cast<int>(sizeof(A));  // moved by 16
  int32_t* gives;                                                                  // [RoI][bin]
  A* weight;       // [RoI][bin][kStride], and so for each weight
  int32_t bins;    // at a time
  int32_t second;  // how far the second weights lie behind the first

  static int64_t bytes(int64_t rois, int64_t bins, int weights) {
    return Shared::bytes_of<int32_t>(rois * bins) +
           Shared::bytes_of<A>(weights * rois * bins * kStride);
  }
  ROIDL_DEVICE static Table place(Shared& shared, int32_t rois, int32_t bins, int weights) {
    Table table;
    table.bins = bins;
    table.second = rois * bins * kStride;
    table.gives = shared.take<int32_t>(rois * bins);
    table.weight = shared.take<A>(weights * table.second);
    return table;
  }

  ROIDL_DEVICE int32_t gives_of(int roi, int32_t bin) const { return gives[roi * bins + bin]; }
  ROIDL_DEVICE A* row(int roi, int32_t bin) const { return weight + (roi * bins + bin) * kStride; }
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
