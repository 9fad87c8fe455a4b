// The RoIs as kernels read them: each box, its bins along both axes, and the cells that it touches.
#pragma once
#include "boxes.h"
#include "intrinsics.cuh"
#include "ps_roi_pool.h"
#include "pyramid.h"
#include "roi_align.h"
#include "roi_pool.h"
#include "samples.h"

namespace roidl::cuda {

// The cells of a map that a RoI may touch, as half-open ranges. For a RoI that touches none, image
// is -1 and all else has its default.
struct alignas(16) Window {
  int64_t image = -1;
  int32_t map = 0;
  int32_t y_begin = 0, y_end = 0, x_begin = 0, x_end = 0;
  int32_t padding = 0;  // initialised, because windows are copied whole
};

// One view of every map.
struct Views {
  MapView of[kMaxMaps];
};

inline Views views_of(const Problem& problem, MapView Map::* view) {
  Views views;
  for (int i = 0; i < problem.num_maps; ++i) views.of[i] = problem.maps[i].*view;
  return views;
}

// The boxes with their images and maps. The host does not read their values. A box without an image
// or a map, or with a coordinate that is not finite, does not exist, like a padding row: its image
// is -1.
struct Placement {
  struct Grid {
    int64_t height, width;
    double scale;
  };
  Boxes boxes;
  Levels levels;
  int64_t images;
  int32_t num_maps;
  Grid maps[kMaxMaps];

  explicit Placement(const Problem& problem)
      : boxes(problem.boxes),
        levels(problem.levels),
        images(problem.images),
        num_maps(problem.num_maps) {
    for (int i = 0; i < num_maps; ++i)
      maps[i] = {problem.maps[i].height, problem.maps[i].width, problem.maps[i].scale};
  }

  template <class C>
  ROIDL_DEVICE PlacedBox<C> find(int64_t k) const {
    PlacedBox<C> placed{false, 0, {-1, C(0), C(0), C(0), C(0)}};
    if (is_padding(boxes, k)) return placed;
    const Box<C> box = load_box<C>(boxes, k);
    const C any = (box.x1 - box.x1) + (box.y1 - box.y1) + (box.x2 - box.x2) + (box.y2 - box.y2);
    const int64_t level = levels.given != nullptr ? given_level(levels, boxes, k)
                          : num_maps > 1          ? level_by_size(levels, num_maps, box)
                                                  : 0;
    if (!(any == C(0)) || box.image < 0 || box.image >= images) return placed;
    if (level < 0 || level >= num_maps) return placed;
    return {true, static_cast<int>(level), box};
  }
};

// One axis of a RoI of RoIAlign.
template <class C>
struct AlignBins {
  AlignAxis<C> axis;
  int64_t bins, size;
  double scale;

  // Calls visit(cell, weight, i, sign) for the cells that bin p averages; cells may repeat, and
  // weights may be zero. `sign` is that of the weight's derivative to the position of sample i, or
  // 0 if there is none.
  template <class W, class Visit>
  ROIDL_DEVICE void for_each_tap(int64_t p, Visit&& visit) const {
    const W share = axis.grid > 0 ? W(1) / W(axis.grid) : W(0);
    for_each_sample(axis, p, size, [&](const Bilinear<C>& sample, int64_t i, double times) {
      const W sample_share = share * W(times);
      for (int side = 0; side < 2; ++side)
        visit(static_cast<int32_t>(side == 0 ? sample.low : sample.high),
              sample_share * W(side == 0 ? sample.weight_low : sample.weight_high), i,
              sample.moves ? sample_share * W(2 * side - 1) : W(0));
    });
  }

  // d(position of sample i of bin p)/d(lower edge, upper edge of the box).
  ROIDL_DEVICE EdgeDerivative<C> edge(int64_t p, int64_t i) const {
    return EdgeDerivative<C>(axis, scale, bins, p, i);
  }

  // The most taps that bin p has, before taps on the same cell are merged.
  ROIDL_DEVICE int64_t max_cells(int64_t p) const {
    const SampleRange range = samples_on_map(axis, p, size);
    if (range.first >= range.stop) return 0;
    const int64_t front = bilinear(sample_position(axis, p, range.first), size).low;
    const int64_t back = bilinear(sample_position(axis, p, range.stop - 1), size).low;
    const int64_t span = (front < back ? back - front : front - back) + 2;
    const int64_t samples = 2 * (range.stop - range.first);
    return samples < span ? samples : span;
  }

  // Finds a range that includes the cells of all bins.
  ROIDL_DEVICE void window(int32_t& begin, int32_t& end) const {
    begin = end = 0;
    if (size == 0 || axis.grid == 0) return;
    const C first = axis.start, last = axis.start + C(bins) * axis.bin;
    C low = first < last ? first : last, high = first < last ? last : first;
    if (!(high - low >= C(0))) return;  // not finite: no sample is on the map
    // Positions are rounded step by step; this bounds their distance from the exact line.
    const C slack = (::fabs(low) + ::fabs(high)) * (sizeof(C) == 4 ? C(1e-6) : C(1e-14));
    low -= slack;
    high += slack;
    if (!(low <= C(size)) || !(high >= C(-1))) return;
    begin = low > C(0) ? static_cast<int32_t>(low < C(size - 1) ? low : C(size - 1)) : 0;
    const int64_t stop =
        high < C(size) ? static_cast<int64_t>(high > C(0) ? high : C(0)) + 2 : size;
    end = static_cast<int32_t>(stop < size ? stop : size);
  }
};

// One axis of a RoI of RoIPool.
template <class C>
struct PoolBins {
  PoolAxis<C> axis;
  int64_t bins, size;

  ROIDL_DEVICE Bin bin(int64_t p) const { return pool_bin(axis, p, size); }

  // Calls visit(cell, weight, 0, 0) for the cells that bin p averages.
  template <class W, class Visit>
  ROIDL_DEVICE void for_each_tap(int64_t p, Visit&& visit) const {
    const Bin covered = bin(p);
    const W share = W(1) / W(covered.end - covered.begin);
    for (int64_t cell = covered.begin; cell < covered.end; ++cell)
      visit(static_cast<int32_t>(cell), share, 0, W(0));
  }

  ROIDL_DEVICE int64_t max_cells(int64_t p) const {
    const Bin covered = bin(p);
    return covered.begin < covered.end ? covered.end - covered.begin : 0;
  }

  ROIDL_DEVICE void window(int32_t& begin, int32_t& end) const {
    begin = static_cast<int32_t>(bin(0).begin);
    end = static_cast<int32_t>(bin(bins - 1).end);
  }
};

template <class Axis>
struct Roi {
  int64_t image;  // -1: the box does not exist
  int32_t map;
  Axis y, x;
};

template <class Coordinate>
struct AlignRois {
  using C = Coordinate;
  using Axis = AlignBins<C>;
  Placement placement;
  RoiAlignParams params;

  explicit AlignRois(const RoiAlignProblem& problem) : placement(problem), params(problem.params) {}

  ROIDL_DEVICE_CALL Roi<Axis> load(int64_t k) const {
    const PlacedBox<C> placed = placement.find<C>(k);
    const Placement::Grid& map = placement.maps[placed.map];
    const AlignAxes<C> axes(params, static_cast<C>(map.scale), placed.box, true);
    return {placed.box.image,
            placed.map,
            {axes.y, params.output_height, map.height, map.scale},
            {axes.x, params.output_width, map.width, map.scale}};
  }
};

template <class Coordinate>
struct PoolRois {
  using C = Coordinate;
  using Axis = PoolBins<C>;
  Placement placement;
  int64_t bins_y, bins_x;
  bool ends_inside = true;  // the cell of a box's end is part of it
  int32_t hidden = 0;       // of the last rows and columns, which no bin reads

  explicit PoolRois(const RoiPoolProblem& problem)
      : placement(problem), bins_y(problem.output_height), bins_x(problem.output_width) {}
  explicit PoolRois(const PsRoiPoolProblem& problem)
      : placement(problem),
        bins_y(problem.output_height),
        bins_x(problem.output_width),
        ends_inside(false),
        hidden(problem.params.clip == static_cast<int32_t>(PsRoiPoolClip::torchvision)) {}

  ROIDL_DEVICE_CALL Roi<Axis> load(int64_t k) const {
    const PlacedBox<C> placed = placement.find<C>(k);
    const Placement::Grid& map = placement.maps[placed.map];
    const Box<C>& box = placed.box;
    const C scale = static_cast<C>(map.scale);
    return {box.image,
            placed.map,
            {axis(box.y1, box.y2, scale, bins_y), bins_y, size(map.height)},
            {axis(box.x1, box.x2, scale, bins_x), bins_x, size(map.width)}};
  }

 private:
  ROIDL_DEVICE PoolAxis<C> axis(C low, C high, C scale, int64_t bins) const {
    return ends_inside ? pool_axis(low, high, scale, bins) : ps_pool_axis(low, high, scale, bins);
  }
  ROIDL_DEVICE int64_t size(int64_t cells) const { return cells > 0 ? cells - hidden : 0; }
};

template <class Axis>
ROIDL_DEVICE Window window_of(const Roi<Axis>& roi) {
  Window window;
  if (roi.image < 0) return window;
  window.map = roi.map;
  roi.y.window(window.y_begin, window.y_end);
  roi.x.window(window.x_begin, window.x_end);
  if (window.y_begin < window.y_end && window.x_begin < window.x_end) window.image = roi.image;
  return window;
}

// Returns the largest measure(map) of the maps of a problem.
template <class Measure>
int64_t max_over_maps(const Problem& problem, Measure&& measure) {
  int64_t max = 0;
  for (int i = 0; i < problem.num_maps; ++i) {
    const int64_t value = measure(problem.maps[i]);
    max = value > max ? value : max;
  }
  return max;
}

// Calls f(Type<T>{}, Type<C>{}) with the types of the elements and of the coordinates.
template <class F>
void visit_types(const Problem& problem, F&& f) {
  visit_float(problem.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 8) {
      f(type, Type<double>{});
    } else {
      problem.double_coordinates ? f(type, Type<double>{}) : f(type, Type<float>{});
    }
  });
}

}  // namespace roidl::cuda
