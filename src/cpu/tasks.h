// Helpers of the schedules: the memory of a task, its part of a problem, and estimates of work.
#pragma once
#include <memory>
#include <new>

#include "schedule.h"
#include "tuning.h"

namespace roidl::cpu {

struct Deleter {
  void operator()(char* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};
using TaskMemory = std::unique_ptr<char, Deleter>;

inline TaskMemory take_memory(int64_t bytes) {
  void* memory = ::operator new[](static_cast<size_t>(bytes), std::align_val_t{64});
  return TaskMemory(static_cast<char*>(memory));
}

inline char* shift(void* data, int64_t elements, int64_t bytes) {
  return static_cast<char*>(data) + (data != nullptr ? elements * bytes : 0);
}

// Returns the task for one map, and for `channels` channels from `first` on.
inline Task part_of(const Problem& problem, Task task, int64_t map_index, int64_t first,
                    int64_t channels) {
  const int64_t bytes = problem.dtype.bits / 8;
  const Map& map = problem.maps[map_index];
  const auto part = [&](const MapView& view) {
    return MapTask{shift(view.data, first * view.c, bytes), view.n, view.c, view.h, view.w};
  };
  task.height = map.height;
  task.width = map.width;
  task.y_begin = task.x_begin = 0;
  task.y_end = map.height;
  task.x_end = map.width;
  task.features = part(map.features);
  task.tangent = part(map.tangent);
  task.gradient = part(map.gradient);
  task.pooled.data = shift(task.pooled.data, first * task.pooled.c, bytes);
  task.argmax.data = shift(task.argmax.data, first * task.argmax.c, sizeof(int32_t));
  task.channels = channels;
  return task;
}

inline double work(const Problem& problem, const Windows& windows) {
  const double bins = static_cast<double>(problem.rois) * problem.output_height *
                      static_cast<double>(problem.output_width);
  return (windows.cells + 4 * bins) * static_cast<double>(problem.channels) * kNanoseconds;
}

inline int64_t lanes_of(const Problem& problem) {
  return kBlockBytes / (problem.dtype == kFloat64 ? 8 : 4);
}

}  // namespace roidl::cpu
