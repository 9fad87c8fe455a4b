// RoIPool's maxima and where they stand: by rows, or a bin a thread.
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

// The first NaN wins, so that it cannot hide.
template <class A>
ROIDL_DEVICE bool beats(A value, A best) {
  return !(value <= best) && best == best;
}

// What is kept of a column is its first maximum and that one's cell, y * width + x.
template <class T, class Rois>
struct MaxRows {
  using A = accumulator<T>;
  static constexpr int kTogether = ROIDL_TUNE_MAX_TOGETHER * 4 / sizeof(A);
  static constexpr int kResident = ROIDL_TUNE_MAX_RESIDENT;
  static constexpr int kMostRois = ROIDL_TUNE_MAX_ROIS, kSlab = ROIDL_TUNE_MAX_SLAB;
  static constexpr int kMostBins = 1024;  // along both axes, whose cells a block keeps
  using RoiType = Roi<typename Rois::Axis>;

  struct Kept {
    Strip<A, kTogether> values;
    Strip<int32_t, kTogether> cells;

    static int64_t bytes() {
      return Strip<A, kTogether>::bytes() + Strip<int32_t, kTogether>::bytes();
    }
    ROIDL_DEVICE static Kept place(Shared& shared) {
      const auto values = Strip<A, kTogether>::place(shared);
      return {values, Strip<int32_t, kTogether>::place(shared)};
    }
    ROIDL_DEVICE Kept of(const Warp& warp) const { return {values.of(warp), cells.of(warp)}; }
  };
  struct Known {
    Start<T> start;
    int32_t* argmax;
    const Cells *y, *x;
    int32_t width;  // of the map
    bool exists;
  };
  struct Space {
    RoiType* rois;
    Cells* cells;  // [RoI][bins_y + bins_x]
    Known* known;
  };
  struct Unit {
    Channels<T, kTogether> from;
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
    return problem.output_height + problem.output_width <= kMostBins && walks_rows(problem) &&
           counts_plane(problem, problem.argmax);
  }
  int64_t bytes(int64_t some) const {
    return Shared::bytes_of<RoiType>(some) + Shared::bytes_of<Cells>(some * (bins_y + bins_x)) +
           Shared::bytes_of<Known>(some);
  }
  ROIDL_DEVICE Space place(Shared& shared, int64_t some) const {
    Space space;
    space.rois = shared.take<RoiType>(some);
    space.cells = shared.take<Cells>(some * (bins_y + bins_x));
    space.known = shared.take<Known>(some);
    return space;
  }
  template <class RoiOf>
  ROIDL_DEVICE void prepare(const Team& team, const Space& space, int32_t some, RoiOf&& roi_of,
                            int32_t channel) const {
    const int32_t both = bins_y + bins_x;
    team.each(some, [&](int64_t i) {
      const int32_t k = roi_of(static_cast<int32_t>(i));
      const RoiType roi = rois.load(k);
      const Cells* const cells = space.cells + i * both;
      space.rois[i] = roi;
      space.known[i] = {{features, out, roi, k, channel},
                        static_cast<int32_t*>(argmax.data) + argmax.offset(k) + channel * argmax.c,
                        cells,
                        cells + bins_y,
                        static_cast<int32_t>(roi.x.size),
                        roi.image >= 0};
    });
    team.each(some * both, [&](int64_t index) {
      const int32_t i = static_cast<int32_t>(index) / both,
                    bin = static_cast<int32_t>(index) % both;
      const RoiType& roi = space.rois[i];
      space.cells[index] = bin < bins_y ? cells_of(roi.y, bin) : cells_of(roi.x, bin - bins_y);
    });
  }
  ROIDL_DEVICE Known know(const Space& space, int32_t i) const {
    Known known = space.known[i];
    known.y = held_shared(known.y);
    known.x = held_shared(known.x);
    known.width = held(known.width);
    return known;
  }
  ROIDL_DEVICE Unit unit_of(const Known& known, int32_t first, int32_t channels) const {
    return {{known.start, first, channels},
            {known.start.to, out, first},
            {known.argmax, argmax, first}};
  }

  ROIDL_DEVICE Span columns(const Known& known, int32_t q, int32_t q_stop) const {
    if (!known.exists) return {0, 0};
    return {known.x[q].begin, known.x[q_stop - 1].end};
  }

  ROIDL_DEVICE void down(const Known& known, const Unit& unit, int32_t p, int32_t x,
                         const Kept& kept, int32_t item) const {
    const Cells rows = known.y[p];
    if (rows.begin >= rows.end) return;
    A best[kTogether];
    int32_t row[kTogether];
    int32_t at = rows.begin * unit.from.h + x * unit.from.w;
#pragma unroll
    for (int c = 0; c < kTogether; ++c) {
      best[c] = widen(unit.from.at[c][at]);
      row[c] = rows.begin;
    }
#pragma unroll 1
    for (int32_t y = rows.begin + 1; y < rows.end; ++y) {
      at += unit.from.h;
#pragma unroll
      for (int c = 0; c < kTogether; ++c) {
        const A value = widen(unit.from.at[c][at]);
        if (!beats(value, best[c])) continue;
        best[c] = value;
        row[c] = y;
      }
    }
#pragma unroll
    for (int c = 0; c < kTogether; ++c) row[c] = row[c] * known.width + x;
    if (any(best, [](A value) { return value != value; })) {
#pragma unroll
      for (int c = 0; c < kTogether; ++c)
        if (best[c] != best[c]) {
          best[c] = A(INFINITY);
          row[c] += kNaN;
        }
    }
    kept.values.put(item, best);
    kept.cells.put(item, row);
  }

  ROIDL_DEVICE void across(const Known& known, const Unit& unit, int32_t p, int32_t q,
                           const Span& piece, const Kept& kept, int32_t first) const {
    const Cells rows = known.y[p], columns = known.x[q];
    A best[kTogether] = {};
    int32_t cell[kTogether];
#pragma unroll
    for (int c = 0; c < kTogether; ++c) cell[c] = -1;
    if (known.exists && rows.begin < rows.end && columns.begin < columns.end) {
      const bool carried = columns.begin < piece.first;  // of a bin that is wider than the room
      const int32_t begin = carried ? piece.first : columns.begin + 1;
      const int32_t end = columns.end < piece.stop ? columns.end : piece.stop;
      const int32_t start = carried ? kItems : first + columns.begin - piece.first;
      kept.values.get(start, best);
      kept.cells.get(start, cell);
#pragma unroll 1
      for (int32_t x = begin; x < end; ++x) {
        A value[kTogether];
        int32_t where[kTogether];
        kept.values.get(first + x - piece.first, value);
        kept.cells.get(first + x - piece.first, where);
#pragma unroll
        for (int c = 0; c < kTogether; ++c) {
          const bool wins = value[c] > best[c] || (value[c] == best[c] && where[c] < cell[c]);
          best[c] = wins ? value[c] : best[c];
          cell[c] = wins ? where[c] : cell[c];
        }
      }
      if (end < columns.end) {
        kept.values.put(kItems, best);
        kept.cells.put(kItems, cell);
        return;
      }
      if (any(cell, [](int32_t where) { return where < 0; })) {
#pragma unroll
        for (int c = 0; c < kTogether; ++c)
          if (cell[c] < 0) {
            best[c] = A(NAN);
            cell[c] -= kNaN;
          }
      }
    }
    unit.to.template for_each<kTogether>(unit.from.count, p, q,
                                         [&](int c, T& result) { narrow(best[c], result); });
    if (argmax.data == nullptr) return;
    unit.argmax.template for_each<kTogether>(unit.from.count, p, q,
                                             [&](int c, int32_t& result) { result = cell[c]; });
  }

 private:
  // A NaN is kept as infinity with this added to its cell: so it wins over whatever is none, and
  // over later ones.
  static constexpr int32_t kNaN = INT32_MIN;

  template <class V, class Test>
  ROIDL_DEVICE static bool any(const V (&values)[kTogether], Test&& test) {
    bool found = false;
#pragma unroll
    for (int c = 0; c < kTogether; ++c) found |= test(values[c]);
    return found;
  }
};

// A thread is a bin, of so many channels that lie together. The cells of the first bins along
// either axis are found once for all channels that a block has.
template <class T, int kChannels>
struct PoolMax {
  using A = accumulator<T>;
  static constexpr int kTogether = kChannels;
  static constexpr int kResident = 3;
  static constexpr int kKnown = 64;  // along an axis
  using Together = Vec<T, kTogether>;
  // 16 bytes at most.
  static constexpr int kIndices = kTogether < 4 ? kTogether : 4;
  using Indices = Vec<int32_t, kIndices>;
  using Space = Cells*;
  Views features;
  PooledView out, argmax;  // argmax.data may be null

  static int64_t bytes() { return Shared::bytes_of<Cells>(2 * kKnown); }
  ROIDL_DEVICE static Space place(Shared& shared) { return shared.take<Cells>(2 * kKnown); }

  template <class C>
  ROIDL_DEVICE static void prepare(const Team& team, const Roi<PoolBins<C>>& roi, Space known) {
    team.each(2 * kKnown, [&](int64_t i) {
      const int64_t p = i % kKnown;
      const PoolBins<C>& axis = i < kKnown ? roi.y : roi.x;
      if (p < axis.bins) known[i] = cells_of(axis, p);
    });
  }

  template <class C>
  ROIDL_DEVICE void operator()(const Roi<PoolBins<C>>& roi, const Cells* known, int64_t k,
                               int64_t group, int64_t p, int64_t q) const {
    const int64_t channel = group * kTogether;
    A best[kTogether] = {};
    int32_t cell[kTogether];
#pragma unroll
    for (int c = 0; c < kTogether; ++c) cell[c] = -1;
    if (roi.image >= 0) {
      const Plane<T> plane = plane_of<T>(features, roi, channel);
      const Cells rows = p < kKnown ? known[p] : cells_of(roi.y, p);
      const Cells columns = q < kKnown ? known[kKnown + q] : cells_of(roi.x, q);
      const int32_t width = static_cast<int32_t>(roi.x.size);
      for (int32_t y = rows.begin; y < rows.end; ++y) {
        const T* from = plane.data + y * plane.h + columns.begin * plane.w;
#pragma unroll 1
        for (int32_t x = columns.begin; x < columns.end; ++x, from += plane.w) {
          const Together values = *reinterpret_cast<const Together*>(from);
#pragma unroll
          for (int c = 0; c < kTogether; ++c) {
            const A value = widen(values.at[c]);
            if (cell[c] >= 0 && !beats(value, best[c])) continue;
            best[c] = value;
            cell[c] = y * width + x;
          }
        }
      }
    }
    Together result;
#pragma unroll
    for (int c = 0; c < kTogether; ++c) narrow(best[c], result.at[c]);
    store_together(&element_of<T>(out, k, channel, p, q), result);
    if (argmax.data == nullptr) return;
    int32_t* const target = &element_of<int32_t>(argmax, k, channel, p, q);
#pragma unroll
    for (int first = 0; first < kTogether; first += kIndices) {
      Indices indices;
#pragma unroll
      for (int c = 0; c < kIndices; ++c) indices.at[c] = cell[first + c];
      store_together(target + first, indices);
    }
  }
};

// 16 bytes of channels at a time where they lie together.
template <class T, class Rois>
void max_by_bins(const RoiPoolProblem& problem) {
  constexpr int kWide = 16 / sizeof(T);
  const auto run = [&](const auto& body) { launch_each_bin(problem, Rois(problem), body); };
  const Views features = views_of(problem, &Map::features);
  if (channels_together<T>(problem) &&
      (problem.argmax.data == nullptr ||
       pooled_together(problem.argmax, problem.channels, kWide < 4 ? kWide : 4, sizeof(int32_t))))
    run(PoolMax<T, kWide>{features, problem.pooled, problem.argmax});
  else
    run(PoolMax<T, 1>{features, problem.pooled, problem.argmax});
}

}  // namespace roidl::cuda
