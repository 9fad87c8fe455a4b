// RoIPool: checks its parameters.
#include "roi_pool.h"

#include "check.h"

namespace roidl {

void describe_params(RoiPoolProblem& problem, const RoiPoolParams& params) {
  problem.params = params;
  problem.mode = static_cast<PoolMode>(params.mode);
  for (int i = 0; problem.mode == PoolMode::max && i < problem.num_maps; ++i) {
    int64_t cells = 0;
    const Map& map = problem.maps[i];
    const bool overflows = __builtin_mul_overflow(map.height, map.width, &cells);
    if (overflows || cells > INT32_MAX)
      fail(ErrorKind::unsupported, problem.op,
           "mode 'max' on a map of 2^31 cells or more (argmax is int32), got shape ",
           input_shape(problem, i));
  }
}

}  // namespace roidl
