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

namespace {

constexpr Backend make_backend() {
  using namespace cpu;
  Backend backend{};
  backend.name = "cpu";
  backend[Op::roi_align] = entry<RoiAlignProblem, roi_align_forward>;
  backend[Op::roi_align_backward] = entry<RoiAlignProblem, roi_align_backward>;
  backend[Op::roi_align_backward_boxes] = entry<RoiAlignProblem, roi_align_backward_boxes>;
  backend[Op::roi_align_jvp] = entry<RoiAlignProblem, roi_align_jvp>;
  backend[Op::roi_align_jvp_boxes] = entry<RoiAlignProblem, roi_align_jvp_boxes>;
  backend[Op::roi_align_jvp_boxes_backward] = entry<RoiAlignProblem, roi_align_jvp_boxes_backward>;
  backend[Op::roi_pool] = entry<RoiPoolProblem, roi_pool_forward>;
  backend[Op::roi_pool_backward] = entry<RoiPoolProblem, roi_pool_backward>;
  backend[Op::roi_pool_jvp] = entry<RoiPoolProblem, roi_pool_jvp>;
  backend[Op::ps_roi_align] = entry<PsRoiAlignProblem, ps_roi_align_forward>;
  backend[Op::ps_roi_align_backward] = entry<PsRoiAlignProblem, ps_roi_align_backward>;
  backend[Op::ps_roi_align_backward_boxes] = entry<PsRoiAlignProblem, ps_roi_align_backward_boxes>;
  backend[Op::ps_roi_align_jvp_boxes] = entry<PsRoiAlignProblem, ps_roi_align_jvp_boxes>;
  backend[Op::ps_roi_align_jvp_boxes_backward] =
      entry<PsRoiAlignProblem, ps_roi_align_jvp_boxes_backward>;
  backend[Op::ps_roi_pool] = entry<PsRoiPoolProblem, ps_roi_pool_forward>;
  backend[Op::ps_roi_pool_backward] = entry<PsRoiPoolProblem, ps_roi_pool_backward>;
  backend.assign_levels = cpu::assign_levels;
  return backend;
}

}  // namespace

const Backend cpu_backend = make_backend();

}  // namespace roidl
