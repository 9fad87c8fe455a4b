// The workspace of a device's kernels: it is measured, lent in one piece, and given back.
#pragma once
#include <cstdint>

#include "backend.h"

namespace roidl {

// Calls an entry in a pass that computes nothing; returns the bytes of workspace that it takes.
int64_t rehearse(Problem& problem, Entry entry, Pass pass);

// The workspace of one call: from the problem's lender, or else allocated and freed in the order of
// its stream.
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

// Runs an entry on the problem's device, or only loads its kernels if that is the pass.
void run_on_device(Problem& problem, Entry entry);

}  // namespace roidl
