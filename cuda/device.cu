// What the library says of its devices, the copy to the host for those who want values checked, and
// the maps of boxes.
#include "backend.h"
#include "rois.cuh"

namespace roidl::cuda {

namespace {

// A thread is a box.
template <class C>
struct AssignLevels {
  static constexpr int kResident = 2;
  Boxes boxes;
  Levels rule;
  int32_t maps;
  int64_t count;
  int32_t* levels;

  ROIDL_DEVICE void operator()(const Team& team, Shared) const {
    const int64_t first = team.block * kThreads;
    team.each(count - first < kThreads ? count - first : kThreads, [&](int64_t i) {
      const Box<C> box = load_box<C>(boxes, first + i);
      levels[first + i] = static_cast<int32_t>(level_by_size(rule, maps, box));
    });
  }
};

template <class C>
void assign(const Problem& problem, int32_t* levels) {
  const AssignLevels<C> kernel{problem.boxes, problem.levels, problem.num_maps, problem.rois,
                               levels};
  launch(problem, kernel, divide_up(problem.rois, kThreads), 0);
}

}  // namespace

void assign_levels(const Problem& problem, int32_t* levels) {
  const DeviceGuard guard(problem);
  problem.double_coordinates ? assign<double>(problem, levels) : assign<float>(problem, levels);
}

const char* why_unusable() {
  static const char* const reason = find_device();  // asked at every call
  return reason;
}

int32_t device_of_stream(const Problem& problem) {
  int device = 0;
#if CUDART_VERSION >= 12080
  check(problem, cudaStreamGetDevice(stream_of(problem), &device));
#else
  check(problem, cudaGetDevice(&device));  // runtimes make the stream's device the current one
#endif
  return device;
}

void wait(const Problem& problem) {
  const DeviceGuard guard(problem);
  check(problem, cudaDeviceSynchronize());
}

void read(const Problem& problem, void* to, const void* from, size_t bytes) {
  const DeviceGuard guard(problem);
  copy_to_host(problem, to, from, bytes);
}

}  // namespace roidl::cuda
