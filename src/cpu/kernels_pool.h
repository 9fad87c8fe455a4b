// The kernel of RoIPool's maximum and argmax: first down the columns, then along the row.
#pragma once
#include "window_rows.h"

namespace roidl::cpu {
namespace {

// The first maximum of Count columns over the rows [begin, end), and the number of its cell. A NaN
// wins, so that it is not hidden. With `more`, the previous maximum competes, too.
template <class A, int Count>
ROIDL_INLINE void max_down(const A* const* rows, int64_t begin, int64_t end, int64_t width,
                           const int64_t* offsets, const Index<A>* columns, bool more, A* value,
                           Index<A>* cell) {
  using Indices = typename Native<Index<A>>::Vector;
  Block<A> best[Count];
  IndexBlock<A> where[Count];  // the row
  for (int u = 0; u < Count; ++u) {
    best[u] = more ? load(value + u * kLanes<A>) : load(rows[0] + offsets[u]);
    for (int i = 0; i < kVectors; ++i)
      where[u].v[i] = static_cast<Index<A>>(more ? -1 : begin) - Indices{};
  }
  for (int64_t y = begin + !more; y < end; ++y) {
    const A* row = rows[y - begin];
    const Indices at = static_cast<Index<A>>(y) - Indices{};
    for (int u = 0; u < Count; ++u) {
      const Block<A> now = load(row + offsets[u]);
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
    const IndexBlock<A> before = load_index<A>(cell + u * kLanes<A>);
    for (int i = 0; i < kVectors; ++i) {
      const Indices at = where[u].v[i] * static_cast<Index<A>>(width) + columns[u];
      where[u].v[i] = more ? (where[u].v[i] < 0 ? before.v[i] : at) : at;
    }
    store_index<A>(cell + u * kLanes<A>, where[u]);
  }
}

// The maximum over `count` columns, `stride` apart, of the results of max_down; among equal values,
// the first in row-major order. Without columns: 0 and -1.
template <class A>
ROIDL_INLINE void max_along(const A* value, const Index<A>* cell, int64_t count, int64_t stride,
                            A* best_value, Index<A>* best_cell) {
  using Indices = typename Native<Index<A>>::Vector;
  Block<A> best = fill<A>(0);
  IndexBlock<A> where;
  for (int i = 0; i < kVectors; ++i) where.v[i] = Index<A>(-1) - Indices{};
  if (count > 0) {
    best = load(value);
    where = load_index<A>(cell);
  }
  for (int64_t x = 1; x < count; ++x) {
    const Block<A> now = load(value + x * stride);
    const IndexBlock<A> at = load_index<A>(cell + x * stride);
    for (int i = 0; i < kVectors; ++i) {
      const auto old = best.v[i], candidate = now.v[i];
      // Three masks: larger, or the first NaN; equal and earlier; both NaN and earlier.
      const Indices wins = ~(candidate <= old) & (old == old);
      best.v[i] = wins ? candidate : old;
      where.v[i] = wins ? at.v[i] : where.v[i];
      const Indices equal = (candidate == best.v[i]) & (at.v[i] < where.v[i]);
      where.v[i] = equal ? at.v[i] : where.v[i];
      const Indices nans = (candidate != candidate) & (old != old) & (at.v[i] < where.v[i]);
      where.v[i] = nans ? at.v[i] : where.v[i];
    }
  }
  store(best_value, best);
  store_index<A>(best_cell, where);
}

// The columns of a row of bins: the maximum of every column of the window, `blocks` to a cell.
template <class A>
struct Columns {
  const A** rows;
  int64_t* offset;
  Index<A>* column;
  A* value;
  Index<A>* cell;

  Columns(const Task& task, Scratch& scratch, int64_t blocks)
      : rows(scratch.take<const A*>(kPoolRows)),
        offset(scratch.take<int64_t>(task.max_cells * blocks)),
        column(scratch.take<Index<A>>(task.max_cells * blocks)),
        value(scratch.take<A>(task.max_cells * blocks * kLanes<A>)),
        cell(scratch.take<Index<A>>(task.max_cells * blocks * kLanes<A>)) {}
};

template <class T, class A>
void pool_roi(const Task& task, const BinsRoi& roi, WindowRows<T>& rows, int64_t blocks,
              Columns<A>& columns, A* value, Index<A>* cell) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t count = (roi.x_end - roi.x_begin) * blocks;
  for (int64_t j = 0; j < count; ++j) {
    columns.column[j] = static_cast<Index<A>>(roi.x_begin + j / blocks);
    columns.offset[j] = (roi.x_begin + j / blocks) * rows.cell_stride() + j % blocks * lanes;
  }
  const int64_t at_once = least(kPoolRows, rows.at_once());
  for (int64_t p = 0; p < task.output_height; ++p) {
    const int64_t y_begin = roi.y.begin[p], y_end = count > 0 ? roi.y.end[p] : y_begin;
    for (int64_t first = y_begin; first < y_end; first += at_once) {
      const int64_t end = least(y_end, first + at_once);
      for (int64_t y = first; y < end; ++y) columns.rows[y - first] = rows.row(y);
      // Half the unrolling of sums: each maximum has an index in a register, too.
      unrolled<(kUnroll + 1) / 2>(count, [&](auto together, int64_t j) {
        max_down<A, decltype(together)::value>(
            columns.rows, first, end, task.width, columns.offset + j, columns.column + j,
            first > y_begin, columns.value + j * lanes, columns.cell + j * lanes);
      });
    }
    for (int64_t q = 0; q < task.output_width; ++q) {
      const int64_t begin = roi.x.begin[q], end = y_begin < y_end ? roi.x.end[q] : begin;
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t from = ((begin - roi.x_begin) * blocks + b) * lanes;
        const int64_t bin = ((p * task.output_width + q) * blocks + b) * lanes;
        max_along(columns.value + from, columns.cell + from, end - begin, blocks * lanes,
                  value + bin, cell + bin);
      }
    }
  }
}

template <class T>
void pool_forward(const Task& task) {
  using A = accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  Scratch scratch = task.scratch;
  const int64_t bins = task.output_height * task.output_width;
  const int64_t most_blocks = task.direct ? kBlocksTogether : 1;
  A* value = scratch.take<A>(bins * lanes * most_blocks);
  Index<A>* cell = scratch.take<Index<A>>(bins * lanes * most_blocks);
  Columns<A> columns(task, scratch, most_blocks);
  T* staging = take_staging<T>(task, scratch);
  for_each_window<T, BinsRoi, kBlocksTogether>(
      task, scratch,
      [&](const BinsRoi& roi, WindowRows<T>& rows, int64_t channel, int64_t channels) {
        const int64_t blocks = (channels + lanes - 1) / lanes;
        pool_roi(task, roi, rows, blocks, columns, value, cell);
        store_grid<T>(value, task.pooled, task, roi.row, channel, channels, staging);
        if (task.argmax.data == nullptr) return;
        if constexpr (sizeof(A) == sizeof(int32_t)) {
          // Indices have the size of floats and are moved as such. The values are stored already,
          // so their memory serves as staging.
          store_grid<float>(reinterpret_cast<const float*>(cell), task.argmax, task, roi.row,
                            channel, channels, task.streams ? value : nullptr);
        } else {
          for_each_grid_row<int32_t>(
              task.argmax, task, roi.row, channel,
              [&](const Row<int32_t>& row, int64_t first, int64_t count) {
                for (int64_t i = 0; i < count; ++i)
                  for (int64_t c = 0; c < channels; ++c)
                    row.data[i * row.cell_stride + c * row.channel_stride] =
                        static_cast<int32_t>(cell[(first + i) * blocks * lanes + c]);
              });
        }
      });
}

}  // namespace
}  // namespace roidl::cpu
