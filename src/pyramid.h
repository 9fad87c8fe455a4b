// Assigns boxes to the maps of a pyramid.
#pragma once
#include <cstdint>

#include "geometry.h"
#include "problem.h"

namespace roidl {

// The number in `levels` for row k, which is not checked here.
ROIDL_HOST_DEVICE inline int64_t given_level(const Levels& levels, const Boxes& boxes, int64_t k) {
  const int64_t n = k / boxes.per_image, row = k - n * boxes.per_image;
  return load_number<int64_t>(
      levels.given + (n * levels.image_stride + row * levels.row_stride) * (levels.dtype.bits / 8),
      levels.dtype);
}

// The index of a box's map among `maps` maps by torchvision's rule, which counts levels from the
// level of the first scale. It does not tell maps of equal scales apart, and if scales skip levels,
// it uses the last map for every level beyond the number of maps.
template <class T>
ROIDL_HOST_DEVICE int64_t level_by_size(const Levels& rule, int maps, const Box<T>& box) {
  const int64_t level = pyramid_level(box.x1, box.y1, box.x2, box.y2, rule.canonical_scale,
                                      rule.canonical_level, rule.lowest, rule.highest);
  return level < maps ? level : maps - 1;
}

void check_scale(const char* op, const char* name, double scale);

// Fills in how the boxes of a problem are assigned to maps.
void describe_levels(Problem& problem, const Tensor& boxes, const Pyramid& pyramid);
void check_level_values(const Problem& problem);

// The index of the map of row k: from `levels`, or else by the rule.
int64_t level_of(const Problem& problem, int64_t k);

// Writes the index of every box's map among `maps` maps, by the rule, to memory on the boxes'
// device. On CUDA, it runs on `stream`; `may_wait` says whether the host may wait for a check of
// values.
void assign_levels(const char* op, const Pyramid& pyramid, int maps, const Tensor& boxes,
                   int32_t* levels, void* stream = nullptr, bool may_wait = true,
                   Pass pass = Pass::run);

}  // namespace roidl
