// The operators as PyTorch calls them: kernels for its dispatcher, registered through the stable C
// interface of libtorch_cpu.so. The schemas are python/roidl/torch/_library.py's.
#include <dlfcn.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "abi/torch.h"
#include "bridge/torch_stack.h"
#include "check.h"
#include "cpu/parallel.h"
#include "memory_order.h"
#include "roi_align.h"
#include "roi_pool.h"

namespace roidl::bridge {

abi::TorchShim shim{};

namespace {

// ---- arguments and results ---------------------------------------------------------------------
// Every schema begins with: a leader, the boxes and their batch indices. Then comes what is the
// operator's own, and the fields of its parameters.

struct Regions {
  Tensor leader;  // the features or a tangent of them, or a gradient of the result
  Tensor boxes;
  std::optional<Tensor> indices;
};

Regions read_regions(Stack& stack, const char* leader) {
  Regions regions;
  regions.leader = stack.tensor(leader);
  regions.boxes = stack.tensor("boxes");
  regions.indices = stack.optional_tensor("batch_indices");
  return regions;
}

const Tensor* pointer(const std::optional<Tensor>& tensor) { return tensor ? &*tensor : nullptr; }

template <class Params>
Params read_params(Stack& stack) {
  Params params{};
  visit_fields(params, [&](const char*, auto& field) { stack.read(field); });
  return params;
}

Tensor make_result(Stack& stack, int place, const Shape& shape, bool channels_last,
                   abi::DLDataType dtype) {
  int64_t strides[kMaxDims];
  dense_strides(shape, channels_last, strides);
  return stack.result(place, shape, strides, dtype);
}

// [K, C, PH, PW] in the memory order of the map that it is pooled from.
Tensor make_pooled(Stack& stack, int place, const Problem& problem, const Tensor& map,
                   abi::DLDataType dtype) {
  const bool channels_last = problem.layout == Layout::nchw && has_channels_last(map);
  return make_result(stack, place, pooled_shape(problem), channels_last, dtype);
}

// What a schema without an input says of its shape, and the order of the result in memory.
struct MapShape {
  int64_t images, height, width;
  bool channels_last;
};

MapShape read_map_shape(Stack& stack) {
  MapShape map{};
  stack.read(map.images);
  stack.read(map.height);
  stack.read(map.width);
  stack.read(map.channels_last);
  return map;
}

// A tensor without data that has the map's shape and the type of the gradient to the result. The
// gradient has the channels, and boxes that are grouped have the images: where tensors are sharded,
// these are the shard's.
Tensor describe_map(const Stack& stack, const MapShape& map, const Regions& regions,
                    int32_t layout) {
  const Tensor& gradient = regions.leader;
  check_float(stack.op(), "grad_output", gradient);
  if (gradient.ndim < 4)
    fail(ErrorKind::value, stack.op(), "grad_output must have the shape of the result, got ",
         shape_of(gradient));
  const bool channels_first = static_cast<Layout>(layout) == Layout::nchw;
  const int64_t images = regions.boxes.ndim == 3 ? regions.boxes.shape[0] : map.images;
  const int64_t channels = gradient.shape[gradient.ndim - (channels_first ? 3 : 1)];
  const int64_t first[] = {images, channels, map.height, map.width};
  const int64_t last[] = {images, map.height, map.width, channels};
  Tensor tensor = gradient;
  tensor.data = nullptr;
  tensor.ndim = 4;
  for (int i = 0; i < 4; ++i) {
    tensor.shape[i] = (channels_first ? first : last)[i];
    tensor.strides[i] = 0;
  }
  return tensor;
}

// ---- kernels -----------------------------------------------------------------------------------
// Each reads its whole stack before anything can fail but reading: what is owned has to be freed.

void align(Stack& stack) {
  const Regions r = read_regions(stack, "input");
  const auto params = read_params<RoiAlignParams>(stack);
  RoiAlignProblem problem =
      make_roi_align(stack.op(), params, r.leader, r.boxes, pointer(r.indices));
  const Tensor out = make_pooled(stack, 0, problem, r.leader, r.leader.dtype);
  roi_align_forward(problem, r.leader, r.boxes, out);
  stack.finish(1);
}

void align_backward(Stack& stack) {
  const Regions r = read_regions(stack, "grad_output");
  const auto input = stack.optional_tensor("input");
  const MapShape map = read_map_shape(stack);
  const auto params = read_params<RoiAlignParams>(stack);
  const Tensor shape = describe_map(stack, map, r, params.layout);
  RoiAlignProblem problem = make_roi_align(stack.op(), params, shape, r.boxes, pointer(r.indices));
  const Tensor out = make_result(stack, 0, input_shape(problem), map.channels_last, r.leader.dtype);
  roi_align_backward(problem, r.leader, r.boxes, pointer(input), out);
  stack.finish(1);
}

void align_backward_boxes(Stack& stack) {
  const Regions r = read_regions(stack, "grad_output");
  const Tensor input = stack.tensor("input");
  const auto params = read_params<RoiAlignParams>(stack);
  RoiAlignProblem problem = make_roi_align(stack.op(), params, input, r.boxes, pointer(r.indices));
  check_float(stack.op(), "boxes", r.boxes);
  const Tensor out = make_result(stack, 0, shape_of(r.boxes), false, r.boxes.dtype);
  roi_align_backward_boxes(problem, r.leader, input, r.boxes, out);
  stack.finish(1);
}

void align_jvp(Stack& stack) {
  const Regions r = read_regions(stack, "input_tangent");
  const auto input = stack.optional_tensor("input");
  const auto params = read_params<RoiAlignParams>(stack);
  RoiAlignProblem problem =
      make_roi_align(stack.op(), params, r.leader, r.boxes, pointer(r.indices));
  const Tensor out = make_pooled(stack, 0, problem, r.leader, r.leader.dtype);
  roi_align_jvp(problem, r.leader, r.boxes, pointer(input), out);
  stack.finish(1);
}

void align_jvp_boxes(Stack& stack) {
  const Regions r = read_regions(stack, "input");
  const Tensor tangent = stack.tensor("boxes_tangent");
  const auto params = read_params<RoiAlignParams>(stack);
  RoiAlignProblem problem =
      make_roi_align(stack.op(), params, r.leader, r.boxes, pointer(r.indices));
  const Tensor out = make_pooled(stack, 0, problem, r.leader, r.leader.dtype);
  roi_align_jvp_boxes(problem, r.leader, r.boxes, tangent, out);
  stack.finish(1);
}

void align_jvp_boxes_backward(Stack& stack) {
  const Regions r = read_regions(stack, "grad_output");
  const Tensor tangent = stack.tensor("boxes_tangent");
  const MapShape map = read_map_shape(stack);
  const auto params = read_params<RoiAlignParams>(stack);
  const Tensor shape = describe_map(stack, map, r, params.layout);
  RoiAlignProblem problem = make_roi_align(stack.op(), params, shape, r.boxes, pointer(r.indices));
  const Tensor out = make_result(stack, 0, input_shape(problem), map.channels_last, r.leader.dtype);
  roi_align_jvp_boxes_backward(problem, r.leader, r.boxes, tangent, out);
  stack.finish(1);
}

void pool(Stack& stack) {
  const Regions r = read_regions(stack, "input");
  bool return_argmax = false;
  stack.read(return_argmax);
  const auto params = read_params<RoiPoolParams>(stack);
  RoiPoolProblem problem = make_roi_pool(stack.op(), params, r.leader, r.boxes, pointer(r.indices));
  const Tensor out = make_pooled(stack, 0, problem, r.leader, r.leader.dtype);
  const Tensor argmax = return_argmax ? make_pooled(stack, 1, problem, r.leader, kInt32)
                                      : make_result(stack, 1, Shape{1, {0}}, false, kInt32);
  roi_pool_forward(problem, r.leader, r.boxes, out, return_argmax ? &argmax : nullptr);
  stack.finish(2);
}

void pool_backward(Stack& stack) {
  const Regions r = read_regions(stack, "grad_output");
  const auto argmax = stack.optional_tensor("argmax");
  const MapShape map = read_map_shape(stack);
  const auto params = read_params<RoiPoolParams>(stack);
  const Tensor shape = describe_map(stack, map, r, params.layout);
  RoiPoolProblem problem = make_roi_pool(stack.op(), params, shape, r.boxes, pointer(r.indices));
  const Tensor out = make_result(stack, 0, input_shape(problem), map.channels_last, r.leader.dtype);
  roi_pool_backward(problem, r.leader, r.boxes, pointer(argmax), out);
  stack.finish(1);
}

void pool_jvp(Stack& stack) {
  const Regions r = read_regions(stack, "input_tangent");
  const auto argmax = stack.optional_tensor("argmax");
  const auto params = read_params<RoiPoolParams>(stack);
  RoiPoolProblem problem = make_roi_pool(stack.op(), params, r.leader, r.boxes, pointer(r.indices));
  const Tensor out = make_pooled(stack, 0, problem, r.leader, r.leader.dtype);
  roi_pool_jvp(problem, r.leader, r.boxes, pointer(argmax), out);
  stack.finish(1);
}

// ---- registration ------------------------------------------------------------------------------

struct Kernel {
  const char* op;
  const char* tensors;  // as Stack understands it
  void (*body)(Stack&);
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
void call(abi::StableIValue* values, uint64_t, uint64_t) {
  constexpr Kernel kernel = kKernels[index];
  try {
    uint32_t threads = 1;
    check_shim(kernel.op, shim.torch_get_num_threads(&threads));
    const cpu::ThreadLimit limit(static_cast<int>(threads));
    Stack stack(kernel.op, kernel.tensors, values);
    kernel.body(stack);
  } catch (const Error& error) {
    rethrow(error);
  }
}

template <int... index>
bool register_kernels(abi::TorchLibraryHandle library, std::integer_sequence<int, index...>) {
  return (... && (shim.aoti_torch_library_impl(library, kKernels[index].op, call<index>) == 0));
}

}  // namespace

}  // namespace roidl::bridge

// Registers the kernels for CPU with the libtorch_cpu.so that is loaded from this path. Returns
// NULL, or why it could not: the name of a symbol that an older PyTorch lacks.
extern "C" __attribute__((visibility("default"))) const char* roidl_torch_register(
    const char* libtorch_cpu) {
  using namespace roidl;
  void* libtorch = dlopen(libtorch_cpu, RTLD_NOW | RTLD_NOLOAD);
  if (libtorch == nullptr) return "libtorch_cpu.so";
  const char* missing = nullptr;
  abi::visit_symbols(bridge::shim, [&](const char* name, auto& symbol) {
    symbol = reinterpret_cast<std::decay_t<decltype(symbol)>>(dlsym(libtorch, name));
    if (symbol == nullptr) missing = name;
  });
  if (missing != nullptr) return missing;
  abi::TorchLibraryHandle library = nullptr;  // lives as long as the process
  if (bridge::shim.aoti_torch_library_init_impl("roidl", "CPU", "roidl", 1, &library) != 0)
    return "aoti_torch_library_init_impl failed";
  const auto all = std::make_integer_sequence<int, bridge::kNumKernels>{};
  return bridge::register_kernels(library, all) ? nullptr : "aoti_torch_library_impl failed";
}
