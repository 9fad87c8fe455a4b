// Measures the workspace of operators on CUDA: an entry of the table is gone through, and nothing
// run.
#include "workspace.h"

#include <cstring>

#include "backend.h"

namespace roidl {

namespace {

template <class ProblemType>
struct Entry {
  const char* name;
  void (*const Backend::*run)(const ProblemType&);
};

constexpr Entry<RoiAlignProblem> kAlign[] = {
    {"roi_align", &Backend::roi_align_forward},
    {"roi_align_backward", &Backend::roi_align_backward},
    {"roi_align_backward_boxes", &Backend::roi_align_backward_boxes},
    {"roi_align_jvp", &Backend::roi_align_jvp},
    {"roi_align_jvp_boxes", &Backend::roi_align_jvp_boxes},
    {"roi_align_jvp_boxes_backward", &Backend::roi_align_jvp_boxes_backward},
};

constexpr Entry<RoiPoolProblem> kPool[] = {
    {"roi_pool", &Backend::roi_pool_forward},
    {"roi_pool_backward", &Backend::roi_pool_backward},
    {"roi_pool_jvp", &Backend::roi_pool_jvp},
};

template <class ProblemType, size_t count>
int64_t measure(const char* name, ProblemType& problem,
                const Entry<ProblemType> (&entries)[count]) {
  Workspace workspace;
  workspace.only_measures = true;
  problem.device = {abi::kDLCUDA, 0};
  problem.workspace = &workspace;
  for (const Entry<ProblemType>& entry : entries)
    if (std::strcmp(entry.name, name) == 0) {
      run(problem, entry.run);
      return workspace.taken;
    }
  fail(ErrorKind::runtime, problem.op, "there is no operator ", name);
}

}  // namespace

int64_t cuda_workspace(const char* name, RoiAlignProblem& problem) {
  return measure(name, problem, kAlign);
}

int64_t cuda_workspace(const char* name, RoiPoolProblem& problem) {
  return measure(name, problem, kPool);
}

}  // namespace roidl
