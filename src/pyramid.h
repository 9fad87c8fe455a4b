// Which map of a pyramid a box belongs to.
#pragma once
#include <cstdint>

#include "problem.h"

namespace roidl {

void check_scale(const char* op, const char* name, double scale);

// Fills in how the boxes of a problem find their map.
void describe_levels(Problem& problem, const Tensor& boxes, const Pyramid& pyramid);
void check_level_values(const Problem& problem);

// The index among the maps that `levels` gives row k, or the rule gives its box.
int64_t level_of(const Problem& problem, int64_t k);

// The rule alone: the map of every box, among `maps` of them. CPU memory only.
void assign_levels(const char* op, const Pyramid& pyramid, int maps, const Tensor& boxes,
                   int32_t* levels);

}  // namespace roidl
