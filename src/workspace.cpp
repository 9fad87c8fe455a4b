// Measures the workspace of CUDA's kernels, and lends it for one call.
#include "workspace.h"

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

int64_t rehearse(Problem& problem, Entry entry, Pass pass) {
  Workspace workspace;
  problem.workspace = &workspace;
  problem.pass = pass;
  entry(problem);
  return workspace.taken;
}

void run_on_device(Problem& problem, Entry entry) {
  if (problem.pass == Pass::load) {
    rehearse(problem, entry, Pass::load);
    return;
  }
  Loan loan(problem, rehearse(problem, entry, Pass::measure));
  problem.workspace = &loan.workspace;
  problem.pass = Pass::run;
  entry(problem);
}

}  // namespace roidl
