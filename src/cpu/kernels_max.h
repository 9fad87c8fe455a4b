// The kernels of RoIAlign's max modes: the largest sample of a bin, or the largest weighted corner.
// The gradient to the map is in kernels_max_backward.h.
#pragma once
#include "window_rows.h"

namespace roidl::cpu {
namespace {

// For every channel the winning value and where it stands: indices into the samples of y and of x,
// or -1 for a winner that no feature moves. The ONNX mode counts corners, two to a sample.
template <class A>
struct Winner {
  Block<A> value;
  IndexBlock<A> y, x;
  bool empty = true;

  // A later candidate wins by being larger, or by being the first NaN.
  ROIDL_INLINE void consider(const Block<A>& candidate, Index<A> at_y, Index<A> at_x) {
    using Indices = typename Native<Index<A>>::Vector;
    const Indices new_y = at_y - Indices{}, new_x = at_x - Indices{};
    for (int i = 0; i < kVectors; ++i) {
      if (empty) {
        value.v[i] = candidate.v[i];
        y.v[i] = new_y;
        x.v[i] = new_x;
        continue;
      }
      const auto old = value.v[i], now = candidate.v[i];
      const Indices wins = ~(now <= old) & (old == old);
      value.v[i] = wins ? now : old;
      y.v[i] = wins ? new_y : y.v[i];
      x.v[i] = wins ? new_x : x.v[i];
    }
    empty = false;
  }
};

// The same without the place; what is empty holds -infinity.
template <class A>
struct Largest {
  Block<A> value = fill<A>(-__builtin_inff());

  ROIDL_INLINE void consider(const Block<A>& candidate, Index<A>, Index<A>) {
    using Indices = typename Native<Index<A>>::Vector;
    for (int i = 0; i < kVectors; ++i) {
      const auto old = value.v[i], now = candidate.v[i];
      // Not (now <= old) is: larger, or one of the two is NaN; an old NaN stays.
      const Indices wins = ~(now <= old) & (old == old);
      value.v[i] = wins ? now : old;
    }
  }
};

// What lies between two neighbours: weight_low * low + weight_high * high, where a weight of zero
// contributes 0 and reads nothing. Both products are rounded before they are added, here as in
// cuda/max_sample.cuh: samples that differ in their last bits must rank alike on every machine, or
// gradients land elsewhere.
template <class A, class Low, class High>
ROIDL_INLINE Block<A> interpolate(A weight_low, Low&& low, A weight_high, High&& high) {
  if (weight_low != 0 && weight_high != 0)
    return rounded_product(weight_low, low()) + rounded_product(weight_high, high());
  if (weight_low != 0) return rounded_product(weight_low, low()) + fill<A>(0);
  if (weight_high != 0) return rounded_product(weight_high, high()) + fill<A>(0);
  return fill<A>(0);
}

// The rows of a sample row: those whose weight is not zero.
template <class A>
class RowPair {
 public:
  const A* low = nullptr;
  const A* high = nullptr;
  A weight_low, weight_high;
  int64_t cell_stride;

  template <class T>
  RowPair(const Samples<A>& y, int32_t i, WindowRows<T>& rows)
      : weight_low(y.weight_low[i]),
        weight_high(y.weight_high[i]),
        cell_stride(rows.cell_stride()) {
    if (weight_low != 0) low = rows.row(y.low[i]);
    if (weight_high != 0) high = rows.row(y.high[i]);
  }
  // The value at column x between the two; a weight of zero reads nothing.
  ROIDL_INLINE Block<A> at(int64_t x) const {
    return interpolate(
        weight_low, [&] { return load(low + x * cell_stride); }, weight_high,
        [&] { return load(high + x * cell_stride); });
  }
  // The same at the columns [begin, end), to `values`.
  void at_columns(int64_t begin, int64_t end, A* values) const {
    if (low != nullptr && high != nullptr)
      return each_column(begin, end, values, [&](int64_t x) {
        return rounded_product(weight_low, load(low + x)) +
               rounded_product(weight_high, load(high + x));
      });
    const A* row = low != nullptr ? low : high;
    const A weight = low != nullptr ? weight_low : weight_high;
    each_column(begin, end, values, [&](int64_t x) {
      return row != nullptr ? rounded_product(weight, load(row + x)) + fill<A>(0) : fill<A>(0);
    });
  }

 private:
  template <class Value>
  ROIDL_INLINE void each_column(int64_t begin, int64_t end, A* values, Value&& value) const {
    for (int64_t x = begin; x < end; ++x, values += kLanes<A>)
      store(values, value(x * cell_stride));
  }
};

// The value of sample j of x from the columns of its row.
template <class A, class Column>
ROIDL_INLINE Block<A> sample_value(const Samples<A>& x, int32_t j, Column&& column) {
  return interpolate(
      x.weight_low[j], [&] { return column(x.low[j]); }, x.weight_high[j],
      [&] { return column(x.high[j]); });
}

template <class A, class Best>
ROIDL_INLINE void consider_corners(const SamplesRoi<A>& roi, int32_t i, int32_t j,
                                   const RowPair<A>& rows, Best& best) {
  for (int corner = 0; corner < 4; ++corner) {
    const int bottom = corner / 2, right = corner % 2;
    const A weight = (bottom ? rows.weight_high : rows.weight_low) *
                     (right ? roi.x.weight_high[j] : roi.x.weight_low[j]);
    if (weight == 0) {
      best.consider(fill<A>(0), -1, -1);
      continue;
    }
    const int64_t column = right ? roi.x.high[j] : roi.x.low[j];
    const A* cell = (bottom ? rows.high : rows.low) + column * rows.cell_stride;
    best.consider(weight * load(cell), 2 * i + bottom, 2 * j + right);  // no sum follows
  }
}

template <class A>
ROIDL_INLINE bool meets(const Samples<A>& y, int64_t p, int64_t begin, int64_t end) {
  const int32_t first = y.start[p], last = y.start[p + 1] - 1;
  if (first > last) return false;
  return least(y.low[first], y.low[last]) < end && most(y.high[first], y.high[last]) >= begin;
}

// A row of bins: the best of each, and whether a sample off the map was considered for it.
template <class A, class Best>
struct Bests {
  Best* best;
  bool* outside;
  A* between;

  Bests(const Task& task, Scratch& scratch)
      : best(scratch.take<Best>(task.output_width)),
        outside(scratch.take<bool>(task.output_width)),
        between(scratch.take<A>(task.max_cells * kLanes<A>)) {}
  // Whether anything was considered for the bin.
  ROIDL_INLINE bool exists(const SamplesRoi<A>& roi, int64_t p, int64_t q) const {
    return outside[q] ||
           (roi.y.start[p] < roi.y.start[p + 1] && roi.x.start[q] < roi.x.start[q + 1]);
  }
  ROIDL_INLINE void consider_outside(int64_t q, bool exists) {
    if (exists && !outside[q]) best[q].consider(fill<A>(0), -1, -1);
    outside[q] |= exists;
  }
};

// The bests of the bins of row p, samples in row-major order. Those off the map are worth 0; the
// first of them decides ties.
template <class T, class A, class Best>
void find_bests(const Task& task, const SamplesRoi<A>& roi, int64_t p, WindowRows<T>& rows,
                Bests<A, Best>& bests) {
  const Samples<A>&y = roi.y, &x = roi.x;
  const int64_t width = task.output_width;
  for (int64_t q = 0; q < width; ++q) {
    bests.best[q] = Best{};
    bests.outside[q] = false;
    bests.consider_outside(q, y.off_before[p] || x.off_before[q]);
  }
  const int64_t samples = x.start[width];
  for (int32_t i = y.start[p]; samples > 0 && i < y.start[p + 1]; ++i) {
    const RowPair<A> pair(y, i, rows);
    const auto each_bin = [&](auto&& consider) {
      for (int64_t q = 0; q < width; ++q) {
        Best best = bests.best[q];
        for (int32_t j = x.start[q]; j < x.start[q + 1]; ++j) consider(best, j);
        bests.best[q] = best;
        bests.consider_outside(q, x.off_after[q]);
      }
    };
    // Where the samples lie close, what lies between the rows is wanted more than once.
    A* between = bests.between - roi.x_begin * kLanes<A>;
    if (task.onnx) {
      each_bin([&](Best& best, int32_t j) { consider_corners(roi, i, j, pair, best); });
    } else if (roi.x_end - roi.x_begin > 2 * samples) {
      each_bin([&](Best& best, int32_t j) {
        best.consider(sample_value(x, j, [&](int64_t c) { return pair.at(c); }), i, j);
      });
    } else {
      pair.at_columns(roi.x_begin, roi.x_end, bests.between);
      each_bin([&](Best& best, int32_t j) {
        best.consider(sample_value(x, j, [&](int64_t c) { return load(between + c * kLanes<A>); }),
                      i, j);
      });
    }
  }
  for (int64_t q = 0; q < width; ++q) bests.consider_outside(q, y.off_after[p]);
}

template <class T>
void max_forward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  A* out = scratch.take<A>(task.output_height * task.output_width * kLanes<A>);
  Bests<A, Largest<A>> bests(task, scratch);
  T* staging = take_staging<T>(task, scratch);
  for_each_window<T, SamplesRoi<A>>(
      task, scratch,
      [&](const SamplesRoi<A>& roi, WindowRows<T>& rows, int64_t channel, int64_t channels) {
        for (int64_t p = 0; p < task.output_height; ++p) {
          find_bests(task, roi, p, rows, bests);
          for (int64_t q = 0; q < task.output_width; ++q)
            store(out + (p * task.output_width + q) * kLanes<A>,
                  bests.exists(roi, p, q) ? bests.best[q].value : fill<A>(0));
        }
        store_grid<T>(out, task.pooled, task, roi.row, channel, channels, staging);
      });
}

// Calls visit(p, q, best) for every bin that can reach the rows [begin,
// end).
template <class T, class A, class Visit>
void for_each_winner(const Task& task, const SamplesRoi<A>& roi, WindowRows<T>& rows,
                     Bests<A, Winner<A>>& bests, int64_t begin, int64_t end, Visit&& visit) {
  for (int64_t p = 0; p < task.output_height; ++p) {
    if (!meets(roi.y, p, begin, end)) continue;
    find_bests(task, roi, p, rows, bests);
    for (int64_t q = 0; q < task.output_width; ++q)
      if (!bests.best[q].empty) visit(p, q, bests.best[q]);
  }
}

// Calls visit(weight, row, column) for the cells that made channel c's winner.
template <class A, class Visit>
ROIDL_INLINE void for_each_corner(const SamplesRoi<A>& roi, const Winner<A>& winner, int c,
                                  bool onnx, Visit&& visit) {
  const Index<A> i = winner.y.lane(c), j = winner.x.lane(c);
  if (i < 0) return;
  const auto corner = [&](bool bottom, bool right, int64_t row, int64_t column) {
    const A weight = (bottom ? roi.y.weight_high : roi.y.weight_low)[row] *
                     (right ? roi.x.weight_high : roi.x.weight_low)[column];
    if (weight == 0) return;
    visit(weight, (bottom ? roi.y.high : roi.y.low)[row], (right ? roi.x.high : roi.x.low)[column]);
  };
  if (onnx) return corner(i % 2, j % 2, i / 2, j / 2);
  for (int at = 0; at < 4; ++at) corner(at / 2, at % 2, i, j);
}

// The tangent's value at the winners of the features.
template <class T>
void max_jvp(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  const int64_t values = task.output_height * task.output_width * kLanes<A>;
  A* out = scratch.take<A>(values);
  Bests<A, Winner<A>> bests(task, scratch);
  WindowRows<T> tangent(task, task.tangent, scratch);
  for_each_window<T, SamplesRoi<A>>(
      task, scratch,
      [&](const SamplesRoi<A>& roi, WindowRows<T>& rows, int64_t channel, int64_t channels) {
        tangent.enter(roi, channel, channels);
        std::memset(static_cast<void*>(out), 0, values * sizeof(A));
        for_each_winner(
            task, roi, rows, bests, 0, task.height,
            [&](int64_t p, int64_t q, const Winner<A>& winner) {
              const int64_t bin = (p * task.output_width + q) * kLanes<A>;
              for (int c = 0; c < channels; ++c)
                for_each_corner(
                    roi, winner, c, task.onnx, [&](A weight, int64_t row, int64_t column) {
                      out[bin + c] += weight * tangent.row(row)[column * tangent.cell_stride() + c];
                    });
            });
        store_grid<T>(out, task.pooled, task, roi.row, channel, channels, static_cast<T*>(nullptr));
      });
}

// d(value of channel c's winner)/d(x1, y1, x2, y2), times grad, added to sum.
template <class T, class A>
void add_edges(const SamplesRoi<A>& roi, const Winner<A>& winner, int c, A grad,
               WindowRows<T>& rows, double* sum) {
  const Index<A> i = winner.y.lane(c), j = winner.x.lane(c);
  if (i < 0) return;
  const Samples<A>&y = roi.y, &x = roi.x;
  const auto at = [&](int64_t row, int64_t column) {
    return static_cast<double>(rows.row(row)[column * rows.cell_stride() + c]);
  };
  const auto along = [](double weight_low, double weight_high, double low, double high) {
    return (weight_low != 0 ? weight_low * low : 0) + (weight_high != 0 ? weight_high * high : 0);
  };
  const auto slope_y = [&](int64_t column) { return at(y.high[i], column) - at(y.low[i], column); };
  const auto slope_x = [&](int64_t row) { return at(row, x.high[j]) - at(row, x.low[j]); };
  const double by_y =
      grad * along(x.weight_low[j], x.weight_high[j], slope_y(x.low[j]), slope_y(x.high[j]));
  const double by_x =
      grad * along(y.weight_low[i], y.weight_high[i], slope_x(y.low[i]), slope_x(y.high[i]));
  // Where the value does not follow the box, not even an infinite slope counts.
  const auto term = [](double slope, double derivative) {
    return derivative != 0 ? slope * derivative : 0;
  };
  sum[0] += term(by_x, x.derivative_low[j]);
  sum[1] += term(by_y, y.derivative_low[i]);
  sum[2] += term(by_x, x.derivative_high[j]);
  sum[3] += term(by_y, y.derivative_high[i]);
}

template <class T>
void max_boxes(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  A* grad = scratch.take<A>(task.output_height * task.output_width * kLanes<A>);
  Bests<A, Winner<A>> bests(task, scratch);
  for_each_window<T, SamplesRoi<A>>(
      task, scratch,
      [&](const SamplesRoi<A>& roi, WindowRows<T>& rows, int64_t channel, int64_t channels) {
        load_grid<T>(task.pooled, task, roi.row, channel, channels, grad);
        for_each_winner(task, roi, rows, bests, 0, task.height,
                        [&](int64_t p, int64_t q, const Winner<A>& winner) {
                          const int64_t bin = (p * task.output_width + q) * kLanes<A>;
                          for (int c = 0; c < channels; ++c)
                            add_edges(roi, winner, c, grad[bin + c], rows,
                                      task.boxes_gradient + roi.row * 4);
                        });
      });
}

}  // namespace
}  // namespace roidl::cpu
