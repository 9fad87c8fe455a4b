// Position-sensitive RoIAlign: what is checked of its parameters.
#include "ps_roi_align.h"

#include "check.h"

namespace roidl {

void describe_params(PsRoiAlignProblem& problem, const PsRoiAlignParams& params) {
  problem.params = params;
  check_sampling(problem.op, params.sampling_height, params.sampling_width);
}

}  // namespace roidl
