// The instruction sets that the kernels are compiled for, and the one that this machine runs.
#pragma once
#include "kernels.h"

namespace roidl::cpu {

// The best that the machine has, or the one that ROIDL_ISA names.
const InstructionSet& instruction_set();

}  // namespace roidl::cpu
