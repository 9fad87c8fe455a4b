// Advises the system about the memory of results.
#include "pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <initializer_list>

#include "tuning.h"

namespace roidl::cpu {

namespace {

struct Axis {
  int64_t size, stride;
};

// Advises about the pages that lie wholly in memory of these sizes and strides (in elements).
void advise(void* data, std::initializer_list<Axis> axes, int64_t item_bytes) {
  int64_t reach = 1;
  for (const Axis& axis : axes) {
    if (axis.size == 0 || axis.stride < 0) return;
    reach += (axis.size - 1) * axis.stride;
  }
  const int64_t bytes = reach * item_bytes;
  if (bytes < kHugeBytes) return;
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  // The result is ignored: the advice is optional.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace

void expect_pooled(const Problem& problem, const PooledView& pooled, int64_t item_bytes) {
  const int64_t images = problem.boxes.by_position ? problem.images : 1;
  advise(pooled.data,
         {{images, pooled.image},
          {problem.boxes.per_image, pooled.row},
          {problem.channels, pooled.c},
          {problem.output_height, pooled.h},
          {problem.output_width, pooled.w}},
         item_bytes);
}

void expect_gradients(const Problem& problem) {
  for (int i = 0; i < problem.num_maps; ++i) {
    const Map& map = problem.maps[i];
    const MapView& view = map.gradient;
    advise(view.data,
           {{problem.images, view.n},
            {problem.channels, view.c},
            {map.height, view.h},
            {map.width, view.w}},
           problem.dtype.bits / 8);
  }
}

}  // namespace roidl::cpu
