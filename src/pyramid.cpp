// Assigns boxes to the maps of a pyramid: as the caller says, or by the rule of Feature Pyramid
// Networks.
#include "pyramid.h"

#include <cmath>

#include "backend.h"
#include "check.h"
#include "checked_boxes.h"
#include "floating_point.h"
#include "interrupt.h"

namespace roidl {

void check_scale(const char* op, const char* name, double scale) {
  if (!(std::isfinite(scale) && scale > 0))
    fail(ErrorKind::value, op, name, " must be positive and finite, got ", scale);
}

void describe_levels(Problem& problem, const Tensor& boxes, const Pyramid& pyramid) {
  const char* op = problem.op;
  Levels& levels = problem.levels;
  check_scale(op, "canonical_scale", pyramid.canonical_scale);
  if (!std::isfinite(pyramid.canonical_level))
    fail(ErrorKind::value, op, "canonical_level must be finite, got ", pyramid.canonical_level);
  levels.canonical_scale = pyramid.canonical_scale;
  levels.canonical_level = pyramid.canonical_level;
  levels.lowest = -std::log2(problem.maps[0].scale);
  levels.highest = -std::log2(problem.maps[problem.num_maps - 1].scale);
  if (pyramid.levels == nullptr) {
    for (int i = 1; i < problem.num_maps; ++i)
      if (problem.maps[i].scale > problem.maps[i - 1].scale)
        fail(ErrorKind::value, op, "scales must not rise from map to map, but scales[", i, "] is ",
             problem.maps[i].scale, " after ", problem.maps[i - 1].scale,
             "; for any other order pass levels");
    return;
  }
  const Tensor& given = *pyramid.levels;
  check_same_device(op, "levels", given, problem.device);
  if (!is_integer(given.dtype))
    fail(ErrorKind::type, op, "levels must be of an integer type, got ", given.dtype);
  Shape expected = shape_of(boxes);
  --expected.ndim;
  check_shape(op, "levels", given, expected);
  check_aligned_on_device(op, "levels", given);
  levels.given = static_cast<const char*>(given.data);
  levels.dtype = given.dtype;
  levels.image_stride = given.ndim == 2 ? given.strides[0] : 0;
  levels.row_stride = given.strides[given.ndim - 1];
}

void check_level_values(const Problem& problem) {
  for (int64_t k = 0; problem.levels.given != nullptr && k < problem.rois; ++k) {
    if (k % kRowsPerInterrupt == kRowsPerInterrupt - 1) check_interrupt();
    if (is_padding(problem.boxes, k)) continue;
    const int64_t level = given_level(problem.levels, problem.boxes, k);
    if (level < 0 || level >= problem.num_maps)
      fail(ErrorKind::value, problem.op, "the level of row ", k, " is ", level,
           ", but must be in [0, ", problem.num_maps, ")");
  }
}

int64_t level_of(const Problem& problem, int64_t k) {
  const Levels& levels = problem.levels;
  const int maps = problem.num_maps;
  if (levels.given == nullptr)
    return problem.double_coordinates
               ? level_by_size(levels, maps, load_box<double>(problem.boxes, k))
               : level_by_size(levels, maps, load_box<float>(problem.boxes, k));
  return given_level(levels, problem.boxes, k);
}

void assign_levels(const char* op, const Pyramid& pyramid, int maps, const Tensor& boxes,
                   int32_t* levels, void* stream, bool may_wait, Pass pass) {
  const FloatingPoint mode;
  Problem problem;
  problem.op = op;
  problem.num_maps = maps;
  problem.device = boxes.device;
  problem.stream = stream;
  problem.may_wait = may_wait;
  problem.pass = pass;
  const Backend& backend = backend_of(problem);
  for (int i = 0; i < maps; ++i) {
    check_scale(op, "scales", pyramid.scales[i]);
    problem.maps[i].scale = pyramid.scales[i];
  }
  // The number of images is not known: boxes grouped by image imply it, rows with an index column
  // may have any number, and rows without one belong to one image.
  const bool any_image = boxes.ndim == 2 && boxes.shape[1] == 5;
  const int64_t images = boxes.ndim == 3 ? boxes.shape[0] : any_image ? INT64_MAX : 1;
  problem.boxes = describe_boxes(op, boxes, nullptr, nullptr, images);
  problem.images = images;
  problem.rois = problem.boxes.count;
  problem.channels = 1;  // one number for every box
  problem.double_coordinates = boxes.dtype == kFloat64;
  describe_levels(problem, boxes, pyramid);
  const CheckedBoxes checked(problem);
  backend.assign_levels(problem, levels);
}

}  // namespace roidl
