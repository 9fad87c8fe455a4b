// The kernels of sums over sparse separable weights: out = Wy . F . Wx^T for each RoI and channel.
#pragma once
#include "plane.h"

namespace roidl::cpu {
namespace {

// Where a RoI's distinct rows and columns lie in a plane.
template <class A>
struct Places {
  A** row;
  int64_t* column;

  Places(const Task& task, Scratch& scratch)
      : row(scratch.take<A*>(task.max_cells)),
        column(scratch.take<int64_t>(task.max_cells * kBlocksTogether)) {}
  // With several blocks of channels, each column stands for as many, side by side.
  void find(const Taps<A>& y, const Taps<A>& x, const Plane<A>& plane, int64_t blocks = 1) {
    for (int32_t i = 0; i < y.count; ++i) row[i] = plane.row(y.position[i]);
    for (int32_t j = 0; j < x.count; ++j)
      for (int64_t b = 0; b < blocks; ++b)
        column[j * blocks + b] = x.position[j] * plane.cell_stride + b * kLanes<A>;
  }
};

// sums[j] = the taps [first, last) of y over column j, for Count columns.
template <class A, int Count>
ROIDL_INLINE void sum_rows(const Taps<A>& y, int32_t first, int32_t last, const Places<A>& places,
                           const int64_t* columns, A* sums) {
  Block<A> sum[Count];
  for (int u = 0; u < Count; ++u) sum[u] = fill<A>(0);
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

// out [bins][blocks][kLanes] = Wy . plane . Wx^T; sums holds kRowsTogether rows of max_cells
// columns.
template <class A>
void apply_taps(const Task& task, const Taps<A>& y, const Taps<A>& x, const Plane<A>& plane,
                Places<A>& places, A* sums, A* out, int64_t blocks = 1) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t width = task.output_width, cell = blocks * lanes, sums_stride = x.count * cell;
  places.find(y, x, plane, blocks);
  for (int64_t p = 0; p < task.output_height; p += kRowsTogether) {
    const int64_t rows = least(kRowsTogether, task.output_height - p);
    for (int64_t r = 0; r < rows; ++r) {
      A* row_sums = sums + r * sums_stride;
      unrolled(x.count * blocks, [&](auto count, int64_t j) {
        sum_rows<A, decltype(count)::value>(y, y.start[p + r], y.start[p + r + 1], places,
                                            places.column + j, row_sums + j * lanes);
      });
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

template <class A>
struct ReadTaps {
  template <class Read>
  ROIDL_INLINE void operator()(const TapsRoi<A>& roi, Read&& read) const {
    if (roi.x_begin == roi.x_end) return;
    const auto rows = [&](const Taps<A>& y) {
      for (int32_t i = 0; i < y.count; ++i) read(y.position[i], roi.x_begin, roi.x_end);
    };
    rows(roi.y);
    rows(roi.y_derivative[0]);
    rows(roi.y_derivative[1]);
  }
};

template <class T>
void taps_forward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Places<A> places(task, scratch);
  const int64_t most_blocks = task.direct ? kBlocksTogether : 1;
  A* sums = scratch.take<A>(kRowsTogether * task.max_cells * most_blocks * kLanes<A>);
  A* out = scratch.take<A>(task.output_height * task.output_width * most_blocks * kLanes<A>);
  T* staging = take_staging<T>(task, scratch);
  for_each_roi<T, TapsRoi<A>, kBlocksTogether>(
      task, scratch, ReadTaps<A>{},
      [&](const TapsRoi<A>& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        const int64_t blocks = (channels + kLanes<A> - 1) / kLanes<A>;
        apply_taps(task, roi.y, roi.x, plane, places, sums, out, blocks);
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
  A* sums = scratch.take<A>(kRowsTogether * task.max_cells * kLanes<A>);
  A* out = scratch.take<A>(values);
  A* grad = scratch.take<A>(values);
  for_each_roi<T, TapsRoi<A>>(
      task, scratch, ReadTaps<A>{},
      [&](const TapsRoi<A>& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        load_grid<T>(task.pooled, task, roi.row, channel, channels, grad);
        const Taps<A>* pairs[4][2] = {{&roi.y, &roi.x_derivative[0]},
                                      {&roi.y_derivative[0], &roi.x},
                                      {&roi.y, &roi.x_derivative[1]},
                                      {&roi.y_derivative[1], &roi.x}};
        for (int edge = 0; edge < 4; ++edge) {
          apply_taps(task, *pairs[edge][0], *pairs[edge][1], plane, places, sums, out);
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

// plane += Wy^T . grad . Wx
template <class A>
void spread_taps(const Task& task, const Taps<A>& y, const Taps<A>& x, const Plane<A>& plane,
                 Places<A>& places, const A* grad, A* sums) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t width = task.output_width, sums_stride = x.count * lanes;
  places.find(y, x, plane);
  for (int64_t p = 0; p < task.output_height; p += kRowsTogether) {
    const int64_t rows = least(kRowsTogether, task.output_height - p);
    for (int32_t j = 0; j < x.count; ++j)
      unrolled(rows, [&](auto count, int64_t r) {
        sum_columns<A, decltype(count)::value>(x.column_bin, x.column_weight, x.column_start[j],
                                               x.column_start[j + 1],
                                               grad + (p + r) * width * lanes, lanes, width * lanes,
                                               sums + r * sums_stride + j * lanes, sums_stride);
      });
    for (int64_t r = 0; r < rows; ++r) {
      const A* row_sums = sums + r * sums_stride;
      for (int32_t tap = y.start[p + r]; tap < y.start[p + r + 1]; ++tap) {
        A* row = places.row[y.slot[tap]];
        const A weight = y.weight[tap];
        for (int32_t j = 0; j < x.count; ++j) {
          A* cell = row + places.column[j];
          Block<A> sum = load(cell);
          add_product(sum, weight, load(row_sums + j * lanes));
          store(cell, sum);
        }
      }
    }
  }
}

// Calls add(roi, plane, channel, channels) with a plane that the RoI's window may be added to, in
// the order of the RoIs, and writes every row of the gradient exactly once.
template <class T, class RoiType, class Touch, class Add>
void gather_gradient(const Task& task, Scratch& scratch, Touch&& touch, Add&& add) {
  PackedPlane<T> packed(task, scratch);
  for (int64_t channel = 0; channel < task.channels; channel += kLanes<accumulator<T>>) {
    const int64_t channels = least(kLanes<accumulator<T>>, task.channels - channel);
    packed.forget();
    int64_t written = 0;
    const auto write_up_to = [&](int64_t y) {
      for (; written < y; ++written)
        packed.write(task.gradient, task.image, channel, channels, written);
    };
    for (int64_t i = 0; i < task.count; ++i) {
      const RoiType& roi = static_cast<const RoiType&>(*task.rois[i]);
      if (roi.y_begin == roi.y_end || roi.x_begin == roi.x_end) continue;
      write_up_to(roi.y_begin);  // RoIs come by first row: nobody will add above it again
      touch(roi, [&](int64_t y, int64_t begin, int64_t end) { packed.touch(y, begin, end); });
      add(roi, packed.plane(), channel, channels);
    }
    write_up_to(task.height);
  }
  end_streams();
}

template <class T>
void taps_backward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Places<A> places(task, scratch);
  A* sums = scratch.take<A>(kRowsTogether * task.max_cells * kLanes<A>);
  A* grad = scratch.take<A>(task.output_height * task.output_width * kLanes<A>);
  gather_gradient<T, TapsRoi<A>>(
      task, scratch, ReadTaps<A>{},
      [&](const TapsRoi<A>& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        load_grid<T>(task.pooled, task, roi.row, channel, channels, grad);
        spread_taps(task, roi.y, roi.x, plane, places, grad, sums);
      });
}

// The product rule: dWy . F . Wx^T + Wy . F . dWx^T.
template <class T>
void taps_jvp_boxes(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Places<A> places(task, scratch);
  const int64_t values = task.output_height * task.output_width * kLanes<A>;
  A* sums = scratch.take<A>(kRowsTogether * task.max_cells * kLanes<A>);
  A* out = scratch.take<A>(values);
  A* other = scratch.take<A>(values);
  for_each_roi<T, TapsRoi<A>>(
      task, scratch, ReadTaps<A>{},
      [&](const TapsRoi<A>& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        apply_taps(task, roi.y_derivative[0], roi.x, plane, places, sums, out);
        apply_taps(task, roi.y, roi.x_derivative[0], plane, places, sums, other);
        for (int64_t i = 0; i < values; ++i) out[i] += other[i];
        store_grid<T>(out, task.pooled, task, roi.row, channel, channels, static_cast<T*>(nullptr));
      });
}

template <class T>
void taps_jvp_boxes_backward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  Places<A> places(task, scratch);
  A* sums = scratch.take<A>(kRowsTogether * task.max_cells * kLanes<A>);
  A* grad = scratch.take<A>(task.output_height * task.output_width * kLanes<A>);
  gather_gradient<T, TapsRoi<A>>(
      task, scratch, ReadTaps<A>{},
      [&](const TapsRoi<A>& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        load_grid<T>(task.pooled, task, roi.row, channel, channels, grad);
        spread_taps(task, roi.y_derivative[0], roi.x, plane, places, grad, sums);
        spread_taps(task, roi.y, roi.x_derivative[0], plane, places, grad, sums);
      });
}

}  // namespace
}  // namespace roidl::cpu
