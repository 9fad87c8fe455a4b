// GradientRows: the gradient to a task's part of a map, summed in its place in memory.
#pragma once
#include "plane.h"

namespace roidl::cpu {
namespace {

// For single additions to a map with contiguous rows and channels outermost. Cells are set to zero
// shortly before the first addition, so that they are still in the caches.
template <class A>
class GradientRows {
 public:
  GradientRows(const Task& task, Scratch&)
      : task_(task),
        row_(map_row<A>(task.gradient, task.image, 0, 0)),
        ready_(task.y_begin * task.width) {}

  // All rows of the map, without a ring of rows.
  Plane<A> plane(int64_t) const { return {row_.data, task_.width, 1, (int64_t{1} << 32) - 1}; }
  int64_t channel_stride() const { return row_.channel_stride; }

  // Makes row y ready to be added to, if it is in the task's part.
  void touch(int64_t y, int64_t, int64_t) { make_ready((y + 1) * task_.width); }
  // No more is added to the rows before `end`.
  void write(int64_t, int64_t end) { make_ready(end * task_.width); }

 private:
  void make_ready(int64_t needed) {
    if (needed <= ready_) return;
    const int64_t end = least(task_.y_end * task_.width,
                              (needed + kClearedCells - 1) / kClearedCells * kClearedCells);
    for (int64_t c = 0; c < task_.channels; ++c)
      std::memset(static_cast<void*>(row_.data + c * row_.channel_stride + ready_), 0,
                  most(0, end - ready_) * sizeof(A));
    ready_ = most(ready_, end);
  }

  const Task& task_;
  Row<A> row_;
  int64_t ready_;  // the cells before this one are ready
};

}  // namespace
}  // namespace roidl::cpu
