// RoIAlign: validation, then the kernel of the device.
#include "roi_align.h"

#include "backend.h"
#include "check.h"

namespace roidl {

RoiAlignProblem make_roi_align(const char* op, const RoiAlignParams& params, const Tensor& input,
                               const Tensor& boxes, const Tensor* indices) {
  RoiAlignProblem problem;
  describe_problem(problem, op, params, input, boxes, indices);
  problem.params = params;
  problem.mode = static_cast<AlignMode>(params.mode);
  for (const int64_t samples : {params.sampling_height, params.sampling_width})
    if (samples > 0) check_count(op, "sampling_ratio", samples, INT32_MAX);  // else adaptive
  return problem;
}

void roi_align_forward(RoiAlignProblem& problem, const Tensor& input, const Tensor& boxes,
                       const Tensor& out) {
  problem.maps[0].features = attach_map(problem, "input", input);
  problem.pooled = attach_pooled(problem, "out", out, problem.dtype);
  check_written(problem, {"out", &out}, {{"input", &input}, {"boxes", &boxes}});
  check_values(problem);
  run(problem, &Backend::roi_align_forward);
}

void roi_align_backward(RoiAlignProblem& problem, const Tensor& grad_output, const Tensor& boxes,
                        const Tensor* input, const Tensor& grad_input) {
  problem.pooled = attach_pooled(problem, "grad_output", grad_output, problem.dtype);
  problem.maps[0].gradient = attach_map(problem, "out", grad_input);
  if (input != nullptr)
    problem.maps[0].features = attach_map(problem, "input", *input);
  else if (problem.mode != AlignMode::avg)
    fail(ErrorKind::value, problem.op, "input is needed for the gradient of the max modes");
  check_written(problem, {"out", &grad_input},
                {{"grad_output", &grad_output}, {"boxes", &boxes}, {"input", input}});
  check_values(problem);
  run(problem, &Backend::roi_align_backward);
}

void roi_align_backward_boxes(RoiAlignProblem& problem, const Tensor& grad_output,
                              const Tensor& input, double* grad_boxes) {
  if (problem.mode == AlignMode::max_onnx)
    fail(ErrorKind::unsupported, problem.op, "mode 'max_onnx' has no gradient to the boxes");
  problem.pooled = attach_pooled(problem, "grad_output", grad_output, problem.dtype);
  problem.maps[0].features = attach_map(problem, "input", input);
  problem.boxes_gradient = grad_boxes;
  check_values(problem);
  run(problem, &Backend::roi_align_backward_boxes);
}

}  // namespace roidl
