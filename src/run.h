// One call of any operator of the catalogue: described from metadata, then run on its arrays.
#pragma once
#include <type_traits>
#include <utility>
#include <variant>

#include "operators.h"
#include "ps_roi_align.h"
#include "ps_roi_pool.h"
#include "roi_align.h"
#include "roi_pool.h"

namespace roidl {

// In the order of Family.
using AnyProblem =
    std::variant<RoiAlignProblem, RoiPoolProblem, PsRoiAlignProblem, PsRoiPoolProblem>;
using AnyParams = std::variant<RoiAlignParams, RoiPoolParams, PsRoiAlignParams, PsRoiPoolParams>;
static_assert(std::variant_size_v<AnyProblem> == kNumFamilies);
static_assert(std::variant_size_v<AnyParams> == kNumFamilies);

// All fields zero; to be filled in by visit_params.
AnyParams params_of(Family family);

// Calls visit(name, field) for each field of the parameters, in their order.
template <class Visit>
void visit_params(AnyParams& params, Visit&& visit) {
  std::visit([&](auto& fields) { visit_fields(fields, visit); }, params);
}

// The name of each field and what it is: 'i' an integer, 'f' a float, 'b' a flag.
struct Field {
  const char* name;
  char kind;
};
inline constexpr int kMaxFields = 16;
// Fills in `fields` and returns how many there are.
int fields_of(Family family, Field* fields);

// The value of a field: `real` of a float, else `whole`.
struct Number {
  int64_t whole;
  double real;
};
// From one for each field, in their order.
AnyParams params_from(Family family, const Number* numbers);

// 0 of a family that has no modes.
int32_t mode_of(const AnyParams& params);
int32_t layout_of(const AnyParams& params);
bool is_average(const Operator& op, const AnyParams& params);

// Checks metadata; no data is touched, so shapes alone are enough. `called` is how the user calls
// the operator; `maps` are those that it reads or makes; `indices` may be null, and `pyramid` where
// there is one map.
void describe(AnyProblem& problem, const Operator& op, const char* called, const AnyParams& params,
              const Maps& maps, const Tensor& boxes, const Tensor* indices, const Pyramid* pyramid);
inline AnyProblem describe(const Operator& op, const char* called, const AnyParams& params,
                           const Maps& maps, const Tensor& boxes, const Tensor* indices,
                           const Pyramid* pyramid) {
  AnyProblem problem;
  describe(problem, op, called, params, maps, boxes, indices, pyramid);
  return problem;
}

inline Problem& base_of(AnyProblem& problem) {
  return std::visit([](auto& each) -> Problem& { return each; }, problem);
}

// A map without data, of the gradient to the result that comes from it. The gradient has the
// channels, and boxes that are grouped by image have the images: where arrays are sharded, these
// are the shard's.
Tensor map_like(const Operator& op, const char* called, const AnyParams& params,
                const Tensor& gradient, const Tensor& boxes, int64_t images, int64_t height,
                int64_t width);

// Of what an operator writes; `map` counts the maps of the role.
Shape written_shape(const Problem& problem, Role role, const Tensor& boxes, int map = 0);

// The arrays of a call in the order of the catalogue; what is not there has no maps.
struct Arrays {
  Maps reads[kMaxReads];
  Maps writes[kMaxWrites];
};

// Checks the arrays and runs the operator on the device of the problem, on its stream and in memory
// of its lender. What is written to boxes is of any float type.
void run(const Operator& op, AnyProblem& problem, const Tensor& boxes, const Arrays& arrays);

// How many bytes an operator takes at most on a CUDA device besides its arrays, for who lends them
// without a device at hand. The library for CUDA is needed.
int64_t cuda_workspace(const Operator& op, AnyProblem& problem);

}  // namespace roidl
