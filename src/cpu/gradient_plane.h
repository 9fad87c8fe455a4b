// GradientPlane: the sums of a task's part of a gradient to a map, channels innermost; every row is
// written once.
#pragma once
#include "touched_tiles.h"

namespace roidl::cpu {
namespace {

template <class T>
class GradientPlane {
 public:
  using A = accumulator<T>;

  GradientPlane(const Task& task, Scratch& scratch)
      : task_(task),
        cell_(task.gradient_blocks * kLanes<A>),
        width_(task.x_end - task.x_begin),
        row_(task.linear ? width_ * cell_ : packed_lines(width_, task.gradient_blocks) * kLanes<A>),
        tiles_(task, scratch),
        data_(scratch.take<A>(task.gradient_rows * row_)),
        by_lines_(task.gradient.w == 1 && cell_ == kLanes<A>),
        lines_(scratch.take<T>(by_lines_ ? (width_ + kTile) * kLanes<A> : 0)) {
    if (by_lines_)
      std::memset(static_cast<void*>(lines_), 0, (width_ + kTile) * kLanes<A> * sizeof(T));
  }

  // Channels [block * kLanes, (block + 1) * kLanes) of the task.
  Plane<A> plane(int64_t block) const {
    return {data_ - task_.x_begin * cell_ + block * kLanes<A>, row_, cell_,
            task_.gradient_rows - 1};
  }
  int64_t channel_stride() const { return 1; }

  // Makes the cells [begin, end) of row y that are in the task's part ready to be added to.
  void touch(int64_t y, int64_t begin, int64_t end) {
    tiles_.touch(y, begin, end, [&](int64_t x, int64_t count) {
      std::memset(static_cast<void*>(cells(y, x)), 0, count * cell_ * sizeof(A));
    });
  }

  void write(int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) write(y);
  }

 private:
  void write(int64_t y) {
    const TouchedTiles::Marks touched = tiles_.of(y);
    Row<T> row = map_row<T>(task_.gradient, task_.image, 0, y);
    row.data += task_.x_begin * row.cell_stride;
    if (by_lines_) return write_lines(y, touched, row);
    const auto at = [&](int64_t x) {
      return Row<T>{row.data + x * row.cell_stride, row.channel_stride, row.cell_stride};
    };
    if constexpr (sizeof(T) == sizeof(A)) {
      // The channels of a cell are whole lines, so streaming stores need not fetch any of them.
      if (task_.streams && row.channel_stride == 1 && task_.channels == cell_) {
        const A zero[kMostGradientBlocks * kLanes<A>] = {};
        for (int64_t x = 0; x < width_; ++x)
          stream(at(x).data,
                 reinterpret_cast<const T*>(tiles_.has(touched, x) ? cells(y, x) : zero), cell_);
        return;
      }
    }
    tiles_.each(touched, [&](int64_t x, int64_t count) {
      unpack<T>(cells(y, x), cell_, count, task_.channels, at(x));
    });
    tiles_.each_other(touched,
                      [&](int64_t x, int64_t count) { clear(at(x), count, task_.channels); });
  }

  // Columns count from the task's first column.
  A* cells(int64_t y, int64_t x) const {
    return data_ + (y & (task_.gradient_rows - 1)) * row_ + x * cell_;
  }

  // Writes a row channel by channel, in whole cache lines that bypass the caches.
  void write_lines(int64_t y, const TouchedTiles::Marks& touched, const Row<T>& row) {
    const int64_t line = width_ + kTile;
    tiles_.each(touched, [&](int64_t x, int64_t count) {
      // Whole squares are transposed faster; the buffer has room behind the line.
      count = (count + kTile - 1) / kTile * kTile;
      unpack<T>(cells(y, x), count, kLanes<A>, {lines_ + x, line, 1});
    });
    tiles_.each(written_, touched, [&](int64_t x, int64_t count) {
      clear(Row<T>{lines_ + x, line, 1}, count, kLanes<A>);
    });
    written_ = touched;
    for (int64_t c = 0; c < task_.channels; ++c) {
      T* to = row.data + c * row.channel_stride;
      if (task_.streams)
        stream(to, lines_ + c * line, width_);
      else
        std::memcpy(static_cast<void*>(to), lines_ + c * line, width_ * sizeof(T));
    }
  }

  const Task& task_;
  int64_t cell_, width_, row_;  // strides in data_
  TouchedTiles tiles_;
  A* data_;
  bool by_lines_;  // channels are outermost in the gradient
  T* lines_;       // a row, channels outermost: zero except for these tiles
  TouchedTiles::Marks written_{};
};

}  // namespace
}  // namespace roidl::cpu
