// The bins that a gather works on together, as they come to lie in shared memory: what each gives
// to the rows and columns of a tile, and the gradients of those that give anything.
#pragma once
#include "tile.cuh"
#include "tuning.h"

namespace roidl::cuda {

// Some bins of some RoIs of a list.
struct Some {
  int64_t first;  // RoI, from which the list counts
  const int32_t* list;
  int rois;
  int32_t p, q, rows, columns;
};

// `Source`: see Gather (gather.cuh).
template <class T, class Source>
struct Staging {
  using A = accumulator<T>;
  using Patch = typename Source::Patch;
  static constexpr int kWeights = Source::kWeights;
  static constexpr int kStaged = Source::kStaged;
  static constexpr int kBinStride = kLanes + 1;  // no two bins of a channel, or channels, in a bank
  static constexpr int kMostAtOnce = ROIDL_TUNE_GATHER_AT_ONCE;  // RoIs

  using Rows = Table<A, Patch::kTileRows, Patch::kDown>;
  using Columns = Table<A, Patch::kTileColumns, Patch::kAcross>;
  struct Space {
    int64_t* offset;  // of a RoI's gradients
    Rows y;
    Columns x;
    typename Source::Staged staged;
  };

  Source source;
  PooledView grad_output;
  int32_t bins_y, bins_x;
  int32_t some_y, some_x, at_once;  // bins at a time, RoIs at a time
  bool lanes_are_bins;

  Staging(const Problem& problem, const Source& asked)
      : source(asked),
        grad_output(problem.pooled),
        bins_y(static_cast<int32_t>(problem.output_height)),
        bins_x(static_cast<int32_t>(problem.output_width)),
        some_y(bins_y < Source::kMostBins ? bins_y : Source::kMostBins),
        some_x(bins_x < Source::kMostBins ? bins_x : Source::kMostBins),
        at_once(1),
        lanes_are_bins(grad_output.c != 1 && counts_channels(grad_output) && source.counts()) {}

  int64_t bytes(int64_t rois) const {
    return Shared::bytes_of<int64_t>(rois) + Rows::bytes(rois, some_y, kWeights) +
           Columns::bytes(rois, some_x, kWeights) +
           Source::staged_bytes(rois * some_y * some_x * kBinStride, rois);
  }
  ROIDL_DEVICE Space place(Shared shared) const {
    Space space;
    space.offset = shared.take<int64_t>(at_once);
    space.y = Rows::place(shared, at_once, some_y, kWeights);
    space.x = Columns::place(shared, at_once, some_x, kWeights);
    space.staged = Source::place(shared, int64_t{at_once} * some_y * some_x * kBinStride, at_once);
    return space;
  }

  // What each bin gives to each row and column of the tile.
  template <class From>
  ROIDL_DEVICE void weigh(const Team& team, const Space& space, const From& from, const Tile& tile,
                          const Some& some) const {
    const int32_t both = some.rows + some.columns;
    team.each(some.rois * both, [&](int64_t index) {
      const int32_t i = static_cast<int32_t>(index), roi = i / both, bin = i - roi * both;
      const int64_t k = some.first + some.list[roi];
      if (bin == 0) {
        space.offset[roi] = grad_output.offset(k);
        source.know(space.staged, roi, k);
      }
      if (bin < some.rows)
        weigh_bin<Patch::kTileRows>(from, true, k, some.p + bin, tile.y, space.y, roi, bin);
      else
        weigh_bin<Patch::kTileColumns>(from, false, k, some.q + bin - some.rows, tile.x, space.x,
                                       roi, bin - some.rows);
    });
    constexpr int kRanges = Rows::kRanges + Columns::kRanges;
    team.each(some.rois * kRanges, [&](int64_t index) {
      const int i = static_cast<int>(index), roi = i / kRanges, patch = i % kRanges;
      if (patch < Rows::kRanges)
        space.y.find_giving(roi, patch, some.rows);
      else
        space.x.find_giving(roi, patch - Rows::kRanges, some.columns);
    });
  }

  // The gradients of the bins that give anything.
  ROIDL_DEVICE void stage(const Team& team, const Space& space, const Work& work,
                          const Some& some) const {
    lanes_are_bins ? move<true>(team, space, work, some) : move<false>(team, space, work, some);
    wait_for_copies();
    team.sync();
  }

  ROIDL_DEVICE int32_t at(int roi, int32_t row, int32_t column) const {
    return ((roi * some_y + row) * some_x + column) * kBinStride;
  }

 private:
  template <int kCells, class From, class TableType>
  ROIDL_DEVICE void weigh_bin(const From& from, bool along_y, int64_t k, int32_t p, int32_t begin,
                              const TableType& table, int roi, int32_t bin) const {
    A* const weight = table.row(roi, bin);
    if constexpr (kWeights > 0)
      for (int cell = 0; cell < kCells; ++cell)
        for (int j = 0; j < kWeights; ++j) weight[j * table.second + cell] = A(0);
    uint32_t gives = 0;
    from.for_each_tap(along_y, k, p, [&](int32_t cell, const A* weights) {
      const int32_t at = cell - begin;
      if (at < 0 || at >= kCells) return;
      for (int j = 0; j < kWeights; ++j) weight[j * table.second + at] += weights[j];
      gives |= 1u << at;
    });
    table.gives[roi * table.bins + bin] = gives;
  }

  // Those bins of a RoI that give anything to the tile, row by row.
  struct Bins {
    int64_t k;
    int32_t roi;
    Range rows, columns;
    uint32_t across;

    ROIDL_DEVICE int32_t row(uint32_t i) const { return rows.first + i / across; }
    ROIDL_DEVICE int32_t column(uint32_t i) const { return columns.first + i % across; }
  };

  // Lanes are bins, or channels where these are neighbours in memory (or so far from each other
  // that 32 bits do not count it); a lane loads kStaged of the other kind together.
  template <bool kChannelsFirst>
  ROIDL_DEVICE void move(const Team& team, const Space& space, const Work& work,
                         const Some& some) const {
    // As many warps to a RoI as there are for each, at most one to every kStaged channels.
    int halvings = 0;
    while (some.rois << halvings < kWarps && kStaged << halvings < kLanes) ++halvings;
    team.rows(some.rois << halvings, kLanes, [&](int32_t unit, int32_t lane) {
      const int32_t roi = unit >> halvings;
      const Range rows = space.y.giving_at_all(roi);
      const Range columns = space.x.giving_at_all(roi);
      const int32_t across = columns.stop - columns.first, bins = (rows.stop - rows.first) * across;
      int32_t piece = unit & ((1 << halvings) - 1);
      const Bins bin{some.first + some.list[roi], roi, rows, columns,
                     static_cast<uint32_t>(across)};
      const T* const from = static_cast<const T*>(grad_output.data) + space.offset[roi] +
                            work.channel * grad_output.c + some.p * grad_output.h +
                            some.q * grad_output.w;
      if constexpr (kChannelsFirst) {
        // Where half of the lanes have no bin, they take other channels of the first half's.
        int shift = 5, parts = halvings;
        for (; 1 << (shift - 1) >= bins && kStaged << parts < kLanes; ++parts) --shift;
        piece += lane >> shift << halvings;
        for (int32_t i = lane & ((1 << shift) - 1); i < bins; i += 1 << shift)
          stage_channels(space, work, some, bin, i, piece * kStaged, kStaged << parts, from);
      } else if (lane < work.channels) {
        const int32_t step = kStaged << halvings;
        for (int32_t i = piece * kStaged; i < bins; i += step)
          stage_bins(space, work, some, bin, i, lane, bins - i, from);
      }
    });
  }

  // Bin i of them, on kStaged channels at a time, from the first on.
  ROIDL_DEVICE void stage_channels(const Space& space, const Work& work, const Some& some,
                                   const Bins& bins, int32_t i, int32_t first, int32_t step,
                                   const T* from) const {
    const int32_t row = bins.row(i), column = bins.column(i), channels = work.channels;
    const int32_t stride = static_cast<int32_t>(grad_output.c);
    from += row * grad_output.h + column * grad_output.w + first * stride;
    const auto bin =
        source.bin_of(space.staged, place_of(space, work, some, bins, row, column, first));
    for (int32_t c = first; c < channels; c += step, from += step * stride) {
      const auto some_of_them = [&](int32_t count) {
        typename Source::Loaded loaded[kStaged];
#pragma unroll
        for (int j = 0; j < kStaged; ++j)
          if (j < count) loaded[j] = source.load(bin, c - first + j, from + j * stride);
#pragma unroll
        for (int j = 0; j < kStaged; ++j)
          if (j < count) source.put(space.staged, bin, c - first + j, loaded[j]);
      };
      if (Source::kIsShort && channels - c >= kStaged)
        some_of_them(kStaged);  // as a rule without a question at every one
      else
        some_of_them(channels - c);
    }
  }

  // kStaged bins from bin i on, but no more than are left, on channel c.
  ROIDL_DEVICE void stage_bins(const Space& space, const Work& work, const Some& some,
                               const Bins& bins, int32_t i, int32_t c, int32_t left,
                               const T* from) const {
    const int32_t row = bins.row(i), column = bins.column(i);
    from += row * grad_output.h + column * grad_output.w + c * grad_output.c;
    int32_t y = row, x = column;
    const auto next = [&] {  // whether still in the same row
      if (++x < bins.columns.stop) return true;
      x = bins.columns.first;
      ++y;
      return false;
    };
    const auto bin_of = [&] {
      return source.bin_of(space.staged, place_of(space, work, some, bins, y, x, c));
    };
    typename Source::Loaded loaded[kStaged];
#pragma unroll
    for (int j = 0; j < kStaged; ++j) {
      if (j < left) loaded[j] = source.load(bin_of(), 0, from);
      from += next() ? grad_output.w : grad_output.h - int64_t{bins.across - 1} * grad_output.w;
    }
    y = row;
    x = column;
#pragma unroll
    for (int j = 0; j < kStaged; ++j) {
      if (j < left) source.put(space.staged, bin_of(), 0, loaded[j]);
      next();
    }
  }

  ROIDL_DEVICE Place place_of(const Space& space, const Work& work, const Some& some,
                              const Bins& bins, int32_t row, int32_t column, int32_t c) const {
    return {bins.k,
            work.channel + c,
            bins.roi,
            work.tile.map,
            some.p + row,
            some.q + column,
            work.tile.y,
            work.tile.x,
            space.y.gives_of(bins.roi, row),
            space.x.gives_of(bins.roi, column),
            at(bins.roi, row, column) + c};
  }
};

}  // namespace roidl::cuda
