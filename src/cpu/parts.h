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
  int64_t rows;  // of the map, in any of the parts
};

// How windows are cut: into parts of at most so many rows, of RoIs with at most so many slots.
struct PartLimits {
  int64_t ring_rows, most_slots;
  int64_t bins;  // of a RoI along y
};

// Appends the parts of the RoIs of a plane, which have taps with weights of type A, in `shares` or
// more batches; returns how many slots they need at most.
template <class A>
int64_t make_parts(const Windows& windows, const PlaneRois& plane, int64_t shares,
                   const PartLimits& limits, std::vector<Part>& parts,
                   std::vector<PartBatch>& batches);

}  // namespace roidl::cpu
