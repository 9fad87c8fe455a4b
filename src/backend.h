// Backend: what a device must provide. An operator that a device lacks is a null entry.
#pragma once
#include "floating_point.h"
#include "roi_align.h"
#include "roi_pool.h"
#include "workspace.h"

namespace roidl {

struct Backend {
  const char* name;
  void (*roi_align_forward)(const RoiAlignProblem&);
  void (*roi_align_backward)(const RoiAlignProblem&);
  void (*roi_align_backward_boxes)(const RoiAlignProblem&);
  void (*roi_align_jvp)(const RoiAlignProblem&);
  void (*roi_align_jvp_boxes)(const RoiAlignProblem&);
  void (*roi_align_jvp_boxes_backward)(const RoiAlignProblem&);
  void (*roi_pool_forward)(const RoiPoolProblem&);
  void (*roi_pool_backward)(const RoiPoolProblem&);
  void (*roi_pool_jvp)(const RoiPoolProblem&);
  void (*assign_levels)(const Problem&, int32_t* levels);
};

extern const Backend cpu_backend;

// The backend of the problem's device, or an Error that names the device.
const Backend& backend_of(const Problem& problem);

// One entry of its table, or an Error that says that there is none.
template <class ProblemType>
auto entry_of(const ProblemType& problem, void (*const Backend::*entry)(const ProblemType&)) {
  const Backend& backend = backend_of(problem);
  if (backend.*entry == nullptr)
    fail(ErrorKind::unsupported, problem.op, "not implemented on ", backend.name);
  return backend.*entry;
}

// Runs one entry of the table: run(problem, &Backend::roi_align_forward).
template <class ProblemType>
void run(ProblemType& problem, void (*const Backend::*entry)(const ProblemType&)) {
  const FloatingPoint mode;
  const auto run_entry = entry_of(problem, entry);
  if (run_entry == cpu_backend.*entry) return run_entry(problem);
  run_on_device(problem, run_entry);
}

}  // namespace roidl
