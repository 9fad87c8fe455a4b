// The transpose of RoIAlign's max modes: every bin's gradient goes to the corners of its winner.
#pragma once
#include "gather_gradient.h"
#include "gradient_plane.h"
#include "kernels_max.h"

namespace roidl::cpu {
namespace {

// Where the winner of channel c stands, as plain data.
template <class A>
ROIDL_INLINE WinnerCells<A> cells_of(const SamplesRoi<A>& roi, const Winner<A>& winner, int c,
                                     bool onnx) {
  const Index<A> i = winner.y.lane(c), j = winner.x.lane(c);
  if (i < 0) return {-1, -1, {}, {}};
  const Samples<A>&y = roi.y, &x = roi.x;
  if (onnx)
    return {(i % 2 ? y.high : y.low)[i / 2],
            (j % 2 ? x.high : x.low)[j / 2],
            {(i % 2 ? y.weight_high : y.weight_low)[i / 2], 0},
            {(j % 2 ? x.weight_high : x.weight_low)[j / 2], 0}};
  return {
      y.low[i], x.low[j], {y.weight_low[i], y.weight_high[i]}, {x.weight_low[j], x.weight_high[j]}};
}

// Whether a cell is of the task's part of the map.
ROIDL_INLINE bool is_inside(const Task& task, int64_t y, int64_t x) {
  return y >= task.y_begin && y < task.y_end && x >= task.x_begin && x < task.x_end;
}

// Adds a bin's gradient where its winners stand. Of few candidates, each is added to for all the
// channels at once that it won; else channel by channel.
template <class A>
ROIDL_INLINE void spread_winner(const Task& task, const SamplesRoi<A>& roi, int64_t p, int64_t q,
                                const Winner<A>& winner, const A* grad, const Plane<A>& plane) {
  const Samples<A>&y = roi.y, &x = roi.x;
  const int64_t candidates = int64_t{y.start[p + 1] - y.start[p]} * (x.start[q + 1] - x.start[q]);
  if (task.onnx || candidates > kFewSamples) {
    for (int c = 0; c < task.channels; ++c)
      for_each_corner(roi, winner, c, task.onnx, [&](A weight, int64_t row, int64_t column) {
        if (is_inside(task, row, column))
          plane.row(row)[column * plane.cell_stride + c] += weight * grad[c];
      });
    return;
  }
  using Indices = typename Native<Index<A>>::Vector;
  const Block<A> all = load(grad), zero = fill<A>(0);
  for (int32_t i = y.start[p]; i < y.start[p + 1]; ++i)
    for (int32_t j = x.start[q]; j < x.start[q + 1]; ++j) {
      Block<A> won;
      for (int v = 0; v < kVectors; ++v) {
        const Indices here = (winner.y.v[v] == i - Indices{}) & (winner.x.v[v] == j - Indices{});
        won.v[v] = here ? all.v[v] : zero.v[v];
      }
      const auto add = [&](A weight, int64_t row, int64_t column) {
        if (weight == 0 || !is_inside(task, row, column)) return;
        A* cell = plane.row(row) + column * plane.cell_stride;
        Block<A> sum = load(cell);
        add_product(sum, weight, won);
        store(cell, sum);
      };
      add(y.weight_low[i] * x.weight_low[j], y.low[i], x.low[j]);
      add(y.weight_low[i] * x.weight_high[j], y.low[i], x.high[j]);
      add(y.weight_high[i] * x.weight_low[j], y.high[i], x.low[j]);
      add(y.weight_high[i] * x.weight_high[j], y.high[i], x.high[j]);
    }
}

// Where a map is gone through in pieces, as it is too large to be summed up at once: a window that
// reaches into several is worked through for the first of them, and what won there is kept for the
// others.
template <class T>
void max_backward_in_pieces(const Task& task, Scratch scratch) {
  using A = accumulator<T>;
  using Cells = WinnerCells<A>;
  const int64_t bins = task.output_height * task.output_width, channels = task.channels;
  A* grad = scratch.take<A>(bins * kLanes<A>);
  Bests<A, Winner<A>> bests(task, scratch);
  WindowRows<T> rows(task, task.features, scratch);
  Cells* const kept = scratch.take<Cells>(task.count * bins * channels);
  bool* const known = scratch.take<bool>(task.count);
  for (int64_t i = 0; i < task.count; ++i) known[i] = false;
  const auto find = [&](int64_t i, Cells* cells) {
    for (int64_t at = 0; at < bins * channels; ++at) cells[at].y = -1;
    const SamplesRoi<A>& roi = static_cast<const SamplesRoi<A>&>(*task.list[i]);
    rows.enter(roi, 0, channels);
    for_each_winner(task, roi, rows, bests, 0, task.height,
                    [&](int64_t p, int64_t q, const Winner<A>& winner) {
                      Cells* const bin = cells + (p * task.output_width + q) * channels;
                      for (int c = 0; c < channels; ++c)
                        bin[c] = cells_of(roi, winner, c, task.onnx);
                    });
  };
  const auto add_kept = [&](const Task& piece, const Cells* cells, const Plane<A>& plane) {
    for (int64_t bin = 0; bin < bins; ++bin)
      for (int64_t c = 0; c < channels; ++c, ++cells) {
        if (cells->y < 0) continue;
        for (int corner = 0; corner < 4; ++corner) {
          const int64_t y = cells->y + corner / 2, x = cells->x + corner % 2;
          const A weight = cells->weight_y[corner / 2] * cells->weight_x[corner % 2];
          if (weight != 0 && is_inside(piece, y, x))
            plane.row(y)[x * plane.cell_stride + c] += weight * grad[bin * kLanes<A> + c];
        }
      }
  };
  for (int64_t y = 0; y < task.height; y += task.piece_height)
    for (int64_t x = 0; x < task.width; x += task.piece_width) {
      Task piece = task;
      piece.y_begin = y;
      piece.y_end = least(task.height, y + task.piece_height);
      piece.x_begin = x;
      piece.x_end = least(task.width, x + task.piece_width);
      Scratch rest = scratch;
      gather_gradient<T, Roi, GradientPlane<T>>(
          piece, rest, TouchWindow{}, [&](const Roi& window, const GradientPlane<T>& gradient) {
            const int64_t i = &window - &task.list.window(0);
            Cells* const cells = kept + i * bins * channels;
            if (!known[i]) find(i, cells);
            known[i] = true;
            load_grid<T>(task.pooled, task, window.row, 0, channels, grad);
            add_kept(piece, cells, gradient.plane(0));
          });
    }
}

template <class T>
void max_backward(const Task& task) {
  using A = accumulator<T>;
  Scratch scratch = task.scratch;
  if (task.in_pieces) return max_backward_in_pieces<T>(task, scratch);
  A* grad = scratch.take<A>(task.output_height * task.output_width * kLanes<A>);
  Bests<A, Winner<A>> bests(task, scratch);
  WindowRows<T> rows(task, task.features, scratch);
  gather_gradient<T, SamplesRoi<A>, GradientPlane<T>>(
      task, scratch, TouchWindow{},
      [&](const SamplesRoi<A>& roi, const GradientPlane<T>& gradient) {
        const Plane<A> plane = gradient.plane(0);
        rows.enter(roi, 0, task.channels);
        load_grid<T>(task.pooled, task, roi.row, 0, task.channels, grad);
        for_each_winner(task, roi, rows, bests, task.y_begin, task.y_end,
                        [&](int64_t p, int64_t q, const Winner<A>& winner) {
                          const A* at = grad + (p * task.output_width + q) * kLanes<A>;
                          spread_winner(task, roi, p, q, winner, at, plane);
                        });
      });
}

}  // namespace
}  // namespace roidl::cpu
