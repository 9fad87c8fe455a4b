// One call of any operator of the catalogue as PyTorch's dispatcher makes it: what its arguments
// are, how they are read, and how results are made.
#pragma once
#include <cstdint>
#include <optional>

#include "bridge/torch_schema.h"
#include "bridge/torch_stack.h"
#include "check.h"
#include "memory_order.h"
#include "pyramid.h"
#include "run.h"

namespace roidl::bridge {

inline const Tensor* pointer(const std::optional<Tensor>& tensor) {
  return tensor ? &*tensor : nullptr;
}

// What is said of maps that are made, and the order of each in memory.
struct MapShapes {
  int64_t images = 0, count = 1;
  int64_t sizes[2 * kMaxMaps] = {};  // height and width of each
  bool channels_last[kMaxMaps] = {};
};

inline MapShapes read_map_shapes(Stack& stack, bool several) {
  MapShapes shapes;
  stack.read(shapes.images);
  if (!several) {
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

// Tensors without data that have the shapes of the maps that are made.
inline void describe_maps(const Operator& op, const Stack& stack, const AnyParams& params,
                          const MapShapes& shapes, const Tensor& gradient, const Tensor& boxes,
                          TensorList& maps) {
  maps.count = shapes.count;
  for (int m = 0; m < kMaxMaps && m < shapes.count; ++m)
    maps.tensors[m] = map_like(op, stack.op(), params, gradient, boxes, shapes.images,
                               shapes.sizes[2 * m], shapes.sizes[2 * m + 1]);
}

inline AnyParams read_params(Stack& stack, Family family, bool several) {
  AnyParams params = params_of(family);
  visit_params(params, [&](const char* name, auto& field) {
    if (several && is_of_one_map(name))
      field = 1;
    else
      stack.read(field);
  });
  return params;
}

inline int64_t read_pyramid(Stack& stack, Pyramid& pyramid) {
  const int64_t maps = stack.read_list(pyramid.scales, kMaxMaps);
  stack.read(pyramid.canonical_scale);
  stack.read(pyramid.canonical_level);
  return maps;
}

inline Tensor make_result(Stack& stack, const Shape& shape, bool channels_last,
                          abi::DLDataType dtype) {
  int64_t strides[kMaxDims];
  dense_strides(shape, channels_last, strides);
  return stack.make(shape, strides, dtype);
}

// What an operator writes, made; pooled results are in the memory order of the first map.
inline void make_results(const Write& write, Stack& stack, const Problem& problem,
                         const Tensor& boxes, const Tensor& first_map, const MapShapes& shapes,
                         TensorList& results) {
  const auto make = [&](bool channels_last, abi::DLDataType dtype) {
    const int place = static_cast<int>(results.count);
    const Shape shape = written_shape(problem, write.role, boxes, place);
    results.add(make_result(stack, shape, channels_last, dtype));
  };
  const bool pooled_last = problem.layout == Layout::nchw && has_channels_last(first_map);
  switch (write.role) {
    case Role::maps:
      for (int m = 0; m < problem.num_maps; ++m) make(shapes.channels_last[m], problem.dtype);
      break;
    case Role::pooled:
      make(pooled_last, problem.dtype);
      break;
    case Role::boxes:
      check_float(stack.op(), "boxes", boxes);  // whose type the result has
      make(false, boxes.dtype);
      break;
    case Role::argmax:
      make(pooled_last, kInt32);
      break;
  }
}

inline void call_operator(const Operator& op, bool several, Stack& stack) {
  TensorList reads[kMaxReads], writes[kMaxWrites], shaped;
  for (int i = 0; i < op.num_reads(); ++i) stack.tensors(op.reads[i].name, reads[i]);
  const Tensor boxes = stack.tensor("boxes");
  const std::optional<Tensor> indices = stack.optional_tensor("batch_indices");
  std::optional<Tensor> levels, counts;
  if (several) {
    levels = stack.optional_tensor("levels");
    counts = stack.optional_tensor("counts");
  }
  MapShapes shapes;
  if (op.makes_maps()) shapes = read_map_shapes(stack, several);
  bool is_made[kMaxWrites] = {};
  for (int i = 0; i < op.num_writes(); ++i) {
    is_made[i] = true;
    if (op.writes[i].optional) stack.read(is_made[i]);
  }
  Pyramid pyramid;
  if (several) read_pyramid(stack, pyramid);
  pyramid.levels = pointer(levels);
  pyramid.counts = pointer(counts);
  const AnyParams params = read_params(stack, op.family, several);

  if (op.makes_maps()) describe_maps(op, stack, params, shapes, reads[0].tensors[0], boxes, shaped);
  const TensorList& maps = op.makes_maps() ? shaped : reads[op.find_read(Role::maps)];
  AnyProblem any = describe(op, stack.op(), params, maps.needed(stack.op()), boxes,
                            pointer(indices), several ? &pyramid : nullptr);
  Problem& problem = base_of(any);
  problem.stream = stack.stream();
  problem.lender = stack.lender();

  Arrays arrays;
  for (int i = 0; i < op.num_reads(); ++i)
    arrays.reads[i] = op.reads[i].need == Need::always ? reads[i].needed(stack.op())
                                                       : reads[i].if_any(stack.op());
  for (int i = 0; i < op.num_writes(); ++i) {
    if (is_made[i])
      make_results(op.writes[i], stack, problem, boxes, maps.tensors[0], shapes, writes[i]);
    else
      make_result(stack, Shape{1, {0}}, false, kInt32);  // in its place
    arrays.writes[i] = writes[i].if_any(stack.op());
  }
  run(op, any, boxes, arrays);
  for (int i = 0; i < op.num_writes(); ++i) {
    if (several && op.writes[i].role == Role::maps)
      stack.return_list(problem.num_maps);
    else
      stack.return_tensor();
  }
}

// The rule alone by which boxes find their map.

inline void call_assign_levels(Stack& stack) {
  const Tensor boxes = stack.tensor("boxes");
  Pyramid pyramid;
  const int64_t maps = read_pyramid(stack, pyramid);
  if (maps < 1 || maps > kMaxMaps)
    fail(ErrorKind::value, stack.op(), "from 1 to ", kMaxMaps, " scales are understood, got ",
         maps);
  Shape shape = shape_of(boxes);
  if (shape.ndim > 0) --shape.ndim;
  const Tensor out = make_result(stack, shape, false, kInt32);
  assign_levels(stack.op(), pyramid, static_cast<int>(maps), boxes, static_cast<int32_t*>(out.data),
                stack.stream());
  stack.return_tensor();
}

}  // namespace roidl::bridge
