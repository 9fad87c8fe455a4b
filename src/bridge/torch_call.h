// What the kernels of PyTorch read of a call besides its features, and how they make their results.
#pragma once
#include <cstdint>
#include <cstring>
#include <optional>

#include "bridge/torch_stack.h"
#include "check.h"
#include "memory_order.h"
#include "roi_align.h"
#include "roi_pool.h"

namespace roidl::bridge {

// Every schema begins with a leader (the features or a tangent of them, or a gradient of the
// result), the boxes, and what is said of every box. Then comes what is the operator's own, and the
// fields of its parameters. Where there are several maps, a list stands for each map.

struct Regions {
  Tensor boxes;
  std::optional<Tensor> indices;
  std::optional<Tensor> levels, counts;  // of calls on several maps
};

inline Regions read_regions(Stack& stack) {
  Regions regions;
  regions.boxes = stack.tensor("boxes");
  regions.indices = stack.optional_tensor("batch_indices");
  if (!stack.several()) return regions;
  regions.levels = stack.optional_tensor("levels");
  regions.counts = stack.optional_tensor("counts");
  return regions;
}

inline const Tensor* pointer(const std::optional<Tensor>& tensor) {
  return tensor ? &*tensor : nullptr;
}

// The operator's parameters, and how boxes find their map.
template <class Params>
struct Asked {
  Params params{};
  Pyramid pyramid;
};

template <class Params>
Asked<Params> read_asked(Stack& stack, const Regions& regions) {
  Asked<Params> asked;
  if (stack.several()) {
    stack.read_list(asked.pyramid.scales, kMaxMaps);
    stack.read(asked.pyramid.canonical_scale);
    stack.read(asked.pyramid.canonical_level);
    asked.pyramid.levels = pointer(regions.levels);
    asked.pyramid.counts = pointer(regions.counts);
  }
  visit_fields(asked.params, [&](const char* name, auto& field) {
    if (stack.several() && std::strcmp(name, "spatial_scale") == 0)
      field = 1;  // every map has its own
    else
      stack.read(field);
  });
  return asked;
}

inline RoiAlignProblem make_problem(Stack& stack, const Asked<RoiAlignParams>& asked,
                                    const MapList& maps, const Regions& r) {
  RoiAlignProblem problem =
      make_roi_align(stack.op(), asked.params, maps.needed(stack.op()), r.boxes, pointer(r.indices),
                     stack.several() ? &asked.pyramid : nullptr);
  problem.stream = stack.stream();
  problem.lender = stack.lender();
  return problem;
}

inline RoiPoolProblem make_problem(Stack& stack, const Asked<RoiPoolParams>& asked,
                                   const MapList& maps, const Regions& r) {
  RoiPoolProblem problem =
      make_roi_pool(stack.op(), asked.params, maps.needed(stack.op()), r.boxes, pointer(r.indices),
                    stack.several() ? &asked.pyramid : nullptr);
  problem.stream = stack.stream();
  problem.lender = stack.lender();
  return problem;
}

inline Tensor make_result(Stack& stack, int place, const Shape& shape, bool channels_last,
                          abi::DLDataType dtype) {
  int64_t strides[kMaxDims];
  dense_strides(shape, channels_last, strides);
  return stack.result(place, shape, strides, dtype);
}

// [K, C, PH, PW] in the memory order of the first of the maps that it is pooled from.
inline Tensor make_pooled(Stack& stack, int place, const Problem& problem, const MapList& maps,
                          abi::DLDataType dtype) {
  const bool channels_last = problem.layout == Layout::nchw && has_channels_last(maps.tensors[0]);
  return make_result(stack, place, pooled_shape(problem), channels_last, dtype);
}

// What a schema without an input says of the shapes of the maps, and the order of the results in
// memory.
struct MapShapes {
  int64_t images = 0, count = 1;
  int64_t sizes[2 * kMaxMaps] = {};  // height and width of each
  bool channels_last[kMaxMaps] = {};
};

inline MapShapes read_map_shapes(Stack& stack) {
  MapShapes shapes;
  stack.read(shapes.images);
  if (!stack.several()) {
    stack.read(shapes.sizes[0]);
    stack.read(shapes.sizes[1]);
    stack.read(shapes.channels_last[0]);
    return shapes;
  }
  const int64_t numbers = stack.read_list(shapes.sizes, 2 * kMaxMaps);
  shapes.count = stack.read_list(shapes.channels_last, kMaxMaps);
  if (numbers != 2 * shapes.count)
    fail(ErrorKind::value, stack.op(), "sizes must be the height and width of ", shapes.count,
         " maps, got ", numbers, " numbers");
  return shapes;
}

// Tensors without data that have the maps' shapes and the type of the gradient to the result. The
// gradient has the channels, and boxes that are grouped have the images: where tensors are sharded,
// these are the shard's.
inline MapList describe_maps(const Stack& stack, const MapShapes& shapes, const Tensor& gradient,
                             const Tensor& boxes, int32_t layout) {
  check_float(stack.op(), "grad_output", gradient);
  if (gradient.ndim < 4)
    fail(ErrorKind::value, stack.op(), "grad_output must have the shape of the result, got ",
         shape_of(gradient));
  const bool channels_first = static_cast<Layout>(layout) == Layout::nchw;
  const int64_t images = boxes.ndim == 3 ? boxes.shape[0] : shapes.images;
  const int64_t channels = gradient.shape[gradient.ndim - (channels_first ? 3 : 1)];
  MapList maps;
  maps.count = shapes.count;
  for (int m = 0; m < kMaxMaps && m < shapes.count; ++m) {
    const int64_t height = shapes.sizes[2 * m], width = shapes.sizes[2 * m + 1];
    const int64_t first[] = {images, channels, height, width};
    const int64_t last[] = {images, height, width, channels};
    Tensor& tensor = maps.tensors[m];
    tensor.device = gradient.device;
    tensor.dtype = gradient.dtype;
    tensor.ndim = 4;
    for (int i = 0; i < 4; ++i) tensor.shape[i] = (channels_first ? first : last)[i];
  }
  return maps;
}

inline MapList make_maps(Stack& stack, const Problem& problem, const MapShapes& shapes) {
  MapList maps;
  maps.count = problem.num_maps;
  for (int m = 0; m < problem.num_maps; ++m)
    maps.tensors[m] =
        make_result(stack, m, input_shape(problem, m), shapes.channels_last[m], problem.dtype);
  return maps;
}

}  // namespace roidl::bridge
