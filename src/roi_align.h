// RoIAlign (Mask R-CNN, arXiv:1703.06870): parameters, the checked problem, and its entry points.
#pragma once
#include <cstdint>

#include "problem.h"

namespace roidl {

enum class AlignMode : int32_t { avg = 0, max = 1, max_onnx = 2 };

// What was asked. The field names are those of Python's RoiAlignParams and of every bridge.
struct RoiAlignParams {
  int64_t output_height;
  int64_t output_width;
  double spatial_scale;
  int64_t sampling_height;  // samples per bin along an axis; <= 0: adaptive
  int64_t sampling_width;
  bool aligned;
  int32_t mode;    // AlignMode
  int32_t layout;  // Layout
};

struct RoiAlignProblem : Problem {
  RoiAlignParams params{};
  AlignMode mode = AlignMode::avg;
  double* boxes_gradient = nullptr;  // [K, 4] C order: to x1, y1, x2, y2
};

// Checks metadata; no data is touched, so shapes alone are enough. `indices` may be null.
RoiAlignProblem make_roi_align(const char* op, const RoiAlignParams& params, const Tensor& input,
                               const Tensor& boxes, const Tensor* indices);

void roi_align_forward(RoiAlignProblem& problem, const Tensor& input, const Tensor& boxes,
                       const Tensor& out);
// `input` may be null for the average, whose gradient does not depend on it.
void roi_align_backward(RoiAlignProblem& problem, const Tensor& grad_output, const Tensor& boxes,
                        const Tensor* input, const Tensor& grad_input);
// `grad_boxes` is float64 [K, 4] in C order, in memory of our own.
void roi_align_backward_boxes(RoiAlignProblem& problem, const Tensor& grad_output,
                              const Tensor& input, double* grad_boxes);

}  // namespace roidl
