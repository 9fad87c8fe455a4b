// The transposes of sums over sparse separable weights: grad F = Wy^T . G . Wx for each RoI.
#pragma once
#include "gradient_plane.h"
#include "kernels_taps.h"

namespace roidl::cpu {
namespace {

// The distinct cells of an axis that lie in [begin, end), as indices into taps.position.
struct Range {
  int32_t begin, end;
};
template <class A>
ROIDL_INLINE Range cells_between(const Taps<A>& taps, int64_t begin, int64_t end) {
  Range part{0, taps.count};
  while (part.begin < part.end && taps.position[part.begin] < begin) ++part.begin;
  while (part.begin < part.end && taps.position[part.end - 1] >= end) --part.end;
  return part;
}

// row[columns[j]] += weight * sums[bin][j] for Count columns and the taps [first, last).
template <class A, int Count>
ROIDL_INLINE void add_row(const int32_t* bins, const A* weights, int32_t first, int32_t last,
                          const A* sums, int64_t sums_stride, A* row, const int64_t* columns) {
  Block<A> sum[Count];
  for (int u = 0; u < Count; ++u) sum[u] = load(row + columns[u]);
  for (int32_t tap = first; tap < last; ++tap) {
    const A* from = sums + bins[tap] * sums_stride;
    const A weight = weights[tap];
    for (int u = 0; u < Count; ++u) add_product(sum[u], weight, load(from + u * kLanes<A>));
  }
  for (int u = 0; u < Count; ++u) store(row + columns[u], sum[u]);
}

// plane += Wy^T . grad . Wx within the task's part of the map. Bins are taken kSpreadRows rows at a
// time; each cell gets its terms in the order of the bins however it is cut.
template <class A>
void spread_taps(const Task& task, const Taps<A>& y, const Taps<A>& x, const Plane<A>& plane,
                 const A* grad, A* sums, int64_t* columns) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t width = task.output_width;
  const Range rows = cells_between(y, task.y_begin, task.y_end);
  const Range cells = cells_between(x, task.x_begin, task.x_end);
  const int64_t count = cells.end - cells.begin, sums_stride = count * lanes;
  if (count == 0 || rows.begin == rows.end) return;
  for (int64_t j = 0; j < count; ++j) columns[j] = x.position[cells.begin + j] * plane.cell_stride;
  // The bins that reach these rows: all, unless some rows are another task's.
  int64_t first_bin = 0, last_bin = task.output_height - 1;
  if (rows.end - rows.begin < y.count) {
    first_bin = last_bin = y.column_bin[y.column_start[rows.begin]];
    for (int32_t tap = y.column_start[rows.begin]; tap < y.column_start[rows.end]; ++tap) {
      first_bin = least(first_bin, y.column_bin[tap]);
      last_bin = most(last_bin, y.column_bin[tap]);
    }
  }
  for (int64_t p = first_bin; p <= last_bin; p += kSpreadRows) {
    const int64_t bins = least(kSpreadRows, last_bin + 1 - p);
    for (int64_t j = 0; j < count; ++j) {
      const int32_t* start = x.column_start + cells.begin + j;
      unrolled(bins, [&](auto together, int64_t r) {
        sum_columns<A, decltype(together)::value>(
            x.column_bin, x.column_weight, start[0], start[1], grad + (p + r) * width * lanes,
            lanes, width * lanes, sums + r * sums_stride + j * lanes, sums_stride);
      });
    }
    for (int32_t i = rows.begin; i < rows.end; ++i) {
      int32_t first = y.column_start[i], last = y.column_start[i + 1];
      while (first < last && y.column_bin[first] < p) ++first;
      while (first < last && y.column_bin[last - 1] >= p + bins) --last;
      if (first == last) continue;
      A* row = plane.row(y.position[i]);
      unrolled(count, [&](auto together, int64_t j) {
        add_row<A, decltype(together)::value>(y.column_bin, y.column_weight, first, last,
                                              sums - p * sums_stride + j * lanes, sums_stride, row,
                                              columns + j);
      });
    }
  }
}

template <class A>
struct TouchTaps {
  template <class Touch>
  ROIDL_INLINE void operator()(const TapsRoi<A>& roi, Touch&& touch) const {
    if (roi.x_begin == roi.x_end) return;
    const auto rows = [&](const Taps<A>& y) {
      for (int32_t i = 0; i < y.count; ++i) touch(y.position[i], roi.x_begin, roi.x_end);
    };
    rows(roi.y);
    rows(roi.y_derivative[0]);
    rows(roi.y_derivative[1]);
  }
};

// What spreading the gradient of a RoI needs.
template <class T>
struct Spread {
  using A = accumulator<T>;
  const Task& task;
  A *sums, *grad;
  int64_t* columns;

  Spread(const Task& task, Scratch& scratch) : task(task) {
    const int64_t cells = least(task.max_cells, task.x_end - task.x_begin);
    sums = scratch.take<A>(kSpreadRows * cells * kLanes<A>);
    grad = scratch.take<A>(task.output_height * task.output_width * kLanes<A>);
    columns = scratch.take<int64_t>(cells);
  }

  // Calls add(plane) for each block of channels, with `grad` loaded.
  template <class Add>
  ROIDL_INLINE void each_block(const TapsRoi<A>& roi, const GradientPlane<T>& gradient, Add&& add) {
    for (int64_t channel = 0; channel < task.channels; channel += kLanes<A>) {
      load_grid<T>(task.pooled, task, roi.row, channel, least(kLanes<A>, task.channels - channel),
                   grad);
      add(gradient.plane(channel / kLanes<A>));
    }
  }
};

template <class T>
void taps_backward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Spread<T> spread(task, scratch);
  gather_gradient<T, TapsRoi<A>>(
      task, scratch, TouchTaps<A>{}, [&](const TapsRoi<A>& roi, const GradientPlane<T>& gradient) {
        spread.each_block(roi, gradient, [&](const Plane<A>& plane) {
          spread_taps(task, roi.y, roi.x, plane, spread.grad, spread.sums, spread.columns);
        });
      });
}

template <class T>
void taps_jvp_boxes_backward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Spread<T> spread(task, scratch);
  gather_gradient<T, TapsRoi<A>>(task, scratch, TouchTaps<A>{},
                                 [&](const TapsRoi<A>& roi, const GradientPlane<T>& gradient) {
                                   spread.each_block(roi, gradient, [&](const Plane<A>& plane) {
                                     spread_taps(task, roi.y_derivative[0], roi.x, plane,
                                                 spread.grad, spread.sums, spread.columns);
                                     spread_taps(task, roi.y, roi.x_derivative[0], plane,
                                                 spread.grad, spread.sums, spread.columns);
                                   });
                                 });
}

}  // namespace
}  // namespace roidl::cpu
