// How a device's kernels get the memory that they use besides the arrays: it is measured, lent in
// one piece, and given back.
#pragma once
#include <cstdint>

#include "backend.h"

namespace roidl {

// Goes through an entry of the table and starts nothing; returns the bytes that it takes.
int64_t rehearse(Problem& problem, Entry entry, Pass pass);

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
void run_on_device(Problem& problem, Entry entry);

}  // namespace roidl
