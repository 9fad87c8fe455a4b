// Backend: what a device must provide. An operator that a device lacks is a null entry.
#pragma once
#include "floating_point.h"
#include "roi_align.h"
#include "roi_pool.h"

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

// Runs one entry of the table: run(problem, &Backend::roi_align_forward).
template <class ProblemType>
void run(const ProblemType& problem, void (*const Backend::*entry)(const ProblemType&)) {
  const FloatingPoint mode;
  const Backend& backend = backend_of(problem);
  if (backend.*entry == nullptr)
    fail(ErrorKind::unsupported, problem.op, "not implemented on ", backend.name);
  (backend.*entry)(problem);
}

}  // namespace roidl
