// RoIAlign on CUDA: the average forward, and its gradient to the input.
#include "backend.h"
#include "forward.cuh"
#include "products.cuh"

namespace roidl::cuda {

namespace {

template <class T>
void average_forward(const RoiAlignProblem& problem) {
  using A = accumulator<T>;
  if (is_small<A>(problem, problem.rois * divide_up(problem.channels, 64))) {
    const PlanHere<A, AlignRois<A>> plan(problem, MostTaps(problem));
    // What rows.cuh keeps needs the rest of a block's memory.
    if (plan.bytes() <= kSharedBytes / 4) return forward<T>(problem, plan);
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
    gather_once<T, AlignRois<accumulator<T>>>(problem, Products<T, 1>{});
  });
}

void roi_align_jvp(const RoiAlignProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const DeviceGuard guard(problem);
  roi_align_max_jvp(problem);  // the average is linear, and this its forward call
}

}  // namespace roidl::cuda
