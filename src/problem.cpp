// Problem: validation that all operators share.
#include <cmath>
#include <initializer_list>

#include "backend.h"
#include "check.h"
#include "device_library.h"
#include "problem.h"

namespace roidl {

namespace {

struct Axes {  // where N, C, H and W lie in a 4-D array
  int n, c, h, w;
};

Axes axes_of(Layout layout) { return layout == Layout::nchw ? Axes{0, 1, 2, 3} : Axes{0, 3, 1, 2}; }

const char* axes_name(Layout layout) {
  return layout == Layout::nchw ? "[N, C, H, W]" : "[N, H, W, C]";
}

}  // namespace

void describe_arrays(Problem& problem, double scale, const Tensor& input, const Tensor& boxes,
                     const Tensor* indices) {
  const char* op = problem.op;
  if (input.ndim != 4)
    fail(ErrorKind::value, op, "input must have shape ", axes_name(problem.layout), ", got ",
         shape_of(input));
  check_float(op, "input", input);
  problem.device = input.device;
  backend_of(problem);  // before anything else is said about devices
  check_same_device(op, "boxes", boxes, input.device);
  if (indices != nullptr) check_same_device(op, "batch_indices", *indices, input.device);
  check_count(op, "output_size", problem.output_height, kMaxBins);
  check_count(op, "output_size", problem.output_width, kMaxBins);
  if (!(std::isfinite(scale) && scale > 0))
    fail(ErrorKind::value, op, "spatial_scale must be positive and finite, got ", scale);

  const Axes axes = axes_of(problem.layout);
  problem.images = input.shape[axes.n];
  problem.channels = input.shape[axes.c];
  problem.dtype = input.dtype;
  problem.num_maps = 1;
  Map& map = problem.maps[0];
  map.height = input.shape[axes.h];
  map.width = input.shape[axes.w];
  map.scale = scale;
  if (map.height > INT32_MAX || map.width > INT32_MAX)
    fail(ErrorKind::unsupported, op, "maps of more than 2147483647 rows or columns, got shape ",
         shape_of(input));
  problem.boxes = describe_boxes(op, boxes, indices, problem.images);
  problem.rois = problem.boxes.count;
  problem.double_coordinates = input.dtype == kFloat64 || boxes.dtype == kFloat64;
}

Shape pooled_shape(const Problem& problem) {
  Shape shape;
  if (problem.boxes.by_position) shape.size[shape.ndim++] = problem.images;
  shape.size[shape.ndim++] = problem.boxes.per_image;
  const bool channels_first = problem.layout == Layout::nchw;
  if (channels_first) shape.size[shape.ndim++] = problem.channels;
  shape.size[shape.ndim++] = problem.output_height;
  shape.size[shape.ndim++] = problem.output_width;
  if (!channels_first) shape.size[shape.ndim++] = problem.channels;
  count_elements(problem.op, shape);
  return shape;
}

Shape input_shape(const Problem& problem) {
  const Map& map = problem.maps[0];
  if (problem.layout == Layout::nchw)
    return {4, {problem.images, problem.channels, map.height, map.width}};
  return {4, {problem.images, map.height, map.width, problem.channels}};
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

MapView attach_map(const Problem& problem, const char* name, const Tensor& tensor) {
  check_same_dtype(problem.op, name, tensor, problem.dtype, " as the gradient");
  check_shape(problem.op, name, tensor, input_shape(problem));
  check_same_device(problem.op, name, tensor, problem.device);
  check_aligned(problem.op, name, tensor);
  const Axes axes = axes_of(problem.layout);
  return {tensor.data, tensor.strides[axes.n], tensor.strides[axes.c], tensor.strides[axes.h],
          tensor.strides[axes.w]};
}

void check_like_boxes(const Problem& problem, const char* name, const Tensor& tensor,
                      const Tensor& boxes) {
  check_float(problem.op, name, tensor);
  check_shape(problem.op, name, tensor, shape_of(boxes));
  check_same_device(problem.op, name, tensor, problem.device);
}

void check_written(const Problem& problem, const Named& written,
                   std::initializer_list<Named> others) {
  check_distinct_elements(problem.op, written.name, *written.tensor);
  for (const Named& other : others)
    if (other.tensor != nullptr)
      check_no_overlap(problem.op, written.name, *written.tensor, other.name, *other.tensor);
}

void check_values(const Problem& problem) {
  const bool readable =
      problem.device.device_type == abi::kDLCPU || problem.device.device_type == abi::kDLCUDAHost;
  if (readable)
    check_box_values(problem.op, problem.boxes, problem.images);
  else if (checks_on_device(problem))
    check_device_box_values(problem, *cuda_library());
}

}  // namespace roidl
