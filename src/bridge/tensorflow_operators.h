// What each kernel computes: inputs read in the order of their definitions, outputs allocated by
// TensorFlow, and the core's operator run on them.
#pragma once
#include "bridge/tensorflow_call.h"
#include "pyramid.h"

namespace roidl::bridge {

// A node's inputs are the boxes, the grid, the reads of the operator in the catalogue's order, and
// the lists. Where maps are made and none are read, the input `input` says their shapes.
inline constexpr int kFirstRead = 2;

constexpr bool needs_shapes(const Operator& op) {
  return op.makes_maps() && op.find_read(Role::maps) < 0;
}

// The place of the first map among a node's inputs: arrays of other roles are one tensor each.
constexpr int place_of_maps(const Operator& op) {
  const int read = op.find_read(Role::maps);
  return kFirstRead + (read < 0 ? op.num_reads() : read);
}

// `optional`: whether results that are optional are made.
inline void compute_operator(const Operator& op, bool optional, Call& call,
                             const Attributes& node) {
  const Tensor boxes = call.input(0);
  const AnyParams params = with_grid(node.params, call, call.input(1));
  const bool average = is_average(op, params);
  int next = kFirstRead;
  const auto read = [&](Role role) {
    MapList list;
    for (int i = 0; i < (role == Role::maps ? node.maps : 1); ++i) list.append(call.input(next++));
    return list;
  };
  MapList reads[kMaxReads], writes[kMaxWrites];
  for (int i = 0; i < op.num_reads(); ++i) reads[i] = read(op.reads[i].role);
  const int maps_read = op.find_read(Role::maps);
  const MapList maps = maps_read < 0 ? read(Role::maps) : reads[maps_read];
  const BoxLists lists(call, node, next);
  AnyProblem any;
  describe(any, op, call.op(), params, maps.maps(call.op()), boxes, lists.indices, lists.pyramid);
  Problem& problem = base_of(any);
  Arrays arrays;
  int made = 0;
  for (int i = 0; i < op.num_writes(); ++i) {
    const Role role = op.writes[i].role;
    if (op.writes[i].optional && !optional) continue;
    const abi::DLDataType dtype = role == Role::argmax  ? kInt32
                                  : role == Role::boxes ? boxes.dtype
                                                        : problem.dtype;
    for (int map = 0; map < (role == Role::maps ? problem.num_maps : 1); ++map)
      writes[i].append(call.output(made++, dtype, written_shape(problem, role, boxes, map)));
    arrays.writes[i] = writes[i].maps(call.op());
  }
  for (int i = 0; i < op.num_reads(); ++i)
    if (!(average && op.reads[i].need == Need::of_maximum))
      arrays.reads[i] = reads[i].maps(call.op());
  call.run(problem, [&] { run(op, any, boxes, arrays); });
}

inline void compute_assign_levels(Call& call, const LevelsRule& rule) {
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
