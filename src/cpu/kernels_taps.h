// The kernels of sums over sparse separable weights: out = Wy . F . Wx^T for each RoI and channel,
// and of its derivatives along the boxes.
#pragma once
#include "window_rows.h"

namespace roidl::cpu {
namespace {

// The values that taps weight: cells, or differences of neighbouring cells along an axis.
// Differences are formed first, before anything is averaged along the other axis.
enum class On { cells, y_differences, x_differences };

// The addresses of a RoI's distinct rows, of the rows behind them, and of its columns.
template <class A>
struct Places {
  const A **row, **next_row;
  int64_t* column;
  int64_t cell_stride = 0;

  Places(const Task& task, Scratch& scratch)
      : row(scratch.take<const A*>(task.max_cells)),
        next_row(scratch.take<const A*>(task.max_cells)),
        column(scratch.take<int64_t>(task.max_cells * kBlocksTogether)) {}
  // With several blocks of channels, a column has one entry for each, side by side.
  void find_columns(const Taps<A>& x, int64_t stride, int64_t blocks) {
    cell_stride = stride;
    for (int32_t j = 0; j < x.count; ++j)
      for (int64_t b = 0; b < blocks; ++b)
        column[j * blocks + b] = x.position[j] * stride + b * kLanes<A>;
  }
};

// One matrix of an axis, or two with taps on the same cells.
template <class A, int Count>
struct Matrices {
  const Taps<A>* taps[Count];
  const Taps<A>& first() const { return *taps[0]; }
};

// sums[j] = the taps [first, last) of y over column j, for Count columns; with `more`, added to
// sums[j]. The sums of each further matrix lie `matrix_stride` behind.
template <class A, int Count, On on, int Matrix>
ROIDL_INLINE void sum_rows(const Matrices<A, Matrix>& y, int32_t first, int32_t last, bool more,
                           const Places<A>& places, const int64_t* columns, A* sums,
                           int64_t matrix_stride) {
  Block<A> sum[Matrix][Count];
  for (int m = 0; m < Matrix; ++m)
    for (int u = 0; u < Count; ++u)
      sum[m][u] = more ? load(sums + m * matrix_stride + u * kLanes<A>) : fill<A>(0);
  for (int32_t tap = first; tap < last; ++tap) {
    const int32_t slot = y.first().slot[tap];
    const A* row = places.row[slot];
    [[maybe_unused]] const A* next =
        on == On::y_differences ? places.next_row[slot] : row + places.cell_stride;
    for (int u = 0; u < Count; ++u) {
      Block<A> value = load(row + columns[u]);
      if constexpr (on != On::cells) value = difference(load(next + columns[u]), value);
      for (int m = 0; m < Matrix; ++m) add_product(sum[m][u], y.taps[m]->weight[tap], value);
    }
  }
  for (int m = 0; m < Matrix; ++m)
    for (int u = 0; u < Count; ++u) store(sums + m * matrix_stride + u * kLanes<A>, sum[m][u]);
}

// out[r] = the taps [first, last) of x over row r of sums, for Count rows.
template <class A, int Count>
ROIDL_INLINE void sum_columns(const int32_t* slot, const A* weights, int32_t first, int32_t last,
                              const A* sums, int64_t slot_stride, int64_t sums_stride, A* out,
                              int64_t out_stride) {
  Block<A> sum[Count];
  for (int u = 0; u < Count; ++u) sum[u] = fill<A>(0);
  for (int32_t tap = first; tap < last; ++tap) {
    const A* column = sums + slot[tap] * slot_stride;
    const A weight = weights[tap];
    for (int u = 0; u < Count; ++u) add_product(sum[u], weight, load(column + u * sums_stride));
  }
  for (int u = 0; u < Count; ++u) store(out + u * out_stride, sum[u]);
}

// Makes rows of the map ready for the taps [first, last) of y, at most as many as are kept at once;
// returns the tap where it stopped.
template <On on, class T, class A>
int32_t find_rows(const Taps<A>& y, int32_t first, int32_t last, WindowRows<T>& rows,
                  Places<A>& places) {
  constexpr bool pairs = on == On::y_differences;
  int64_t top = y.position[y.slot[first]], bottom = top;
  int32_t at = first;
  for (; at < last; ++at) {
    const int64_t row = y.position[y.slot[at]];
    top = least(top, row);
    bottom = most(bottom, row + pairs);
    if (bottom - top >= rows.at_once()) break;
    places.row[y.slot[at]] = rows.row(row);
    if constexpr (pairs) places.next_row[y.slot[at]] = rows.row(row + 1);
  }
  return at;
}

// out[m] [bins][blocks][kLanes] = Wy . F . Wx^T, with a pair of matrices along one axis for two
// results; sums holds twice rows_together(task) rows of max_cells columns.
template <On on, class T, class A, int CountY, int CountX>
void apply_taps(const Task& task, const Matrices<A, CountY>& ys, const Matrices<A, CountX>& xs,
                WindowRows<T>& window, Places<A>& places, A* sums, A* const* out,
                int64_t blocks = 1) {
  static_assert(CountY == 1 || CountX == 1);
  constexpr int64_t lanes = kLanes<A>;
  constexpr int kTogether = kUnroll / CountY > 0 ? kUnroll / CountY : 1;
  const Taps<A>&y = ys.first(), &x = xs.first();
  const int64_t width = task.output_width, cell = blocks * lanes, sums_stride = x.count * cell;
  const int64_t together = rows_together(task), matrix_stride = together * sums_stride;
  places.find_columns(x, window.cell_stride(), blocks);
  for (int64_t p = 0; p < task.output_height; p += together) {
    const int64_t rows = least(together, task.output_height - p);
    for (int64_t r = 0; r < rows; ++r) {
      A* row_sums = sums + r * sums_stride;
      const int32_t first = y.start[p + r], last = y.start[p + r + 1];
      int32_t begin = first;
      do {  // once, unless there are more rows than are kept; also if there are none
        const int32_t end =
            x.count > 0 && begin < last ? find_rows<on>(y, begin, last, window, places) : last;
        unrolled<kTogether>(x.count * blocks, [&](auto count, int64_t j) {
          sum_rows<A, decltype(count)::value, on>(ys, begin, end, begin > first, places,
                                                  places.column + j, row_sums + j * lanes,
                                                  matrix_stride);
        });
        begin = end;
      } while (begin < last);
    }
    for (int m = 0; m < CountY * CountX; ++m) {
      const A* from = sums + (CountY > 1 ? m : 0) * matrix_stride;
      const A* weight = xs.taps[CountX > 1 ? m : 0]->weight;
      for (int64_t q = 0; q < width; ++q)
        for (int64_t b = 0; b < blocks; ++b)
          unrolled(rows, [&](auto count, int64_t r) {
            sum_columns<A, decltype(count)::value>(
                x.slot, weight, x.start[q], x.start[q + 1], from + r * sums_stride + b * lanes,
                cell, sums_stride, out[m] + ((p + r) * width + q) * cell + b * lanes, width * cell);
          });
    }
  }
}

template <class T>
void taps_forward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Places<A> places(task, scratch);
  const int64_t most_blocks = task.direct ? kBlocksTogether : 1;
  A* sums = scratch.take<A>(rows_together(task) * task.max_cells * most_blocks * kLanes<A>);
  A* out = scratch.take<A>(task.output_height * task.output_width * most_blocks * kLanes<A>);
  T* staging = take_staging<T>(task, scratch);
  for_each_window<T, TapsRoi<A>, kBlocksTogether>(
      task, scratch,
      [&](const TapsRoi<A>& roi, WindowRows<T>& rows, int64_t channel, int64_t channels) {
        const int64_t blocks = (channels + kLanes<A> - 1) / kLanes<A>;
        apply_taps<On::cells, T, A, 1, 1>(task, {{&roi.y}}, {{&roi.x}}, rows, places, sums, &out,
                                          blocks);
        store_grid<T>(out, task.pooled, task, roi.row, channel, channels, staging);
      });
}

// Calls use(matrices, first) with the derivatives to the lower and the upper edge: with both at
// once if they have taps on the same cells, else one by one.
template <class A, class Use>
ROIDL_INLINE void each_edge(const Taps<A> (&derivative)[2], Use&& use) {
  if (derivative[0].slot == derivative[1].slot)
    return use(Matrices<A, 2>{{&derivative[0], &derivative[1]}}, 0);
  for (int edge = 0; edge < 2; ++edge) use(Matrices<A, 1>{{&derivative[edge]}}, edge);
}

// d(loss)/d(x1, y1, x2, y2) = sum over bins and channels of G o (dWy . F . Wx^T), and so on.
template <class T>
void taps_boxes(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Places<A> places(task, scratch);
  const int64_t values = task.output_height * task.output_width * kLanes<A>;
  A* sums = scratch.take<A>(2 * rows_together(task) * task.max_cells * kLanes<A>);
  A* const out[2] = {scratch.take<A>(values), scratch.take<A>(values)};
  A* grad = scratch.take<A>(values);
  for_each_window<T, TapsRoi<A>>(
      task, scratch,
      [&](const TapsRoi<A>& roi, WindowRows<T>& rows, int64_t channel, int64_t channels) {
        load_grid<T>(task.pooled, task, roi.row, channel, channels, grad);
        const auto add = [&](int edge, const A* slopes) {
          double dots[kLanes<A>] = {};  // absent channels have slopes of zero
          for (int64_t i = 0; i < values; i += kLanes<A>)
            for (int c = 0; c < kLanes<A>; ++c) {
              const double slope = slopes[i + c],
                           product = static_cast<double>(grad[i + c]) * slope;
              // A value that does not depend on the box contributes nothing, even if its gradient
              // is infinite.
              dots[c] += slope != 0 ? product : 0;
            }
          for (const double dot : dots) task.boxes_gradient[roi.row * 4 + edge] += dot;
        };
        each_edge(roi.x_derivative, [&](const auto& dx, int first) {
          constexpr int count = sizeof(dx.taps) / sizeof(dx.taps[0]);
          apply_taps<On::x_differences, T, A, 1, count>(task, {{&roi.y}}, dx, rows, places, sums,
                                                        out);
          for (int i = 0; i < count; ++i) add(2 * (first + i), out[i]);
        });
        each_edge(roi.y_derivative, [&](const auto& dy, int first) {
          constexpr int count = sizeof(dy.taps) / sizeof(dy.taps[0]);
          apply_taps<On::y_differences, T, A, count, 1>(task, dy, {{&roi.x}}, rows, places, sums,
                                                        out);
          for (int i = 0; i < count; ++i) add(2 * (first + i) + 1, out[i]);
        });
      });
}

// The product rule: dWy . F . Wx^T + Wy . F . dWx^T.
template <class T>
void taps_jvp_boxes(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Places<A> places(task, scratch);
  const int64_t values = task.output_height * task.output_width * kLanes<A>;
  A* sums = scratch.take<A>(rows_together(task) * task.max_cells * kLanes<A>);
  A* out = scratch.take<A>(values);
  A* other = scratch.take<A>(values);
  for_each_window<T, TapsRoi<A>>(
      task, scratch,
      [&](const TapsRoi<A>& roi, WindowRows<T>& rows, int64_t channel, int64_t channels) {
        apply_taps<On::y_differences, T, A, 1, 1>(task, {{&roi.y_derivative[0]}}, {{&roi.x}}, rows,
                                                  places, sums, &out);
        apply_taps<On::x_differences, T, A, 1, 1>(task, {{&roi.y}}, {{&roi.x_derivative[0]}}, rows,
                                                  places, sums, &other);
        for (int64_t i = 0; i < values; ++i) out[i] += other[i];
        store_grid<T>(out, task.pooled, task, roi.row, channel, channels, static_cast<T*>(nullptr));
      });
}

}  // namespace
}  // namespace roidl::cpu
