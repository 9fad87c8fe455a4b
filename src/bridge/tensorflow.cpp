// The operators as TensorFlow's: definitions, shape functions and kernels, registered through its C
// API when tf.load_op_library loads this library.
#include <dlfcn.h>

#include <cstring>
#include <initializer_list>
#include <string>

#include "bridge/tensorflow_operators.h"
#include "bridge/tensorflow_shapes.h"

namespace roidl::bridge {

tf::Functions api{};

namespace {

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

// ---- kernels -----------------------------------------------------------------------------------

// The name, in a type of its own as a C interface takes functions, is the operator's on several
// maps; one map's is what follows "multiscale_".
template <class AttributesType, void (*function)(Call&, const AttributesType&), const char* op>
struct Operator {
  using Attributes = AttributesType;
  static constexpr const char* name = op;
  static void compute(Call& call, const Attributes& attributes) { function(call, attributes); }
};

// What an operator on several maps is called on one.
const char* on_one_map(const char* name) {
  constexpr const char* prefix = "multiscale_";
  const size_t length = std::strlen(prefix);
  return std::strncmp(name, prefix, length) == 0 ? name + length : name;
}

template <class Attributes, bool several>
void* create_kernel(tf::KernelConstruction* construction) {
  auto* attributes = new (std::nothrow) Attributes{};
  guarded(
      [&] {
        if (attributes == nullptr) throw std::bad_alloc();
        read_attributes(construction, several, *attributes);
      },
      [&](tf::Status* status) { api.TF_OpKernelConstruction_Failure(construction, status); });
  return attributes;
}

template <class Operator, bool several, bool on_gpu>
void compute_kernel(void* attributes, tf::KernelContext* context) {
  guarded(
      [&] {
        Call call(several ? Operator::name : on_one_map(Operator::name), context, on_gpu);
        Operator::compute(call, *static_cast<const typename Operator::Attributes*>(attributes));
      },
      [&](tf::Status* status) { api.TF_OpKernelContext_Failure(context, status); });
}

template <class Attributes>
void delete_kernel(void* attributes) {
  delete static_cast<Attributes*>(attributes);
}

// ---- definitions -------------------------------------------------------------------------------

enum class Kind { pooled, map, like_boxes, argmax };  // of an input or an output

struct Argument {
  const char* name;
  Kind kind;

  std::string spec(bool several) const {
    const char* type = kind == Kind::argmax ? "int32" : kind == Kind::like_boxes ? "B" : "T";
    return std::string(name) + (several && kind == Kind::map ? ": num_maps * " : ": ") + type;
  }
};

struct Definition {
  const char* name;                     // what follows "Roidl" or "RoidlMultiscale"
  std::initializer_list<Argument> own;  // after boxes and grid, before the lists
  std::initializer_list<Argument> outputs;
  void (*infer)(tf::ShapeContext*, tf::Status*);
};

constexpr const char* kFloats = "{half, bfloat16, float, double}";
constexpr const char* kNumbers =
    "B: {half, bfloat16, float, double, int8, int16, int32, int64, uint8, uint16, uint32, uint64}";

class Builder {
 public:
  explicit Builder(const std::string& name)
      : name_(name), op_(api.TF_NewOpDefinitionBuilder(name.c_str())) {}

  void input(const std::string& spec) { api.TF_OpDefinitionBuilderAddInput(op_, spec.c_str()); }
  void output(const std::string& spec) { api.TF_OpDefinitionBuilderAddOutput(op_, spec.c_str()); }
  void attribute(const std::string& spec) { api.TF_OpDefinitionBuilderAddAttr(op_, spec.c_str()); }
  // A list of no or one tensor; a type to infer would cost a call 0.4 us.
  void optional(const std::string& name, const std::string& count) {
    input(name + ": " + count + " * int64");
    attribute(count + ": int >= 0");
  }

  // `on_host`: what a kernel for a GPU has in the host's memory all the same.
  template <class Operator, bool several>
  void finish(void (*infer)(tf::ShapeContext*, tf::Status*),
              std::initializer_list<const char*> on_host) {
    api.TF_OpDefinitionBuilderSetShapeInferenceFunction(op_, infer);
    Status status;
    api.TF_RegisterOpDefinition(op_, status);
    check(status);
    const auto add = [&](const char* device, auto* compute,
                         std::initializer_list<const char*> names) {
      using Attributes = typename Operator::Attributes;
      tf::KernelBuilder* kernel =
          api.TF_NewKernelBuilder(name_.c_str(), device, create_kernel<Attributes, several>,
                                  compute, delete_kernel<Attributes>);
      for (const char* name : names) api.TF_KernelBuilder_HostMemory(kernel, name);
      api.TF_RegisterKernelBuilder(name_.c_str(), kernel, status);
      check(status);
    };
    add("CPU", compute_kernel<Operator, several, false>, {});
    if (cuda_library() != nullptr) add("GPU", compute_kernel<Operator, several, true>, on_host);
  }

 private:
  std::string name_;
  tf::OpDefinition* op_;
};

template <class Operator, bool several>
void define_one(const Definition& what) {
  Builder op(std::string(several ? "RoidlMultiscale" : "Roidl") + what.name);
  op.input("boxes: B");
  op.input("grid: uint8");
  for (const Argument& argument : what.own) op.input(argument.spec(several));
  op.optional("batch_indices", "num_indices");
  if (several) {
    op.optional("levels", "num_levels");
    op.optional("counts", "num_counts");
    op.attribute("num_maps: int >= 1");
  }
  for (const Argument& argument : what.outputs) op.output(argument.spec(several));
  op.attribute(std::string("T: ") + kFloats);
  op.attribute(kNumbers);
  op.attribute("params: string");
  op.finish<Operator, several>(what.infer, {"grid"});
}

// On one map and on several.
template <class Operator>
void define(const Definition& what) {
  define_one<Operator, false>(what);
  define_one<Operator, true>(what);
}

constexpr char kRoiAlign[] = "multiscale_roi_align";
constexpr char kRoiAlignBackward[] = "multiscale_roi_align_backward";
constexpr char kRoiAlignBackwardBoxes[] = "multiscale_roi_align_backward_boxes";
constexpr char kRoiAlignJvp[] = "multiscale_roi_align_jvp";
constexpr char kRoiAlignJvpBoxes[] = "multiscale_roi_align_jvp_boxes";
constexpr char kRoiAlignJvpBoxesBackward[] = "multiscale_roi_align_jvp_boxes_backward";
constexpr char kRoiPool[] = "multiscale_roi_pool";
constexpr char kRoiPoolArgmax[] = "multiscale_roi_pool";
constexpr char kRoiPoolBackward[] = "multiscale_roi_pool_backward";
constexpr char kRoiPoolJvp[] = "multiscale_roi_pool_jvp";
constexpr char kAssignLevels[] = "assign_levels";

void define_operators() {
  constexpr Argument pooled{"pooled", Kind::pooled}, input{"input", Kind::map};
  constexpr Argument grad_output{"grad_output", Kind::pooled}, grad_input{"grad_input", Kind::map};
  constexpr Argument input_tangent{"input_tangent", Kind::map};
  constexpr Argument boxes_tangent{"boxes_tangent", Kind::like_boxes};
  constexpr Argument grad_boxes{"grad_boxes", Kind::like_boxes}, argmax{"argmax", Kind::argmax};
  define<Operator<Align, compute_roi_align, kRoiAlign>>(
      {"RoiAlign", {input}, {pooled}, infer_pooled<2>});
  define<Operator<Align, compute_roi_align_backward, kRoiAlignBackward>>(
      {"RoiAlignBackward", {grad_output, input}, {grad_input}, infer_maps<3>});
  define<Operator<Align, compute_roi_align_backward_boxes, kRoiAlignBackwardBoxes>>(
      {"RoiAlignBackwardBoxes", {grad_output, input}, {grad_boxes}, infer_like<0>});
  define<Operator<Align, compute_roi_align_jvp, kRoiAlignJvp>>(
      {"RoiAlignJvp", {input_tangent, input}, {pooled}, infer_pooled<2>});
  define<Operator<Align, compute_roi_align_jvp_boxes, kRoiAlignJvpBoxes>>(
      {"RoiAlignJvpBoxes", {boxes_tangent, input}, {pooled}, infer_pooled<3>});
  define<Operator<Align, compute_roi_align_jvp_boxes_backward, kRoiAlignJvpBoxesBackward>>(
      {"RoiAlignJvpBoxesBackward",
       {grad_output, boxes_tangent, input},
       {grad_input},
       infer_maps<4>});
  define<Operator<Pool, compute_roi_pool, kRoiPool>>(
      {"RoiPool", {input}, {pooled}, infer_pooled<2>});
  define<Operator<Pool, compute_roi_pool_argmax, kRoiPoolArgmax>>(
      {"RoiPoolArgmax", {input}, {pooled, argmax}, infer_pooled<2, 2>});
  define<Operator<Pool, compute_roi_pool_backward, kRoiPoolBackward>>(
      {"RoiPoolBackward", {grad_output, argmax, input}, {grad_input}, infer_maps<4>});
  define<Operator<Pool, compute_roi_pool_jvp, kRoiPoolJvp>>(
      {"RoiPoolJvp", {argmax, input_tangent}, {pooled}, infer_pooled<3>});
}

void define_the_rest() {
  Builder levels("RoidlAssignLevels");
  levels.input("boxes: B");
  levels.output("levels: int32");
  levels.attribute(kNumbers);
  levels.attribute("params: string");
  levels.finish<Operator<Rule, compute_assign_levels, kAssignLevels>, true>(infer_levels, {});

  Builder refusal("RoidlRefusal");
  refusal.input("refused: bool");
  refusal.output("zero: float");
  refusal.attribute("sentence: string");
  refusal.finish<Operator<Refusal, compute_refusal, kRoiAlign>, true>(infer_like<0>,
                                                                      {"refused", "zero"});
}

[[maybe_unused]] const bool registered = [] {
  try {
    find_functions();
    define_operators();
    define_the_rest();
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
