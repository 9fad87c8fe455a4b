// The transpose of RoIPool's maximum: every output's gradient is added at its argmax.
#pragma once
#include <type_traits>

#include "gather_gradient.h"
#include "gradient_plane.h"
#include "gradient_rows.h"

namespace roidl::cpu {
namespace {

// The gradients and argmaxes of a RoI in one block of channels: element (bin, channel) lies at bin
// * bin_stride + channel * channel_stride in both. One stride is 1; bins may be kLanes apart.
template <class A>
struct Winners {
  const A* grad;
  const int32_t* argmax;
  int64_t bins, channels;
  int64_t bin_stride, channel_stride;
};

// The sums of a task over the cells [first, first + count), for a block of channels.
template <class A>
struct Sums {
  A* data;
  int64_t first;
  uint64_t count;
  int64_t cell_stride, channel_stride;
};

// Adds the gradients of `bins` bins of one channel whose argmax is one of these cells, and returns
// their number. Not inlined: the loop needs all registers.
template <class A>
__attribute__((noinline)) int64_t add_channel(const A* grad, const int32_t* argmax, int64_t bins,
                                              A* sums, int64_t first, uint64_t count,
                                              int64_t cell_stride) {
  int64_t added = 0;
  for (int64_t i = 0; i < bins; ++i) {
    const int64_t at = read_once(argmax + i) - first;
    if (static_cast<uint64_t>(at) >= count) continue;
    sums[at * cell_stride] += grad[i];
    ++added;
  }
  return added;
}

// Does the same for all channels, if channels are neighbours in memory, and so are their sums.
template <class A, int64_t Channels>
__attribute__((noinline)) int64_t add_bins(const A* grad, const int32_t* argmax, int64_t bins,
                                           A* sums, int64_t first, uint64_t count,
                                           int64_t cell_stride, int64_t channels) {
  int64_t added = 0;
  for (int64_t bin = 0; bin < bins; ++bin, grad += kLanes<A>, argmax += kLanes<A>)
    for (int64_t c = 0; c < (Channels > 0 ? Channels : channels); ++c) {
      const int64_t at = argmax[c] - first;
      if (static_cast<uint64_t>(at) >= count) continue;
      sums[at * cell_stride + c] += grad[c];
      ++added;
    }
  return added;
}

template <class A>
int64_t add_winners(const Winners<A>& from, const Sums<A>& to) {
  if (from.bin_stride == 1) {
    int64_t added = 0;
    for (int64_t c = 0; c < from.channels; ++c)
      added += add_channel(from.grad + c * from.channel_stride,
                           from.argmax + c * from.channel_stride, from.bins,
                           to.data + c * to.channel_stride, to.first, to.count, to.cell_stride);
    return added;
  }
  constexpr int64_t lanes = kLanes<A>;
  const auto add = from.channels == lanes ? add_bins<A, lanes> : add_bins<A, 0>;
  return add(from.grad, from.argmax, from.bins, to.data, to.first, to.count, to.cell_stride,
             from.channels);
}

// Reports an argmax that is neither -1 nor in a row of the RoI's window. (An argmax in such a row
// but outside of the window is not reported: it does no harm, and its gradient is added where other
// RoIs have cells.)
template <class A>
void check_winners(const Task& task, const Roi& roi, const Winners<A>& winners) {
  const int64_t first = roi.y_begin * task.width, stop = roi.y_end * task.width;
  for (int64_t bin = 0; bin < winners.bins; ++bin)
    for (int64_t c = 0; c < winners.channels; ++c) {
      const int64_t at = winners.argmax[bin * winners.bin_stride + c * winners.channel_stride];
      if (at != -1 && (at < first || at >= stop))
        __atomic_store_n(task.wrong_cell, at, __ATOMIC_RELAXED);
    }
}

template <class T, class Gradient, class WinnersOf>
void gather_winners(const Task& task, Scratch& scratch, WinnersOf&& winners_of) {
  using A = accumulator<T>;
  gather_gradient<T, Roi, Gradient>(
      task, scratch, TouchWindow{}, [&](const Roi& roi, const Gradient& gradient) {
        const int64_t y_begin = most(roi.y_begin, task.y_begin);
        const int64_t y_end = least(roi.y_end, task.y_end);
        for (int64_t channel = 0; channel < task.channels; channel += kLanes<A>) {
          const Winners<A> winners = winners_of(roi.row, channel);
          const Plane<A> plane = gradient.plane(channel / kLanes<A>);
          int64_t added = 0;
          // Whole rows are contiguous up to the end of the ring; parts of rows are taken one by
          // one, as the ring then holds a single row.
          for (int64_t y = y_begin, next; y < y_end; y = next) {
            next = least(y_end, (y | plane.row_mask) + 1);
            const int64_t cells = (next - y - 1) * task.width + task.x_end - task.x_begin;
            added += add_winners(
                winners, Sums<A>{plane.row(y) + task.x_begin * plane.cell_stride,
                                 y * task.width + task.x_begin, static_cast<uint64_t>(cells),
                                 plane.cell_stride, gradient.channel_stride()});
          }
          // Only one task of a RoI checks, if several share its window.
          const bool is_first = roi.y_begin >= task.y_begin && roi.x_begin >= task.x_begin;
          if (added != winners.bins * winners.channels && is_first)
            check_winners(task, roi, winners);
        }
      });
}

template <class T>
void pool_backward(const Task& task) {
  using A = accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  Scratch scratch = task.scratch;
  const int64_t bins = task.output_height * task.output_width;
  if constexpr (std::is_same_v<T, A>) {
    if (task.in_place)
      return gather_winners<T, GradientRows<A>>(task, scratch, [&](int64_t k, int64_t channel) {
        return Winners<A>{pooled_row<const A>(task.pooled, k, channel),
                          pooled_row<const int32_t>(task.argmax, k, channel),
                          bins,
                          task.channels,
                          1,
                          bins};
      });
  }
  A* const grad = scratch.take<A>(bins * lanes);
  int32_t* const argmax = scratch.take<int32_t>(bins * lanes);
  gather_winners<T, GradientPlane<T>>(task, scratch, [&](int64_t k, int64_t channel) {
    const int64_t channels = least(lanes, task.channels - channel);
    load_grid<T>(task.pooled, task, k, channel, channels, grad);
    load_argmax<A>(task, k, channel, channels, argmax);
    return Winners<A>{grad, argmax, bins, channels, lanes, 1};
  });
}

}  // namespace
}  // namespace roidl::cpu
