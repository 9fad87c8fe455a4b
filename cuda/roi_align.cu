// RoIAlign on CUDA: the average forward, and its gradient to the input.
#include "average_gradient.cuh"
#include "forward.cuh"
#include "operators.h"

namespace roidl::cuda {

namespace {

template <class T>
void average_forward(const RoiAlignProblem& problem) {
  using A = accumulator<T>;
  if constexpr (kBlockPlans > 0) {
    if (can_plan_in_blocks<A>(problem, problem.rois * divide_up(problem.channels, 64))) {
      const BlockPlan<A, AlignRois<A>> plan(problem, MaxTaps(problem));
      // The items of rows.cuh need the rest of a block's shared memory.
      if (plan.bytes() <= kSharedBytes / 4) return forward<T>(problem, plan);
    }
  }
  with_plan<A, 1>(problem, [&](const auto& plan) { forward<T>(problem, plan); });
}

}  // namespace

void roi_align_forward(const RoiAlignProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const DeviceGuard guard(problem);
  if (problem.mode != AlignMode::avg) return roi_align_max_forward(problem);
  visit_elements(problem,
                 [&](auto type) { average_forward<typename decltype(type)::type>(problem); });
}

void roi_align_backward(const RoiAlignProblem& problem) {
  if (problem.channels == 0) return;
  const DeviceGuard guard(problem);
  if (problem.mode != AlignMode::avg) return roi_align_max_backward(problem);
  visit_elements(problem, [&](auto type) {
    using T = typename decltype(type)::type;
    gather_planning<T, AlignRois<accumulator<T>>>(problem, AverageGradient<T, 1>{});
  });
}

void roi_align_jvp(const RoiAlignProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const DeviceGuard guard(problem);
  roi_align_max_jvp(problem);  // the max modes: the average's derivative is its forward call
}

}  // namespace roidl::cuda
