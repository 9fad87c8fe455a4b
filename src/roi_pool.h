// RoIPool (Fast R-CNN, arXiv:1504.08083): parameters, the checked problem, and its entry points.
#pragma once
#include <cstdint>

#include "problem.h"

namespace roidl {

enum class PoolMode : int32_t { max = 0, avg = 1 };

// What was asked. The field names are those of Python's RoiPoolParams and of every bridge.
struct RoiPoolParams {
  int64_t output_height;
  int64_t output_width;
  double spatial_scale;
  int32_t mode;    // PoolMode
  int32_t layout;  // Layout
};

// Calls visit(name, field) for each: the bridges read and declare them by these names.
template <class Visit>
void visit_fields(RoiPoolParams& params, Visit&& visit) {
  visit("output_height", params.output_height);
  visit("output_width", params.output_width);
  visit("spatial_scale", params.spatial_scale);
  visit("mode", params.mode);
  visit("layout", params.layout);
}

struct RoiPoolProblem : Problem {
  RoiPoolParams params{};
  PoolMode mode = PoolMode::max;
  PooledView argmax;  // int32: y * W + x of the maximum, -1 for an empty bin; unset for avg
  int64_t* wrong_cell = nullptr;  // where an argmax is reported that cannot be one
};

RoiPoolProblem make_roi_pool(const char* op, const RoiPoolParams& params, const Maps& input,
                             const Tensor& boxes, const Tensor* indices,
                             const Pyramid* pyramid = nullptr);

// `argmax` may be null: then it is not written.
void roi_pool_forward(RoiPoolProblem& problem, const Maps& input, const Tensor& boxes,
                      const Tensor& out, const Tensor* argmax);
void roi_pool_backward(RoiPoolProblem& problem, const Tensor& grad_output, const Tensor& boxes,
                       const Tensor* argmax, const Maps& grad_input);
// out = d(result)/d(input) . input_tangent: what lies where the maximum was found, 0 in an empty
// bin; `argmax` is null for the average. Its transpose is roi_pool_backward.
void roi_pool_jvp(RoiPoolProblem& problem, const Maps& input_tangent, const Tensor& boxes,
                  const Tensor* argmax, const Tensor& out);

}  // namespace roidl
