// Backend: the table of functions that a device provides; an operator that it lacks is a null
// entry.
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

// Wraps a function on the problems of one family as an entry of the table.
template <class ProblemType, void (*function)(const ProblemType&)>
void entry(const Problem& problem) {
  function(static_cast<const ProblemType&>(problem));
}

extern const Backend cpu_backend;

// Returns the backend of the problem's device, or throws an Error that names the device.
const Backend& backend_of(const Problem& problem);

// Returns the entry of an operator, or throws an Error if the device has none.
Entry entry_of(const Operator& op, const Problem& problem);

// Runs the entry of an operator.
void run_entry(const Operator& op, Problem& problem);

}  // namespace roidl
