// Position-sensitive RoIAlign (Light-Head R-CNN, arXiv:1711.07264): every bin has channels of its
// own.
#pragma once
#include <cstdint>

#include "roi_align.h"

namespace roidl {

// What was asked. The field names are those of Python's PsRoiAlignParams and of every bridge.
struct PsRoiAlignParams {
  int64_t output_height;
  int64_t output_width;
  double spatial_scale;
  int64_t sampling_height;  // samples per bin along an axis; <= 0: adaptive
  int64_t sampling_width;
  int32_t layout;  // Layout
};

// Calls visit(name, field) for each: the bridges read and declare them by these names.
template <class Visit>
void visit_fields(PsRoiAlignParams& params, Visit&& visit) {
  visit("output_height", params.output_height);
  visit("output_width", params.output_width);
  visit("spatial_scale", params.spatial_scale);
  visit("sampling_height", params.sampling_height);
  visit("sampling_width", params.sampling_width);
  visit("layout", params.layout);
}

struct PsRoiAlignProblem : Problem {
  using Params = PsRoiAlignParams;

  PsRoiAlignParams params{};
};

// The same samples: RoIAlign's with aligned = true. Its channels are still those of the map, and
// its pooled_channels those of the result.
inline RoiAlignProblem as_roi_align(const PsRoiAlignProblem& problem) {
  RoiAlignProblem align;
  static_cast<Problem&>(align) = problem;
  const PsRoiAlignParams& params = problem.params;
  align.params = {params.output_height,
                  params.output_width,
                  params.spatial_scale,
                  params.sampling_height,
                  params.sampling_width,
                  true,
                  static_cast<int32_t>(AlignMode::avg),
                  params.layout};
  return align;
}

// Takes over the parameters of a problem whose arrays are described.
void describe_params(PsRoiAlignProblem& problem, const PsRoiAlignParams& params);

}  // namespace roidl
