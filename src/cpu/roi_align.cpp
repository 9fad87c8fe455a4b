// RoIAlign on CPU: makes the tables and runs the tasks.
#include "../roi_align.h"

#include "backend.h"
#include "batches.h"
#include "schedule.h"
#include "tables.h"

namespace roidl::cpu {

namespace {

template <class A>
std::unique_ptr<Tables> tables_of(const RoiAlignProblem& problem, TapsFor use) {
  return problem.mode == AlignMode::avg ? make_taps<A>(problem, use) : make_samples<A>(problem);
}

// `max` is null if the operator does not support the max modes. run_average does the forward of
// averages.
void run_mode(const RoiAlignProblem& problem, TapsFor use, Run run, Kernel taps, Kernel max,
              double* boxes_gradient = nullptr) {
  visit_accumulator(problem.dtype, [&](auto type) {
    const auto tables = tables_of<typename decltype(type)::type>(problem, use);
    run_in_batches(problem, *tables, [&](const Windows& windows) {
      Task task = base_task(problem, windows);
      task.onnx = problem.mode == AlignMode::max_onnx;
      task.boxes_gradient = boxes_gradient;
      const bool avg = problem.mode == AlignMode::avg;
      if (avg && use == TapsFor::forward) return run_average(problem, windows, task);
      run(problem, windows, task, avg ? taps : max);
    });
  });
}

// Does the same for gradients to the maps.
void run_gradient(const RoiAlignProblem& problem, TapsFor use, Kernel taps, Kernel max) {
  visit_accumulator(problem.dtype, [&](auto type) {
    const auto tables = tables_of<typename decltype(type)::type>(problem, use);
    const bool avg = problem.mode == AlignMode::avg;
    // The max modes also pack features, of one block of channels at a time.
    run_by_plane(problem, sort_rois(problem, *tables),
                 {problem.mode == AlignMode::max_onnx, avg ? kMostGradientBlocks : 1, !avg},
                 avg ? taps : max);
  });
}

}  // namespace

void roi_align_forward(const RoiAlignProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  run_mode(problem, TapsFor::forward, run_by_roi, nullptr, kernels.max_forward);
}

void roi_align_backward(const RoiAlignProblem& problem) {
  if (problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  run_gradient(problem, TapsFor::backward, kernels.taps_backward, kernels.max_backward);
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
  run_mode(problem, TapsFor::forward, run_by_roi, nullptr, kernels.max_jvp);
}

void roi_align_jvp_boxes(const RoiAlignProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  run_mode(problem, TapsFor::jvp_boxes, run_by_roi, kernels.taps_jvp_boxes, nullptr);
}

void roi_align_jvp_boxes_backward(const RoiAlignProblem& problem) {
  if (problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  run_gradient(problem, TapsFor::jvp_boxes_backward, kernels.taps_jvp_boxes_backward, nullptr);
}

}  // namespace roidl::cpu
