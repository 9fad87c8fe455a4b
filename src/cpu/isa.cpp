// Chooses the instruction set, once, at the first use of a kernel.
#include "isa.h"

#include <cstdlib>
#include <cstring>

#include "../error.h"

namespace roidl::cpu {

extern const InstructionSet baseline;
#if defined(__x86_64__)
extern const InstructionSet avx2;
extern const InstructionSet avx512;
#endif

namespace {

struct Candidate {
  const InstructionSet* set;
  bool runs;
};

const InstructionSet& choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const Candidate candidates[] = {{&avx512, has_avx512}, {&avx2, has_avx2}, {&baseline, true}};
#else
  const Candidate candidates[] = {{&baseline, true}};
#endif
  const char* wanted = std::getenv("ROIDL_ISA");
  const bool any = wanted == nullptr || *wanted == '\0';
  bool known = any;
  for (const Candidate& candidate : candidates) {
    const bool named = !any && std::strcmp(wanted, candidate.set->name) == 0;
    if (candidate.runs && (any || named)) return *candidate.set;
    known |= named;
  }
  std::string names;
  for (const Candidate& candidate : candidates)
    names += (names.empty() ? "" : ", ") + std::string(candidate.set->name);
  fail(ErrorKind::value, "roidl", "ROIDL_ISA must be one of ", names, ", got '", wanted, "'",
       known ? ", which this machine does not have" : "");
}

}  // namespace

const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = choose();
  return chosen;
}

}  // namespace roidl::cpu
