// Gradients to the input: every cell gathers what it is owed, RoI by RoI in their order.
//
// A block owns a tile of a map and some channels: a thread is a cell and holds their sums in
// registers. The block picks the RoIs whose window meets the tile, and for a few of them at a time
// lays out in shared memory what each bin gives to each row and column of the tile, and the
// gradients of those bins. No atomics, no memory to be zeroed before, the same order every time.
#pragma once
#include "tile.cuh"
#include "tuning.h"

namespace roidl::cuda {

inline constexpr int kLooks = 4;                             // RoIs that a thread looks at together
inline constexpr int kListed = kLooks * kThreads;            // RoIs
inline constexpr int kMostAtOnce = ROIDL_TUNE_MOST_AT_ONCE;  // of the list

// What the averages give: the gradient times a product of weights, or, along a direction of the
// boxes (two weights a tap), times a sum of two products.
template <class T, int kTapWeights>
struct Products {
  using A = accumulator<T>;
  static constexpr int kWeights = kTapWeights;
  static constexpr int kChannels = sizeof(A) == 8 ? 16 : 32;
  static constexpr int kChannelStride = kChannels + 16 / static_cast<int>(sizeof(A));
  static constexpr int kMostBins = 14;  // along an axis, at a time
  static constexpr int kResident = 3 - kWeights / 2;

  struct Staged {
    A* gradient;
  };

  static int64_t staged_bytes(int64_t bins) { return Shared::bytes_of<A>(bins * kChannelStride); }
  ROIDL_DEVICE Staged place(Shared& shared, int64_t bins) const {
    return {shared.take<A>(bins * kChannelStride)};
  }
  ROIDL_DEVICE void know(const Staged&, int, int64_t) const {}
  ROIDL_DEVICE void stage(const Staged& staged, const Tile&, const Place& place, A gradient) const {
    staged.gradient[place.at] = gradient;
  }
  ROIDL_DEVICE void stage_none(const Staged& staged, int64_t at) const {
    staged.gradient[at] = A(0);
  }

  template <class Sum>
  ROIDL_DEVICE void add(const Staged& staged, int64_t at, const A* y, const A* x, int32_t y_slope,
                        int32_t x_slope, int, Sum& sum) const {
    A weight = y[0] * x[0];
    if constexpr (kWeights == 2) weight = fused(y[y_slope], x[0], y[0] * x[x_slope]);
    if (weight == A(0)) return;
    constexpr int kWide = 16 / sizeof(A);
    using Wide = Vec<A, kWide>;
    const Wide* const gradient = reinterpret_cast<const Wide*>(staged.gradient + at);
#pragma unroll
    for (int c = 0; c < kChannels / kWide; ++c) {
      const Wide some = gradient[c];
#pragma unroll
      for (int j = 0; j < kWide; ++j)
        sum.at[c * kWide + j] = fused(weight, some.at[j], sum.at[c * kWide + j]);
    }
  }
};

// `Source` says what a bin gives to a cell: Products, or Entries (entries.cuh). `From` says where
// the windows and weights are from.
template <class T, class Source, class From>
struct Gather {
  using A = accumulator<T>;
  static constexpr int kChannels = Source::kChannels;
  static constexpr int kWeights = Source::kWeights;
  static constexpr int kResident =
      Source::kResident < From::kMostResident ? Source::kResident : From::kMostResident;
  struct Sum {
    A at[kChannels];
  };

  // Of one axis: what a bin gives to a row or a column of the tile, [RoI][bin][kTileStride], and so
  // for each weight; and the bins that give anything to it.
  struct alignas(8) Reach {
    int32_t first, stop;
  };
  struct Table {
    A* weight;
    Reach* reach;    // [RoI][cell]
    int32_t* gives;  // [RoI][bin]: whether to any cell at all
    int32_t bins;    // at a time
    int32_t slope;   // how far the second weights lie behind the first

    ROIDL_DEVICE A* row(int roi, int32_t bin) const {
      return weight + (roi * bins + bin) * kTileStride;
    }
  };

  struct Workspace {
    int32_t* list;    // of RoIs, counted from the first that was looked at
    int64_t* offset;  // of a RoI's gradients
    int32_t* warps;
    Table y, x;
    typename Source::Staged staged;
  };

  // Some bins of some RoIs of the list.
  struct Some {
    int64_t first;
    const int32_t* list;
    int rois;
    int32_t p, q, rows, columns;
  };

  // The tiles of a map are so many blocks, from `first` on.
  struct MapTiles {
    int64_t first, tiles_y, tiles_x, height, width;
  };

  Source source;
  From from;
  PooledView grad_output;
  Views grad_inputs;
  MapTiles tiles[kMaxMaps];
  int64_t count;  // of the RoIs
  int64_t channels, slabs, blocks;
  int32_t maps, bins_y, bins_x;
  int32_t some_y, some_x, at_once;  // bins at a time, RoIs at a time
  Divider by_some_x, by_last_x;     // of the last time, which may be fewer
  bool channels_first;              // in the memory of grad_output
  bool wide;  // 16 bytes of channels of a gradient to an input can be stored at once

  Gather(const Problem& problem, const Source& asked, const From& found)
      : source(asked),
        from(found),
        grad_output(problem.pooled),
        grad_inputs(views_of(problem, &Map::gradient)),
        count(problem.rois),
        channels(problem.channels),
        slabs(divide_up(channels, kChannels)),
        blocks(0),
        maps(problem.num_maps),
        bins_y(static_cast<int32_t>(problem.output_height)),
        bins_x(static_cast<int32_t>(problem.output_width)),
        some_y(bins_y < Source::kMostBins ? bins_y : Source::kMostBins),
        some_x(bins_x < Source::kMostBins ? bins_x : Source::kMostBins),
        at_once(1),
        by_some_x(some_x),
        by_last_x(bins_x - (bins_x - 1) / some_x * some_x),
        channels_first(grad_output.c != 1),
        wide(true) {
    // Several RoIs at a time hide each other's waiting, as long as blocks do not crowd each other
    // out of shared memory.
    while (at_once < kMostAtOnce && shared_bytes(at_once + 1) <= kSharedBytes * 3 / 4) ++at_once;
    // The smallest maps first: most RoIs meet there in one tile.
    for (int i = maps - 1; i >= 0; --i) {
      const Map& map = problem.maps[i];
      tiles[i] = {blocks, divide_up(map.height, kTile), divide_up(map.width, kTile), map.height,
                  map.width};
      blocks += problem.images * slabs * tiles[i].tiles_y * tiles[i].tiles_x;
      constexpr int kWide = 16 / sizeof(T);
      const MapView& view = map.gradient;
      wide &= moves_together(view.data, {view.n, view.h, view.w}, view.c, kWide, kWide, sizeof(T));
    }
  }

  int64_t shared_bytes(int64_t rois) const {
    return Shared::bytes_of<int32_t>(kListed) + Shared::bytes_of<int64_t>(kMostAtOnce) +
           Shared::bytes_of<int32_t>(kLooks * kWarps) + table_bytes(rois, some_y) +
           table_bytes(rois, some_x) + Source::staged_bytes(rois * some_y * some_x);
  }

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    const Workspace space = place(shared);
    for (int64_t work = team.block; work < blocks; work += team.blocks) {
      const Tile tile = tile_of(work);
      PerThread<Sum> sums;
      team.each_thread([&](int thread) { sums[thread] = Sum{}; });
      for (int64_t first = 0; first < count; first += kListed) {
        const int listed =
            team.list<kLooks>(space.list, space.warps, count - first,
                              [&](int64_t i) { return tile.meets(from.window(first + i)); });
        for (int next = 0; next < listed; next += at_once)
          add(team, space, tile, first, space.list + next,
              listed - next < at_once ? listed - next : at_once, sums);
      }
      team.each_thread([&](int thread) { store(tile, thread, sums[thread]); });
    }
  }

 private:
  ROIDL_DEVICE Tile tile_of(int64_t work) const {
    int32_t map = 0;
    while (map + 1 < maps && work < tiles[map].first) ++map;
    const MapTiles& those = tiles[map];
    const int64_t each = those.tiles_y * those.tiles_x, within = work - those.first;
    const int64_t rest = within / each, at = within - rest * each;
    const int64_t image = rest / slabs, channel = (rest - image * slabs) * kChannels;
    const int64_t left = channels - channel, row = at / those.tiles_x;
    return {image,
            channel,
            map,
            left < kChannels ? static_cast<int32_t>(left) : kChannels,
            static_cast<int32_t>(row) * kTile,
            static_cast<int32_t>(at - row * those.tiles_x) * kTile};
  }

  static int64_t table_bytes(int64_t rois, int64_t bins) {
    return Shared::bytes_of<A>(kWeights * rois * bins * kTileStride) +
           Shared::bytes_of<Reach>(rois * kTile) + Shared::bytes_of<int32_t>(rois * bins);
  }

  ROIDL_DEVICE Table place_table(Shared& shared, int32_t bins) const {
    Table table;
    table.bins = bins;
    table.slope = at_once * bins * kTileStride;
    table.weight = shared.take<A>(kWeights * table.slope);
    table.reach = shared.take<Reach>(at_once * kTile);
    table.gives = shared.take<int32_t>(at_once * bins);
    return table;
  }

  ROIDL_DEVICE Workspace place(Shared shared) const {
    Workspace space;
    space.list = shared.take<int32_t>(kListed);
    space.offset = shared.take<int64_t>(kMostAtOnce);
    space.warps = shared.take<int32_t>(kLooks * kWarps);
    space.y = place_table(shared, some_y);
    space.x = place_table(shared, some_x);
    space.staged = source.place(shared, int64_t{at_once} * some_y * some_x);
    return space;
  }

  // `rois` RoIs of the list, in chunks of their bins.
  ROIDL_DEVICE void add(const Team& team, const Workspace& space, const Tile& tile, int64_t first,
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
        weigh(team, space, tile, some);
        stage(team, space, tile, some);
        team.each_thread([&](int thread) { sum_up(space, rois, thread, sums[thread]); });
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
        weigh_bin(true, k, some.p + bin, tile.y, space.y, roi, bin);
      else
        weigh_bin(false, k, some.q + bin - some.rows, tile.x, space.x, roi, bin - some.rows);
    });
    team.each(some.rois * 2 * kTile, [&](int64_t index) {
      const int32_t i = static_cast<int32_t>(index), roi = i / (2 * kTile), at = i % (2 * kTile);
      if (at < kTile)
        find_reach(space.y, roi, at, some.rows);
      else
        find_reach(space.x, roi, at - kTile, some.columns);
    });
  }

  ROIDL_DEVICE void weigh_bin(bool along_y, int64_t k, int32_t p, int32_t begin, const Table& table,
                              int roi, int32_t bin) const {
    A* const weight = table.row(roi, bin);
    for (int cell = 0; cell < kTile; ++cell) {
      weight[cell] = A(0);
      if constexpr (kWeights == 2) weight[table.slope + cell] = A(0);
    }
    int32_t gives = 0;
    from.for_each_tap(along_y, k, p, [&](int32_t cell, const A* weights) {
      const int32_t at = cell - begin;
      if (at < 0 || at >= kTile) return;
      weight[at] += weights[0];
      if constexpr (kWeights == 2) weight[table.slope + at] += weights[1];
      gives = 1;
    });
    table.gives[roi * table.bins + bin] = gives;
  }

  ROIDL_DEVICE static void find_reach(const Table& table, int roi, int cell, int32_t bins) {
    Reach reach{bins, 0};
    for (int32_t bin = 0; bin < bins; ++bin) {
      const A* const weight = table.row(roi, bin) + cell;
      bool gives = weight[0] != A(0);
      if constexpr (kWeights == 2) gives |= weight[table.slope] != A(0);
      if (!gives) continue;
      if (bin < reach.first) reach.first = bin;
      reach.stop = bin + 1;
    }
    table.reach[roi * kTile + cell] = reach;
  }

  ROIDL_DEVICE int32_t place_of(int roi, int32_t row, int32_t column) const {
    return ((roi * some_y + row) * some_x + column) * Source::kChannelStride;
  }

  ROIDL_DEVICE void stage(const Team& team, const Workspace& space, const Tile& tile,
                          const Some& some) const {
    const T* const data = static_cast<const T*>(grad_output.data) + tile.channel * grad_output.c;
    for (int roi = 0; roi < some.rois; ++roi) {
      const T* const from =
          data + space.offset[roi] + some.p * grad_output.h + some.q * grad_output.w;
      const auto one = [&](int32_t bin, int32_t c) {
        int32_t column = bin;
        const int32_t row = (some.columns == some_x ? by_some_x : by_last_x).split(column);
        if (!space.y.gives[roi * some_y + row] || !space.x.gives[roi * some_x + column]) return;
        const int64_t at = place_of(roi, row, column) + c;
        if (c >= tile.channels) return source.stage_none(space.staged, at);
        const A value =
            widen(from[c * grad_output.c + row * grad_output.h + column * grad_output.w]);
        source.stage(space.staged, tile,
                     Place{at, roi, some.first + some.list[roi], c, some.p + row, some.q + column},
                     value);
      };
      const int32_t bins = some.rows * some.columns;
      if (channels_first)
        team.rows(kChannels, bins, [&](int32_t c, int32_t bin) { one(bin, c); });
      else
        team.rows(bins, kChannels, [&](int32_t bin, int32_t c) { one(bin, c); });
    }
    team.sync();
  }

  ROIDL_DEVICE void sum_up(const Workspace& space, int rois, int thread, Sum& sum) const {
    const int y = thread / kTile, x = thread % kTile;
    for (int roi = 0; roi < rois; ++roi) {
      const Reach rows = space.y.reach[roi * kTile + y], columns = space.x.reach[roi * kTile + x];
      for (int32_t row = rows.first; row < rows.stop; ++row)
        for (int32_t column = columns.first; column < columns.stop; ++column)
          source.add(space.staged, place_of(roi, row, column), space.y.row(roi, row) + y,
                     space.x.row(roi, column) + x, space.y.slope, space.x.slope, thread, sum);
    }
  }

  ROIDL_DEVICE void store(const Tile& tile, int thread, const Sum& sum) const {
    const int64_t y = int64_t{tile.y} + thread / kTile, x = int64_t{tile.x} + thread % kTile;
    if (y >= tiles[tile.map].height || x >= tiles[tile.map].width) return;
    const MapView& map = grad_inputs.of[tile.map];
    T* const target = static_cast<T*>(map.data) + tile.image * map.n + tile.channel * map.c +
                      y * map.h + x * map.w;
    constexpr int kWide = 16 / sizeof(T);
    if (wide && tile.channels == kChannels) {
#pragma unroll
      for (int c = 0; c < kChannels; c += kWide) {
        Vec<T, kWide> some;
#pragma unroll
        for (int j = 0; j < kWide; ++j) narrow(sum.at[c + j], some.at[j]);
        store_together(target + c, some);
      }
      return;
    }
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      if (c < tile.channels) narrow(sum.at[c], target[c * map.c]);
  }
};

template <class T, class Source, class From>
void gather_from(const Problem& problem, const Source& source, const From& from) {
  const Gather<T, Source, From> kernel(problem, source, from);
  launch(problem, kernel, kernel.blocks, kernel.shared_bytes(kernel.at_once));
}

template <class T, class Source, int kWeights>
void gather(const Problem& problem, const Source& source,
            const Plan<accumulator<T>, kWeights>& plan) {
  gather_from<T>(problem, source, FromPlan<accumulator<T>, kWeights>{plan});
}

// Whatever finds a plan for itself where the problem is small, and by one where it is not.
template <class T, class Rois, class ProblemType, class Source>
void gather_once(const ProblemType& problem, const Source& source) {
  using A = accumulator<T>;
  const int64_t tiles = most_of_maps(problem, [](const Map& map) {
    return divide_up(map.height, kTile) * divide_up(map.width, kTile);
  });
  const int64_t blocks =
      problem.num_maps * problem.images * divide_up(problem.channels, Source::kChannels) * tiles;
  if (is_small<A>(problem, blocks))
    return gather_from<T>(problem, source, FromBoxes<A, Rois>{Rois(problem)});
  with_plan<A, 1>(problem, [&](const auto& plan) { gather<T>(problem, source, plan); });
}

}  // namespace roidl::cuda
