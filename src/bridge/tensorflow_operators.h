// What each kernel computes: inputs read in the order of their definitions, outputs allocated by
// TensorFlow, and the core's operator run on them.
#pragma once
#include "bridge/tensorflow_call.h"
#include "pyramid.h"

namespace roidl::bridge {

using Align = Attributes<RoiAlignParams>;
using Pool = Attributes<RoiPoolParams>;

inline MapList map_outputs(Call& call, const Problem& problem) {
  MapList list(call.op());
  for (int i = 0; i < problem.num_maps; ++i)
    list.append(call.output(i, problem.dtype, input_shape(problem, i)));
  return list;
}

inline Tensor pooled_output(Call& call, const Problem& problem) {
  return call.output(0, problem.dtype, pooled_shape(problem));
}

inline void compute_roi_align(Call& call, const Align& node) {
  Inputs<Align> inputs(call, node);
  const MapList input = inputs.maps();
  RoiAlignProblem problem = inputs.problem(input, make_roi_align);
  const Tensor pooled = pooled_output(call, problem);
  call.run(problem, [&] { roi_align_forward(problem, input, inputs.boxes, pooled); });
}

inline void compute_roi_align_backward(Call& call, const Align& node) {
  Inputs<Align> inputs(call, node);
  const Tensor grad_output = inputs.own();
  const MapList input = inputs.maps();
  RoiAlignProblem problem = inputs.problem(input, make_roi_align);
  const MapList grad_input = map_outputs(call, problem);
  call.run(problem,
           [&] { roi_align_backward(problem, grad_output, inputs.boxes, input, grad_input); });
}

inline void compute_roi_align_backward_boxes(Call& call, const Align& node) {
  Inputs<Align> inputs(call, node);
  const Tensor grad_output = inputs.own();
  const MapList input = inputs.maps();
  RoiAlignProblem problem = inputs.problem(input, make_roi_align);
  const Tensor grad_boxes = call.output(0, inputs.boxes.dtype, shape_of(inputs.boxes));
  call.run(problem, [&] {
    roi_align_backward_boxes(problem, grad_output, input, inputs.boxes, grad_boxes);
  });
}

inline void compute_roi_align_jvp(Call& call, const Align& node) {
  Inputs<Align> inputs(call, node);
  const MapList input_tangent = inputs.maps(), input = inputs.maps();
  RoiAlignProblem problem = inputs.problem(input, make_roi_align);
  const Tensor pooled = pooled_output(call, problem);
  call.run(problem, [&] { roi_align_jvp(problem, input_tangent, inputs.boxes, input, pooled); });
}

inline void compute_roi_align_jvp_boxes(Call& call, const Align& node) {
  Inputs<Align> inputs(call, node);
  const Tensor boxes_tangent = inputs.own();
  const MapList input = inputs.maps();
  RoiAlignProblem problem = inputs.problem(input, make_roi_align);
  const Tensor pooled = pooled_output(call, problem);
  call.run(problem,
           [&] { roi_align_jvp_boxes(problem, input, inputs.boxes, boxes_tangent, pooled); });
}

inline void compute_roi_align_jvp_boxes_backward(Call& call, const Align& node) {
  Inputs<Align> inputs(call, node);
  const Tensor grad_output = inputs.own(), boxes_tangent = inputs.own();
  const MapList input = inputs.maps();
  RoiAlignProblem problem = inputs.problem(input, make_roi_align);
  const MapList grad_input = map_outputs(call, problem);
  call.run(problem, [&] {
    roi_align_jvp_boxes_backward(problem, grad_output, inputs.boxes, boxes_tangent, grad_input);
  });
}

inline void compute_roi_pool(Call& call, const Pool& node) {
  Inputs<Pool> inputs(call, node);
  const MapList input = inputs.maps();
  RoiPoolProblem problem = inputs.problem(input, make_roi_pool);
  const Tensor pooled = pooled_output(call, problem);
  call.run(problem, [&] { roi_pool_forward(problem, input, inputs.boxes, pooled, nullptr); });
}

inline void compute_roi_pool_argmax(Call& call, const Pool& node) {
  Inputs<Pool> inputs(call, node);
  const MapList input = inputs.maps();
  RoiPoolProblem problem = inputs.problem(input, make_roi_pool);
  const Tensor pooled = pooled_output(call, problem);
  const Tensor argmax = call.output(1, kInt32, pooled_shape(problem));
  call.run(problem, [&] { roi_pool_forward(problem, input, inputs.boxes, pooled, &argmax); });
}

// The average has none: then it is empty.
inline const Tensor* argmax_or_null(const Pool& node, const Tensor& argmax) {
  return node.params.mode == static_cast<int32_t>(PoolMode::max) ? &argmax : nullptr;
}

inline void compute_roi_pool_backward(Call& call, const Pool& node) {
  Inputs<Pool> inputs(call, node);
  const Tensor grad_output = inputs.own(), argmax = inputs.own();
  const MapList input = inputs.maps();
  RoiPoolProblem problem = inputs.problem(input, make_roi_pool);
  const MapList grad_input = map_outputs(call, problem);
  call.run(problem, [&] {
    roi_pool_backward(problem, grad_output, inputs.boxes, argmax_or_null(node, argmax), grad_input);
  });
}

inline void compute_roi_pool_jvp(Call& call, const Pool& node) {
  Inputs<Pool> inputs(call, node);
  const Tensor argmax = inputs.own();
  const MapList input_tangent = inputs.maps();
  RoiPoolProblem problem = inputs.problem(input_tangent, make_roi_pool);
  const Tensor pooled = pooled_output(call, problem);
  call.run(problem, [&] {
    roi_pool_jvp(problem, input_tangent, inputs.boxes, argmax_or_null(node, argmax), pooled);
  });
}

inline void compute_assign_levels(Call& call, const Rule& rule) {
  const Tensor boxes = call.input(0);
  if (boxes.ndim < 2)
    fail(ErrorKind::value, call.op(), "boxes must have shape [K, 5], got ", shape_of(boxes));
  Shape rows = shape_of(boxes);
  --rows.ndim;
  const Tensor levels = call.output(0, kInt32, rows);
  Problem problem;
  problem.op = call.op();
  problem.device = boxes.device;
  call.wait_around(problem, [&] {
    assign_levels(call.op(), rule.pyramid, rule.maps, boxes, static_cast<int32_t*>(levels.data));
  });
}

// A derivative that is not offered: an error when it is computed, if `refused` says so, and 0
// otherwise. It has no effect but that, so that TensorFlow leaves it out where nothing needs it.
inline void compute_refusal(Call& call, const Refusal& refusal) {
  if (*static_cast<const bool*>(call.input(0).data))
    throw Error(ErrorKind::unsupported, refusal.sentence);
  *static_cast<float*>(call.output(0, kFloat32, Shape{}).data) = 0;
}

}  // namespace roidl::bridge
