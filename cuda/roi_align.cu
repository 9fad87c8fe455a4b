// RoIAlign on CUDA: the average forward, and its gradient to the input.
#include "backend.h"
#include "forward.cuh"
#include "gather.cuh"

namespace roidl::cuda {

void roi_align_forward(const RoiAlignProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const DeviceGuard guard(problem);
  if (problem.mode != AlignMode::avg) return roi_align_max_forward(problem);
  visit_elements(problem, [&](auto type) {
    using T = typename decltype(type)::type;
    with_plan<accumulator<T>, 1>(problem, [&](const auto& plan) { forward<T>(problem, plan); });
  });
}

void roi_align_backward(const RoiAlignProblem& problem) {
  if (problem.channels == 0 || problem.maps[0].height == 0 || problem.maps[0].width == 0) return;
  const DeviceGuard guard(problem);
  if (problem.mode != AlignMode::avg) return roi_align_max_backward(problem);
  visit_elements(problem, [&](auto type) {
    using T = typename decltype(type)::type;
    with_plan<accumulator<T>, 1>(
        problem, [&](const auto& plan) { gather<T>(problem, Products<T, 1>{}, plan); });
  });
}

void roi_align_jvp(const RoiAlignProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const DeviceGuard guard(problem);
  roi_align_max_jvp(problem);  // the average is linear, and this its forward call
}

}  // namespace roidl::cuda
