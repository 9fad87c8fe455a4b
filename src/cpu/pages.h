// Huge pages for new memory, against the cost of page faults in large results.
#pragma once
#include <cstdint>

#include "../problem.h"

namespace roidl::cpu {

// Asks the system to back large results by huge pages before the first store: a result of 100 MB
// has 25,000 faults of 4 KiB, which cost more than its computation. NumPy asks by itself; PyTorch,
// TensorFlow and XLA do not.
void expect_pooled(const Problem& problem, const PooledView& pooled, int64_t item_bytes);
void expect_gradients(const Problem& problem);

}  // namespace roidl::cpu
