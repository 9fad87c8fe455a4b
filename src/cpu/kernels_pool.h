// The kernel of RoIPool's maximum with its argmax.
#pragma once
#include "kernels_max.h"

namespace roidl::cpu {
namespace {

// The maximum over a bin, the first in row-major order; NaN wins, so that it cannot hide.
template <class A>
void pool_bin(const Plane<A>& plane, int64_t y_begin, int64_t y_end, int64_t x_begin, int64_t x_end,
              int64_t width, A* value, A* index) {
  using Indices = typename Native<Index<A>>::Vector;
  Block<A> best = fill<A>(0);
  IndexBlock<A> where;
  for (int i = 0; i < kVectors; ++i) where.v[i] = Index<A>(-1) - Indices{};
  if (y_begin < y_end && x_begin < x_end) {
    best = load(plane.row(y_begin) + x_begin * plane.cell_stride);
    for (int i = 0; i < kVectors; ++i)
      where.v[i] = static_cast<Index<A>>(y_begin * width + x_begin) - Indices{};
  }
  for (int64_t y = y_begin; y < y_end; ++y) {
    const A* cell = plane.row(y) + x_begin * plane.cell_stride;
    for (int64_t x = x_begin; x < x_end; ++x, cell += plane.cell_stride) {
      const Block<A> now = load(cell);
      const Indices at = static_cast<Index<A>>(y * width + x) - Indices{};
      for (int i = 0; i < kVectors; ++i) {
        const auto old = best.v[i];
        // Not (now <= old) is: larger, or one of the two is NaN; an old NaN stays.
        const Indices wins = ~(now.v[i] <= old) & (old == old);
        best.v[i] = wins ? now.v[i] : old;
        where.v[i] = wins ? at : where.v[i];
      }
    }
  }
  store(value, best);
  auto* target = reinterpret_cast<typename Native<Index<A>>::Loose*>(index);
  for (int i = 0; i < kVectors; ++i) target[i] = where.v[i];
}

template <class T>
void pool_forward(const Task& task) {
  using A = accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  Scratch scratch = task.scratch;
  const int64_t bins = task.output_height * task.output_width;
  A* value = scratch.take<A>(bins * lanes);
  A* index = scratch.take<A>(bins * lanes);
  T* staging = take_staging<T>(task, scratch);
  for_each_roi<T, BinsRoi>(
      task, scratch, ReadWindow<A>{},
      [&](const BinsRoi& roi, const Plane<A>& plane, int64_t channel, int64_t channels) {
        for (int64_t p = 0; p < task.output_height; ++p)
          for (int64_t q = 0; q < task.output_width; ++q) {
            const int64_t bin = (p * task.output_width + q) * lanes;
            pool_bin(plane, roi.y.begin[p], roi.y.end[p], roi.x.begin[q], roi.x.end[q], task.width,
                     value + bin, index + bin);
          }
        store_grid<T>(value, task.pooled, task, roi.row, channel, channels, staging);
        if (task.argmax.data == nullptr) return;
        if constexpr (sizeof(A) == sizeof(int32_t)) {
          // Four bytes are four bytes: they move like floats. The values are out of the way by now.
          float* value_done = task.streams ? reinterpret_cast<float*>(value) : nullptr;
          store_grid<float>(index, task.argmax, task, roi.row, channel, channels, value_done);
        } else {
          for_each_grid_row<int32_t>(
              task.argmax, task, roi.row, channel,
              [&](const Row<int32_t>& row, int64_t first, int64_t count) {
                for (int64_t i = 0; i < count; ++i)
                  for (int64_t c = 0; c < channels; ++c)
                    row.data[i * row.cell_stride + c * row.channel_stride] =
                        static_cast<int32_t>(bit_cast<Index<A>>(index[(first + i) * lanes + c]));
              });
        }
      });
}

}  // namespace
}  // namespace roidl::cpu
