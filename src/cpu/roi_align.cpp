// RoIAlign on CPU: tables, then tasks.
#include "../roi_align.h"

#include <algorithm>

#include "backend.h"
#include "schedule.h"
#include "tables.h"

namespace roidl::cpu {

namespace {

template <class A>
int64_t distinct_cells(const TapsRoi<A>& roi) {
  return std::max({roi.y.count, roi.x.count, roi.y_derivative[0].count, roi.y_derivative[1].count,
                   roi.x_derivative[0].count, roi.x_derivative[1].count});
}
template <class A>
int64_t distinct_cells(const SamplesRoi<A>& roi) {
  return roi.x_end - roi.x_begin;
}

template <class RoiType>
void run_rois(const RoiAlignProblem& problem, const std::vector<RoiType>& rois, Run run,
              Kernel kernel, double* boxes_gradient) {
  const Windows windows =
      windows_of(problem, rois, [](const RoiType& roi) { return distinct_cells(roi); });
  Task task = base_task(problem, windows);
  task.onnx = problem.mode == AlignMode::max_onnx;
  task.boxes_gradient = boxes_gradient;
  run(problem, windows, task, kernel);
}

// `max` may be null where the max modes are not offered.
void run_mode(const RoiAlignProblem& problem, TapsFor use, Run run, Kernel taps, Kernel max,
              double* boxes_gradient = nullptr) {
  Arena arena;
  visit_accumulator(problem.dtype, [&](auto type) {
    using A = typename decltype(type)::type;
    if (problem.mode == AlignMode::avg)
      run_rois(problem, make_taps<A>(problem, use, arena), run, taps, boxes_gradient);
    else
      run_rois(problem, make_samples<A>(problem, arena), run, max, boxes_gradient);
  });
}

}  // namespace

void roi_align_forward(const RoiAlignProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  run_mode(problem, TapsFor::forward, run_by_roi, kernels.taps_forward, kernels.max_forward);
}

void roi_align_backward(const RoiAlignProblem& problem) {
  if (problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  run_mode(problem, TapsFor::backward, run_by_plane, kernels.taps_backward, kernels.max_backward);
}

void roi_align_backward_boxes(const RoiAlignProblem& problem) {
  std::vector<double> rows(static_cast<size_t>(problem.rois) * 4);
  const Kernels& kernels = kernels_for(problem.dtype);
  if (problem.rois > 0 && problem.channels > 0)
    run_mode(problem, TapsFor::boxes, run_by_box, kernels.taps_boxes, kernels.max_boxes,
             rows.data());
  store_box_gradients(problem.boxes, rows.data(), problem.boxes_gradient);
}

void roi_align_jvp(const RoiAlignProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  run_mode(problem, TapsFor::forward, run_by_roi, kernels.taps_forward, kernels.max_jvp);
}

void roi_align_jvp_boxes(const RoiAlignProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  run_mode(problem, TapsFor::jvp_boxes, run_by_roi, kernels.taps_jvp_boxes, nullptr);
}

void roi_align_jvp_boxes_backward(const RoiAlignProblem& problem) {
  if (problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  run_mode(problem, TapsFor::jvp_boxes, run_by_plane, kernels.taps_jvp_boxes_backward, nullptr);
}

}  // namespace roidl::cpu
