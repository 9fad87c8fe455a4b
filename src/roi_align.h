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

// Calls visit(name, field) for each: the bridges read and declare them by these names.
template <class Visit>
void visit_fields(RoiAlignParams& params, Visit&& visit) {
  visit("output_height", params.output_height);
  visit("output_width", params.output_width);
  visit("spatial_scale", params.spatial_scale);
  visit("sampling_height", params.sampling_height);
  visit("sampling_width", params.sampling_width);
  visit("aligned", params.aligned);
  visit("mode", params.mode);
  visit("layout", params.layout);
}

struct RoiAlignProblem : Problem {
  RoiAlignParams params{};
  AlignMode mode = AlignMode::avg;
  Tensor boxes_gradient;  // of backward_boxes: shaped like the boxes
  Boxes boxes_tangent;    // of jvp_boxes: a direction for every box
};

// Checks metadata; no data is touched, so shapes alone are enough. `indices` may be null, and
// `pyramid` where there is one map.
RoiAlignProblem make_roi_align(const char* op, const RoiAlignParams& params, const Maps& input,
                               const Tensor& boxes, const Tensor* indices,
                               const Pyramid* pyramid = nullptr);

void roi_align_forward(RoiAlignProblem& problem, const Maps& input, const Tensor& boxes,
                       const Tensor& out);
// `input` may be empty for the average, whose gradient does not depend on it.
void roi_align_backward(RoiAlignProblem& problem, const Tensor& grad_output, const Tensor& boxes,
                        const Maps& input, const Maps& grad_input);
// `grad_boxes` is of any float type and shaped like `boxes`; the batch column is set to 0.
void roi_align_backward_boxes(RoiAlignProblem& problem, const Tensor& grad_output,
                              const Maps& input, const Tensor& boxes, const Tensor& grad_boxes);

// What the frameworks' forward mode and second derivatives need.
// out = d(result)/d(input) . input_tangent; `input` may be empty for the average, which is linear.
// Its transpose is roi_align_backward.
void roi_align_jvp(RoiAlignProblem& problem, const Maps& input_tangent, const Tensor& boxes,
                   const Maps& input, const Tensor& out);
// out = d(result)/d(boxes) . boxes_tangent, for the average; `boxes_tangent` is of any float type
// and shaped like `boxes`. Linear in `input` and in `boxes_tangent`; its transposes are
// roi_align_jvp_boxes_backward and roi_align_backward_boxes.
void roi_align_jvp_boxes(RoiAlignProblem& problem, const Maps& input, const Tensor& boxes,
                         const Tensor& boxes_tangent, const Tensor& out);
void roi_align_jvp_boxes_backward(RoiAlignProblem& problem, const Tensor& grad_output,
                                  const Tensor& boxes, const Tensor& boxes_tangent,
                                  const Maps& grad_input);

}  // namespace roidl
