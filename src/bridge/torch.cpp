// The operators as PyTorch calls them: defined in its dispatcher when this library is loaded, with
// kernels that are one template for all operators of the catalogue, through the stable C interface
// of libtorch_cpu.so.
#include <dlfcn.h>

#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "abi/torch.h"
#include "bridge/torch_call.h"
#include "cpu/parallel.h"
#include "pyramid.h"

namespace roidl::bridge {

abi::TorchShim shim{};
abi::TorchCudaShim cuda_shim{};
abi::TorchTagShim tag_shim{};

namespace {

template <int index>
const Definition& definition_at() {
  static const Definition made = definition(index);
  return made;
}

// PyTorch makes a RuntimeError of any exception, but 2.13 a ValueError of invalid_argument; the
// name in front tells _library.py which of Python's was meant.
[[noreturn]] void rethrow(const Error& error) {
  const char* const names[] = {"ValueError", "TypeError", "NotImplementedError", "RuntimeError"};
  if (error.kind() == ErrorKind::value) throw std::invalid_argument(error.what());
  throw std::runtime_error(std::string(names[static_cast<int>(error.kind())]) + ": " +
                           error.what());
}

template <int index>
void call(abi::StableIValue* values, uint64_t, uint64_t) {
  const Definition& called = definition_at<index>();
  const char* const name = called.name.c_str();
  try {
    uint32_t threads = 1;
    check_shim(name, shim.torch_get_num_threads(&threads));
    const cpu::ThreadLimit limit(static_cast<int>(threads));
    Stack stack(name, called.signature, values);
    if (called.op == nullptr)
      call_assign_levels(stack);
    else
      call_operator(*called.op, called.several, stack);
  } catch (const Error& error) {
    rethrow(error);
  }
}

using AllIndices = std::make_integer_sequence<int, kNumDefinitions>;

template <int... index>
bool define_schemas(abi::TorchLibraryHandle library, std::integer_sequence<int, index...>) {
  // Who traces asks for the tag. PyTorch before 2.12 does without.
  const bool has_tags = tag_shim.torch_library_def_with_tags != nullptr;
  const int32_t compliant = has_tags ? tag_shim.torch_tag_pt2_compliant_tag() : 0;
  const auto define = [&](const std::string& schema) {
    if (!has_tags) return shim.aoti_torch_library_def(library, schema.c_str()) == 0;
    return tag_shim.torch_library_def_with_tags(library, schema.c_str(), &compliant, 1) == 0;
  };
  return (... && define(definition_at<index>().schema));
}

template <int... index>
bool register_kernels(abi::TorchLibraryHandle library, std::integer_sequence<int, index...>) {
  return (... && (shim.aoti_torch_library_impl(library, definition_at<index>().name.c_str(),
                                               call<index>) == 0));
}

// Libraries of the dispatcher live as long as the process. These return NULL, or what went wrong.

const char* define() {
  abi::TorchLibraryHandle library = nullptr;
  if (shim.aoti_torch_library_init_def("roidl", "roidl", 1, &library) != 0)
    return "aoti_torch_library_init_def failed";
  return define_schemas(library, AllIndices{}) ? nullptr : "aoti_torch_library_def failed";
}

const char* register_for(const char* dispatch_key) {
  abi::TorchLibraryHandle library = nullptr;
  if (shim.aoti_torch_library_init_impl("roidl", dispatch_key, "roidl", 1, &library) != 0)
    return "aoti_torch_library_init_impl failed";
  return register_kernels(library, AllIndices{}) ? nullptr : "aoti_torch_library_impl failed";
}

// Finds the symbols in a library that is loaded; returns NULL, or what is missing.
template <class Shim>
const char* find_symbols(const char* library, Shim& symbols) {
  void* loaded = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
  if (loaded == nullptr) return library;
  const char* missing = nullptr;
  abi::visit_symbols(symbols, [&](const char* symbol, auto& function) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(loaded, symbol));
    if (function == nullptr) missing = symbol;
  });
  return missing;
}

const char* define_and_register() {
  constexpr const char* kLibrary = "libtorch_cpu.so";
  if (const char* missing = find_symbols(kLibrary, shim)) return missing;
  if (find_symbols(kLibrary, tag_shim) != nullptr) tag_shim = {};
  if (const char* problem = define()) return problem;
  if (const char* problem = register_for("CPU")) return problem;
  const bool has_cuda = find_symbols("libtorch_cuda.so", cuda_shim) == nullptr;
  return has_cuda ? register_for("CUDA") : nullptr;
}

template <int... index>
std::string all_schemas(std::integer_sequence<int, index...>) {
  return (... + (definition_at<index>().schema + "\n"));
}

}  // namespace

}  // namespace roidl::bridge

extern "C" {

// Defines the operators, with kernels for CPU, and for CUDA where PyTorch is built for it, if that
// was not done yet. Returns NULL, or why there are none: libtorch_cpu.so if PyTorch is not loaded,
// else the name of a symbol that an older one lacks.
__attribute__((visibility("default"))) const char* roidl_torch_register() {
  static std::mutex mutex;
  static bool done = false;
  const std::lock_guard<std::mutex> lock(mutex);
  if (done) return nullptr;
  const char* const problem = roidl::bridge::define_and_register();
  done = problem == nullptr;
  return problem;
}

// A line for each operator, for who has to define them for an older PyTorch.
__attribute__((visibility("default"))) const char* roidl_torch_schemas() {
  static const std::string schemas = roidl::bridge::all_schemas(roidl::bridge::AllIndices{});
  return schemas.c_str();
}

}  // extern "C"

namespace {

// A program without Python needs no more than to load this library after PyTorch's.
[[maybe_unused]] const char* const at_load = roidl_torch_register();

}  // namespace
