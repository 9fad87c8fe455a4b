// RoIAlign (Mask R-CNN, arXiv:1703.06870): parameters and the checked problem.
#pragma once
#include <cstdint>

#include "problem.h"

namespace roidl {

enum class AlignMode : int32_t { avg = 0, max = 1, max_onnx = 2 };

// The parameters of a call. The field names are those of Python's RoiAlignParams and of every
// bridge.
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

// Calls visit(name, field) for each field: the bridges read and declare them by these names.
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
  using Params = RoiAlignParams;

  RoiAlignParams params{};
  AlignMode mode = AlignMode::avg;
};

// Checks and stores the parameters of a problem whose arrays are described.
void describe_params(RoiAlignProblem& problem, const RoiAlignParams& params);

}  // namespace roidl
