// The kernels of sums over sparse separable weights: out = Wy . F . Wx^T for each RoI and channel.
#pragma once
#include "window_rows.h"

namespace roidl::cpu {
namespace {

// Where a RoI's distinct rows and columns lie.
template <class A>
struct Places {
  const A** row;
  int64_t* column;

  Places(const Task& task, Scratch& scratch)
      : row(scratch.take<const A*>(task.max_cells)),
        column(scratch.take<int64_t>(task.max_cells * kBlocksTogether)) {}
  // With several blocks of channels, each column stands for as many, side by side.
  void find_columns(const Taps<A>& x, int64_t cell_stride, int64_t blocks) {
    for (int32_t j = 0; j < x.count; ++j)
      for (int64_t b = 0; b < blocks; ++b)
        column[j * blocks + b] = x.position[j] * cell_stride + b * kLanes<A>;
  }
};

// sums[j] = the taps [first, last) of y over column j, for Count columns; or added, with `more`.
template <class A, int Count>
ROIDL_INLINE void sum_rows(const Taps<A>& y, int32_t first, int32_t last, bool more,
                           const Places<A>& places, const int64_t* columns, A* sums) {
  Block<A> sum[Count];
  for (int u = 0; u < Count; ++u) sum[u] = more ? load(sums + u * kLanes<A>) : fill<A>(0);
  for (int32_t tap = first; tap < last; ++tap) {
    const A* row = places.row[y.slot[tap]];
    const A weight = y.weight[tap];
    for (int u = 0; u < Count; ++u) add_product(sum[u], weight, load(row + columns[u]));
  }
  for (int u = 0; u < Count; ++u) store(sums + u * kLanes<A>, sum[u]);
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

// Makes rows of the map ready for the taps [first, last) of y, as many as are kept at once; returns
// where it stopped.
template <class T, class A>
int32_t find_rows(const Taps<A>& y, int32_t first, int32_t last, WindowRows<T>& rows,
                  Places<A>& places) {
  int64_t top = y.position[y.slot[first]], bottom = top;
  int32_t at = first;
  for (; at < last; ++at) {
    const int64_t row = y.position[y.slot[at]];
    top = least(top, row);
    bottom = most(bottom, row);
    if (bottom - top >= rows.at_once()) break;
    places.row[y.slot[at]] = rows.row(row);
  }
  return at;
}

// out [bins][blocks][kLanes] = Wy . F . Wx^T; sums holds rows_together(task) rows of max_cells
// columns.
template <class T, class A>
void apply_taps(const Task& task, const Taps<A>& y, const Taps<A>& x, WindowRows<T>& window,
                Places<A>& places, A* sums, A* out, int64_t blocks = 1) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t width = task.output_width, cell = blocks * lanes, sums_stride = x.count * cell;
  const int64_t together = rows_together(task);
  places.find_columns(x, window.cell_stride(), blocks);
  for (int64_t p = 0; p < task.output_height; p += together) {
    const int64_t rows = least(together, task.output_height - p);
    for (int64_t r = 0; r < rows; ++r) {
      A* row_sums = sums + r * sums_stride;
      const int32_t first = y.start[p + r], last = y.start[p + r + 1];
      int32_t begin = first;
      do {  // once, unless there are more rows than are kept; also where there are none
        const int32_t end =
            x.count > 0 && begin < last ? find_rows(y, begin, last, window, places) : last;
        unrolled(x.count * blocks, [&](auto count, int64_t j) {
          sum_rows<A, decltype(count)::value>(y, begin, end, begin > first, places,
                                              places.column + j, row_sums + j * lanes);
        });
        begin = end;
      } while (begin < last);
    }
    for (int64_t q = 0; q < width; ++q)
      for (int64_t b = 0; b < blocks; ++b)
        unrolled(rows, [&](auto count, int64_t r) {
          sum_columns<A, decltype(count)::value>(
              x.slot, x.weight, x.start[q], x.start[q + 1], sums + r * sums_stride + b * lanes,
              cell, sums_stride, out + ((p + r) * width + q) * cell + b * lanes, width * cell);
        });
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
        apply_taps(task, roi.y, roi.x, rows, places, sums, out, blocks);
        store_grid<T>(out, task.pooled, task, roi.row, channel, channels, staging);
      });
}

// d(loss)/d(x1, y1, x2, y2) = sum over bins and channels of G o (dWy . F . Wx^T), and so on.
template <class T>
void taps_boxes(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Places<A> places(task, scratch);
  const int64_t values = task.output_height * task.output_width * kLanes<A>;
  A* sums = scratch.take<A>(rows_together(task) * task.max_cells * kLanes<A>);
  A* out = scratch.take<A>(values);
  A* grad = scratch.take<A>(values);
  for_each_window<T, TapsRoi<A>>(
      task, scratch,
      [&](const TapsRoi<A>& roi, WindowRows<T>& rows, int64_t channel, int64_t channels) {
        load_grid<T>(task.pooled, task, roi.row, channel, channels, grad);
        const Taps<A>* pairs[4][2] = {{&roi.y, &roi.x_derivative[0]},
                                      {&roi.y_derivative[0], &roi.x},
                                      {&roi.y, &roi.x_derivative[1]},
                                      {&roi.y_derivative[1], &roi.x}};
        for (int edge = 0; edge < 4; ++edge) {
          apply_taps(task, *pairs[edge][0], *pairs[edge][1], rows, places, sums, out);
          double dot = 0;
          for (int64_t i = 0; i < values; i += kLanes<A>)
            for (int64_t c = 0; c < channels; ++c) {
              const double slope = out[i + c];
              // Where nothing follows the box, not even an infinite gradient counts.
              if (slope != 0) dot += static_cast<double>(grad[i + c]) * slope;
            }
          task.boxes_gradient[roi.row * 4 + edge] += dot;
        }
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
        apply_taps(task, roi.y_derivative[0], roi.x, rows, places, sums, out);
        apply_taps(task, roi.y, roi.x_derivative[0], rows, places, sums, other);
        for (int64_t i = 0; i < values; ++i) out[i] += other[i];
        store_grid<T>(out, task.pooled, task, roi.row, channel, channels, static_cast<T*>(nullptr));
      });
}

}  // namespace
}  // namespace roidl::cpu
