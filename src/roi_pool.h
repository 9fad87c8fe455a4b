// RoIPool (Fast R-CNN, arXiv:1504.08083): parameters and the checked problem.
#pragma once
#include <cstdint>

#include "problem.h"

namespace roidl {

enum class PoolMode : int32_t { max = 0, avg = 1 };

// The parameters of a call. The field names are those of Python's RoiPoolParams and of every
// bridge.
struct RoiPoolParams {
  int64_t output_height;
  int64_t output_width;
  double spatial_scale;
  int32_t mode;    // PoolMode
  int32_t layout;  // Layout
};

// Calls visit(name, field) for each field: the bridges read and declare them by these names.
template <class Visit>
void visit_fields(RoiPoolParams& params, Visit&& visit) {
  visit("output_height", params.output_height);
  visit("output_width", params.output_width);
  visit("spatial_scale", params.spatial_scale);
  visit("mode", params.mode);
  visit("layout", params.layout);
}

struct RoiPoolProblem : Problem {
  using Params = RoiPoolParams;

  RoiPoolParams params{};
  PoolMode mode = PoolMode::max;
};

// Checks and stores the parameters of a problem whose arrays are described.
void describe_params(RoiPoolProblem& problem, const RoiPoolParams& params);

}  // namespace roidl
