// Gradients to the input: every cell gathers what it is owed, RoI by RoI in their order.
//
// A block owns a tile of a map and 32 channels, a warp a patch of the tile, a lane a channel. The
// block picks the RoIs whose window meets the tile, and for a few of them at a time lays out in
// shared memory what each bin gives to the rows and columns of the tile, and the gradients of those
// bins. No atomics, no memory to be zeroed before, the same order every time.
#pragma once
#include "meeting.cuh"

namespace roidl::cuda {

inline constexpr int kListed = kLanes * kLanes;  // RoIs that a block looks at together
inline constexpr int kMostAtOnce = 8;            // RoIs of the list

// `Source` says what a bin gives to a cell: Products (products.cuh), or Entries (entries.cuh).
// `From` says where the windows and weights are from.
template <class T, class Source, class From>
struct Gather {
  using A = accumulator<T>;
  using Patch = typename Source::Patch;
  static constexpr int kWeights = Source::kWeights;
  static constexpr int kStaged = Source::kStaged;  // gradients that a lane loads together
  static constexpr int kBinStride = kLanes + 1;  // no two bins of a channel, or channels, in a bank
  static constexpr int kResident =
      Source::kResident < From::kMostResident ? Source::kResident : From::kMostResident;
  // What waits in shared memory to be stored, of so many channels together.
  static constexpr int kStored = sizeof(A) == 8 ? kLanes / 2 : kLanes;
  static constexpr int kStoredStride = Patch::kTileCells + 1;
  struct Sum {
    A at[Patch::kCells];
  };

  // A tile and some channels of it.
  struct Work {
    Tile tile;
    int64_t channel;
    int32_t channels;
  };

  struct Workspace {
    Work* work;       // not worth every thread's registers
    int32_t* list;    // of RoIs, counted from the first that was looked at
    int64_t* offset;  // of a RoI's gradients
    uint32_t* words;
    typename Source::Own own;
    Table<A> y, x;
    typename Source::Staged staged;
    A* stored;  // in the place of the tables and of what is staged
  };

  // Some bins of some RoIs of the list.
  struct Some {
    int64_t first;
    const int32_t* list;
    int rois;
    int32_t p, q, rows, columns;
  };

  Source source;
  From from;
  PooledView grad_output;
  Views grad_inputs;
  Tiling tiling;
  int64_t count;  // of the RoIs
  int64_t channels, slabs;
  int32_t bins_y, bins_x;
  int32_t some_y, some_x, at_once;  // bins at a time, RoIs at a time
  bool channels_first;              // in the memory of grad_output

  Gather(const Problem& problem, const Tiling& tiles, const Source& asked, const From& found)
      : source(asked),
        from(found),
        grad_output(problem.pooled),
        grad_inputs(views_of(problem, &Map::gradient)),
        tiling(tiles),
        count(problem.rois),
        channels(problem.channels),
        slabs(divide_up(channels, kLanes)),
        bins_y(static_cast<int32_t>(problem.output_height)),
        bins_x(static_cast<int32_t>(problem.output_width)),
        some_y(bins_y < Source::kMostBins ? bins_y : Source::kMostBins),
        some_x(bins_x < Source::kMostBins ? bins_x : Source::kMostBins),
        at_once(1),
        channels_first(grad_output.c != 1) {
    // Several RoIs at a time hide each other's waiting, as long as blocks do not crowd each other
    // out of shared memory.
    const int64_t room = shared_bytes_of_block(problem, kResident);
    while (at_once < kMostAtOnce && shared_bytes(at_once + 1) <= room) ++at_once;
  }

  int64_t shared_bytes(int64_t rois) const {
    const int64_t bins = Table<A>::bytes(rois, some_y, kWeights) +
                         Table<A>::bytes(rois, some_x, kWeights) +
                         Source::staged_bytes(rois * some_y * some_x * kBinStride, rois);
    const int64_t stored = Shared::bytes_of<A>(kStored * kStoredStride);
    return Shared::bytes_of<Work>(1) + Shared::bytes_of<int32_t>(kListed) +
           Shared::bytes_of<int64_t>(kMostAtOnce) + Shared::bytes_of<uint32_t>(kLanes) +
           Source::own_bytes() + (bins > stored ? bins : stored);
  }

  int64_t blocks() const { return tiling.count * slabs; }

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    const Workspace space = place(shared);
    for (int64_t block = team.block; block < tiling.count * slabs; block += team.blocks) {
      team.each(1, [&](int64_t) { *space.work = work_of(block); });
      const Work& work = *space.work;
      PerThread<Sum> sums;
      team.each_thread([&](int thread) {
        sums[thread] = Sum{};
        source.begin(space.own, thread);
      });
      for (int64_t first = 0; first < count; first += kListed) {
        const int listed = team.list(space.list, space.words, [&](int word) {
          const int64_t group = first / kLanes + word;
          return group * kLanes < count ? from.meeting(team, tiling, work.tile, group, count) : 0;
        });
        for (int next = 0; next < listed; next += at_once)
          add(team, space, work, first, space.list + next,
              listed - next < at_once ? listed - next : at_once, sums);
      }
      store(team, space, work, sums);
      team.sync();
    }
  }

 private:
  // All tiles of a map with the same channels come together: what they read of the gradients is
  // found in L2.
  ROIDL_DEVICE Work work_of(int64_t block) const {
    int32_t map = 0;
    while (map + 1 < tiling.maps && block < tiling.of[map].first * slabs) ++map;
    const Tiling::MapTiles& those = tiling.of[map];
    const int64_t tiles = tiling.images * those.each, within = block - those.first * slabs;
    const bool few = tiles * slabs <= INT32_MAX;  // a division of 64 bits is much longer
    const int64_t slab =
        few ? static_cast<uint32_t>(within) / static_cast<uint32_t>(tiles) : within / tiles;
    const int64_t channel = slab * kLanes, left = channels - channel;
    return {tiling.tile_of(those.first + within - slab * tiles), channel,
            left < kLanes ? static_cast<int32_t>(left) : kLanes};
  }

  ROIDL_DEVICE Workspace place(Shared shared) const {
    Workspace space;
    space.work = shared.take<Work>(1);
    space.list = shared.take<int32_t>(kListed);
    space.offset = shared.take<int64_t>(kMostAtOnce);
    space.words = shared.take<uint32_t>(kLanes);
    space.own = Source::place_own(shared);
    space.stored = reinterpret_cast<A*>(shared.next);
    space.y = Table<A>::place(shared, at_once, some_y, kWeights);
    space.x = Table<A>::place(shared, at_once, some_x, kWeights);
    space.staged = Source::place(shared, int64_t{at_once} * some_y * some_x * kBinStride, at_once);
    return space;
  }

  // `rois` RoIs of the list, in chunks of their bins.
  ROIDL_DEVICE void add(const Team& team, const Workspace& space, const Work& work, int64_t first,
                        const int32_t* list, int rois, PerThread<Sum>& sums) const {
    for (int32_t p = 0; p < bins_y; p += some_y)
      for (int32_t q = 0; q < bins_x; q += some_x) {
        const int32_t rows = bins_y - p, columns = bins_x - q;
        const Some some{first,
                        list,
                        rois,
                        p,
                        q,
                        rows < some_y ? rows : some_y,
                        columns < some_x ? columns : some_x};
        weigh(team, space, work.tile, some);
        channels_first ? stage<true>(team, space, work, some)
                       : stage<false>(team, space, work, some);
        team.sync();
        team.each_thread([&](int thread) { sum_up(team, space, some, thread, sums[thread]); });
        team.sync();
      }
  }

  ROIDL_DEVICE void weigh(const Team& team, const Workspace& space, const Tile& tile,
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
        weigh_bin(true, k, some.p + bin, tile.y, Patch::kTileRows, space.y, roi, bin);
      else
        weigh_bin(false, k, some.q + bin - some.rows, tile.x, kTileColumns, space.x, roi,
                  bin - some.rows);
    });
  }

  ROIDL_DEVICE void weigh_bin(bool along_y, int64_t k, int32_t p, int32_t begin, int cells,
                              const Table<A>& table, int roi, int32_t bin) const {
    A* const weight = table.row(roi, bin);
    if constexpr (kWeights > 0)
      for (int cell = 0; cell < cells; ++cell)
        for (int j = 0; j < kWeights; ++j) weight[j * table.second + cell] = A(0);
    int32_t gives = 0;
    from.for_each_tap(along_y, k, p, [&](int32_t cell, const A* weights) {
      const int32_t at = cell - begin;
      if (at < 0 || at >= cells) return;
      for (int j = 0; j < kWeights; ++j) weight[j * table.second + at] += weights[j];
      gives |= 1 << at;
    });
    table.gives[roi * table.bins + bin] = gives;
  }

  // The bins of a RoI that give anything to some of the tile's rows or columns.
  ROIDL_DEVICE static Range giving(const Team& team, const Table<A>& table, int roi, int32_t bins,
                                   int32_t to) {
    return team.range(bins, [&](int bin) { return (table.gives_of(roi, bin) & to) != 0; });
  }

  ROIDL_DEVICE int32_t staged_at(int roi, int32_t row, int32_t column) const {
    return ((roi * some_y + row) * some_x + column) * kBinStride;
  }

  // The gradients of the bins that give anything. Lanes are bins where those are neighbours in
  // memory, and channels where these are; a lane loads kStaged of the other kind together.
  template <bool kChannelsFirst>
  ROIDL_DEVICE void stage(const Team& team, const Workspace& space, const Work& work,
                          const Some& some) const {
    // As many warps to a RoI as there are for each, at most one to every kStaged channels.
    int halvings = 0;
    while (some.rois << halvings < kWarps && kStaged << halvings < kLanes) ++halvings;
    const int32_t step = kStaged << halvings;
    team.rows(some.rois << halvings, kLanes, [&](int32_t unit, int32_t lane) {
      const int32_t roi = unit >> halvings;
      const Range rows = giving(team, space.y, roi, some.rows, ~0);
      const Range columns = giving(team, space.x, roi, some.columns, ~0);
      const int32_t across = columns.stop - columns.first, bins = (rows.stop - rows.first) * across;
      const int32_t begin = (unit & ((1 << halvings) - 1)) * kStaged;
      const Bins bin{some.first + some.list[roi], roi, rows, columns, across};
      const T* const from = static_cast<const T*>(grad_output.data) + space.offset[roi] +
                            work.channel * grad_output.c + some.p * grad_output.h +
                            some.q * grad_output.w;
      if constexpr (kChannelsFirst) {
        for (int32_t i = lane; i < bins; i += kLanes)
          stage_channels(space, work, some, bin, i, begin, step, from);
      } else if (lane < work.channels) {
        for (int32_t i = begin; i < bins; i += step)
          stage_bins(space, work, some, bin, i, lane, bins - i, from);
      }
    });
  }

  // Those bins of a RoI that give anything to the tile, row by row.
  struct Bins {
    int64_t k;
    int32_t roi;
    Range rows, columns;
    int32_t across;

    ROIDL_DEVICE int32_t row(int32_t i) const { return rows.first + i / across; }
    ROIDL_DEVICE int32_t column(int32_t i) const { return columns.first + i % across; }
  };

  // Bin i of them, on kStaged channels at a time, from the first on.
  ROIDL_DEVICE void stage_channels(const Workspace& space, const Work& work, const Some& some,
                                   const Bins& bins, int32_t i, int32_t first, int32_t step,
                                   const T* from) const {
    const int32_t row = bins.row(i), column = bins.column(i), channels = work.channels;
    const int64_t stride = grad_output.c;
    from += row * grad_output.h + column * grad_output.w + first * stride;
    Place place = place_of(space, work, some, bins, row, column, first);
    for (int32_t c = first; c < channels; c += step) {
      const auto some_of_them = [&](int32_t count) {
        A gradient[kStaged];
        const T* next = from;
#pragma unroll
        for (int j = 0; j < kStaged; ++j, next += stride)
          if (j < count) gradient[j] = widen(*next);
#pragma unroll
        for (int j = 0; j < kStaged; ++j)
          if (j < count) source.stage(space.staged, work.tile, place.next(j), gradient[j]);
      };
      if (Source::kIsShort && channels - c >= kStaged)
        some_of_them(kStaged);  // as a rule without a question at every one
      else
        some_of_them(channels - c);
      from += step * stride;
      place = place.next(step);
    }
  }

  // kStaged bins from bin i on, but no more than are left, on channel c.
  ROIDL_DEVICE void stage_bins(const Workspace& space, const Work& work, const Some& some,
                               const Bins& bins, int32_t i, int32_t c, int32_t left,
                               const T* from) const {
    const int32_t row = bins.row(i), column = bins.column(i);
    from += row * grad_output.h + column * grad_output.w + c * grad_output.c;
    A gradient[kStaged];
    int32_t y = row, x = column;
    const auto next = [&] {  // whether still in the same row
      if (++x < bins.columns.stop) return true;
      x = bins.columns.first;
      ++y;
      return false;
    };
#pragma unroll
    for (int j = 0; j < kStaged; ++j) {
      if (j < left) gradient[j] = widen(*from);
      from += next() ? grad_output.w : grad_output.h - (bins.across - 1) * grad_output.w;
    }
    y = row;
    x = column;
#pragma unroll
    for (int j = 0; j < kStaged; ++j) {
      if (j < left)
        source.stage(space.staged, work.tile, place_of(space, work, some, bins, y, x, c),
                     gradient[j]);
      next();
    }
  }

  ROIDL_DEVICE Place place_of(const Workspace& space, const Work& work, const Some& some,
                              const Bins& bins, int32_t row, int32_t column, int32_t c) const {
    return {bins.k,
            work.channel + c,
            bins.roi,
            work.tile.map,
            some.p + row,
            some.q + column,
            space.y.gives_of(bins.roi, row),
            space.x.gives_of(bins.roi, column),
            staged_at(bins.roi, row, column) + c};
  }

  ROIDL_DEVICE void sum_up(const Team& team, const Workspace& space, const Some& some, int thread,
                           Sum& sum) const {
    const int warp = thread / kLanes, lane = thread % kLanes;
    for (int roi = 0; roi < some.rois; ++roi) {
      const Range rows = giving(team, space.y, roi, some.rows, Patch::rows_of(warp));
      if (rows.first == rows.stop) continue;
      const Range columns = giving(team, space.x, roi, some.columns, Patch::columns_of(warp));
      if (columns.first == columns.stop) continue;
      source.add(space.own, space.staged, staged_at(roi, rows.first, columns.first) + lane,
                 kBinStride, some_x * kBinStride, space.y, space.x, roi, rows, columns, warp, lane,
                 sum);
    }
  }

  ROIDL_DEVICE void store(const Team& team, const Workspace& space, const Work& work,
                          PerThread<Sum>& sums) const {
    const Tile& tile = work.tile;
    const MapView& map = grad_inputs.of[tile.map];
    T* const target = static_cast<T*>(map.data) + tile.image * map.n + work.channel * map.c;
    const int64_t rows = tiling.of[tile.map].height - tile.y,
                  columns = tiling.of[tile.map].width - tile.x;
    team.each_thread([&](int thread) { source.end(space.own, thread, sums[thread]); });
    if (map.c == 1) {  // lanes are neighbours in memory
      team.each_thread([&](int thread) {
        const int warp = thread / kLanes, lane = thread % kLanes;
        if (lane >= work.channels) return;
        const int y = Patch::row_of(warp), x = Patch::column_of(warp);
        T* to = target + lane + (tile.y + y) * map.h + (tile.x + x) * map.w;
#pragma unroll
        for (int i = 0; i < Patch::kCells; ++i) {
          const int down = i / Patch::kColumns, across = i % Patch::kColumns;
          if (y + down < rows && x + across < columns) narrow(sums[thread].at[i], *to);
          const bool ends = across == Patch::kColumns - 1;
          to += ends ? map.h - across * map.w : map.w;
        }
      });
      return;
    }
    for (int first = 0; first < work.channels; first += kStored) {
      team.each_thread([&](int thread) {
        const int warp = thread / kLanes, channel = thread % kLanes - first;
        if (channel < 0 || channel >= kStored) return;
        A* const cells = space.stored + channel * kStoredStride +
                         Patch::row_of(warp) * kTileColumns + Patch::column_of(warp);
#pragma unroll
        for (int i = 0; i < Patch::kCells; ++i)
          cells[i / Patch::kColumns * kTileColumns + i % Patch::kColumns] = sums[thread].at[i];
      });
      team.sync();
      // Lanes are cells of a row.
      constexpr int kTogether = kThreads / Patch::kTileCells;
      const int left = work.channels - first, stop = left < kStored ? left : kStored;
      team.each_thread([&](int thread) {
        const int cell = thread % Patch::kTileCells;
        const int y = cell / kTileColumns, x = cell % kTileColumns;
        if (y >= rows || x >= columns) return;
        int channel = thread / Patch::kTileCells;
        const A* from = space.stored + channel * kStoredStride + cell;
        T* to = target + (tile.y + y) * map.h + (tile.x + x) * map.w + (first + channel) * map.c;
        const int64_t stride = kTogether * map.c;
#pragma unroll 8
        for (; channel < stop; channel += kTogether, to += stride) {
          narrow(*from, *to);
          from += kTogether * kStoredStride;
        }
      });
      team.sync();
    }
  }
};

template <class T, class Source, class From>
void gather_from(const Problem& problem, const Tiling& tiling, const Source& source,
                 const From& from) {
  const Gather<T, Source, From> kernel(problem, tiling, source, from);
  launch(problem, kernel, kernel.blocks(), kernel.shared_bytes(kernel.at_once));
}

template <class T, class Source, int kWeights>
void gather(const Problem& problem, const Source& source,
            const Plan<accumulator<T>, kWeights>& plan) {
  const Tiling tiling(problem, Source::Patch::kTileRows);
  with_meetings(problem, tiling, plan,
                [&](const auto& from) { gather_from<T>(problem, tiling, source, from); });
}

// Whatever finds a plan for itself where the problem is small, and by one where it is not.
template <class T, class Rois, class ProblemType, class Source>
void gather_once(const ProblemType& problem, const Source& source) {
  using A = accumulator<T>;
  const Tiling tiling(problem, Source::Patch::kTileRows);
  if (is_small<A>(problem, tiling.count * divide_up(problem.channels, kLanes)))
    return gather_from<T>(problem, tiling, source, FromBoxes<A, Rois>{Rois(problem)});
  with_plan<A, 1>(problem, [&](const auto& plan) { gather<T>(problem, source, plan); });
}

}  // namespace roidl::cuda
