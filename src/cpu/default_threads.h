// The default number of threads of a call.
#pragma once

namespace roidl::cpu {

inline constexpr int kMaxThreads = 1024;

// Returns ROIDL_NUM_THREADS, else OMP_NUM_THREADS (the first of a list, which is the outermost
// level), else the number of CPUs that the process may use (affinity, cgroup quota). A value of
// OMP_NUM_THREADS that OpenMP would not understand is ignored; a wrong ROIDL_NUM_THREADS is an
// error.
int default_threads();

}  // namespace roidl::cpu
