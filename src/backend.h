// Backend: what a device must provide. An operator that a device lacks is a null entry.
#pragma once
#include "operators.h"
#include "problem.h"

namespace roidl {

using Entry = void (*)(const Problem&);

struct Backend {
  const char* name;
  Entry entries[kNumOperators];
  void (*assign_levels)(const Problem&, int32_t* levels);

  constexpr Entry& operator[](Op op) { return entries[static_cast<int>(op)]; }
};

// A function on the problems of a family as an entry of the table.
template <class ProblemType, void (*function)(const ProblemType&)>
void entry(const Problem& problem) {
  function(static_cast<const ProblemType&>(problem));
}

extern const Backend cpu_backend;

// The backend of the problem's device, or an Error that names the device.
const Backend& backend_of(const Problem& problem);

// An operator's entry of the table, or an Error that says that there is none.
Entry entry_of(const Operator& op, const Problem& problem);

// Runs it.
void run_entry(const Operator& op, Problem& problem);

}  // namespace roidl
