// Problem: validation that all operators share.
#include "problem.h"

#include <cmath>
#include <string>

#include "backend.h"
#include "check.h"
#include "floating_point.h"
#include "pyramid.h"

namespace roidl {

namespace {

struct Axes {  // the axes of N, C, H and W in a 4-D array
  int n, c, h, w;
};

Axes axes_of(Layout layout) { return layout == Layout::nchw ? Axes{0, 1, 2, 3} : Axes{0, 3, 1, 2}; }

const char* axes_name(Layout layout) {
  return layout == Layout::nchw ? "[N, C, H, W]" : "[N, H, W, C]";
}

}  // namespace

Maps::Maps(const char* op, const Tensor* first, int64_t number) {
  if (number < 1 || number > kMaxMaps)
    fail(ErrorKind::value, op, "from 1 to ", kMaxMaps, " maps are understood, got ", number);
  count = static_cast<int>(number);
  for (int i = 0; i < count; ++i) tensors[i] = first + i;
}

namespace {

// Returns "input", or "input[2]" if there are several maps.
std::string name_of(const char* name, const Maps& maps, int i) {
  return maps.count == 1 ? name : std::string(name) + "[" + std::to_string(i) + "]";
}

void describe_map(Problem& problem, const char* name, const Tensor& input, double scale, Map& map) {
  const char* op = problem.op;
  if (input.ndim != 4)
    fail(ErrorKind::value, op, name, " must have shape ", axes_name(problem.layout), ", got ",
         shape_of(input));
  check_float(op, name, input);
  const Axes axes = axes_of(problem.layout);
  map.height = input.shape[axes.h];
  map.width = input.shape[axes.w];
  map.scale = scale;
  if (map.height > INT32_MAX || map.width > INT32_MAX)
    fail(ErrorKind::unsupported, op, "maps of more than 2147483647 rows or columns, got shape ",
         shape_of(input));
}

void check_same_kind(const Problem& problem, const char* name, const Tensor& input) {
  const Axes axes = axes_of(problem.layout);
  check_same_dtype(problem.op, name, input, problem.dtype, " as input[0]");
  check_same_device(problem.op, name, input, problem.device);
  Shape expected = shape_of(input);
  expected.size[axes.n] = problem.images;
  expected.size[axes.c] = problem.channels;
  check_shape(problem.op, name, input, expected);
}

}  // namespace

void describe_arrays(Problem& problem, bool channels_per_bin, double scale, const Maps& input,
                     const Tensor& boxes, const Tensor* indices, const Pyramid* pyramid) {
  const FloatingPoint mode;
  const char* op = problem.op;
  problem.num_maps = input.count;
  for (int i = 0; i < input.count; ++i) {
    const std::string name = name_of("input", input, i);
    const Tensor& map = *input.tensors[i];
    describe_map(problem, name.c_str(), map, pyramid != nullptr ? pyramid->scales[i] : scale,
                 problem.maps[i]);
    if (i > 0) {
      check_same_kind(problem, name.c_str(), map);
      continue;
    }
    const Axes axes = axes_of(problem.layout);
    problem.device = map.device;
    problem.dtype = map.dtype;
    problem.images = map.shape[axes.n];
    problem.channels = map.shape[axes.c];
    backend_of(problem);  // fails if the device has no backend
  }
  check_same_device(op, "boxes", boxes, problem.device);
  if (indices != nullptr) check_same_device(op, "batch_indices", *indices, problem.device);
  check_count(op, "output_size", problem.output_height, kMaxBins);
  check_count(op, "output_size", problem.output_width, kMaxBins);
  problem.pooled_channels = problem.channels;
  if (channels_per_bin) {
    const int64_t bins = problem.output_height * problem.output_width;
    if (problem.channels % bins != 0)
      fail(ErrorKind::value, op, "input must have a multiple of ", bins,
           " channels, as many as there are bins, got ", problem.channels);
    problem.pooled_channels /= bins;
  }
  for (int i = 0; i < problem.num_maps; ++i)
    check_scale(op, pyramid != nullptr ? "scales" : "spatial_scale", problem.maps[i].scale);
  const Tensor* counts = pyramid != nullptr ? pyramid->counts : nullptr;
  if (counts != nullptr) check_same_device(op, "counts", *counts, problem.device);
  problem.boxes = describe_boxes(op, boxes, indices, counts, problem.images);
  problem.rois = problem.boxes.count;
  problem.double_coordinates = problem.dtype == kFloat64 || boxes.dtype == kFloat64;
  if (pyramid != nullptr) describe_levels(problem, boxes, *pyramid);
}

Shape pooled_shape(const Problem& problem) {
  Shape shape;
  if (problem.boxes.by_position) shape.size[shape.ndim++] = problem.images;
  shape.size[shape.ndim++] = problem.boxes.per_image;
  const bool channels_first = problem.layout == Layout::nchw;
  if (channels_first) shape.size[shape.ndim++] = problem.pooled_channels;
  shape.size[shape.ndim++] = problem.output_height;
  shape.size[shape.ndim++] = problem.output_width;
  if (!channels_first) shape.size[shape.ndim++] = problem.pooled_channels;
  count_elements(problem.op, shape);
  return shape;
}

Shape input_shape(const Problem& problem, int index) {
  const Map& map = problem.maps[index];
  if (problem.layout == Layout::nchw)
    return {4, {problem.images, problem.channels, map.height, map.width}};
  return {4, {problem.images, map.height, map.width, problem.channels}};
}

bool has_no_results(const Problem& problem) { return problem.rois == 0 || problem.channels == 0; }

bool has_no_gradient(const Problem& problem) {
  bool cells = false;
  for (int i = 0; i < problem.num_maps; ++i)
    cells |= problem.maps[i].height > 0 && problem.maps[i].width > 0;
  return problem.images == 0 || problem.channels == 0 || !cells;
}

PooledView attach_pooled(const Problem& problem, const char* name, const Tensor& tensor,
                         abi::DLDataType dtype) {
  check_same_dtype(problem.op, name, tensor, dtype, dtype == problem.dtype ? " as the input" : "");
  check_shape(problem.op, name, tensor, pooled_shape(problem));
  check_same_device(problem.op, name, tensor, problem.device);
  check_aligned(problem.op, name, tensor);
  const Axes axes = axes_of(problem.layout);
  const int64_t* tail = tensor.strides + tensor.ndim - 4;  // the strides of [K, C, PH, PW]
  PooledView view{tensor.data, problem.boxes.per_image, 0, tail[0], tail[axes.c], tail[axes.h],
                  tail[axes.w]};
  if (problem.boxes.by_position) view.image = tensor.strides[0];
  return view;
}

void attach_maps(Problem& problem, const char* name, const Maps& maps, MapView Map::* view) {
  const Axes axes = axes_of(problem.layout);
  if (maps.count != problem.num_maps)
    fail(ErrorKind::value, problem.op, name, " must have as many maps as scales (",
         problem.num_maps, "), got ", maps.count);
  for (int i = 0; i < maps.count; ++i) {
    const std::string called = name_of(name, maps, i);
    const Tensor& tensor = *maps.tensors[i];
    check_same_dtype(problem.op, called.c_str(), tensor, problem.dtype, " as the gradient");
    check_shape(problem.op, called.c_str(), tensor, input_shape(problem, i));
    check_same_device(problem.op, called.c_str(), tensor, problem.device);
    check_aligned(problem.op, called.c_str(), tensor);
    problem.maps[i].*view = {tensor.data, tensor.strides[axes.n], tensor.strides[axes.c],
                             tensor.strides[axes.h], tensor.strides[axes.w]};
  }
}

void check_like_boxes(const Problem& problem, const char* name, const Tensor& tensor,
                      const Tensor& boxes) {
  check_float(problem.op, name, tensor);
  check_shape(problem.op, name, tensor, shape_of(boxes));
  check_same_device(problem.op, name, tensor, problem.device);
  check_aligned_on_device(problem.op, name, tensor);
}

void check_written(const Problem& problem, const Named& written, const Named* others, int count) {
  const auto check_apart = [&](const std::string& name, const Tensor& tensor, const Named& other,
                               int maps) {
    for (int j = 0; j < maps; ++j)
      check_no_overlap(problem.op, name.c_str(), tensor,
                       name_of(other.name, other.arrays, j).c_str(), *other.arrays.tensors[j]);
  };
  for (int i = 0; i < written.arrays.count; ++i) {
    const std::string name = name_of(written.name, written.arrays, i);
    const Tensor& tensor = *written.arrays.tensors[i];
    check_distinct_elements(problem.op, name.c_str(), tensor);
    check_apart(name, tensor, written, i);
    for (int j = 0; j < count; ++j) check_apart(name, tensor, others[j], others[j].arrays.count);
  }
}

}  // namespace roidl
