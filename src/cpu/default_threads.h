// How many threads a call may use where nobody has said so.
#pragma once

namespace roidl::cpu {

inline constexpr int kMaxThreads = 1024;

// ROIDL_NUM_THREADS, or OMP_NUM_THREADS (of a list the first, which is the outermost level), or
// the CPUs that the process may use (affinity, cgroup quota). What OpenMP would not understand in
// its own variable is passed over; in ours it is an error.
int default_threads();

}  // namespace roidl::cpu
