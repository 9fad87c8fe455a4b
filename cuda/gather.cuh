// Gradients to the input: every cell gathers what it is owed, RoI by RoI in their order.
//
// A block owns a tile of the map and some channels: a thread is a cell and holds their sums in
// registers. The block picks the RoIs whose window meets the tile, and for a few of them at a time
// lays out in shared memory what each bin gives to each row and column of the tile, and the
// gradients of those bins. No atomics, no memory to be zeroed before, the same order every time.
#pragma once
#include "plan.cuh"

namespace roidl::cuda {

inline constexpr int kTile = 16;  // cells along either axis: kThreads of them
inline constexpr int kTileStride = kTile + 1;
inline constexpr int kListed = 2 * kThreads;  // RoIs
inline constexpr int kMostAtOnce = 8;         // of the list
static_assert(kTile * kTile == kThreads, "a thread is a cell");

// A tile of an image and some channels of it.
struct Tile {
  int64_t image, channel;
  int32_t channels, y, x;

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

// `Source` says what a bin gives to a cell: Products, or Entries (entries.cuh).
template <class T, class Source>
struct Gather {
  using A = accumulator<T>;
  static constexpr int kChannels = Source::kChannels;
  static constexpr int kWeights = Source::kWeights;
  static constexpr int kResident = Source::kResident;
  struct Sum {
    A at[kChannels];
  };

  // Of one axis: what a bin gives to a row or a column of the tile, [RoI][bin][kTileStride], and so
  // for each weight; and the bins that give anything to it.
  struct Reach {
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
    int64_t* list;
    int64_t* offset;  // of a RoI's gradients
    int32_t* warps;
    Table y, x;
    typename Source::Staged staged;
  };

  // Some bins of some RoIs of the list.
  struct Some {
    const int64_t* list;
    int rois;
    int32_t p, q, rows, columns;
  };

  Source source;
  Plan<A, kWeights> plan;
  PooledView grad_output;
  MapView grad_input;
  int64_t count;  // of the RoIs
  int64_t images, channels, height, width;
  int32_t some_y, some_x, at_once;  // bins at a time, RoIs at a time
  int64_t tiles_y, tiles_x, slabs;
  bool channels_first;  // in the memory of grad_output
  bool wide;            // 16 bytes of channels of grad_input can be stored at once

  Gather(const Problem& problem, const Source& asked, const Plan<A, kWeights>& planned)
      : source(asked),
        plan(planned),
        grad_output(problem.pooled),
        grad_input(problem.maps[0].gradient),
        count(problem.rois),
        images(problem.images),
        channels(problem.channels),
        height(problem.maps[0].height),
        width(problem.maps[0].width),
        some_y(plan.y.bins < Source::kMostBins ? plan.y.bins : Source::kMostBins),
        some_x(plan.x.bins < Source::kMostBins ? plan.x.bins : Source::kMostBins),
        at_once(1),
        tiles_y(divide_up(height, kTile)),
        tiles_x(divide_up(width, kTile)),
        slabs(divide_up(channels, kChannels)),
        channels_first(grad_output.c != 1) {
    // Several RoIs at a time hide each other's waiting, as long as blocks do not crowd each other
    // out of shared memory.
    while (at_once < kMostAtOnce && shared_bytes(at_once + 1) <= kSharedBytes * 3 / 4) ++at_once;
    constexpr int kWide = 16 / sizeof(T);
    wide = grad_input.c == 1 && reinterpret_cast<uintptr_t>(grad_input.data) % 16 == 0 &&
           grad_input.n % kWide == 0 && grad_input.h % kWide == 0 && grad_input.w % kWide == 0;
  }

  int64_t blocks() const { return images * slabs * tiles_y * tiles_x; }

  int64_t shared_bytes(int64_t rois) const {
    return Shared::bytes_of<int64_t>(kListed) + Shared::bytes_of<int64_t>(kMostAtOnce) +
           Shared::bytes_of<int32_t>(kWarps) + table_bytes(rois, some_y) +
           table_bytes(rois, some_x) + Source::staged_bytes(rois * some_y * some_x);
  }

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    const Workspace space = place(shared);
    const int64_t tiles = tiles_y * tiles_x;
    for (int64_t work = team.block; work < images * slabs * tiles; work += team.blocks) {
      const int64_t at = work % tiles, rest = work / tiles, image = rest / slabs;
      const int64_t channel = (rest - image * slabs) * kChannels, left = channels - channel;
      const Tile tile{image, channel, left < kChannels ? static_cast<int32_t>(left) : kChannels,
                      static_cast<int32_t>(at / tiles_x) * kTile,
                      static_cast<int32_t>(at % tiles_x) * kTile};
      PerThread<Sum> sums;
      team.each_thread([&](int thread) { sums[thread] = Sum{}; });
      for (int64_t first = 0; first < count;) {
        int listed = 0;
        while (first < count && listed <= kListed - kThreads) {
          listed = team.append(space.list, listed, first, count, space.warps, [&](int64_t k) {
            const Window window = plan.windows[k];
            return window.image == tile.image && window.y_begin - tile.y < kTile &&
                   window.y_end > tile.y && window.x_begin - tile.x < kTile &&
                   window.x_end > tile.x;
          });
          first += kThreads;
        }
        for (int next = 0; next < listed; next += at_once)
          add(team, space, tile, space.list + next,
              listed - next < at_once ? listed - next : at_once, sums);
      }
      team.each_thread([&](int thread) { store(tile, thread, sums[thread]); });
    }
  }

 private:
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
    space.list = shared.take<int64_t>(kListed);
    space.offset = shared.take<int64_t>(kMostAtOnce);
    space.warps = shared.take<int32_t>(kWarps);
    space.y = place_table(shared, some_y);
    space.x = place_table(shared, some_x);
    space.staged = source.place(shared, int64_t{at_once} * some_y * some_x);
    return space;
  }

  // `rois` RoIs of the list, in chunks of their bins.
  ROIDL_DEVICE void add(const Team& team, const Workspace& space, const Tile& tile,
                        const int64_t* list, int rois, PerThread<Sum>& sums) const {
    for (int32_t p = 0; p < plan.y.bins; p += some_y)
      for (int32_t q = 0; q < plan.x.bins; q += some_x) {
        const int32_t rows = plan.y.bins - p, columns = plan.x.bins - q;
        const Some some{
            list, rois, p, q, rows < some_y ? rows : some_y, columns < some_x ? columns : some_x};
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
      const int64_t k = some.list[roi];
      if (bin == 0) {
        space.offset[roi] = grad_output.offset(k);
        source.know(space.staged, roi, k);
      }
      if (bin < some.rows)
        weigh_bin(plan.y, k, some.p + bin, tile.y, space.y, roi, bin);
      else
        weigh_bin(plan.x, k, some.q + bin - some.rows, tile.x, space.x, roi, bin - some.rows);
    });
    team.each(some.rois * 2 * kTile, [&](int64_t index) {
      const int32_t i = static_cast<int32_t>(index), roi = i / (2 * kTile), at = i % (2 * kTile);
      if (at < kTile)
        find_reach(space.y, roi, at, some.rows);
      else
        find_reach(space.x, roi, at - kTile, some.columns);
    });
  }

  ROIDL_DEVICE static void weigh_bin(const AxisPlan<A, kWeights>& axis, int64_t k, int32_t p,
                                     int32_t begin, const Table& table, int roi, int32_t bin) {
    A* const weight = table.row(roi, bin);
    for (int cell = 0; cell < kTile; ++cell) {
      weight[cell] = A(0);
      if constexpr (kWeights == 2) weight[table.slope + cell] = A(0);
    }
    const Tap<A, kWeights>* const taps = axis.taps_of(k);
    const Span span = axis.spans_of(k)[p];
    int32_t gives = 0;
    for (int32_t j = span.first; j < span.stop; ++j) {
      const int32_t at = taps[j].cell - begin;
      if (at < 0 || at >= kTile) continue;
      weight[at] = taps[j].weight[0];
      if constexpr (kWeights == 2) weight[table.slope + at] = taps[j].weight[1];
      gives = 1;
    }
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
        const int32_t row = bin / some.columns, column = bin - row * some.columns;
        if (!space.y.gives[roi * some_y + row] || !space.x.gives[roi * some_x + column]) return;
        const int64_t at = place_of(roi, row, column) + c;
        if (c >= tile.channels) return source.stage_none(space.staged, at);
        const A value =
            widen(from[c * grad_output.c + row * grad_output.h + column * grad_output.w]);
        source.stage(space.staged, tile,
                     Place{at, roi, some.list[roi], c, some.p + row, some.q + column}, value);
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
    if (y >= height || x >= width) return;
    T* const target = static_cast<T*>(grad_input.data) + tile.image * grad_input.n +
                      tile.channel * grad_input.c + y * grad_input.h + x * grad_input.w;
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
      if (c < tile.channels) narrow(sum.at[c], target[c * grad_input.c]);
  }
};

template <class T, class Source>
void gather(const Problem& problem, const Source& source,
            const Plan<accumulator<T>, Source::kWeights>& plan) {
  const Gather<T, Source> kernel(problem, source, plan);
  launch(problem, kernel, kernel.blocks(), kernel.shared_bytes(kernel.at_once));
}

}  // namespace roidl::cuda
