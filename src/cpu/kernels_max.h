// The kernels of RoIAlign's max modes: the largest sample of a bin, or the largest weighted corner.
#pragma once
#include "kernels_taps.h"

namespace roidl::cpu {
namespace {

// For every channel the winning value and where it stands: indices into the samples of y and of x,
// or -1 for a winner that no feature moves. The ONNX mode counts corners, two to a sample.
template <class A>
struct Winner {
  Block<A> value = fill<A>(0);
  IndexBlock<A> y, x;
  bool empty = true;

  // A later candidate wins by being larger, or by being the first NaN.
  ROIDL_INLINE void consider(const Block<A>& candidate, Index<A> at_y, Index<A> at_x) {
    using Indices = typename Native<Index<A>>::Vector;
    const Indices new_y = at_y - Indices{}, new_x = at_x - Indices{};
    for (int i = 0; i < kVectors; ++i) {
      const auto old = value.v[i], now = candidate.v[i];
      const Indices wins = empty ? ~Indices{} : (now > old) | ((now != now) & (old == old));
      value.v[i] = wins ? now : old;
      y.v[i] = wins ? new_y : y.v[i];
      x.v[i] = wins ? new_x : x.v[i];
    }
    empty = false;
  }
};

// The same without the place, for the forward pass.
template <class A>
struct Largest {
  Block<A> value = fill<A>(0);
  bool empty = true;

  ROIDL_INLINE void consider(const Block<A>& candidate, Index<A>, Index<A>) {
    using Indices = typename Native<Index<A>>::Vector;
    for (int i = 0; i < kVectors; ++i) {
      const auto old = value.v[i], now = candidate.v[i];
      // Not (now <= old) is: larger, or one of the two is NaN; an old NaN stays.
      const Indices wins = empty ? ~Indices{} : ~(now <= old) & (old == old);
      value.v[i] = wins ? now : old;
    }
    empty = false;
  }
};

// The value at column x between the rows of sample i of y; a weight of zero reads nothing.
template <class A>
ROIDL_INLINE Block<A> between_rows(const Samples<A>& y, int32_t i, int64_t x,
                                   const Plane<A>& plane) {
  Block<A> value = fill<A>(0);
  const int64_t offset = x * plane.cell_stride;
  if (y.weight_low[i] != 0) add_product(value, y.weight_low[i], load(plane.row(y.low[i]) + offset));
  if (y.weight_high[i] != 0)
    add_product(value, y.weight_high[i], load(plane.row(y.high[i]) + offset));
  return value;
}

template <class A>
ROIDL_INLINE Block<A> sample_value(const SamplesRoi<A>& roi, int32_t i, int32_t j,
                                   const Plane<A>& plane) {
  const Samples<A>& x = roi.x;
  Block<A> value = fill<A>(0);
  if (x.weight_low[j] != 0)
    add_product(value, x.weight_low[j], between_rows(roi.y, i, x.low[j], plane));
  if (x.weight_high[j] != 0)
    add_product(value, x.weight_high[j], between_rows(roi.y, i, x.high[j], plane));
  return value;
}

template <class A, class Winner>
ROIDL_INLINE void consider_corners(const SamplesRoi<A>& roi, int32_t i, int32_t j,
                                   const Plane<A>& plane, Winner& winner) {
  for (int corner = 0; corner < 4; ++corner) {
    const int bottom = corner / 2, right = corner % 2;
    const A weight = (bottom ? roi.y.weight_high[i] : roi.y.weight_low[i]) *
                     (right ? roi.x.weight_high[j] : roi.x.weight_low[j]);
    Block<A> value = fill<A>(0);
    if (weight == 0) {
      winner.consider(value, -1, -1);
      continue;
    }
    const int64_t column = right ? roi.x.high[j] : roi.x.low[j];
    add_product(
        value, weight,
        load(plane.row(bottom ? roi.y.high[i] : roi.y.low[i]) + column * plane.cell_stride));
    winner.consider(value, 2 * i + bottom, 2 * j + right);
  }
}

// Bin (p, q), samples in row-major order. Those off the map are worth 0; the first of them decides
// ties.
template <class A, class Winner>
ROIDL_INLINE void find_winner(const SamplesRoi<A>& roi, int64_t p, int64_t q, bool onnx,
                              const Plane<A>& plane, Winner& winner) {
  const Samples<A>&y = roi.y, &x = roi.x;
  const Block<A> zero = fill<A>(0);
  bool outside_seen = false;
  const auto outside = [&](bool exists) {
    if (exists && !outside_seen) winner.consider(zero, -1, -1);
    outside_seen |= exists;
  };
  outside(y.off_before[p] || x.off_before[q]);
  for (int32_t i = y.start[p]; i < y.start[p + 1]; ++i) {
    for (int32_t j = x.start[q]; j < x.start[q + 1]; ++j) {
      if (onnx)
        consider_corners(roi, i, j, plane, winner);
      else
        winner.consider(sample_value(roi, i, j, plane), i, j);
    }
    outside(x.off_after[q]);
  }
  outside(y.off_after[p]);
}

// Calls visit(bin's first value in a grid, winner) for every bin.
template <class Winner, class A, class Visit>
ROIDL_INLINE void for_each_winner(const Task& task, const SamplesRoi<A>& roi, const Plane<A>& plane,
                                  Visit&& visit) {
  for (int64_t p = 0; p < task.output_height; ++p)
    for (int64_t q = 0; q < task.output_width; ++q) {
      Winner winner;
      find_winner(roi, p, q, task.onnx, plane, winner);
      visit((p * task.output_width + q) * kLanes<A>, winner);
    }
}

template <class A>
struct ReadWindow {
  template <class RoiType, class Read>
  ROIDL_INLINE void operator()(const RoiType& roi, Read&& read) const {
    if (roi.x_begin == roi.x_end) return;
    for (int64_t y = roi.y_begin; y < roi.y_end; ++y) read(y, roi.x_begin, roi.x_end);
  }
};

// The largest sample of every bin: each row of samples is interpolated down the columns of the
// window once, and along the row from there.
template <class A>
void largest_samples(const Task& task, const SamplesRoi<A>& roi, const Plane<A>& plane, A* between,
                     A* out) {
  const Samples<A>&y = roi.y, &x = roi.x;
  const Block<A> zero = fill<A>(0), least_of_all = fill<A>(-__builtin_inff());
  for (int64_t p = 0; p < task.output_height; ++p) {
    A* bins = out + p * task.output_width * kLanes<A>;
    const bool rows = y.start[p] < y.start[p + 1];
    for (int64_t q = 0; q < task.output_width; ++q) {
      const bool outside = y.off_before[p] || y.off_after[p] || x.off_before[q] || x.off_after[q];
      const bool inside = rows && x.start[q] < x.start[q + 1];
      store(bins + q * kLanes<A>, inside && !outside ? least_of_all : zero);
    }
    for (int32_t i = y.start[p]; i < y.start[p + 1]; ++i) {
      for (int64_t column = roi.x_begin; column < roi.x_end; ++column)
        store(between + (column - roi.x_begin) * kLanes<A>, between_rows(y, i, column, plane));
      for (int64_t q = 0; q < task.output_width; ++q) {
        Largest<A> largest{load(bins + q * kLanes<A>), false};
        for (int32_t j = x.start[q]; j < x.start[q + 1]; ++j) {
          Block<A> value = fill<A>(0);
          const auto add = [&](A weight, int64_t column) {
            if (weight != 0)
              add_product(value, weight, load(between + (column - roi.x_begin) * kLanes<A>));
          };
          add(x.weight_low[j], x.low[j]);
          add(x.weight_high[j], x.high[j]);
          largest.consider(value, 0, 0);
        }
        store(bins + q * kLanes<A>, largest.value);
      }
    }
  }
}

template <class T>
void max_forward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  A* out = scratch.take<A>(task.output_height * task.output_width * kLanes<A>);
  A* between = scratch.take<A>(task.max_cells * kLanes<A>);
  T* staging = take_staging<T>(task, scratch);
  for_each_roi<T, SamplesRoi<A>>(
      task, scratch, ReadWindow<A>{},
      [&](const SamplesRoi<A>& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        if (task.onnx)
          for_each_winner<Largest<A>>(task, roi, plane, [&](int64_t bin, const Largest<A>& winner) {
            store(out + bin, winner.value);
          });
        else
          largest_samples(task, roi, plane, between, out);
        store_grid<T>(out, task.pooled, task, roi.row, channel, channels, staging);
      });
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

template <class T>
void max_backward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  A* grad = scratch.take<A>(task.output_height * task.output_width * kLanes<A>);
  PackedPlane<T> features(task, scratch);
  int64_t packed_channel = -1;
  gather_gradient<T, SamplesRoi<A>>(
      task, scratch, ReadWindow<A>{},
      [&](const SamplesRoi<A>& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        if (channel != packed_channel) features.forget();
        packed_channel = channel;
        ReadWindow<A>{}(roi, [&](int64_t y, int64_t begin, int64_t end) {
          features.read(task.features, task.image, channel, channels, y, begin, end);
        });
        load_grid<T>(task.pooled, task, roi.row, channel, channels, grad);
        for_each_winner<Winner<A>>(
            task, roi, features.plane(), [&](int64_t bin, const Winner<A>& winner) {
              for (int c = 0; c < channels && !winner.empty; ++c)
                for_each_corner(
                    roi, winner, c, task.onnx, [&](A weight, int64_t row, int64_t column) {
                      plane.row(row)[column * plane.cell_stride + c] += weight * grad[bin + c];
                    });
            });
      });
}

// The tangent's value at the winners of the features.
template <class T>
void max_jvp(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  A* out = scratch.take<A>(task.output_height * task.output_width * kLanes<A>);
  PackedPlane<T> tangent(task, scratch);
  int64_t packed_channel = -1;
  for_each_roi<T, SamplesRoi<A>>(
      task, scratch, ReadWindow<A>{},
      [&](const SamplesRoi<A>& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        if (channel != packed_channel) tangent.forget();
        packed_channel = channel;
        ReadWindow<A>{}(roi, [&](int64_t y, int64_t begin, int64_t end) {
          tangent.read(task.tangent, task.image, channel, channels, y, begin, end);
        });
        const Plane<A>& along = tangent.plane();
        for_each_winner<Winner<A>>(task, roi, plane, [&](int64_t bin, const Winner<A>& winner) {
          store(out + bin, fill<A>(0));
          for (int c = 0; c < channels && !winner.empty; ++c)
            for_each_corner(roi, winner, c, task.onnx, [&](A weight, int64_t row, int64_t column) {
              out[bin + c] += weight * along.row(row)[column * along.cell_stride + c];
            });
        });
        store_grid<T>(out, task.pooled, task, roi.row, channel, channels, static_cast<T*>(nullptr));
      });
}

// d(value of channel c's winner)/d(x1, y1, x2, y2), times grad, added to sum.
template <class A>
void add_edges(const SamplesRoi<A>& roi, const Winner<A>& winner, int c, A grad,
               const Plane<A>& plane, double* sum) {
  const Index<A> i = winner.y.lane(c), j = winner.x.lane(c);
  if (i < 0) return;
  const Samples<A>&y = roi.y, &x = roi.x;
  const auto at = [&](int64_t row, int64_t column) {
    return static_cast<double>(plane.row(row)[column * plane.cell_stride + c]);
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
  for_each_roi<T, SamplesRoi<A>>(
      task, scratch, ReadWindow<A>{},
      [&](const SamplesRoi<A>& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        load_grid<T>(task.pooled, task, roi.row, channel, channels, grad);
        for_each_winner<Winner<A>>(task, roi, plane, [&](int64_t bin, const Winner<A>& winner) {
          for (int c = 0; c < channels && !winner.empty; ++c)
            add_edges(roi, winner, c, grad[bin + c], plane, task.boxes_gradient + roi.row * 4);
        });
      });
}

}  // namespace
}  // namespace roidl::cpu
