// The entries of CUDA's backend table.
#pragma once
#include "entries.h"

namespace roidl::cuda {

ROIDL_DECLARE_ENTRIES

// The entries for the max modes of RoIAlign.
void roi_align_max_forward(const RoiAlignProblem& problem);
void roi_align_max_backward(const RoiAlignProblem& problem);
void roi_align_max_jvp(const RoiAlignProblem& problem);

}  // namespace roidl::cuda
