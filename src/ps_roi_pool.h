// Position-sensitive RoIPool (R-FCN, arXiv:1605.06409): every bin has channels of its own.
#pragma once
#include <cstdint>

#include "problem.h"

namespace roidl {

// Where the ends of a bin are clipped: to [0, size - 1], so that the last row and column are never
// read, as torchvision's forward does; or to the map, [0, size].
enum class PsRoiPoolClip : int32_t { torchvision = 0, map = 1 };

// What was asked. The field names are those of Python's PsRoiPoolParams and of every bridge.
struct PsRoiPoolParams {
  int64_t output_height;
  int64_t output_width;
  double spatial_scale;
  int32_t clip;    // PsRoiPoolClip
  int32_t layout;  // Layout
};

// Calls visit(name, field) for each: the bridges read and declare them by these names.
template <class Visit>
void visit_fields(PsRoiPoolParams& params, Visit&& visit) {
  visit("output_height", params.output_height);
  visit("output_width", params.output_width);
  visit("spatial_scale", params.spatial_scale);
  visit("clip", params.clip);
  visit("layout", params.layout);
}

struct PsRoiPoolProblem : Problem {
  using Params = PsRoiPoolParams;

  PsRoiPoolParams params{};
};

// Takes over the parameters of a problem whose arrays are described.
void describe_params(PsRoiPoolProblem& problem, const PsRoiPoolParams& params);

}  // namespace roidl
