// The transposes of sums over sparse separable weights: grad F = Wy^T . G . Wx for each RoI.
#pragma once
#include <type_traits>

#include "gather_gradient.h"
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
  const auto from = [&](int32_t first, int64_t cell) {
    return first_that(first, taps.count, [&](int32_t i) { return taps.position[i] >= cell; });
  };
  const int32_t first = from(0, begin);
  return {first, from(first, end)};
}

// sums[r] = the taps [first, last) of a column over row r of bins; rows lie `stride` apart.
template <class A, int Count>
ROIDL_INLINE void sum_bins(const Taps<A>& x, int32_t first, int32_t last, const A* grad,
                           int64_t stride, A* sums) {
  Block<A> sum[Count];
  for (int r = 0; r < Count; ++r) sum[r] = fill<A>(0);
  for (int32_t tap = first; tap < last; ++tap) {
    // Registers suffice for two addresses and small multiples of the stride.
    const A* bin = one_address(grad + x.column_bin[tap] * kLanes<A>);
    const A* fourth = one_address(bin + 4 * stride);
    const A weight = x.column_weight[tap];
    for (int r = 0; r < Count; ++r)
      add_product(sum[r], weight, load(r < 4 ? bin + r * stride : fourth + (r - 4) * stride));
  }
  for (int r = 0; r < Count; ++r) store(sums + r * kLanes<A>, sum[r]);
}

// cell(c) += the taps [first, last) of a row over column c of sums, for Count columns.
template <class A, int Count, class Cell>
ROIDL_INLINE void add_row(const Taps<A>& y, int32_t first, int32_t last, const A* sums,
                          Cell&& cell) {
  Block<A> sum[Count];
  for (int c = 0; c < Count; ++c) sum[c] = load<A>(cell(c));
  for (int32_t tap = first; tap < last; ++tap) {
    const A* from = one_address(sums + y.column_bin[tap] * kLanes<A>);
    const A weight = y.column_weight[tap];
    for (int c = 0; c < Count; ++c) add_product(sum[c], weight, load(from + c * kSumsStride<A>));
  }
  for (int c = 0; c < Count; ++c) store(cell(c), sum[c]);
}

// The columns of a RoI within the task's part of the map: those that have taps; or, if these are
// most of them and `gaps` allows it, all, as contiguous cells need no addresses of their own.
template <class A>
struct SpreadColumns {
  const Taps<A>& x;
  Range cells;
  int32_t first = 0, count = 0;
  bool all = false;

  SpreadColumns(const Task& task, const Taps<A>& taps, bool gaps)
      : x(taps), cells(cells_between(taps, task.x_begin, task.x_end)) {
    count = cells.end - cells.begin;
    if (count == 0) return;
    first = x.position[cells.begin];
    const int32_t width = x.position[cells.end - 1] + 1 - first;
    all = gaps ? count * 4 >= width * 3 : count == width;
    if (all) count = width;
  }
};

// sums [columns][kRowsTogether] = the taps of x over `bins` rows of the gradient.
template <class A>
ROIDL_INLINE void sum_rows_of_bins(const SpreadColumns<A>& columns, const A* grad, int64_t stride,
                                   int64_t bins, A* sums) {
  const Taps<A>& x = columns.x;
  int64_t next = 0;
  for (int32_t i = columns.cells.begin; i < columns.cells.end; ++i, ++next) {
    const int64_t at = columns.all ? x.position[i] - columns.first : next;
    for (; next < at; ++next)
      std::memset(static_cast<void*>(sums + next * kSumsStride<A>), 0, kSumsStride<A> * sizeof(A));
    unrolled(bins, [&](auto count, int64_t r) {
      sum_bins<A, decltype(count)::value>(x, x.column_start[i], x.column_start[i + 1],
                                          grad + r * stride, stride,
                                          sums + at * kSumsStride<A> + r * kLanes<A>);
    });
  }
}

// plane += Wy^T . grad . Wx within the task's part of the map. kRowsTogether rows of bins are
// processed at a time; each cell gets its terms in the order of the bins, however the map is cut.
// `gaps`: cells without taps may get zeros added, because no weight of y is infinite.
template <class A>
void spread_taps(const Task& task, const Taps<A>& y, const Taps<A>& x, bool gaps,
                 const Plane<A>& plane, const A* grad, A* sums) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t stride = task.output_width * lanes;
  const Range rows = cells_between(y, task.y_begin, task.y_end);
  const SpreadColumns<A> columns(task, x, gaps);
  if (columns.count == 0 || rows.begin == rows.end) return;
  // The bins that reach these rows: all, unless some rows belong to another task or are off the
  // map.
  int64_t first_bin = 0, last_bin = task.output_height - 1;
  const bool has_ends = y.start[1] > 0 && y.start[last_bin] < y.start[last_bin + 1];
  if (!has_ends || rows.end - rows.begin < y.count) {
    first_bin = last_bin = y.column_bin[y.column_start[rows.begin]];
    for (int32_t tap = y.column_start[rows.begin]; tap < y.column_start[rows.end]; ++tap) {
      first_bin = least(first_bin, y.column_bin[tap]);
      last_bin = most(last_bin, y.column_bin[tap]);
    }
  }
  for (int64_t p = first_bin; p <= last_bin; p += kRowsTogether) {
    const int64_t bins = least(kRowsTogether, last_bin + 1 - p);
    sum_rows_of_bins(columns, grad + p * stride, stride, bins, sums);
    for (int32_t i = rows.begin; i < rows.end; ++i) {
      int32_t first = y.column_start[i], last = y.column_start[i + 1];
      while (first < last && y.column_bin[first] < p) ++first;
      while (first < last && y.column_bin[last - 1] >= p + bins) --last;
      if (first == last) continue;
      A* const row = plane.row(y.position[i]);
      const A* const from = sums - p * lanes;
      if (columns.all) {
        const auto add = [&](auto stride) {
          A* const cells = row + columns.first * stride;
          unrolled_whole<kManyBlocks>(columns.count, [&](auto count, int64_t j) {
            add_row<A, decltype(count)::value>(y, first, last, from + j * kSumsStride<A>,
                                               [&](int c) { return cells + (j + c) * stride; });
          });
        };
        if (plane.cell_stride == lanes)
          add(std::integral_constant<int64_t, lanes>{});
        else
          add(plane.cell_stride);
        continue;
      }
      const int32_t* const position = x.position + columns.cells.begin;
      unrolled(columns.count, [&](auto count, int64_t j) {
        add_row<A, decltype(count)::value>(y, first, last, from + j * kSumsStride<A>, [&](int c) {
          return row + one_address(position + j)[c] * plane.cell_stride;
        });
      });
    }
  }
}

template <class A>
struct TouchTaps {
  template <class Touch>
  ROIDL_INLINE void operator()(const Task& task, const TapsRoi<A>& roi, Touch&& touch) const {
    if (roi.x_begin == roi.x_end) return;
    const auto rows = [&](const Taps<A>& y) {
      const Range some = cells_between(y, task.y_begin, task.y_end);
      for (int32_t i = some.begin; i < some.end; ++i) touch(y.position[i], roi.x_begin, roi.x_end);
    };
    rows(roi.y);
    rows(roi.y_derivative[0]);
    rows(roi.y_derivative[1]);
  }
};

// The memory for spreading the gradient of a RoI.
template <class T>
struct Spread {
  using A = accumulator<T>;
  const Task& task;
  A *sums, *grad;

  Spread(const Task& task, Scratch& scratch) : task(task) {
    sums = scratch.take<A>(least(task.max_width, task.x_end - task.x_begin) * kSumsStride<A>);
    grad = scratch.take<A>(task.output_height * task.output_width * kLanes<A>);
  }

  // Calls add(plane) for each block of channels, with the block's gradient loaded to `grad`.
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
  gather_gradient<T, TapsRoi<A>, GradientPlane<T>>(
      task, scratch, TouchTaps<A>{}, [&](const TapsRoi<A>& roi, const GradientPlane<T>& gradient) {
        spread.each_block(roi, gradient, [&](const Plane<A>& plane) {
          spread_taps(task, roi.y, roi.x, true, plane, spread.grad, spread.sums);
        });
      });
}

template <class T>
void taps_jvp_boxes_backward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Spread<T> spread(task, scratch);
  gather_gradient<T, TapsRoi<A>, GradientPlane<T>>(
      task, scratch, TouchTaps<A>{}, [&](const TapsRoi<A>& roi, const GradientPlane<T>& gradient) {
        spread.each_block(roi, gradient, [&](const Plane<A>& plane) {
          spread_taps(task, roi.y_derivative[0], roi.x, false, plane, spread.grad, spread.sums);
          spread_taps(task, roi.y, roi.x_derivative[0], false, plane, spread.grad, spread.sums);
        });
      });
}

}  // namespace
}  // namespace roidl::cpu
