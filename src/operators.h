// The catalogue: the only description of families and operators for machines. The core, the
// bindings and Python read it.
#pragma once
#include <cstdint>

namespace roidl {

// The version of the catalogue, which saved programs carry. Count it up when an operator, its reads
// or the fields of its parameters change: programs of another version are then refused by name. A
// new row leaves it as it is.
inline constexpr int64_t kCatalogueVersion = 1;

enum class Family : int32_t { roi_align, roi_pool, ps_roi_align, ps_roi_pool };
inline constexpr int kNumFamilies = 4;

enum class Op : int32_t {
  none = -1,
  roi_align,
  roi_align_backward,
  roi_align_backward_boxes,
  roi_align_jvp,
  roi_align_jvp_boxes,
  roi_align_jvp_boxes_backward,
  roi_pool,
  roi_pool_backward,
  roi_pool_jvp,
  ps_roi_align,
  ps_roi_align_backward,
  ps_roi_align_backward_boxes,
  ps_roi_align_jvp_boxes,
  ps_roi_align_jvp_boxes_backward,
  ps_roi_pool,
  ps_roi_pool_backward,
};
inline constexpr int kNumOperators = 16;

// The part that an array plays in a call. `maps` stands for one array, or for one for each level of
// a pyramid.
enum class Role : int32_t {
  maps,    // the input, a tangent of it, or a gradient to it
  pooled,  // the result, or a gradient to it
  boxes,   // a float for every coordinate of the boxes
  argmax,  // an int32 for every number of the result
};

enum class Need : int32_t {
  always,
  of_maximum,  // only in modes other than the average
};

enum class Linear : int32_t { never, in_average, always };

// How a derivative or a transpose is computed: by the operator `op`, whose read `at` is the
// direction or the cotangent, and whose boxes and other reads are those of this operator, matched
// by name.
struct Rule {
  enum class Kind : int32_t { zero, refused, op } kind = Kind::zero;
  Op op = Op::none;
  const char* at = nullptr;
  bool only_average = false;  // refused in other modes
};
constexpr Rule rule(Op op, const char* at) { return {Rule::Kind::op, op, at}; }
constexpr Rule average_rule(Op op, const char* at) { return {Rule::Kind::op, op, at, true}; }
inline constexpr Rule kZero{}, kRefused{Rule::Kind::refused};

struct Read {
  const char* name = nullptr;
  Role role = Role::maps;
  Need need = Need::always;
  Linear linear = Linear::never;
  Rule derivative;  // used if the operator is not linear in this read
  Rule transpose;   // used if it is linear
};

struct Write {
  const char* name = nullptr;
  Role role = Role::pooled;
  bool optional = false;  // made only if the caller asks for it
};

inline constexpr int kMaxReads = 2, kMaxWrites = 2;

struct Operator {
  Op op;
  const char* name;
  Family family;
  Read reads[kMaxReads];  // without the boxes, their indices, levels and counts
  Write writes[kMaxWrites];
  Rule boxes;                // the derivative along the boxes
  uint32_t modes = ~0u;      // a bit for each mode that is implemented
  Op in_average = Op::none;  // the operator with the same result in average mode, if any

  constexpr int num_reads() const {
    return (reads[0].name != nullptr) + (reads[1].name != nullptr);
  }
  constexpr int num_writes() const {
    return (writes[0].name != nullptr) + (writes[1].name != nullptr);
  }
  // The index of the read with this role, or -1 if there is none.
  constexpr int find_read(Role role) const {
    for (int i = 0; i < num_reads(); ++i)
      if (reads[i].role == role) return i;
    return -1;
  }
  constexpr bool makes_maps() const { return writes[0].role == Role::maps; }
};

inline constexpr int kMaxModes = 3;

struct FamilyInfo {
  const char* name;
  int columns;                   // columns of a box, without the image index
  const char* modes[kMaxModes];  // names, by the number of the mode; none: the family only averages
  int average;                   // the number of the mode that is linear in the input
  bool channels_per_bin;         // each bin reads its own channels: maps have PH * PW times as many
};

inline constexpr FamilyInfo kFamilies[kNumFamilies] = {
    {"roi_align", 4, {"avg", "max", "max_onnx"}, 0, false},
    {"roi_pool", 4, {"max", "avg"}, 1, false},
    {"ps_roi_align", 4, {}, 0, true},
    {"ps_roi_pool", 4, {}, 0, true},
};

inline constexpr uint32_t kOnlyAvg = 0b001, kAvgAndMax = 0b011;  // of RoIAlign

// Every derivative that is offered is itself a row. With x the forward operator: x_backward is its
// transpose in the input, x_jvp_boxes the derivative along the boxes, x_jvp_boxes_backward the
// transpose of that in the input, and x_backward_boxes its transpose in the direction.
inline constexpr Operator kOperators[kNumOperators] = {
    {Op::roi_align,
     "roi_align",
     Family::roi_align,
     {{"input", Role::maps, Need::always, Linear::in_average,
       rule(Op::roi_align_jvp, "input_tangent"), rule(Op::roi_align_backward, "grad_output")}},
     {{"out", Role::pooled}},
     rule(Op::roi_align_jvp_boxes, "boxes_tangent")},
    {Op::roi_align_backward,
     "roi_align_backward",
     Family::roi_align,
     {{"grad_output", Role::pooled, Need::always, Linear::always, kZero,
       rule(Op::roi_align_jvp, "input_tangent")},
      {"input", Role::maps, Need::of_maximum, Linear::never, kZero, kZero}},
     {{"out", Role::maps}},
     average_rule(Op::roi_align_jvp_boxes_backward, "boxes_tangent")},
    {Op::roi_align_backward_boxes,
     "roi_align_backward_boxes",
     Family::roi_align,
     {{"grad_output", Role::pooled, Need::always, Linear::always, kZero,
       rule(Op::roi_align_jvp_boxes, "boxes_tangent")},
      {"input", Role::maps, Need::always, Linear::in_average, kRefused,
       rule(Op::roi_align_jvp_boxes_backward, "boxes_tangent")}},
     {{"grad_boxes", Role::boxes}},
     kRefused,
     kAvgAndMax},
    {Op::roi_align_jvp,
     "roi_align_jvp",
     Family::roi_align,
     {{"input_tangent", Role::maps, Need::always, Linear::always, kZero,
       rule(Op::roi_align_backward, "grad_output")},
      {"input", Role::maps, Need::of_maximum, Linear::never, kZero, kZero}},
     {{"out", Role::pooled}},
     kRefused,
     ~0u,
     Op::roi_align},
    {Op::roi_align_jvp_boxes,
     "roi_align_jvp_boxes",
     Family::roi_align,
     {{"input", Role::maps, Need::always, Linear::in_average, kRefused,
       rule(Op::roi_align_jvp_boxes_backward, "grad_output")},
      {"boxes_tangent", Role::boxes, Need::always, Linear::always, kZero,
       rule(Op::roi_align_backward_boxes, "grad_output")}},
     {{"out", Role::pooled}},
     kRefused,
     kOnlyAvg},
    {Op::roi_align_jvp_boxes_backward,
     "roi_align_jvp_boxes_backward",
     Family::roi_align,
     {{"grad_output", Role::pooled, Need::always, Linear::always, kZero,
       rule(Op::roi_align_jvp_boxes, "input")},
      {"boxes_tangent", Role::boxes, Need::always, Linear::always, kZero,
       rule(Op::roi_align_backward_boxes, "input")}},
     {{"out", Role::maps}},
     kRefused,
     kOnlyAvg},
    {Op::roi_pool,
     "roi_pool",
     Family::roi_pool,
     {{"input", Role::maps, Need::always, Linear::in_average,
       rule(Op::roi_pool_jvp, "input_tangent"), rule(Op::roi_pool_backward, "grad_output")}},
     {{"out", Role::pooled}, {"argmax", Role::argmax, true}},
     kZero},
    {Op::roi_pool_backward,
     "roi_pool_backward",
     Family::roi_pool,
     {{"grad_output", Role::pooled, Need::always, Linear::always, kZero,
       rule(Op::roi_pool_jvp, "input_tangent")},
      {"argmax", Role::argmax, Need::of_maximum, Linear::never, kZero, kZero}},
     {{"out", Role::maps}},
     kZero},
    {Op::roi_pool_jvp,
     "roi_pool_jvp",
     Family::roi_pool,
     {{"input_tangent", Role::maps, Need::always, Linear::always, kZero,
       rule(Op::roi_pool_backward, "grad_output")},
      {"argmax", Role::argmax, Need::of_maximum, Linear::never, kZero, kZero}},
     {{"out", Role::pooled}},
     kZero,
     ~0u,
     Op::roi_pool},
    {Op::ps_roi_align,
     "ps_roi_align",
     Family::ps_roi_align,
     {{"input", Role::maps, Need::always, Linear::always, kZero,
       rule(Op::ps_roi_align_backward, "grad_output")}},
     {{"out", Role::pooled}},
     rule(Op::ps_roi_align_jvp_boxes, "boxes_tangent")},
    {Op::ps_roi_align_backward,
     "ps_roi_align_backward",
     Family::ps_roi_align,
     {{"grad_output", Role::pooled, Need::always, Linear::always, kZero,
       rule(Op::ps_roi_align, "input")}},
     {{"out", Role::maps}},
     rule(Op::ps_roi_align_jvp_boxes_backward, "boxes_tangent")},
    {Op::ps_roi_align_backward_boxes,
     "ps_roi_align_backward_boxes",
     Family::ps_roi_align,
     {{"grad_output", Role::pooled, Need::always, Linear::always, kZero,
       rule(Op::ps_roi_align_jvp_boxes, "boxes_tangent")},
      {"input", Role::maps, Need::always, Linear::always, kZero,
       rule(Op::ps_roi_align_jvp_boxes_backward, "boxes_tangent")}},
     {{"grad_boxes", Role::boxes}},
     kRefused},
    {Op::ps_roi_align_jvp_boxes,
     "ps_roi_align_jvp_boxes",
     Family::ps_roi_align,
     {{"input", Role::maps, Need::always, Linear::always, kZero,
       rule(Op::ps_roi_align_jvp_boxes_backward, "grad_output")},
      {"boxes_tangent", Role::boxes, Need::always, Linear::always, kZero,
       rule(Op::ps_roi_align_backward_boxes, "grad_output")}},
     {{"out", Role::pooled}},
     kRefused},
    {Op::ps_roi_align_jvp_boxes_backward,
     "ps_roi_align_jvp_boxes_backward",
     Family::ps_roi_align,
     {{"grad_output", Role::pooled, Need::always, Linear::always, kZero,
       rule(Op::ps_roi_align_jvp_boxes, "input")},
      {"boxes_tangent", Role::boxes, Need::always, Linear::always, kZero,
       rule(Op::ps_roi_align_backward_boxes, "input")}},
     {{"out", Role::maps}},
     kRefused},
    {Op::ps_roi_pool,
     "ps_roi_pool",
     Family::ps_roi_pool,
     {{"input", Role::maps, Need::always, Linear::always, kZero,
       rule(Op::ps_roi_pool_backward, "grad_output")}},
     {{"out", Role::pooled}},
     kZero},
    {Op::ps_roi_pool_backward,
     "ps_roi_pool_backward",
     Family::ps_roi_pool,
     {{"grad_output", Role::pooled, Need::always, Linear::always, kZero,
       rule(Op::ps_roi_pool, "input")}},
     {{"out", Role::maps}},
     kZero},
};

constexpr const Operator& operator_of(Op op) { return kOperators[static_cast<int>(op)]; }
constexpr const FamilyInfo& family_of(const Operator& op) {
  return kFamilies[static_cast<int>(op.family)];
}
// A bit for each mode in which a family has a gradient to the boxes.
constexpr uint32_t modes_with_box_gradient(Family family) {
  for (const Operator& op : kOperators)
    if (op.family == family && op.writes[0].role == Role::boxes) return op.modes;
  return 0;
}
constexpr int index_of(const Operator& op) { return static_cast<int>(op.op); }

constexpr bool is_in_order() {
  for (int i = 0; i < kNumOperators; ++i)
    if (index_of(kOperators[i]) != i) return false;
  return true;
}
static_assert(is_in_order());

}  // namespace roidl
