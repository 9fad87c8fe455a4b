// Cuts windows that are taller than a ring of packed rows into parts.
#pragma once
#include <cstdint>
#include <vector>

#include "schedule.h"

namespace roidl::cpu {

// Parts of RoIs of one plane, by first row, as many as there are slots for.
struct PartBatch {
  int64_t plane;
  int64_t part_begin, part_end;
  int64_t rows;  // rows of the map that are in a part
};

// The limits of parts: their rows, the RoIs in several parts at a time, and the bins along y.
struct PartLimits {
  int64_t ring_rows, most_slots;
  int64_t bins;  // bins of a RoI along y
};

// Appends the parts of the RoIs of a plane, whose taps have weights of type A, in `shares` or more
// batches; returns how many slots they need at most.
template <class A>
int64_t make_parts(const Windows& windows, const PlaneRois& plane, int64_t shares,
                   const PartLimits& limits, std::vector<Part>& parts,
                   std::vector<PartBatch>& batches);

}  // namespace roidl::cpu
