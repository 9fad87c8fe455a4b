// The CPU's backend table, and the one entry that needs no kernel.
#include "../backend.h"

#include "../interrupt.h"
#include "../pyramid.h"
#include "backend.h"

namespace roidl {

void cpu::assign_levels(const Problem& problem, int32_t* levels) {
  for (int64_t k = 0; k < problem.rois; ++k) {
    if (k % kRowsPerInterrupt == kRowsPerInterrupt - 1) check_interrupt();
    levels[k] = static_cast<int32_t>(level_of(problem, k));
  }
}

const Backend cpu_backend = {"cpu",
                             cpu::roi_align_forward,
                             cpu::roi_align_backward,
                             cpu::roi_align_backward_boxes,
                             cpu::roi_align_jvp,
                             cpu::roi_align_jvp_boxes,
                             cpu::roi_align_jvp_boxes_backward,
                             cpu::roi_pool_forward,
                             cpu::roi_pool_backward,
                             cpu::roi_pool_jvp,
                             cpu::assign_levels};

}  // namespace roidl
