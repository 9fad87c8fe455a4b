// RoIAlign: checks its parameters.
#include "roi_align.h"

#include "check.h"

namespace roidl {

void describe_params(RoiAlignProblem& problem, const RoiAlignParams& params) {
  problem.params = params;
  problem.mode = static_cast<AlignMode>(params.mode);
  check_sampling(problem.op, params.sampling_height, params.sampling_width);
}

}  // namespace roidl
