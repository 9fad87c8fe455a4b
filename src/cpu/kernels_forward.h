// The forward kernel of averages: it sweeps down the map and computes each part of a window when
// its rows are packed; or, in place, it computes RoI after RoI.
#pragma once
#include "sweep.h"

namespace roidl::cpu {
namespace {

// The taps [first, last) of one bin.
struct TapRange {
  int32_t first, last;
};

// The taps of bin p in rows [begin, end): a contiguous range, as the cells of a bin ascend.
template <class A>
ROIDL_INLINE TapRange taps_between(const Taps<A>& y, int64_t p, int32_t begin, int32_t end) {
  const auto tap_from = [&](int32_t first, int32_t cell) {
    return first_that(first, y.start[p + 1],
                      [&](int32_t tap) { return y.position[y.slot[tap]] >= cell; });
  };
  const int32_t first = tap_from(y.start[p], begin);
  return {first, tap_from(first, end)};
}

// sums[(c * Blocks + b) * kSumsStride] = the taps of y over block b of column c, at offset[c].
template <class A, int Columns, int Blocks>
ROIDL_INLINE void sum_cells(const Taps<A>& y, TapRange taps, const Plane<A>& plane,
                            const int64_t (&offset)[Columns], A* sums) {
  Block<A> sum[Columns][Blocks];
  for (int c = 0; c < Columns; ++c)
    for (int b = 0; b < Blocks; ++b) sum[c][b] = fill<A>(0);
  for (int32_t tap = taps.first; tap < taps.last; ++tap) {
    const A* row = plane.row(y.position[y.slot[tap]]);
    const A weight = y.weight[tap];
    for (int c = 0; c < Columns; ++c) {
      const A* cell = one_address(row + offset[c]);
      for (int b = 0; b < Blocks; ++b) add_product(sum[c][b], weight, load(cell + b * kLanes<A>));
    }
  }
  for (int c = 0; c < Columns; ++c)
    for (int b = 0; b < Blocks; ++b) store(sums + (c * Blocks + b) * kSumsStride<A>, sum[c][b]);
}

// The columns of a window: those that have taps, or all if these are most of them.
template <class A>
struct WindowColumns {
  const Taps<A>& x;
  int32_t first, count;
  bool all;

  explicit WindowColumns(const Taps<A>& taps) : x(taps), first(0), count(taps.count), all(false) {
    if (count == 0) return;
    first = x.position[0];
    const int32_t width = x.position[count - 1] + 1 - first;
    all = count * 4 >= width * 3;
    if (all) count = width;
  }
  ROIDL_INLINE int64_t index(int32_t tap) const {
    return all ? x.position[x.slot[tap]] - first : x.slot[tap];
  }
};

// Computes the sums of one row of bins: sums [columns][Blocks] at kSumsStride.
template <class A, int Blocks>
ROIDL_INLINE void sum_row_of_bins(const Taps<A>& y, TapRange taps, const WindowColumns<A>& columns,
                                  const Plane<A>& plane, A* sums) {
  constexpr int64_t lanes = kLanes<A>;
  if (columns.all && plane.cell_stride == Blocks * lanes) {
    // Contiguous cells are processed like contiguous blocks.
    unrolled_whole<kManyBlocks>(columns.count * Blocks, [&](auto count, int64_t j) {
      const int64_t offset[1] = {columns.first * plane.cell_stride + j * lanes};
      sum_cells<A, 1, decltype(count)::value>(y, taps, plane, offset, sums + j * kSumsStride<A>);
    });
    return;
  }
  constexpr int kTogether = kUnroll / Blocks > 4 ? 4 : kUnroll / Blocks > 0 ? kUnroll / Blocks : 1;
  unrolled<kTogether>(columns.count, [&](auto count, int64_t j) {
    constexpr int together = decltype(count)::value;
    int64_t offset[together];
    for (int c = 0; c < together; ++c)
      offset[c] =
          (columns.all ? columns.first + j + c : columns.x.position[j + c]) * plane.cell_stride;
    sum_cells<A, together, Blocks>(y, taps, plane, offset, sums + j * Blocks * kSumsStride<A>);
  });
}

// out[r] = the taps of x over row r of sums, for Count rows; if it continues a RoI, added to
// out[r].
template <class A, int Count>
ROIDL_INLINE void sum_row_sums(const WindowColumns<A>& columns, TapRange taps, const A* sums,
                               int64_t column_stride, A* out, int64_t out_stride, bool add) {
  Block<A> sum[Count];
  for (int u = 0; u < Count; ++u) sum[u] = add ? load(out + u * out_stride) : fill<A>(0);
  for (int32_t tap = taps.first; tap < taps.last; ++tap) {
    const A* column = one_address(sums + columns.index(tap) * column_stride);
    const A weight = columns.x.weight[tap];
    for (int u = 0; u < Count; ++u) add_product(sum[u], weight, load(column + u * kLanes<A>));
  }
  for (int u = 0; u < Count; ++u) store(out + u * out_stride, sum[u]);
}

// out [bins][Blocks][kLanes] = Wy . plane . Wx^T; for one of several parts of a RoI, the rows of
// the part are added to it. `sums` holds kRowsTogether rows of columns. meanwhile() is called now
// and then.
template <class A, int Blocks, class Meanwhile>
void average(const Task& task, const TapsRoi<A>& roi, const Plane<A>& plane, A* sums, A* out,
             Meanwhile&& meanwhile, const Part* part = nullptr) {
  constexpr int64_t lanes = kLanes<A>, cell = Blocks * lanes;
  const WindowColumns<A> columns(roi.x);
  const int64_t width = task.output_width;
  const bool add = part != nullptr;
  const int64_t stop = add ? part->bin_end : task.output_height;
  for (int64_t p = add ? part->bin_begin : 0; p < stop;) {
    int64_t rows = 0;
    for (; rows < kRowsTogether && p + rows < stop; ++rows) {
      const TapRange taps = add ? taps_between(roi.y, p + rows, part->begin, part->end)
                                : TapRange{roi.y.start[p + rows], roi.y.start[p + rows + 1]};
      if (add && taps.first == taps.last) break;
      sum_row_of_bins<A, Blocks>(roi.y, taps, columns, plane, sums + rows * lanes);
      meanwhile();
    }
    for (int64_t q = 0; q < width; ++q) {
      for (int64_t b = 0; b < Blocks; ++b)
        unrolled(rows, [&](auto count, int64_t r) {
          sum_row_sums<A, decltype(count)::value>(
              columns, {roi.x.start[q], roi.x.start[q + 1]}, sums + b * kSumsStride<A> + r * lanes,
              Blocks * kSumsStride<A>, out + ((p + r) * width + q) * cell + b * lanes, width * cell,
              add);
        });
      meanwhile();
    }
    p += rows + (add && rows < kRowsTogether ? 1 : 0);  // the next bin has no taps here
  }
}

template <class T>
void average_packed(const Task& task) {
  using A = accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  Scratch scratch = task.scratch;
  const int64_t bins = task.output_height * task.output_width, values = bins * lanes;
  A* sums = scratch.take<A>(task.max_width * kSumsStride<A>);
  A* whole = scratch.take<A>(values);
  A* slots = scratch.take<A>(task.slots * values);
  T* staging[2] = {scratch.take<T>(values), scratch.take<T>(values)};
  const PooledTask& pooled = task.pooled;
  const bool flows =
      task.streams && pooled.w == 1 && pooled.h == task.output_width && pooled.c == bins;
  const int64_t steps = task.output_height + (task.output_height + kRowsTogether - 1) /
                                                 kRowsTogether * task.output_width;
  Outflow<T> outflow;
  Sweep<T> sweep(task, scratch);
  int64_t next_end = 0;  // end of the rows that the next part needs
  const auto meanwhile = [&] {
    outflow.step();
    sweep.step(next_end);
  };
  for (int64_t channel = 0; channel < task.channels; channel += lanes) {
    const int64_t channels = least(lanes, task.channels - channel);
    sweep.restart(channel, channels);
    for (int64_t i = 0; i < task.part_count; ++i) {
      const Part& part = task.parts[i];
      const TapsRoi<A>& roi = static_cast<const TapsRoi<A>&>(*part.roi);
      T* const to = pooled_row<T>(pooled, roi.row, channel);
      if (part.last && flows) {
        // Lines that are shared with neighbouring results are stored through the cache.
        __builtin_prefetch(to, 1);
        __builtin_prefetch(to + bins * channels - 1, 1);
      }
      sweep.pack_up_to(part.end);
      next_end = i + 1 < task.part_count ? task.parts[i + 1].end : 0;
      A* out = whole;
      if (part.slot < 0) {
        average<A, 1>(task, roi, sweep.plane(), sums, out, meanwhile);
      } else {
        out = slots + part.slot * values;
        if (part.first) std::memset(static_cast<void*>(out), 0, values * sizeof(A));
        average<A, 1>(task, roi, sweep.plane(), sums, out, meanwhile, &part);
      }
      if (!part.last) continue;
      if (flows && channels == lanes) {
        unpack<T>(out, bins, lanes, Row<T>{staging[0], bins, 1});
        outflow.start(to, staging[0], values, steps);
        T* const used = staging[0];
        staging[0] = staging[1];
        staging[1] = used;
      } else {
        store_grid<T>(out, pooled, task, roi.row, channel, channels,
                      task.streams ? staging[0] : nullptr);
      }
    }
  }
  outflow.finish();
  end_streams();
}

// How many channels precede the first whole cache line of a bin, if bins are whole lines.
template <class T>
int64_t channels_before_line(const PooledTask& pooled) {
  constexpr int64_t line = kBlockBytes / static_cast<int64_t>(sizeof(T));
  const int64_t strides = pooled.image | pooled.row | pooled.h | pooled.w;
  if (pooled.c != 1 || strides % line != 0) return 0;
  return -(reinterpret_cast<intptr_t>(pooled.data) / static_cast<int64_t>(sizeof(T))) & (line - 1);
}

// The map is read in place, as channels are innermost and whole blocks.
template <class T>
void average_in_place(const Task& task) {
  using A = accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  if constexpr (sizeof(T) == sizeof(A)) {
    Scratch scratch = task.scratch;
    A* sums = scratch.take<A>(task.max_width * kBlocksTogether * kSumsStride<A>);
    A* out = scratch.take<A>(task.output_height * task.output_width * kBlocksTogether * lanes);
    T* staging = take_staging<T>(task, scratch);
    // Only whole lines can be streamed: blocks begin where lines do, and the channels that are left
    // at both ends have blocks of their own.
    const int64_t before = staging != nullptr ? channels_before_line<T>(task.pooled) : 0;
    const int64_t whole = (task.channels - before) / lanes,
                  after = task.channels - before - whole * lanes;
    const MapTask& map = task.features;
    for (int64_t i = 0; i < task.count; ++i) {
      const TapsRoi<A>& roi = static_cast<const TapsRoi<A>&>(*task.rois[i]);
      const auto block_of = [&](int64_t channel) {
        return Plane<A>{static_cast<A*>(map.data) + task.image * map.n + channel, map.h, map.w, -1};
      };
      const auto end_of_line = [&](int64_t channel, int64_t first, int64_t count) {
        if (count == 0) return;
        average<A, 1>(task, roi, block_of(channel), sums, out, [] {});
        T* row = pooled_row<T>(task.pooled, roi.row, channel + first);
        const A* grid = out + first;
        for (int64_t p = 0; p < task.output_height; ++p)
          for (int64_t q = 0; q < task.output_width; ++q, grid += lanes)
            std::memcpy(row + p * task.pooled.h + q * task.pooled.w, grid, count * sizeof(T));
      };
      end_of_line(0, 0, before);
      end_of_line(task.channels - lanes, lanes - after, after);
      unrolled<kBlocksTogether>(whole, [&](auto count, int64_t block) {
        constexpr int blocks = decltype(count)::value;
        const int64_t channel = before + block * lanes;
        average<A, blocks>(task, roi, block_of(channel), sums, out, [] {});
        store_grid<T>(out, task.pooled, task, roi.row, channel, blocks * lanes, staging);
      });
    }
    end_streams();
  }
}

template <class T>
void taps_sweep(const Task& task) {
  if (task.direct)
    average_in_place<T>(task);
  else
    average_packed<T>(task);
}

}  // namespace
}  // namespace roidl::cpu
