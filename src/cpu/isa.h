// The instruction sets that the kernels are compiled for, and the choice of the one that is used.
#pragma once
#include "kernels.h"

namespace roidl::cpu {

// Returns the best set that the machine has, or the one that ROIDL_ISA names.
const InstructionSet& instruction_set();

}  // namespace roidl::cpu
