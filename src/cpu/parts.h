// Cuts windows that are taller than a ring of packed rows into parts.
#pragma once
#include <cstdint>
#include <vector>

#include "schedule.h"

namespace roidl::cpu {

// The parts of RoIs of one plane that fit the slots, by first row.
struct PartBatch {
  int64_t plane;
  int64_t part_begin, part_end;
};

// Appends the parts of the RoIs of a plane, in `shares` or more batches; returns how many slots
// they need at most.
int64_t make_parts(const Windows& windows, int64_t plane, int64_t shares, int64_t ring_rows,
                   int64_t most_slots, std::vector<Part>& parts, std::vector<PartBatch>& batches);

}  // namespace roidl::cpu
