// RoIAlign: what is checked of its parameters.
#include "roi_align.h"

#include "check.h"

namespace roidl {

void describe_params(RoiAlignProblem& problem, const RoiAlignParams& params) {
  problem.params = params;
  problem.mode = static_cast<AlignMode>(params.mode);
  for (const int64_t samples : {params.sampling_height, params.sampling_width})
    if (samples > 0)
      check_count(problem.op, "sampling_ratio", samples, INT32_MAX);  // else adaptive
}

}  // namespace roidl
