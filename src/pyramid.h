// Which map of a pyramid a box belongs to.
#pragma once
#include <cstdint>

#include "geometry.h"
#include "problem.h"

namespace roidl {

// What `levels` gives row k; nobody has looked at it.
ROIDL_HOST_DEVICE inline int64_t given_level(const Levels& levels, const Boxes& boxes, int64_t k) {
  const int64_t n = k / boxes.per_image, row = k - n * boxes.per_image;
  return load_number<int64_t>(
      levels.given + (n * levels.image_stride + row * levels.row_stride) * (levels.dtype.bits / 8),
      levels.dtype);
}

// The index among `maps` maps that the rule gives a box: torchvision's, which counts levels from
// that of the first scale. So maps of equal scales are not told apart by it, and the last map
// stands in for those of levels that are skipped.
template <class T>
ROIDL_HOST_DEVICE int64_t level_by_size(const Levels& rule, int maps, const Box<T>& box) {
  const int64_t level = pyramid_level(box.x1, box.y1, box.x2, box.y2, rule.canonical_scale,
                                      rule.canonical_level, rule.lowest, rule.highest);
  return level < maps ? level : maps - 1;
}

void check_scale(const char* op, const char* name, double scale);

// Fills in how the boxes of a problem find their map.
void describe_levels(Problem& problem, const Tensor& boxes, const Pyramid& pyramid);
void check_level_values(const Problem& problem);

// The index among the maps that `levels` gives row k, or the rule gives its box.
int64_t level_of(const Problem& problem, int64_t k);

// The rule alone: the map of every box, among `maps` of them, to memory of the boxes' device; on
// CUDA on this stream, for which it may wait where values are to be checked.
void assign_levels(const char* op, const Pyramid& pyramid, int maps, const Tensor& boxes,
                   int32_t* levels, void* stream = nullptr, bool may_wait = true,
                   Pass pass = Pass::run);

}  // namespace roidl
