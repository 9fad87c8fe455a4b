// GradientPlane: where a task sums up the gradient of its part of a map, channels innermost, before
// every row of it is written once.
#pragma once
#include "plane.h"

namespace roidl::cpu {
namespace {

template <class T>
class GradientPlane {
 public:
  using A = accumulator<T>;

  GradientPlane(const Task& task, Scratch& scratch)
      : task_(task),
        cell_(task.gradient_blocks * kLanes<A>),
        row_((task.x_end - task.x_begin + kTile) * cell_),
        state_(scratch.take<State>(task.gradient_rows)),
        data_(scratch.take<A>(task.gradient_rows * row_)),
        next_(task.y_begin) {
    for (int64_t i = 0; i < task.gradient_rows; ++i) state_[i].y = -1;
  }

  // Channels [block * kLanes, (block + 1) * kLanes) of the task's.
  Plane<A> plane(int64_t block) const {
    return {data_ - task_.x_begin * cell_ + block * kLanes<A>, row_, cell_,
            task_.gradient_rows - 1};
  }

  // Makes cells [begin, end) of row y, if they are of the task's part, ready to be added to.
  void touch(int64_t y, int64_t begin, int64_t end) {
    begin = most(task_.x_begin, begin / kTile * kTile);
    end = least(task_.x_end, (end + kTile - 1) / kTile * kTile);
    if (y < task_.y_begin || y >= task_.y_end || begin >= end) return;
    State& state = state_[y & (task_.gradient_rows - 1)];
    if (state.y != y) {
      state = {y, begin, begin};
    } else if (begin < state.begin) {
      clear_cells(y, begin, state.begin);
      state.begin = begin;
    }
    if (end > state.end) {
      clear_cells(y, state.end, end);
      state.end = end;
    }
  }

  // Writes the rows before y; nothing is added to them any more.
  void write_up_to(int64_t y) {
    for (; next_ < least(y, task_.y_end); ++next_) write(next_);
  }

 private:
  struct State {
    int64_t y, begin, end;
  };

  A* cells(int64_t y, int64_t x) const {
    return data_ + (y & (task_.gradient_rows - 1)) * row_ + (x - task_.x_begin) * cell_;
  }
  void clear_cells(int64_t y, int64_t begin, int64_t end) {
    std::memset(static_cast<void*>(cells(y, begin)), 0, (end - begin) * cell_ * sizeof(A));
  }

  // What was never touched is zero.
  void write(int64_t y) const {
    const State& state = state_[y & (task_.gradient_rows - 1)];
    const bool touched = state.y == y;
    const int64_t begin = touched ? state.begin : task_.x_end;
    const int64_t end = touched ? state.end : task_.x_end;
    const Row<T> row = map_row<T>(task_.gradient, task_.image, 0, y);
    const auto at = [&](int64_t x) {
      return Row<T>{row.data + x * row.cell_stride, row.channel_stride, row.cell_stride};
    };
    if constexpr (sizeof(T) == sizeof(A)) {
      // A cell's channels are whole lines: nothing of them needs to be fetched first.
      if (task_.streams && row.channel_stride == 1 && task_.channels == cell_) {
        const A zero[kMostGradientBlocks * kLanes<A>] = {};
        for (int64_t x = task_.x_begin; x < task_.x_end; ++x)
          stream(at(x).data, reinterpret_cast<const T*>(x >= begin && x < end ? cells(y, x) : zero),
                 cell_);
        return;
      }
    }
    clear(at(task_.x_begin), begin - task_.x_begin, task_.channels);
    for (int64_t first = 0; begin < end && first < task_.channels; first += kLanes<A>)
      unpack_cells(
          cells(y, begin) + first, end - begin, least(kLanes<A>, task_.channels - first),
          Row<T>{at(begin).data + first * row.channel_stride, row.channel_stride, row.cell_stride});
    clear(at(end), task_.x_end - end, task_.channels);
  }
  void unpack_cells(const A* from, int64_t count, int64_t channels, const Row<T>& to) const {
    if (cell_ == kLanes<A>) return unpack<T>(from, count, channels, to);
    for (int64_t x = 0; x < count; ++x)
      unpack<T>(from + x * cell_, 1, channels,
                {to.data + x * to.cell_stride, to.channel_stride, to.cell_stride});
  }

  const Task& task_;
  int64_t cell_, row_;  // strides in data_
  State* state_;
  A* data_;
  int64_t next_;  // the first row that is not written yet
};

// Fetches what the next RoI adds: RoIs are worked through in another order than they lie in memory,
// so that nothing else would.
template <class T>
void prefetch_grid(const Task& task, int64_t k) {
  const PooledTask& pooled = task.pooled;
  const int64_t bins = task.output_height * task.output_width;
  if (pooled.w != 1 || pooled.h != task.output_width || pooled.c != bins) return;
  const char* from = reinterpret_cast<const char*>(pooled_row<const T>(pooled, k, 0));
  const int64_t bytes = task.channels * bins * static_cast<int64_t>(sizeof(T));
  for (int64_t at = 0; at < bytes; at += kBlockBytes) __builtin_prefetch(from + at);
}

// Calls add(roi, gradient) with the rows ready that `touch` names as touch(y, begin, end), in the
// order of the RoIs, for those that meet the task's part of the map; every cell of that is written
// exactly once.
template <class T, class RoiType, class Touch, class Add>
void gather_gradient(const Task& task, Scratch& scratch, Touch&& touch, Add&& add) {
  GradientPlane<T> gradient(task, scratch);
  for (int64_t i = 0; i < task.count; ++i) {
    const Roi& window = task.list.window(i);
    if (window.y_begin >= task.y_end) break;
    if (window.y_end <= task.y_begin || window.x_end <= task.x_begin ||
        window.x_begin >= task.x_end)
      continue;
    gradient.write_up_to(window.y_begin);
    if (i + 1 < task.count) prefetch_grid<T>(task, task.list.window(i + 1).row);
    const RoiType& roi = static_cast<const RoiType&>(*task.list[i]);
    touch(roi, [&](int64_t y, int64_t begin, int64_t end) { gradient.touch(y, begin, end); });
    add(roi, gradient);
  }
  gradient.write_up_to(task.y_end);
  end_streams();
}

}  // namespace
}  // namespace roidl::cpu
