// How much memory of a CUDA device an operator takes besides its arrays, for who lends it.
#pragma once
#include <cstdint>

#include "roi_align.h"
#include "roi_pool.h"

namespace roidl {

// `name` is the operator's, without what tells one map from several; of the problem the buffers may
// be missing. No device is needed, but the library for CUDA is.
int64_t cuda_workspace(const char* name, RoiAlignProblem& problem);
int64_t cuda_workspace(const char* name, RoiPoolProblem& problem);

}  // namespace roidl
