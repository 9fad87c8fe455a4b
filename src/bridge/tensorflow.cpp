// The operators as TensorFlow's: definitions, shape functions and kernels, registered through its C
// API when tf.load_op_library loads this library.
#include <dlfcn.h>

#include <cctype>
#include <initializer_list>
#include <string>
#include <utility>

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

// A kernel of TensorFlow's: what it is made with, and what it computes.
template <int index, bool on_several_maps, bool makes_optional>
struct OperatorKernel {
  using Attributes = bridge::Attributes;
  static constexpr const Operator& op = kOperators[index];
  static constexpr bool several = on_several_maps, optional = makes_optional;

  static const char* called() {
    static const std::string name = std::string(several ? "multiscale_" : "") + op.name;
    return name.c_str();
  }
  static void read(tf::KernelConstruction* construction, Attributes& attributes) {
    read_attributes(construction, op.family, several, attributes);
  }
  static void compute(Call& call, const Attributes& attributes) {
    compute_operator(op, optional, call, attributes);
  }
};

struct LevelsKernel {
  using Attributes = LevelsRule;
  static const char* called() { return "assign_levels"; }
  static void read(tf::KernelConstruction* construction, Attributes& attributes) {
    read_attributes(construction, attributes);
  }
  static void compute(Call& call, const Attributes& attributes) {
    compute_assign_levels(call, attributes);
  }
};

struct RefusalKernel {
  using Attributes = Refusal;
  static const char* called() { return "roidl"; }
  static void read(tf::KernelConstruction* construction, Attributes& attributes) {
    read_attributes(construction, attributes);
  }
  static void compute(Call& call, const Attributes& attributes) {
    compute_refusal(call, attributes);
  }
};

template <class Kernel>
void* create_kernel(tf::KernelConstruction* construction) {
  auto* attributes = new (std::nothrow) typename Kernel::Attributes{};
  guarded(
      [&] {
        if (attributes == nullptr) throw std::bad_alloc();
        Kernel::read(construction, *attributes);
      },
      [&](tf::Status* status) { api.TF_OpKernelConstruction_Failure(construction, status); });
  return attributes;
}

template <class Kernel, bool on_gpu>
void compute_kernel(void* attributes, tf::KernelContext* context) {
  guarded(
      [&] {
        Call call(Kernel::called(), context, on_gpu);
        Kernel::compute(call, *static_cast<const typename Kernel::Attributes*>(attributes));
      },
      [&](tf::Status* status) { api.TF_OpKernelContext_Failure(context, status); });
}

template <class Attributes>
void delete_kernel(void* attributes) {
  delete static_cast<Attributes*>(attributes);
}

// ---- definitions -------------------------------------------------------------------------------

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
  template <class Kernel>
  void finish(void (*infer)(tf::ShapeContext*, tf::Status*),
              std::initializer_list<const char*> on_host) {
    api.TF_OpDefinitionBuilderSetShapeInferenceFunction(op_, infer);
    Status status;
    api.TF_RegisterOpDefinition(op_, status);
    check(status);
    const auto add = [&](const char* device, auto* compute,
                         std::initializer_list<const char*> names) {
      tf::KernelBuilder* kernel =
          api.TF_NewKernelBuilder(name_.c_str(), device, create_kernel<Kernel>, compute,
                                  delete_kernel<typename Kernel::Attributes>);
      for (const char* name : names) api.TF_KernelBuilder_HostMemory(kernel, name);
      api.TF_RegisterKernelBuilder(name_.c_str(), kernel, status);
      check(status);
    };
    add("CPU", compute_kernel<Kernel, false>, {});
    if (cuda_library() != nullptr) add("GPU", compute_kernel<Kernel, true>, on_host);
  }

 private:
  std::string name_;
  tf::OpDefinition* op_;
};

// roi_align as RoiAlign: TensorFlow makes the one of the other for Python.
std::string capitalised(const char* name) {
  std::string result;
  bool first = true;
  for (; *name != '\0'; ++name) {
    if (*name != '_') result += first ? static_cast<char>(std::toupper(*name)) : *name;
    first = *name == '_';
  }
  return result;
}

std::string spec(const char* name, Role role, bool several) {
  const char* const type = role == Role::argmax ? "int32" : role == Role::boxes ? "B" : "T";
  return std::string(name) + (several && role == Role::maps ? ": num_maps * " : ": ") + type;
}

template <class Kernel>
void define() {
  constexpr const Operator& op = Kernel::op;
  std::string name = std::string(Kernel::several ? "RoidlMultiscale" : "Roidl");
  name += capitalised(op.name);
  if (Kernel::optional) name += capitalised(op.writes[1].name);
  Builder builder(name);
  builder.input("boxes: B");
  builder.input("grid: uint8");
  for (int i = 0; i < op.num_reads(); ++i)
    builder.input(spec(op.reads[i].name, op.reads[i].role, Kernel::several));
  if (needs_shapes(op)) builder.input(spec("input", Role::maps, Kernel::several));
  builder.optional("batch_indices", "num_indices");
  if (Kernel::several) {
    builder.optional("levels", "num_levels");
    builder.optional("counts", "num_counts");
    builder.attribute("num_maps: int >= 1");
  }
  for (int i = 0; i < op.num_writes(); ++i)
    if (Kernel::optional || !op.writes[i].optional)
      builder.output(spec(op.writes[i].name, op.writes[i].role, Kernel::several));
  builder.attribute(std::string("T: ") + kFloats);
  builder.attribute(kNumbers);
  builder.attribute("params: string");
  constexpr int maps = place_of_maps(op);
  constexpr bool channels_per_bin = family_of(op).channels_per_bin;
  constexpr Role made = op.writes[0].role;
  if constexpr (made == Role::maps)
    builder.finish<Kernel>(infer_maps<maps>, {"grid"});
  else if constexpr (made == Role::boxes)
    builder.finish<Kernel>(infer_like<0>, {"grid"});
  else
    builder.finish<Kernel>(infer_pooled < maps, channels_per_bin, Kernel::optional ? 2 : 1 >,
                           {"grid"});
}

// An operator on one map and on several, each without what is optional and, if there is such, with.
template <int index>
void define_operator() {
  define<OperatorKernel<index, false, false>>();
  define<OperatorKernel<index, true, false>>();
  if constexpr (kOperators[index].writes[1].optional) {
    define<OperatorKernel<index, false, true>>();
    define<OperatorKernel<index, true, true>>();
  }
}

template <int... index>
void define_operators(std::integer_sequence<int, index...>) {
  (..., define_operator<index>());
}

void define_the_rest() {
  Builder levels("RoidlAssignLevels");
  levels.input("boxes: B");
  levels.output("levels: int32");
  levels.attribute(kNumbers);
  levels.attribute("params: string");
  levels.finish<LevelsKernel>(infer_levels, {});

  Builder refusal("RoidlRefusal");
  refusal.input("refused: bool");
  refusal.output("zero: float");
  refusal.attribute("sentence: string");
  refusal.finish<RefusalKernel>(infer_like<0>, {"refused", "zero"});
}

[[maybe_unused]] const bool registered = [] {
  try {
    find_functions();
    define_operators(std::make_integer_sequence<int, kNumOperators>{});
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
