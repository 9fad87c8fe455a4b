// RoIPool: validation, then the kernel of the device.
#include "roi_pool.h"

#include "backend.h"
#include "check.h"
#include "checked_boxes.h"
#include "device_library.h"

namespace roidl {

RoiPoolProblem make_roi_pool(const char* op, const RoiPoolParams& params, const Maps& input,
                             const Tensor& boxes, const Tensor* indices, const Pyramid* pyramid) {
  RoiPoolProblem problem;
  describe_problem(problem, op, params, input, boxes, indices, pyramid);
  problem.params = params;
  problem.mode = static_cast<PoolMode>(params.mode);
  for (int i = 0; problem.mode == PoolMode::max && i < problem.num_maps; ++i) {
    int64_t cells = 0;
    const Map& map = problem.maps[i];
    const bool overflows = __builtin_mul_overflow(map.height, map.width, &cells);
    if (overflows || cells > INT32_MAX)
      fail(ErrorKind::unsupported, op,
           "mode 'max' on a map of 2^31 cells or more (argmax is int32), got shape ",
           input_shape(problem, i));
  }
  return problem;
}

void roi_pool_forward(RoiPoolProblem& problem, const Maps& input, const Tensor& boxes,
                      const Tensor& out, const Tensor* argmax) {
  attach_maps(problem, "input", input, &Map::features);
  problem.pooled = attach_pooled(problem, "out", out, problem.dtype);
  if (argmax != nullptr) {
    if (problem.mode != PoolMode::max)
      fail(ErrorKind::value, problem.op, "only mode 'max' has an argmax to return");
    problem.argmax = attach_pooled(problem, "argmax", *argmax, kInt32);
    check_written(problem, {"argmax", argmax}, {});
  }
  if (has_no_results(problem)) return;
  check_written(problem, {"out", &out}, {{"input", input}, {"boxes", &boxes}, {"argmax", argmax}});
  const CheckedBoxes checked(problem);
  run(problem, &Backend::roi_pool_forward);
}

namespace {

void attach_argmax(RoiPoolProblem& problem, const Tensor* argmax) {
  const bool needs_argmax = problem.mode == PoolMode::max;
  if (needs_argmax != (argmax != nullptr))
    fail(ErrorKind::value, problem.op,
         needs_argmax ? "argmax is needed for the gradient of mode 'max'"
                      : "argmax must be None for mode 'avg'");
  if (argmax != nullptr) problem.argmax = attach_pooled(problem, "argmax", *argmax, kInt32);
}

// Runs what reads the argmax, and says if one of them cannot be.
void run_with_argmax(RoiPoolProblem& problem,
                     void (*const Backend::*entry)(const RoiPoolProblem&)) {
  // Found on the way rather than beforehand: it saves reading as many bytes as the gradient has.
  constexpr int64_t kNone = -1;
  int64_t wrong_cell = kNone;
  problem.wrong_cell = &wrong_cell;
  if (checks_on_device(problem) && problem.argmax.data != nullptr)
    wrong_cell = find_wrong_cell(problem, *cuda_library());
  if (wrong_cell == kNone) run(problem, entry);
  if (wrong_cell == kNone) return;
  const int64_t cells = problem.maps[0].height * problem.maps[0].width;
  if (problem.num_maps > 1 || (wrong_cell >= 0 && wrong_cell < cells))
    fail(ErrorKind::value, problem.op, "argmax must be -1 or a cell of its box, got ", wrong_cell);
  fail(ErrorKind::value, problem.op, "argmax must be -1 or a cell in [0, ", cells, "), got ",
       wrong_cell);
}

}  // namespace

void roi_pool_jvp(RoiPoolProblem& problem, const Maps& input_tangent, const Tensor& boxes,
                  const Tensor* argmax, const Tensor& out) {
  if (problem.mode == PoolMode::avg)
    return roi_pool_forward(problem, input_tangent, boxes, out, nullptr);  // it is linear
  attach_maps(problem, "input_tangent", input_tangent, &Map::tangent);
  problem.pooled = attach_pooled(problem, "out", out, problem.dtype);
  attach_argmax(problem, argmax);
  if (has_no_results(problem)) return;
  check_written(problem, {"out", &out},
                {{"input_tangent", input_tangent}, {"boxes", &boxes}, {"argmax", argmax}});
  const CheckedBoxes checked(problem);
  run_with_argmax(problem, &Backend::roi_pool_jvp);
}

void roi_pool_backward(RoiPoolProblem& problem, const Tensor& grad_output, const Tensor& boxes,
                       const Tensor* argmax, const Maps& grad_input) {
  problem.pooled = attach_pooled(problem, "grad_output", grad_output, problem.dtype);
  attach_maps(problem, "out", grad_input, &Map::gradient);
  attach_argmax(problem, argmax);
  if (has_no_gradient(problem)) return;
  check_written(problem, {"out", grad_input},
                {{"grad_output", &grad_output}, {"boxes", &boxes}, {"argmax", argmax}});
  const CheckedBoxes checked(problem);
  run_with_argmax(problem, &Backend::roi_pool_backward);
}

}  // namespace roidl
