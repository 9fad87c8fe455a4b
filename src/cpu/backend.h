// The entries of the CPU's backend table.
#pragma once
#include "../entries.h"

namespace roidl::cpu {

ROIDL_DECLARE_ENTRIES
void assign_levels(const Problem& problem, int32_t* levels);

}  // namespace roidl::cpu
