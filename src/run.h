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

// The alternatives are in the order of Family.
using AnyProblem =
    std::variant<RoiAlignProblem, RoiPoolProblem, PsRoiAlignProblem, PsRoiPoolProblem>;
using AnyParams = std::variant<RoiAlignParams, RoiPoolParams, PsRoiAlignParams, PsRoiPoolParams>;
static_assert(std::variant_size_v<AnyProblem> == kNumFamilies);
static_assert(std::variant_size_v<AnyParams> == kNumFamilies);

// Parameters whose fields are all zero, to be filled in by visit_params.
AnyParams params_of(Family family);

// Calls visit(name, field) for each field of the parameters, in their order.
template <class Visit>
void visit_params(AnyParams& params, Visit&& visit) {
  std::visit([&](auto& fields) { visit_fields(fields, visit); }, params);
}

// A field of the parameters: its name and its kind, 'i' for an integer, 'f' for a float, 'b' for a
// flag.
struct Field {
  const char* name;
  char kind;
};
inline constexpr int kMaxFields = 16;
// Fills in `fields` and returns how many there are.
int fields_of(Family family, Field* fields);

// The value of a field: `real` if it is a float, else `whole`.
struct Number {
  int64_t whole;
  double real;
};
// Makes parameters from one number for each field, in order.
AnyParams params_from(Family family, const Number* numbers);

// Returns 0 for a family without modes.
int32_t mode_of(const AnyParams& params);
int32_t layout_of(const AnyParams& params);
bool is_average(const Operator& op, const AnyParams& params);

// Checks metadata. It reads no data, so shapes alone are enough. `called` is the name of the
// operator in errors; `maps` are the maps that it reads or makes; `indices` may be null, and so may
// `pyramid` if there is one map.
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

// The metadata of a map whose pooled result has this gradient. The channels are the gradient's, and
// the images those of boxes that are grouped by image, else `images`: where arrays are sharded, all
// are the shard's.
Tensor map_like(const Operator& op, const char* called, const AnyParams& params,
                const Tensor& gradient, const Tensor& boxes, int64_t images, int64_t height,
                int64_t width);

// The shape of what an operator writes in a role; `map` is the index of the map.
Shape written_shape(const Problem& problem, Role role, const Tensor& boxes, int map = 0);

// The arrays of a call in the order of the catalogue; the count of an absent one is 0.
struct Arrays {
  Maps reads[kMaxReads];
  Maps writes[kMaxWrites];
};

// Checks the arrays and runs the operator on the problem's device and stream, with workspace from
// its lender. An output with the role of boxes may have any float type.
void run(const Operator& op, AnyProblem& problem, const Tensor& boxes, const Arrays& arrays);

// Returns the most bytes of workspace that an operator takes on a CUDA device, for callers that
// reserve them before a device is known. It needs the library for CUDA.
int64_t cuda_workspace(const Operator& op, AnyProblem& problem);

}  // namespace roidl
