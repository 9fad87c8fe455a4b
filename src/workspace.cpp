// The memory that kernels for CUDA use besides the arrays: lent, or estimated by an operator's
// name.
#include "workspace.h"

#include <cstring>

#include "backend.h"
#include "device_library.h"

namespace roidl {

Loan::Loan(const Problem& problem, int64_t bytes) : problem_(problem) {
  if (bytes == 0) return;
  const Lender& lender = problem.lender;
  if (lender.lend != nullptr) workspace.data = lender.lend(lender.library, bytes);
  is_lent_ = workspace.data != nullptr;
  if (!is_lent_) workspace.data = cuda_library()->allocate(problem, bytes);
  workspace.bytes = bytes;
}

Loan::~Loan() {
  if (!is_lent_) cuda_library()->release(problem_, workspace.data);
}

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
int64_t estimate(const char* name, ProblemType& problem,
                 const Entry<ProblemType> (&entries)[count]) {
  problem.device = {abi::kDLCUDA, 0};
  problem.pass = Pass::estimate;
  for (const Entry<ProblemType>& entry : entries)
    if (std::strcmp(entry.name, name) == 0)
      return rehearse(problem, entry_of(problem, entry.run), Pass::estimate);
  fail(ErrorKind::runtime, problem.op, "there is no operator ", name);
}

}  // namespace

int64_t cuda_workspace(const char* name, RoiAlignProblem& problem) {
  return estimate(name, problem, kAlign);
}

int64_t cuda_workspace(const char* name, RoiPoolProblem& problem) {
  return estimate(name, problem, kPool);
}

}  // namespace roidl
