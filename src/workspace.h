// How a device's kernels get the memory that they use besides the arrays: it is measured, lent in
// one piece, and given back.
#pragma once
#include <cstdint>

#include "roi_align.h"
#include "roi_pool.h"

namespace roidl {

// Goes through an entry of the table and starts nothing; returns the bytes that it takes.
template <class ProblemType>
int64_t rehearse(ProblemType& problem, void (*entry)(const ProblemType&), Pass pass) {
  Workspace workspace;
  problem.workspace = &workspace;
  problem.pass = pass;
  entry(problem);
  return workspace.taken;
}

// The memory of one call: from the problem's lender, or else the stream's, taken and given back in
// its order.
class Loan {
 public:
  Loan(const Problem& problem, int64_t bytes);
  ~Loan();
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;

  Workspace workspace;

 private:
  const Problem& problem_;
  bool is_lent_ = true;
};

// Runs an entry on the problem's device, or loads its kernels if that is what is asked for.
template <class ProblemType>
void run_on_device(ProblemType& problem, void (*entry)(const ProblemType&)) {
  if (problem.pass == Pass::load) {
    rehearse(problem, entry, Pass::load);
    return;
  }
  Loan loan(problem, rehearse(problem, entry, Pass::measure));
  problem.workspace = &loan.workspace;
  problem.pass = Pass::run;
  entry(problem);
}

// How many bytes an operator takes at most, for who lends them without a device at hand: its name
// is without what tells one map from several, and of the problem the buffers may be missing. The
// library for CUDA is needed.
int64_t cuda_workspace(const char* name, RoiAlignProblem& problem);
int64_t cuda_workspace(const char* name, RoiPoolProblem& problem);

}  // namespace roidl
