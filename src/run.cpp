// The path from a call to its kernel: the arrays are attached by their roles and checked, and the
// operator's entry in the device's table is run.
#include "run.h"

#include <cstring>
#include <string>

#include "backend.h"
#include "check.h"
#include "checked_boxes.h"
#include "device_library.h"
#include "workspace.h"

namespace roidl {

namespace {

// Calls f(number) with a family's number as a constant.
template <class F, size_t... number>
void visit_number(Family family, F&& f, std::index_sequence<number...>) {
  (...,
   (static_cast<size_t>(family) == number ? f(std::integral_constant<size_t, number>{}) : void()));
}
template <class F>
void visit_family(Family family, F&& f) {
  visit_number(family, f, std::make_index_sequence<kNumFamilies>{});
}

}  // namespace

AnyParams params_of(Family family) {
  AnyParams params;
  visit_family(family, [&](auto number) { params.emplace<number>(); });
  return params;
}

int fields_of(Family family, Field* fields) {
  int count = 0;
  AnyParams params = params_of(family);
  visit_params(params, [&](const char* name, auto& field) {
    using T = std::decay_t<decltype(field)>;
    fields[count++] = {name, std::is_same_v<T, bool> ? 'b' : std::is_integral_v<T> ? 'i' : 'f'};
  });
  return count;
}

AnyParams params_from(Family family, const Number* numbers) {
  AnyParams params = params_of(family);
  visit_params(params, [&](const char*, auto& field) {
    using T = std::decay_t<decltype(field)>;
    field = std::is_floating_point_v<T> ? static_cast<T>(numbers->real)
                                        : static_cast<T>(numbers->whole);
    ++numbers;
  });
  return params;
}

namespace {

template <class Params, class = void>
struct HasMode : std::false_type {};
template <class Params>
struct HasMode<Params, std::void_t<decltype(Params::mode)>> : std::true_type {};

template <class Params>
int32_t mode_in(const Params& params) {
  if constexpr (HasMode<Params>::value) return params.mode;
  return 0;
}

}  // namespace

int32_t mode_of(const AnyParams& params) {
  return std::visit([](const auto& fields) { return mode_in(fields); }, params);
}

bool is_average(const Operator& op, const AnyParams& params) {
  return mode_of(params) == family_of(op).average;
}

int32_t layout_of(const AnyParams& params) {
  return std::visit([](const auto& fields) { return fields.layout; }, params);
}

void describe(AnyProblem& result, const Operator& op, const char* called, const AnyParams& params,
              const Maps& maps, const Tensor& boxes, const Tensor* indices,
              const Pyramid* pyramid) {
  visit_family(op.family, [&](auto number) {
    auto& problem = result.emplace<number>();
    const auto& fields = std::get<number>(params);
    describe_problem(problem, called, family_of(op).channels_per_bin, fields, maps, boxes, indices,
                     pyramid);
    describe_params(problem, fields);
  });
}

Tensor map_like(const Operator& op, const char* called, const AnyParams& params,
                const Tensor& gradient, const Tensor& boxes, int64_t images, int64_t height,
                int64_t width) {
  check_float(called, "grad_output", gradient);
  if (gradient.ndim < 4)
    fail(ErrorKind::value, called, "grad_output must have the shape of the result, got ",
         shape_of(gradient));
  const bool channels_first = static_cast<Layout>(layout_of(params)) == Layout::nchw;
  if (boxes.ndim == 3) images = boxes.shape[0];
  int64_t channels = gradient.shape[gradient.ndim - (channels_first ? 3 : 1)];
  if (family_of(op).channels_per_bin)
    channels *= gradient.shape[gradient.ndim - (channels_first ? 2 : 3)] *
                gradient.shape[gradient.ndim - (channels_first ? 1 : 2)];
  const int64_t first[] = {images, channels, height, width};
  const int64_t last[] = {images, height, width, channels};
  Tensor map;
  map.device = gradient.device;
  map.dtype = gradient.dtype;
  map.ndim = 4;
  std::memcpy(map.shape, channels_first ? first : last, sizeof first);
  return map;
}

Shape written_shape(const Problem& problem, Role role, const Tensor& boxes, int map) {
  switch (role) {
    case Role::maps:
      return input_shape(problem, map);
    case Role::boxes:
      return shape_of(boxes);
    case Role::pooled:
    case Role::argmax:
      break;
  }
  return pooled_shape(problem);
}

namespace {

std::string modes_that_need(const FamilyInfo& family) {
  const char* only = nullptr;
  int count = 0;
  for (int mode = 0; mode < kMaxModes; ++mode)
    if (family.modes[mode] != nullptr && mode != family.average) only = family.modes[mode], ++count;
  return count > 1 ? "the max modes" : std::string("mode '") + only + "'";
}

void check_mode(const Operator& op, const Problem& problem, int mode) {
  const uint32_t bit = 1u << mode;
  if (op.modes & bit) return;
  const FamilyInfo& family = family_of(op);
  const char* const name = family.modes[mode];
  if (!(modes_with_box_gradient(op.family) & bit))
    fail(ErrorKind::unsupported, problem.op, "mode '", name, "' has no gradient to the boxes");
  fail(ErrorKind::unsupported, problem.op,
       "forward mode and second derivatives along the boxes are implemented for mode '",
       family.modes[family.average], "' only");
}

// Attaches the arrays that are read or written, by their roles.
class Attachment {
 public:
  Attachment(const Operator& op, Problem& problem, const Tensor& boxes, bool average)
      : op_(op), problem_(problem), boxes_(boxes), average_(average) {}

  void read(const Read& what, const Maps& arrays) {
    if (arrays.empty()) return check_absent(what);
    switch (what.role) {
      case Role::maps:
        // `input` holds the features, which select a maximum; maps of another name are a tangent.
        attach_maps(problem_, what.name, arrays,
                    std::strcmp(what.name, "input") == 0 ? &Map::features : &Map::tangent);
        break;
      case Role::pooled:
        problem_.pooled = attach_pooled(problem_, what.name, one(arrays), problem_.dtype);
        break;
      case Role::boxes:
        check_like_boxes(problem_, what.name, one(arrays), boxes_);
        problem_.boxes_tangent = describe_like_boxes(problem_.boxes, one(arrays));
        break;
      case Role::argmax:
        if (average_)
          fail(ErrorKind::value, problem_.op, what.name, " must be None for mode '", average_mode(),
               "'");
        problem_.argmax = attach_pooled(problem_, what.name, one(arrays), kInt32);
        break;
    }
  }

  void write(const Write& what, const Maps& arrays) {
    if (arrays.empty()) return;
    switch (what.role) {
      case Role::maps:
        attach_maps(problem_, what.name, arrays, &Map::gradient);
        break;
      case Role::pooled:
        problem_.pooled = attach_pooled(problem_, what.name, one(arrays), problem_.dtype);
        break;
      case Role::boxes:
        check_like_boxes(problem_, what.name, one(arrays), boxes_);
        check_aligned(problem_.op, what.name, one(arrays));
        problem_.boxes_gradient = one(arrays);
        break;
      case Role::argmax:
        if (average_)
          fail(ErrorKind::value, problem_.op, "only ", modes_that_need(family_of(op_)), " has an ",
               what.name, " to return");
        problem_.argmax = attach_pooled(problem_, what.name, one(arrays), kInt32);
        break;
    }
  }

 private:
  static const Tensor& one(const Maps& arrays) { return *arrays.tensors[0]; }
  const char* average_mode() const { return family_of(op_).modes[family_of(op_).average]; }
  void check_absent(const Read& what) const {
    if (what.need == Need::of_maximum && average_) return;
    fail(ErrorKind::value, problem_.op, what.name, " is needed for the gradient of ",
         modes_that_need(family_of(op_)));
  }

  const Operator& op_;
  Problem& problem_;
  const Tensor& boxes_;
  bool average_;
};

bool is_empty(const Operator& op, const Problem& problem) {
  switch (op.writes[0].role) {
    case Role::maps:
      return has_no_gradient(problem);
    case Role::pooled:
      return has_no_results(problem);
    default:
      return false;
  }
}

void check_all_written(const Operator& op, const Problem& problem, const Tensor& boxes,
                       const Arrays& arrays) {
  Named read[kMaxReads + 1] = {{"boxes", &boxes}};
  for (int i = 0; i < kMaxReads; ++i) read[1 + i] = {op.reads[i].name, arrays.reads[i]};
  for (int i = 0; i < op.num_writes(); ++i) {
    check_written(problem, {op.writes[i].name, arrays.writes[i]}, read, 1 + kMaxReads);
    for (int j = 0; j < i; ++j) {
      const Named other{op.writes[j].name, arrays.writes[j]};
      check_written(problem, {op.writes[i].name, arrays.writes[i]}, &other, 1);
    }
  }
}

// Runs an operator that reads the argmax, and fails if an argmax is not a cell.
void run_with_argmax(const Operator& op, Problem& problem) {
  // The CPU's kernels check the argmax while they use it: a pass of its own would read as many
  // bytes as the gradient has.
  constexpr int64_t kNone = -1;
  int64_t wrong_cell = kNone;
  problem.wrong_cell = &wrong_cell;
  if (checks_on_device(problem)) wrong_cell = find_wrong_cell(problem, *cuda_library());
  if (wrong_cell == kNone) run_entry(op, problem);
  if (wrong_cell == kNone) return;
  const int64_t cells = problem.maps[0].height * problem.maps[0].width;
  if (problem.num_maps > 1 || (wrong_cell >= 0 && wrong_cell < cells))
    fail(ErrorKind::value, problem.op, "argmax must be -1 or a cell of its box, got ", wrong_cell);
  fail(ErrorKind::value, problem.op, "argmax must be -1 or a cell in [0, ", cells, "), got ",
       wrong_cell);
}

int mode_of(const AnyProblem& problem) {
  return std::visit([](const auto& each) { return mode_in(each.params); }, problem);
}

}  // namespace

void run(const Operator& op, AnyProblem& any, const Tensor& boxes, const Arrays& arrays) {
  Problem& problem = base_of(any);
  const int mode = mode_of(any);
  const bool average = mode == family_of(op).average;
  if (average && op.in_average != Op::none) {
    Arrays as_forward;
    as_forward.reads[0] = arrays.reads[0];
    as_forward.writes[0] = arrays.writes[0];
    return run(operator_of(op.in_average), any, boxes, as_forward);
  }
  check_mode(op, problem, mode);
  Attachment attachment(op, problem, boxes, average);
  for (int i = 0; i < op.num_reads(); ++i) attachment.read(op.reads[i], arrays.reads[i]);
  for (int i = 0; i < op.num_writes(); ++i) attachment.write(op.writes[i], arrays.writes[i]);
  if (is_empty(op, problem)) return;
  check_all_written(op, problem, boxes, arrays);
  const bool has_tangent = op.find_read(Role::boxes) >= 0;
  const CheckedBoxes checked(problem, has_tangent ? &problem.boxes_tangent : nullptr);
  const int argmax = op.find_read(Role::argmax);
  if (argmax >= 0 && !arrays.reads[argmax].empty())
    run_with_argmax(op, problem);
  else
    run_entry(op, problem);
}

int64_t cuda_workspace(const Operator& op, AnyProblem& any) {
  const bool average = mode_of(any) == family_of(op).average;
  const bool replaced = average && op.in_average != Op::none;
  Problem& problem = base_of(any);
  problem.device = {abi::kDLCUDA, 0};
  problem.pass = Pass::estimate;
  const Operator& run = replaced ? operator_of(op.in_average) : op;
  return rehearse(problem, entry_of(run, problem), Pass::estimate);
}

}  // namespace roidl
