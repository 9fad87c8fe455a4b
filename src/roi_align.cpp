// RoIAlign: validation, then the kernel of the device.
#include "roi_align.h"

#include "backend.h"
#include "check.h"
#include "checked_boxes.h"

namespace roidl {

RoiAlignProblem make_roi_align(const char* op, const RoiAlignParams& params, const Maps& input,
                               const Tensor& boxes, const Tensor* indices, const Pyramid* pyramid) {
  RoiAlignProblem problem;
  describe_problem(problem, op, params, input, boxes, indices, pyramid);
  problem.params = params;
  problem.mode = static_cast<AlignMode>(params.mode);
  for (const int64_t samples : {params.sampling_height, params.sampling_width})
    if (samples > 0) check_count(op, "sampling_ratio", samples, INT32_MAX);  // else adaptive
  return problem;
}

void roi_align_forward(RoiAlignProblem& problem, const Maps& input, const Tensor& boxes,
                       const Tensor& out) {
  attach_maps(problem, "input", input, &Map::features);
  problem.pooled = attach_pooled(problem, "out", out, problem.dtype);
  if (has_no_results(problem)) return;
  check_written(problem, {"out", &out}, {{"input", input}, {"boxes", &boxes}});
  const CheckedBoxes checked(problem);
  run(problem, &Backend::roi_align_forward);
}

void roi_align_backward(RoiAlignProblem& problem, const Tensor& grad_output, const Tensor& boxes,
                        const Maps& input, const Maps& grad_input) {
  problem.pooled = attach_pooled(problem, "grad_output", grad_output, problem.dtype);
  attach_maps(problem, "out", grad_input, &Map::gradient);
  if (!input.empty())
    attach_maps(problem, "input", input, &Map::features);
  else if (problem.mode != AlignMode::avg)
    fail(ErrorKind::value, problem.op, "input is needed for the gradient of the max modes");
  if (has_no_gradient(problem)) return;
  check_written(problem, {"out", grad_input},
                {{"grad_output", &grad_output}, {"boxes", &boxes}, {"input", input}});
  const CheckedBoxes checked(problem);
  run(problem, &Backend::roi_align_backward);
}

namespace {

void check_boxes_derivative(const RoiAlignProblem& problem) {
  if (problem.mode == AlignMode::max_onnx)
    fail(ErrorKind::unsupported, problem.op, "mode 'max_onnx' has no gradient to the boxes");
}

// Directions of the boxes: how the largest sample moves with them is not offered.
void attach_boxes_tangent(RoiAlignProblem& problem, const Tensor& boxes,
                          const Tensor& boxes_tangent) {
  check_boxes_derivative(problem);
  if (problem.mode != AlignMode::avg)
    fail(ErrorKind::unsupported, problem.op,
         "forward mode and second derivatives along the boxes are implemented for mode 'avg' only");
  check_like_boxes(problem, "boxes_tangent", boxes_tangent, boxes);
  problem.boxes_tangent = describe_like_boxes(problem.boxes, boxes_tangent);
}

}  // namespace

void roi_align_backward_boxes(RoiAlignProblem& problem, const Tensor& grad_output,
                              const Maps& input, const Tensor& boxes, const Tensor& grad_boxes) {
  check_boxes_derivative(problem);
  problem.pooled = attach_pooled(problem, "grad_output", grad_output, problem.dtype);
  attach_maps(problem, "input", input, &Map::features);
  check_like_boxes(problem, "grad_boxes", grad_boxes, boxes);
  check_aligned(problem.op, "grad_boxes", grad_boxes);
  check_written(problem, {"grad_boxes", &grad_boxes},
                {{"grad_output", &grad_output}, {"boxes", &boxes}, {"input", input}});
  problem.boxes_gradient = grad_boxes;
  const CheckedBoxes checked(problem);
  run(problem, &Backend::roi_align_backward_boxes);
}

void roi_align_jvp(RoiAlignProblem& problem, const Maps& input_tangent, const Tensor& boxes,
                   const Maps& input, const Tensor& out) {
  if (problem.mode == AlignMode::avg)
    return roi_align_forward(problem, input_tangent, boxes, out);  // it is linear
  attach_maps(problem, "input_tangent", input_tangent, &Map::tangent);
  if (input.empty())
    fail(ErrorKind::value, problem.op, "input is needed for the derivative of the max modes");
  attach_maps(problem, "input", input, &Map::features);
  problem.pooled = attach_pooled(problem, "out", out, problem.dtype);
  if (has_no_results(problem)) return;
  check_written(problem, {"out", &out},
                {{"input_tangent", input_tangent}, {"boxes", &boxes}, {"input", input}});
  const CheckedBoxes checked(problem);
  run(problem, &Backend::roi_align_jvp);
}

void roi_align_jvp_boxes(RoiAlignProblem& problem, const Maps& input, const Tensor& boxes,
                         const Tensor& boxes_tangent, const Tensor& out) {
  attach_boxes_tangent(problem, boxes, boxes_tangent);
  attach_maps(problem, "input", input, &Map::features);
  problem.pooled = attach_pooled(problem, "out", out, problem.dtype);
  if (has_no_results(problem)) return;
  check_written(problem, {"out", &out},
                {{"input", input}, {"boxes", &boxes}, {"boxes_tangent", &boxes_tangent}});
  const CheckedBoxes checked(problem, &problem.boxes_tangent);
  run(problem, &Backend::roi_align_jvp_boxes);
}

void roi_align_jvp_boxes_backward(RoiAlignProblem& problem, const Tensor& grad_output,
                                  const Tensor& boxes, const Tensor& boxes_tangent,
                                  const Maps& grad_input) {
  attach_boxes_tangent(problem, boxes, boxes_tangent);
  problem.pooled = attach_pooled(problem, "grad_output", grad_output, problem.dtype);
  attach_maps(problem, "out", grad_input, &Map::gradient);
  if (has_no_gradient(problem)) return;
  check_written(
      problem, {"out", grad_input},
      {{"grad_output", &grad_output}, {"boxes", &boxes}, {"boxes_tangent", &boxes_tangent}});
  const CheckedBoxes checked(problem, &problem.boxes_tangent);
  run(problem, &Backend::roi_align_jvp_boxes_backward);
}

}  // namespace roidl
