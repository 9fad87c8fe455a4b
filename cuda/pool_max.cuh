// RoIPool's maxima and argmaxes: by rows, or with a bin for each thread.
#pragma once
#include <cmath>

#include "rows.cuh"

namespace roidl::cuda {

struct alignas(8) Cells {  // read at once
  int32_t begin, end;
};

template <class C>
ROIDL_DEVICE Cells cells_of(const PoolBins<C>& axis, int64_t p) {
  const Bin bin = axis.bin(p);
  return {static_cast<int32_t>(bin.begin), static_cast<int32_t>(bin.end)};
}

// The first NaN wins, so that it is not hidden.
template <class A>
ROIDL_DEVICE bool beats(A value, A best) {
  return !(value <= best) && best == best;
}

// The item of a column is its first maximum and the cell of that, y * width + x.
template <class T, class Rois>
struct MaxRows {
  using A = accumulator<T>;
  static constexpr int kUnitChannels = ROIDL_TUNE_POOL_MAX_CHANNELS * 4 / sizeof(A);
  static constexpr int kMinBlocks = ROIDL_TUNE_POOL_MAX_MIN_BLOCKS;
  static constexpr int kMaxRois = ROIDL_TUNE_POOL_MAX_ROIS, kSlab = ROIDL_TUNE_POOL_MAX_SLAB;
  static constexpr int kMaxBins = 1024;  // bins along both axes, whose cells a block keeps
  using RoiType = Roi<typename Rois::Axis>;

  struct ItemArrays {
    ItemArray<A, kUnitChannels> values;
    ItemArray<int32_t, kUnitChannels> cells;

    static int64_t bytes() {
      return ItemArray<A, kUnitChannels>::bytes() + ItemArray<int32_t, kUnitChannels>::bytes();
    }
    ROIDL_DEVICE static ItemArrays place(Shared& shared) {
      const auto values = ItemArray<A, kUnitChannels>::place(shared);
      return {values, ItemArray<int32_t, kUnitChannels>::place(shared)};
    }
    ROIDL_DEVICE ItemArrays of(const Warp& warp) const { return {values.of(warp), cells.of(warp)}; }
  };
  struct RoiData {
    Start<T> start;
    int32_t* argmax;
    const Cells *y, *x;
    int32_t width;  // width of the map
    bool exists;
  };
  struct Space {
    RoiType* rois;
    Cells* cells;  // [RoI][bins_y + bins_x]
    RoiData* roi_data;
  };
  struct Unit {
    Channels<T, kUnitChannels> from;
    Results<T> to;
    Results<int32_t> argmax;
  };

  Rois rois;
  Views features;
  PooledView out, argmax;  // argmax.data may be null
  int32_t bins_y, bins_x;

  explicit MaxRows(const RoiPoolProblem& problem)
      : rois(problem),
        features(views_of(problem, &Map::features)),
        out(problem.pooled),
        argmax(problem.argmax),
        bins_y(static_cast<int32_t>(problem.output_height)),
        bins_x(static_cast<int32_t>(problem.output_width)) {}

  static bool takes(const RoiPoolProblem& problem) {
    return problem.output_height + problem.output_width <= kMaxBins && walks_rows(problem) &&
           counts_plane(problem, problem.argmax);
  }
  int64_t bytes(int64_t count) const {
    return Shared::bytes_of<RoiType>(count) + Shared::bytes_of<Cells>(count * (bins_y + bins_x)) +
           Shared::bytes_of<RoiData>(count);
  }
  ROIDL_DEVICE Space place(Shared& shared, int64_t count) const {
    Space space;
    space.rois = shared.take<RoiType>(count);
    space.cells = shared.take<Cells>(count * (bins_y + bins_x));
    space.roi_data = shared.take<RoiData>(count);
    return space;
  }
  template <class RoiOf>
  ROIDL_DEVICE void prepare(const Block& block, const Space& space, int32_t count, RoiOf&& roi_of,
                            int32_t channel) const {
    const int32_t both = bins_y + bins_x;
    block.each(count, [&](int64_t i) {
      const int32_t k = roi_of(static_cast<int32_t>(i));
      const RoiType roi = rois.load(k);
      const Cells* const cells = space.cells + i * both;
      space.rois[i] = roi;
      space.roi_data[i] = {
          {features, out, roi, k, channel},
          static_cast<int32_t*>(argmax.data) + argmax.offset(k) + channel * argmax.c,
          cells,
          cells + bins_y,
          static_cast<int32_t>(roi.x.size),
          roi.image >= 0};
    });
    block.each(count * both, [&](int64_t index) {
      const int32_t i = static_cast<int32_t>(index) / both,
                    bin = static_cast<int32_t>(index) % both;
      const RoiType& roi = space.rois[i];
      space.cells[index] = bin < bins_y ? cells_of(roi.y, bin) : cells_of(roi.x, bin - bins_y);
    });
  }
  ROIDL_DEVICE RoiData load_roi(const Space& space, int32_t i) const {
    RoiData roi_data = space.roi_data[i];
    roi_data.y = opaque_shared(roi_data.y);
    roi_data.x = opaque_shared(roi_data.x);
    roi_data.width = opaque(roi_data.width);
    return roi_data;
  }
  ROIDL_DEVICE Unit unit_of(const RoiData& roi_data, int32_t first, int32_t channels) const {
    return {{roi_data.start, first, channels},
            {roi_data.start.to, out, first},
            {roi_data.argmax, argmax, first}};
  }

  ROIDL_DEVICE Span columns(const RoiData& roi_data, int32_t q, int32_t q_stop) const {
    if (!roi_data.exists) return {0, 0};
    return {roi_data.x[q].begin, roi_data.x[q_stop - 1].end};
  }

  ROIDL_DEVICE void down(const RoiData& roi_data, const Unit& unit, int32_t p, int32_t x,
                         const ItemArrays& items, int32_t item) const {
    const Cells rows = roi_data.y[p];
    if (rows.begin >= rows.end) return;
    A best[kUnitChannels];
    int32_t row[kUnitChannels];
    int32_t at = rows.begin * unit.from.h + x * unit.from.w;
#pragma unroll
    for (int c = 0; c < kUnitChannels; ++c) {
      best[c] = widen(unit.from.at[c][at]);
      row[c] = rows.begin;
    }
#pragma unroll 1
    for (int32_t y = rows.begin + 1; y < rows.end; ++y) {
      at += unit.from.h;
#pragma unroll
      for (int c = 0; c < kUnitChannels; ++c) {
        const A value = widen(unit.from.at[c][at]);
        if (!beats(value, best[c])) continue;
        best[c] = value;
        row[c] = y;
      }
    }
#pragma unroll
    for (int c = 0; c < kUnitChannels; ++c) row[c] = row[c] * roi_data.width + x;
    if (any(best, [](A value) { return value != value; })) {
#pragma unroll
      for (int c = 0; c < kUnitChannels; ++c)
        if (best[c] != best[c]) {
          best[c] = A(INFINITY);
          row[c] += kNaN;
        }
    }
    items.values.put(item, best);
    items.cells.put(item, row);
  }

  ROIDL_DEVICE void across(const RoiData& roi_data, const Unit& unit, int32_t p, int32_t q,
                           const Span& piece, const ItemArrays& items, int32_t first) const {
    const Cells rows = roi_data.y[p], columns = roi_data.x[q];
    A best[kUnitChannels] = {};
    int32_t cell[kUnitChannels];
#pragma unroll
    for (int c = 0; c < kUnitChannels; ++c) cell[c] = -1;
    if (roi_data.exists && rows.begin < rows.end && columns.begin < columns.end) {
      const bool carried = columns.begin < piece.first;  // the bin is wider than the items
      const int32_t begin = carried ? piece.first : columns.begin + 1;
      const int32_t end = columns.end < piece.stop ? columns.end : piece.stop;
      const int32_t start = carried ? kItems : first + columns.begin - piece.first;
      items.values.get(start, best);
      items.cells.get(start, cell);
#pragma unroll 1
      for (int32_t x = begin; x < end; ++x) {
        A value[kUnitChannels];
        int32_t where[kUnitChannels];
        items.values.get(first + x - piece.first, value);
        items.cells.get(first + x - piece.first, where);
#pragma unroll
        for (int c = 0; c < kUnitChannels; ++c) {
          const bool wins = value[c] > best[c] || (value[c] == best[c] && where[c] < cell[c]);
          best[c] = wins ? value[c] : best[c];
          cell[c] = wins ? where[c] : cell[c];
        }
      }
      if (end < columns.end) {
        items.values.put(kItems, best);
        items.cells.put(kItems, cell);
        return;
      }
      if (any(cell, [](int32_t where) { return where < 0; })) {
#pragma unroll
        for (int c = 0; c < kUnitChannels; ++c)
          if (cell[c] < 0) {
            best[c] = A(NAN);
            cell[c] -= kNaN;
          }
      }
    }
    unit.to.template for_each<kUnitChannels>(unit.from.count, p, q,
                                             [&](int c, T& result) { narrow(best[c], result); });
    if (argmax.data == nullptr) return;
    unit.argmax.template for_each<kUnitChannels>(unit.from.count, p, q,
                                                 [&](int c, int32_t& result) { result = cell[c]; });
  }

 private:
  // A NaN is stored as infinity, with this added to its cell: it then wins over all other values,
  // and over later NaNs.
  static constexpr int32_t kNaN = INT32_MIN;

  template <class V, class Test>
  ROIDL_DEVICE static bool any(const V (&values)[kUnitChannels], Test&& test) {
    bool found = false;
#pragma unroll
    for (int c = 0; c < kUnitChannels; ++c) found |= test(values[c]);
    return found;
  }
};

// Each thread computes a bin on kVector channels that are neighbours in memory. The cells of the
// first bins along both axes are found once for all channels of a block.
template <class T, int kVector>
struct PoolMax {
  using A = accumulator<T>;
  static constexpr int kItemChannels = kVector;
  static constexpr int kMinBlocks = 3;
  static constexpr int kCachedBins = 64;  // bins along an axis
  using Vector = Vec<T, kVector>;
  // 16 bytes at most.
  static constexpr int kIndices = kVector < 4 ? kVector : 4;
  using Indices = Vec<int32_t, kIndices>;
  using Space = Cells*;
  Views features;
  PooledView out, argmax;  // argmax.data may be null

  static int64_t bytes() { return Shared::bytes_of<Cells>(2 * kCachedBins); }
  ROIDL_DEVICE static Space place(Shared& shared) { return shared.take<Cells>(2 * kCachedBins); }

  template <class C>
  ROIDL_DEVICE static void prepare(const Block& block, const Roi<PoolBins<C>>& roi,
                                   Space bin_cells) {
    block.each(2 * kCachedBins, [&](int64_t i) {
      const int64_t p = i % kCachedBins;
      const PoolBins<C>& axis = i < kCachedBins ? roi.y : roi.x;
      if (p < axis.bins) bin_cells[i] = cells_of(axis, p);
    });
  }

  template <class C>
  ROIDL_DEVICE void operator()(const Roi<PoolBins<C>>& roi, const Cells* bin_cells, int64_t k,
                               int64_t group, int64_t p, int64_t q) const {
    const int64_t channel = group * kVector;
    A best[kVector] = {};
    int32_t cell[kVector];
#pragma unroll
    for (int c = 0; c < kVector; ++c) cell[c] = -1;
    if (roi.image >= 0) {
      const Plane<T> plane = plane_of<T>(features, roi, channel);
      const Cells rows = p < kCachedBins ? bin_cells[p] : cells_of(roi.y, p);
      const Cells columns = q < kCachedBins ? bin_cells[kCachedBins + q] : cells_of(roi.x, q);
      const int32_t width = static_cast<int32_t>(roi.x.size);
      for (int32_t y = rows.begin; y < rows.end; ++y) {
        const T* from = plane.data + y * plane.h + columns.begin * plane.w;
#pragma unroll 1
        for (int32_t x = columns.begin; x < columns.end; ++x, from += plane.w) {
          const Vector values = *reinterpret_cast<const Vector*>(from);
#pragma unroll
          for (int c = 0; c < kVector; ++c) {
            const A value = widen(values.at[c]);
            if (cell[c] >= 0 && !beats(value, best[c])) continue;
            best[c] = value;
            cell[c] = y * width + x;
          }
        }
      }
    }
    Vector result;
#pragma unroll
    for (int c = 0; c < kVector; ++c) narrow(best[c], result.at[c]);
    store_vector(&element_of<T>(out, k, channel, p, q), result);
    if (argmax.data == nullptr) return;
    int32_t* const target = &element_of<int32_t>(argmax, k, channel, p, q);
#pragma unroll
    for (int first = 0; first < kVector; first += kIndices) {
      Indices indices;
#pragma unroll
      for (int c = 0; c < kIndices; ++c) indices.at[c] = cell[first + c];
      store_vector(target + first, indices);
    }
  }
};

// Computes 16 bytes of channels at a time if channels are neighbours in memory.
template <class T, class Rois>
void max_by_bins(const RoiPoolProblem& problem) {
  constexpr int kWide = 16 / sizeof(T);
  const auto run = [&](const auto& body) { launch_each_bin(problem, Rois(problem), body); };
  const Views features = views_of(problem, &Map::features);
  if (can_move_channel_vectors<T>(problem) &&
      (problem.argmax.data == nullptr ||
       can_move_pooled_vectors(problem.argmax, problem.channels, kWide < 4 ? kWide : 4,
                               sizeof(int32_t))))
    run(PoolMax<T, kWide>{features, problem.pooled, problem.argmax});
  else
    run(PoolMax<T, 1>{features, problem.pooled, problem.argmax});
}

}  // namespace roidl::cuda
