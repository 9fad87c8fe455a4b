// Position-sensitive RoIPool: its parameters, of which there is nothing more to check.
#include "ps_roi_pool.h"

namespace roidl {

void describe_params(PsRoiPoolProblem& problem, const PsRoiPoolParams& params) {
  problem.params = params;
}

}  // namespace roidl
