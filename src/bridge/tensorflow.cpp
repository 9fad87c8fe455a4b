// The operators as TensorFlow's: definitions, shape functions and kernels, registered through its C
// API when tf.load_op_library loads this library.
#include <dlfcn.h>

#include <initializer_list>
#include <string>

#include "bridge/tensorflow_call.h"
#include "bridge/tensorflow_shapes.h"
#include "roi_align.h"
#include "roi_pool.h"

namespace roidl::bridge {

tf::Functions api{};

namespace {

// What a kernel computes. Inputs stand in the order of the definitions below: tensors, `grid`, and
// then lists of no or one tensor.
template <class Params>
using Compute = void (*)(Call&, const Params& attributes);

// From the place of the grid on: the parameters as they are with it, and the lists in turn.
template <class Params>
class Inputs {
 public:
  Inputs(Call& call, const Params& attributes, int grid)
      : params(with_grid(attributes, call, call.input(grid))), call_(call), next_(grid + 1) {}

  Optional optional() {
    return next_ < call_.inputs() ? Optional(call_.input(next_++)) : Optional();
  }

  const Params params;

 private:
  Call& call_;
  int next_;
};

void compute_roi_align(Call& call, const RoiAlignParams& attributes) {
  const Tensor input = call.input(0), boxes = call.input(1);
  Inputs<RoiAlignParams> more(call, attributes, 2);
  const Optional indices = more.optional();
  RoiAlignProblem problem = make_roi_align(call.op(), more.params, input, boxes, indices.get());
  roi_align_forward(problem, input, boxes, call.output(0, input.dtype, pooled_shape(problem)));
}

void compute_roi_align_backward(Call& call, const RoiAlignParams& attributes) {
  const Tensor grad_output = call.input(0), input = call.input(1), boxes = call.input(2);
  Inputs<RoiAlignParams> more(call, attributes, 3);
  const Optional indices = more.optional();
  RoiAlignProblem problem = make_roi_align(call.op(), more.params, input, boxes, indices.get());
  roi_align_backward(problem, grad_output, boxes, &input,
                     call.output(0, input.dtype, input_shape(problem)));
}

void compute_roi_align_backward_boxes(Call& call, const RoiAlignParams& attributes) {
  const Tensor grad_output = call.input(0), input = call.input(1), boxes = call.input(2);
  Inputs<RoiAlignParams> more(call, attributes, 3);
  const Optional indices = more.optional();
  RoiAlignProblem problem = make_roi_align(call.op(), more.params, input, boxes, indices.get());
  roi_align_backward_boxes(problem, grad_output, input, boxes,
                           call.output(0, boxes.dtype, shape_of(boxes)));
}

void compute_roi_align_jvp(Call& call, const RoiAlignParams& attributes) {
  const Tensor input_tangent = call.input(0), input = call.input(1), boxes = call.input(2);
  Inputs<RoiAlignParams> more(call, attributes, 3);
  const Optional indices = more.optional();
  RoiAlignProblem problem = make_roi_align(call.op(), more.params, input, boxes, indices.get());
  roi_align_jvp(problem, input_tangent, boxes, &input,
                call.output(0, input.dtype, pooled_shape(problem)));
}

void compute_roi_align_jvp_boxes(Call& call, const RoiAlignParams& attributes) {
  const Tensor input = call.input(0), boxes = call.input(1), boxes_tangent = call.input(2);
  Inputs<RoiAlignParams> more(call, attributes, 3);
  const Optional indices = more.optional();
  RoiAlignProblem problem = make_roi_align(call.op(), more.params, input, boxes, indices.get());
  roi_align_jvp_boxes(problem, input, boxes, boxes_tangent,
                      call.output(0, input.dtype, pooled_shape(problem)));
}

void compute_roi_align_jvp_boxes_backward(Call& call, const RoiAlignParams& attributes) {
  const Tensor grad_output = call.input(0), input = call.input(1), boxes = call.input(2);
  const Tensor boxes_tangent = call.input(3);
  Inputs<RoiAlignParams> more(call, attributes, 4);
  const Optional indices = more.optional();
  RoiAlignProblem problem = make_roi_align(call.op(), more.params, input, boxes, indices.get());
  roi_align_jvp_boxes_backward(problem, grad_output, boxes, boxes_tangent,
                               call.output(0, input.dtype, input_shape(problem)));
}

void compute_roi_pool(Call& call, const RoiPoolParams& attributes) {
  const Tensor input = call.input(0), boxes = call.input(1);
  Inputs<RoiPoolParams> more(call, attributes, 2);
  const Optional indices = more.optional();
  RoiPoolProblem problem = make_roi_pool(call.op(), more.params, input, boxes, indices.get());
  const Shape shape = pooled_shape(problem);
  const Tensor out = call.output(0, input.dtype, shape);
  const Optional argmax = call.outputs() > 1 ? Optional(call.output(1, kInt32, shape)) : Optional();
  roi_pool_forward(problem, input, boxes, out, argmax.get());
}

// The lists after the grid: argmax, there for mode max, then batch_indices. Which of them a single
// tensor is follows from the mode.
template <class Run>
void with_argmax(Call& call, const RoiPoolParams& attributes, int grid, const Run& run) {
  Inputs<RoiPoolParams> more(call, attributes, grid);
  const bool has_argmax = attributes.mode == static_cast<int32_t>(PoolMode::max);
  const Optional argmax = has_argmax ? more.optional() : Optional();
  const Optional indices = more.optional();
  run(more.params, argmax.get(), indices.get());
}

void compute_roi_pool_backward(Call& call, const RoiPoolParams& attributes) {
  const Tensor grad_output = call.input(0), input = call.input(1), boxes = call.input(2);
  with_argmax(call, attributes, 3, [&](const auto& params, auto* argmax, auto* indices) {
    RoiPoolProblem problem = make_roi_pool(call.op(), params, input, boxes, indices);
    roi_pool_backward(problem, grad_output, boxes, argmax,
                      call.output(0, input.dtype, input_shape(problem)));
  });
}

void compute_roi_pool_jvp(Call& call, const RoiPoolParams& attributes) {
  const Tensor input_tangent = call.input(0), boxes = call.input(1);
  with_argmax(call, attributes, 2, [&](const auto& params, auto* argmax, auto* indices) {
    RoiPoolProblem problem = make_roi_pool(call.op(), params, input_tangent, boxes, indices);
    roi_pool_jvp(problem, input_tangent, boxes, argmax,
                 call.output(0, input_tangent.dtype, pooled_shape(problem)));
  });
}

// A derivative that is not offered: an error when it is computed, if `refused` says so, and 0
// otherwise. It has no effect but that, so that TensorFlow leaves it out where nothing needs it.
struct Refusal {
  std::string sentence;
};

void compute_refusal(Call& call, const Refusal& refusal) {
  if (*static_cast<const bool*>(call.input(0).data))
    throw Error(ErrorKind::unsupported, refusal.sentence);
  *static_cast<float*>(call.output(0, kFloat32, Shape{}).data) = 0;
}

// ---- registration ------------------------------------------------------------------------------

std::string failure;  // why the operators are not there, or empty

void check(const Status& status) {
  if (!status.ok()) throw Error(ErrorKind::runtime, status.message());
}

void find_functions() {
  // It is in the process already: this library is loaded by TensorFlow.
  void* library = dlopen("libtensorflow_framework.so.2", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr)
    throw Error(ErrorKind::runtime, "libtensorflow_framework.so.2 is not loaded in this process");
  tf::visit_functions(api, [&](const char* name, auto& function) {
    void* address = dlsym(library, name);
    if (address == nullptr)
      throw Error(ErrorKind::runtime, std::string("TensorFlow has no ") + name);
    function = reinterpret_cast<std::decay_t<decltype(function)>>(address);
  });
}

void read_attributes(tf::KernelConstruction* construction, Refusal& refusal) {
  int32_t list_size = 0, length = 0;
  Status status;
  api.TF_OpKernelConstruction_GetAttrSize(construction, "sentence", &list_size, &length, status);
  check(status);
  refusal.sentence.resize(length);
  api.TF_OpKernelConstruction_GetAttrString(construction, "sentence", refusal.sentence.data(),
                                            length, status);
  check(status);
}

template <class Params>
void read_attributes(tf::KernelConstruction* construction, Params& params) {
  params = read_params<Params>(construction);
}

template <class Params>
void* create_kernel(tf::KernelConstruction* construction) {
  auto* attributes = new (std::nothrow) Params{};
  guarded(
      [&] {
        if (attributes == nullptr) throw std::bad_alloc();
        read_attributes(construction, *attributes);
      },
      [&](tf::Status* status) { api.TF_OpKernelConstruction_Failure(construction, status); });
  return attributes;
}

// One of these for every operator: its name is part of the type, as a C interface takes functions.
template <class Operator>
void compute_kernel(void* attributes, tf::KernelContext* context) {
  using Params = typename Operator::Params;
  guarded(
      [&] {
        Call call(Operator::name, context);
        Operator::compute(call, *static_cast<const Params*>(attributes));
      },
      [&](tf::Status* status) { api.TF_OpKernelContext_Failure(context, status); });
}

template <class Params>
void delete_kernel(void* attributes) {
  delete static_cast<Params*>(attributes);
}

struct Definition {
  const char* name;
  std::initializer_list<const char*> inputs;  // before grid
  std::initializer_list<const char*> lists;   // after grid, before batch_indices
  std::initializer_list<const char*> outputs;
  void (*infer)(tf::ShapeContext*, tf::Status*);
  bool has_argmax = false;
};

template <class ParamsType, Compute<ParamsType> function, const char* op>
struct Operator {
  using Params = ParamsType;
  static constexpr const char* name = op;
  static void compute(Call& call, const Params& attributes) { function(call, attributes); }
};

template <class Operator>
void register_all(const char* name, tf::OpDefinition* definition) {
  using Params = typename Operator::Params;
  Status status;
  api.TF_RegisterOpDefinition(definition, status);
  check(status);
  tf::KernelBuilder* kernel = api.TF_NewKernelBuilder(
      name, "CPU", create_kernel<Params>, compute_kernel<Operator>, delete_kernel<Params>);
  api.TF_RegisterKernelBuilder(name, kernel, status);
  check(status);
}

template <class Operator>
void define(const Definition& what) {
  tf::OpDefinition* op = api.TF_NewOpDefinitionBuilder(what.name);
  const auto input = [&](const char* spec) { api.TF_OpDefinitionBuilderAddInput(op, spec); };
  const auto attribute = [&](const char* spec) { api.TF_OpDefinitionBuilderAddAttr(op, spec); };
  for (const char* spec : what.inputs) input(spec);
  input("grid: uint8");
  for (const char* spec : what.lists) input(spec);
  input("batch_indices: num_indices * int64");  // a type to infer would cost a call 0.4 us
  for (const char* spec : what.outputs) api.TF_OpDefinitionBuilderAddOutput(op, spec);
  attribute("T: {half, bfloat16, float, double}");
  attribute(
      "B: {half, bfloat16, float, double, int8, int16, int32, int64, uint8, uint16, uint32, "
      "uint64}");
  attribute("num_indices: int >= 0");
  if (what.has_argmax) attribute("num_argmax: int >= 0");
  attribute("params: list(int)");
  api.TF_OpDefinitionBuilderSetShapeInferenceFunction(op, what.infer);
  register_all<Operator>(what.name, op);
}

constexpr char kRoiAlign[] = "roi_align";
constexpr char kRoiAlignBackward[] = "roi_align_backward";
constexpr char kRoiAlignBackwardBoxes[] = "roi_align_backward_boxes";
constexpr char kRoiAlignJvp[] = "roi_align_jvp";
constexpr char kRoiAlignJvpBoxes[] = "roi_align_jvp_boxes";
constexpr char kRoiAlignJvpBoxesBackward[] = "roi_align_jvp_boxes_backward";
constexpr char kRoiPool[] = "roi_pool";
constexpr char kRoiPoolBackward[] = "roi_pool_backward";
constexpr char kRoiPoolJvp[] = "roi_pool_jvp";
constexpr char kRefusal[] = "roi_align";

void define_refusal() {
  tf::OpDefinition* op = api.TF_NewOpDefinitionBuilder("RoidlRefusal");
  api.TF_OpDefinitionBuilderAddInput(op, "refused: bool");
  api.TF_OpDefinitionBuilderAddOutput(op, "zero: float");
  api.TF_OpDefinitionBuilderAddAttr(op, "sentence: string");
  api.TF_OpDefinitionBuilderSetShapeInferenceFunction(op, infer_like<0>);
  register_all<Operator<Refusal, compute_refusal, kRefusal>>("RoidlRefusal", op);
}

void define_all() {
  constexpr const char* argmax = "argmax: num_argmax * int32";
  define<Operator<RoiAlignParams, compute_roi_align, kRoiAlign>>(
      {"RoidlRoiAlign", {"input: T", "boxes: B"}, {}, {"pooled: T"}, infer_pooled<0, 1, 2>});
  define<Operator<RoiAlignParams, compute_roi_align_backward, kRoiAlignBackward>>(
      {"RoidlRoiAlignBackward",
       {"grad_output: T", "input: T", "boxes: B"},
       {},
       {"grad_input: T"},
       infer_like<1>});
  define<Operator<RoiAlignParams, compute_roi_align_backward_boxes, kRoiAlignBackwardBoxes>>(
      {"RoidlRoiAlignBackwardBoxes",
       {"grad_output: T", "input: T", "boxes: B"},
       {},
       {"grad_boxes: B"},
       infer_like<2>});
  define<Operator<RoiAlignParams, compute_roi_align_jvp, kRoiAlignJvp>>(
      {"RoidlRoiAlignJvp",
       {"input_tangent: T", "input: T", "boxes: B"},
       {},
       {"pooled_tangent: T"},
       infer_pooled<0, 2, 3>});
  define<Operator<RoiAlignParams, compute_roi_align_jvp_boxes, kRoiAlignJvpBoxes>>(
      {"RoidlRoiAlignJvpBoxes",
       {"input: T", "boxes: B", "boxes_tangent: B"},
       {},
       {"pooled_tangent: T"},
       infer_pooled<0, 1, 3>});
  define<Operator<RoiAlignParams, compute_roi_align_jvp_boxes_backward, kRoiAlignJvpBoxesBackward>>(
      {"RoidlRoiAlignJvpBoxesBackward",
       {"grad_output: T", "input: T", "boxes: B", "boxes_tangent: B"},
       {},
       {"grad_input: T"},
       infer_like<1>});
  define<Operator<RoiPoolParams, compute_roi_pool, kRoiPool>>({"RoidlRoiPool",
                                                               {"input: T", "boxes: B"},
                                                               {},
                                                               {"pooled: T", argmax},
                                                               infer_pooled<0, 1, 2, 2>,
                                                               true});
  define<Operator<RoiPoolParams, compute_roi_pool_backward, kRoiPoolBackward>>(
      {"RoidlRoiPoolBackward",
       {"grad_output: T", "input: T", "boxes: B"},
       {argmax},
       {"grad_input: T"},
       infer_like<1>,
       true});
  define<Operator<RoiPoolParams, compute_roi_pool_jvp, kRoiPoolJvp>>(
      {"RoidlRoiPoolJvp",
       {"input_tangent: T", "boxes: B"},
       {argmax},
       {"pooled_tangent: T"},
       infer_pooled<0, 1, 2>,
       true});
}

[[maybe_unused]] const bool registered = [] {
  try {
    find_functions();
    define_all();
    define_refusal();
    return true;
  } catch (const std::exception& error) {
    failure = error.what();
    return false;
  }
}();

}  // namespace

}  // namespace roidl::bridge

// Why the operators could not be registered; empty if they were.
extern "C" __attribute__((visibility("default"))) const char* roidl_tensorflow_failure() {
  return roidl::bridge::failure.c_str();
}
