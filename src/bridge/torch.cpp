// The operators as PyTorch calls them: kernels for its dispatcher, registered through the stable C
// interface of libtorch_cpu.so. The schemas are python/roidl/torch/_library.py's.
#include <dlfcn.h>

#include <exception>
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

namespace {

// ---- kernels -----------------------------------------------------------------------------------

void align(Stack& stack) {
  const MapList input = stack.maps("input");
  const Regions r = read_regions(stack);
  const auto asked = read_asked<RoiAlignParams>(stack, r);
  RoiAlignProblem problem = make_problem(stack, asked, input, r);
  const Tensor out = make_pooled(stack, 0, problem, input, problem.dtype);
  roi_align_forward(problem, input.needed(stack.op()), r.boxes, out);
  stack.finish(1);
}

void align_backward(Stack& stack) {
  const Tensor gradient = stack.tensor("grad_output");
  const Regions r = read_regions(stack);
  const MapList input = stack.maps("input");
  const MapShapes shapes = read_map_shapes(stack);
  const auto asked = read_asked<RoiAlignParams>(stack, r);
  const MapList described = describe_maps(stack, shapes, gradient, r.boxes, asked.params.layout);
  RoiAlignProblem problem = make_problem(stack, asked, described, r);
  const MapList out = make_maps(stack, problem, shapes);
  roi_align_backward(problem, gradient, r.boxes, input.if_any(stack.op()), out.needed(stack.op()));
  stack.finish_maps(problem.num_maps);
}

void align_backward_boxes(Stack& stack) {
  const Tensor gradient = stack.tensor("grad_output");
  const Regions r = read_regions(stack);
  const MapList input = stack.maps("input");
  const auto asked = read_asked<RoiAlignParams>(stack, r);
  RoiAlignProblem problem = make_problem(stack, asked, input, r);
  check_float(stack.op(), "boxes", r.boxes);
  const Tensor out = make_result(stack, 0, shape_of(r.boxes), false, r.boxes.dtype);
  roi_align_backward_boxes(problem, gradient, input.needed(stack.op()), r.boxes, out);
  stack.finish(1);
}

void align_jvp(Stack& stack) {
  const MapList tangent = stack.maps("input_tangent");
  const Regions r = read_regions(stack);
  const MapList input = stack.maps("input");
  const auto asked = read_asked<RoiAlignParams>(stack, r);
  RoiAlignProblem problem = make_problem(stack, asked, tangent, r);
  const Tensor out = make_pooled(stack, 0, problem, tangent, problem.dtype);
  roi_align_jvp(problem, tangent.needed(stack.op()), r.boxes, input.if_any(stack.op()), out);
  stack.finish(1);
}

void align_jvp_boxes(Stack& stack) {
  const MapList input = stack.maps("input");
  const Regions r = read_regions(stack);
  const Tensor tangent = stack.tensor("boxes_tangent");
  const auto asked = read_asked<RoiAlignParams>(stack, r);
  RoiAlignProblem problem = make_problem(stack, asked, input, r);
  const Tensor out = make_pooled(stack, 0, problem, input, problem.dtype);
  roi_align_jvp_boxes(problem, input.needed(stack.op()), r.boxes, tangent, out);
  stack.finish(1);
}

void align_jvp_boxes_backward(Stack& stack) {
  const Tensor gradient = stack.tensor("grad_output");
  const Regions r = read_regions(stack);
  const Tensor tangent = stack.tensor("boxes_tangent");
  const MapShapes shapes = read_map_shapes(stack);
  const auto asked = read_asked<RoiAlignParams>(stack, r);
  const MapList described = describe_maps(stack, shapes, gradient, r.boxes, asked.params.layout);
  RoiAlignProblem problem = make_problem(stack, asked, described, r);
  const MapList out = make_maps(stack, problem, shapes);
  roi_align_jvp_boxes_backward(problem, gradient, r.boxes, tangent, out.needed(stack.op()));
  stack.finish_maps(problem.num_maps);
}

void pool(Stack& stack) {
  const MapList input = stack.maps("input");
  const Regions r = read_regions(stack);
  bool return_argmax = false;
  stack.read(return_argmax);
  const auto asked = read_asked<RoiPoolParams>(stack, r);
  RoiPoolProblem problem = make_problem(stack, asked, input, r);
  const Tensor out = make_pooled(stack, 0, problem, input, problem.dtype);
  const Tensor argmax = return_argmax ? make_pooled(stack, 1, problem, input, kInt32)
                                      : make_result(stack, 1, Shape{1, {0}}, false, kInt32);
  roi_pool_forward(problem, input.needed(stack.op()), r.boxes, out,
                   return_argmax ? &argmax : nullptr);
  stack.finish(2);
}

void pool_backward(Stack& stack) {
  const Tensor gradient = stack.tensor("grad_output");
  const Regions r = read_regions(stack);
  const auto argmax = stack.optional_tensor("argmax");
  const MapShapes shapes = read_map_shapes(stack);
  const auto asked = read_asked<RoiPoolParams>(stack, r);
  const MapList described = describe_maps(stack, shapes, gradient, r.boxes, asked.params.layout);
  RoiPoolProblem problem = make_problem(stack, asked, described, r);
  const MapList out = make_maps(stack, problem, shapes);
  roi_pool_backward(problem, gradient, r.boxes, pointer(argmax), out.needed(stack.op()));
  stack.finish_maps(problem.num_maps);
}

void pool_jvp(Stack& stack) {
  const MapList tangent = stack.maps("input_tangent");
  const Regions r = read_regions(stack);
  const auto argmax = stack.optional_tensor("argmax");
  const auto asked = read_asked<RoiPoolParams>(stack, r);
  RoiPoolProblem problem = make_problem(stack, asked, tangent, r);
  const Tensor out = make_pooled(stack, 0, problem, tangent, problem.dtype);
  roi_pool_jvp(problem, tangent.needed(stack.op()), r.boxes, pointer(argmax), out);
  stack.finish(1);
}

// The rule alone, whose schema begins with the boxes.
void levels(Stack& stack) {
  const Tensor boxes = stack.tensor("boxes");
  Pyramid pyramid;
  const int64_t maps = stack.read_list(pyramid.scales, kMaxMaps);
  stack.read(pyramid.canonical_scale);
  stack.read(pyramid.canonical_level);
  if (maps < 1 || maps > kMaxMaps)
    fail(ErrorKind::value, stack.op(), "from 1 to ", kMaxMaps, " scales are understood, got ",
         maps);
  Shape shape = shape_of(boxes);
  if (shape.ndim > 0) --shape.ndim;
  const Tensor out = make_result(stack, 0, shape, false, kInt32);
  assign_levels(stack.op(), pyramid, static_cast<int>(maps), boxes, static_cast<int32_t*>(out.data),
                stack.stream());
  stack.finish(1);
}

// ---- registration ------------------------------------------------------------------------------

struct Kernel {
  const char* op;
  const char* owned;  // as Stack understands it
  void (*body)(Stack&);
  bool several = false;
};

constexpr Kernel kKernels[] = {
    {"roi_align", "tto", align},
    {"roi_align_backward", "ttoo", align_backward},
    {"roi_align_backward_boxes", "ttot", align_backward_boxes},
    {"roi_align_jvp", "ttoo", align_jvp},
    {"roi_align_jvp_boxes", "ttot", align_jvp_boxes},
    {"roi_align_jvp_boxes_backward", "ttot", align_jvp_boxes_backward},
    {"roi_pool", "tto", pool},
    {"roi_pool_backward", "ttoo", pool_backward},
    {"roi_pool_jvp", "ttoo", pool_jvp},
    {"multiscale_roi_align", "TtoooN", align, true},
    {"multiscale_roi_align_backward", "ttoooTnNNN", align_backward, true},
    {"multiscale_roi_align_backward_boxes", "ttoooTN", align_backward_boxes, true},
    {"multiscale_roi_align_jvp", "TtoooTN", align_jvp, true},
    {"multiscale_roi_align_jvp_boxes", "TtoootN", align_jvp_boxes, true},
    {"multiscale_roi_align_jvp_boxes_backward", "ttoootnNNN", align_jvp_boxes_backward, true},
    {"multiscale_roi_pool", "TtooonN", pool, true},
    {"multiscale_roi_pool_backward", "ttoooonNNN", pool_backward, true},
    {"multiscale_roi_pool_jvp", "TtooooN", pool_jvp, true},
    {"assign_levels", "tN", levels, true},
};
constexpr int kNumKernels = sizeof kKernels / sizeof kKernels[0];

// PyTorch makes a RuntimeError of any exception, but 2.13 a ValueError of invalid_argument; the
// name in front tells _calls.py which of Python's was meant.
[[noreturn]] void rethrow(const Error& error) {
  const char* const names[] = {"ValueError", "TypeError", "NotImplementedError", "RuntimeError"};
  if (error.kind() == ErrorKind::value) throw std::invalid_argument(error.what());
  throw std::runtime_error(std::string(names[static_cast<int>(error.kind())]) + ": " +
                           error.what());
}

template <int index>
void call(abi::StableIValue* values, uint64_t arguments, uint64_t) {
  constexpr Kernel kernel = kKernels[index];
  try {
    uint32_t threads = 1;
    check_shim(kernel.op, shim.torch_get_num_threads(&threads));
    const cpu::ThreadLimit limit(static_cast<int>(threads));
    Stack stack(kernel.op, kernel.owned, kernel.several, values, arguments);
    kernel.body(stack);
  } catch (const Error& error) {
    rethrow(error);
  }
}

template <int... index>
bool register_kernels(abi::TorchLibraryHandle library, std::integer_sequence<int, index...>) {
  return (... && (shim.aoti_torch_library_impl(library, kKernels[index].op, call<index>) == 0));
}

// Returns NULL, or what went wrong.
const char* register_for(const char* dispatch_key) {
  abi::TorchLibraryHandle library = nullptr;  // lives as long as the process
  if (shim.aoti_torch_library_init_impl("roidl", dispatch_key, "roidl", 1, &library) != 0)
    return "aoti_torch_library_init_impl failed";
  const auto all = std::make_integer_sequence<int, kNumKernels>{};
  return register_kernels(library, all) ? nullptr : "aoti_torch_library_impl failed";
}

// Finds the symbols in the library that is loaded from this path; returns NULL, or what is missing.
template <class Shim>
const char* find_symbols(const char* path, Shim& symbols, const char* name) {
  void* library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return name;
  const char* missing = nullptr;
  abi::visit_symbols(symbols, [&](const char* symbol, auto& function) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, symbol));
    if (function == nullptr) missing = symbol;
  });
  return missing;
}

}  // namespace

}  // namespace roidl::bridge

// Registers the kernels for CPU with the libtorch_cpu.so that is loaded from this path, and for
// CUDA if the libtorch_cuda.so of the other path is loaded. Returns NULL, or why there are none:
// the name of a symbol that an older PyTorch lacks.
extern "C" __attribute__((visibility("default"))) const char* roidl_torch_register(
    const char* libtorch_cpu, const char* libtorch_cuda) {
  using namespace roidl::bridge;
  if (const char* missing = find_symbols(libtorch_cpu, shim, "libtorch_cpu.so")) return missing;
  if (const char* problem = register_for("CPU")) return problem;
  const bool has_cuda = find_symbols(libtorch_cuda, cuda_shim, "libtorch_cuda.so") == nullptr;
  return has_cuda ? register_for("CUDA") : nullptr;
}
