// The kernel of RoIPool's maximum with its argmax: down the columns first, then along the row.
#pragma once
#include "kernels_max.h"

namespace roidl::cpu {
namespace {

// The first maximum of Count columns over the rows [y_begin, y_end), and its row. NaN wins, so that
// it cannot hide.
template <class A, int Count>
ROIDL_INLINE void max_down(const Plane<A>& plane, int64_t y_begin, int64_t y_end, int64_t x,
                           A* value, Index<A>* row_of) {
  using Indices = typename Native<Index<A>>::Vector;
  Block<A> best[Count];
  IndexBlock<A> where[Count];
  const int64_t stride = plane.cell_stride;
  for (int u = 0; u < Count; ++u) {
    best[u] = load(plane.row(y_begin) + (x + u) * stride);
    for (int i = 0; i < kVectors; ++i) where[u].v[i] = static_cast<Index<A>>(y_begin) - Indices{};
  }
  for (int64_t y = y_begin + 1; y < y_end; ++y) {
    const A* row = plane.row(y) + x * stride;
    const Indices at = static_cast<Index<A>>(y) - Indices{};
    for (int u = 0; u < Count; ++u) {
      const Block<A> now = load(row + u * stride);
      for (int i = 0; i < kVectors; ++i) {
        const auto old = best[u].v[i];
        // Not (now <= old) is: larger, or one of the two is NaN; an old NaN stays.
        const Indices wins = ~(now.v[i] <= old) & (old == old);
        best[u].v[i] = wins ? now.v[i] : old;
        where[u].v[i] = wins ? at : where[u].v[i];
      }
    }
  }
  for (int u = 0; u < Count; ++u) {
    store(value + u * kLanes<A>, best[u]);
    store_index<A>(row_of + u * kLanes<A>, where[u]);
  }
}

// The maximum over the columns [begin, end) of what max_down found; of equals, the first in
// row-major order. No columns: 0 and -1.
template <class A>
ROIDL_INLINE void max_along(const A* value, const Index<A>* row_of, int64_t begin, int64_t end,
                            int64_t x_begin, int64_t width, A* best_value, Index<A>* best_cell) {
  using Indices = typename Native<Index<A>>::Vector;
  const auto cells = [&](int64_t x) {
    IndexBlock<A> rows = load_index<A>(row_of + (x - x_begin) * kLanes<A>);
    for (int i = 0; i < kVectors; ++i)
      rows.v[i] = rows.v[i] * static_cast<Index<A>>(width) + static_cast<Index<A>>(x);
    return rows;
  };
  Block<A> best = fill<A>(0);
  IndexBlock<A> where;
  for (int i = 0; i < kVectors; ++i) where.v[i] = Index<A>(-1) - Indices{};
  if (begin < end) {
    best = load(value + (begin - x_begin) * kLanes<A>);
    where = cells(begin);
  }
  for (int64_t x = begin + 1; x < end; ++x) {
    const Block<A> now = load(value + (x - x_begin) * kLanes<A>);
    const IndexBlock<A> at = cells(x);
    for (int i = 0; i < kVectors; ++i) {
      const auto old = best.v[i], candidate = now.v[i];
      const Indices is_nan = candidate != candidate, earlier = at.v[i] < where.v[i];
      const Indices wins =
          (candidate > old) | (is_nan & (old == old)) | (earlier & (is_nan | (candidate == old)));
      best.v[i] = wins ? candidate : old;
      where.v[i] = wins ? at.v[i] : where.v[i];
    }
  }
  store(best_value, best);
  store_index<A>(best_cell, where);
}

template <class A>
void pool_roi(const Task& task, const BinsRoi& roi, const Plane<A>& plane, A* column_value,
              Index<A>* column_row, A* value, Index<A>* cell) {
  constexpr int64_t lanes = kLanes<A>;
  for (int64_t p = 0; p < task.output_height; ++p) {
    const int64_t y_begin = roi.y.begin[p], y_end = roi.y.end[p];
    const bool empty = y_begin >= y_end;
    // Half of what sums unroll: a maximum keeps its place beside it.
    if (!empty)
      unrolled<(kUnroll + 1) / 2>(roi.x_end - roi.x_begin, [&](auto count, int64_t j) {
        max_down<A, decltype(count)::value>(plane, y_begin, y_end, roi.x_begin + j,
                                            column_value + j * lanes, column_row + j * lanes);
      });
    for (int64_t q = 0; q < task.output_width; ++q) {
      const int64_t bin = (p * task.output_width + q) * lanes;
      max_along(column_value, column_row, roi.x.begin[q],
                empty ? roi.x.begin[q] : int64_t{roi.x.end[q]}, roi.x_begin, task.width,
                value + bin, cell + bin);
    }
  }
}

template <class T>
void pool_forward(const Task& task) {
  using A = accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  Scratch scratch = task.scratch;
  const int64_t bins = task.output_height * task.output_width;
  A* value = scratch.take<A>(bins * lanes);
  Index<A>* cell = scratch.take<Index<A>>(bins * lanes);
  A* column_value = scratch.take<A>(task.max_cells * lanes);
  Index<A>* column_row = scratch.take<Index<A>>(task.max_cells * lanes);
  T* staging = take_staging<T>(task, scratch);
  for_each_roi<T, BinsRoi>(
      task, scratch, ReadWindow<A>{},
      [&](const BinsRoi& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        pool_roi(task, roi, plane, column_value, column_row, value, cell);
        store_grid<T>(value, task.pooled, task, roi.row, channel, channels, staging);
        if (task.argmax.data == nullptr) return;
        if constexpr (sizeof(A) == sizeof(int32_t)) {
          // Four bytes are four bytes: they move like floats. The values are stored by now, so
          // their place is free.
          store_grid<float>(reinterpret_cast<const float*>(cell), task.argmax, task, roi.row,
                            channel, channels, task.streams ? value : nullptr);
        } else {
          for_each_grid_row<int32_t>(task.argmax, task, roi.row, channel,
                                     [&](const Row<int32_t>& row, int64_t first, int64_t count) {
                                       for (int64_t i = 0; i < count; ++i)
                                         for (int64_t c = 0; c < channels; ++c)
                                           row.data[i * row.cell_stride + c * row.channel_stride] =
                                               static_cast<int32_t>(cell[(first + i) * lanes + c]);
                                     });
        }
      });
}

}  // namespace
}  // namespace roidl::cpu
