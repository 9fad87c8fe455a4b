// The CPU's backend table, and the entry that assigns levels, which needs no kernel.
#include "../backend.h"

#include "../interrupt.h"
#include "../pyramid.h"
#include "backend.h"

namespace roidl {

void cpu::assign_levels(const Problem& problem, int32_t* levels) {
  for (int64_t k = 0; k < problem.rois; ++k) {
    if (k % kRowsPerInterrupt == kRowsPerInterrupt - 1) check_interrupt();
    levels[k] = static_cast<int32_t>(level_of(problem, k));
  }
}

namespace {

constexpr Backend make_backend() {
  using namespace cpu;
  Backend backend{};
  backend.name = "cpu";
  ROIDL_FILL_ENTRIES(backend)
  backend.assign_levels = cpu::assign_levels;
  return backend;
}

}  // namespace

const Backend cpu_backend = make_backend();

}  // namespace roidl
