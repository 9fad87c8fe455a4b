// Gathers the gradient to a part of a map: adds RoI after RoI, sorted by their first row, and
// writes each row once it is complete.
#pragma once
#include <type_traits>

#include "plane.h"

namespace roidl::cpu {
namespace {

// Prefetches the gradient of the next RoI: RoIs are not processed in the order of memory, so the
// processor does not prefetch it.
template <class T>
void prefetch_grid(const PooledTask& pooled, const Task& task, int64_t k) {
  const int64_t bins = task.output_height * task.output_width;
  const bool planes = pooled.w == 1 && pooled.h == task.output_width && pooled.c == bins;
  if (pooled.data == nullptr || !planes) return;
  const char* from = reinterpret_cast<const char*>(pooled_row<const T>(pooled, k, 0));
  const int64_t bytes = task.channels * bins * static_cast<int64_t>(sizeof(T));
  for (int64_t at = 0; at < bytes; at += kBlockBytes) __builtin_prefetch(from + at);
}

struct TouchWindow {
  template <class Touch>
  ROIDL_INLINE void operator()(const Task& task, const Roi& roi, Touch&& touch) const {
    const int64_t end = least(roi.y_end, task.y_end);
    for (int64_t y = most(roi.y_begin, task.y_begin); y < end; ++y)
      touch(y, roi.x_begin, roi.x_end);
  }
};

// Returns the RoI as the type that the kernel needs; for a plain Roi, its window, without tables.
template <class RoiType>
const RoiType& table_of(const RoiList& list, int64_t i) {
  if constexpr (std::is_same_v<RoiType, Roi>)
    return list.window(i);
  else
    return static_cast<const RoiType&>(*list[i]);
}

// Calls add(roi, gradient) for the RoIs that meet the task's part of the map, in order. Before, it
// makes the cells ready that `touch` names by touch(y, begin, end). Every cell of the part is
// written exactly once.
template <class T, class RoiType, class Gradient, class Touch, class Add>
void gather_gradient(const Task& task, Scratch& scratch, Touch&& touch, Add&& add) {
  Gradient gradient(task, scratch);
  int64_t next = task.y_begin;  // the first row that is not written yet
  const auto write_up_to = [&](int64_t y) {
    y = least(y, task.y_end);
    if (next < y) gradient.write(next, y);
    next = most(next, y);
  };
  for (int64_t i = 0; i < task.count; ++i) {
    const Roi& window = task.list.window(i);
    if (window.y_begin >= task.y_end) break;
    if (window.y_end <= task.y_begin || window.x_end <= task.x_begin ||
        window.x_begin >= task.x_end)
      continue;
    write_up_to(window.y_begin);
    if (i + 1 < task.count) {
      prefetch_grid<T>(task.pooled, task, task.list.window(i + 1).row);
      prefetch_grid<int32_t>(task.argmax, task, task.list.window(i + 1).row);
    }
    const RoiType& roi = table_of<RoiType>(task.list, i);
    touch(task, roi, [&](int64_t y, int64_t begin, int64_t end) { gradient.touch(y, begin, end); });
    add(roi, gradient);
  }
  write_up_to(task.y_end);
  end_streams();
}

}  // namespace
}  // namespace roidl::cpu
