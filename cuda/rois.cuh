// The RoIs as kernels read them: one box at a time, its bins along both axes, the cells it touches.
#pragma once
#include "launch.cuh"
#include "samples.h"

namespace roidl::cuda {

// The cells that a RoI may touch, half open; of a box that has no image, or coordinates that are no
// numbers, nothing is left but the image -1.
struct Window {
  int64_t image = -1;
  int32_t y_begin = 0, y_end = 0, x_begin = 0, x_end = 0;
};

// A box with its image, or with -1 for one: values are not looked at from the host.
template <class C>
ROIDL_DEVICE Box<C> load_known_box(const Boxes& boxes, int64_t k, int64_t images) {
  Box<C> box = load_box<C>(boxes, k);
  const C any = (box.x1 - box.x1) + (box.y1 - box.y1) + (box.x2 - box.x2) + (box.y2 - box.y2);
  if (!(any == C(0)) || box.image < 0 || box.image >= images) box.image = -1;
  return box;
}

// One axis of a RoI of RoIAlign.
template <class C>
struct AlignBins {
  AlignAxis<C> axis;
  int64_t bins, size;
  double scale;

  // visit(cell, weight, i, sign) for what bin p averages: cells may come again, weights may be
  // zero. `sign` is that of the weight's derivative to the position of sample i, 0 where it has
  // none.
  template <class W, class Visit>
  ROIDL_DEVICE void for_each_tap(int64_t p, Visit&& visit) const {
    const W share = axis.grid > 0 ? W(1) / W(axis.grid) : W(0);
    for_each_sample(axis, p, size, [&](const Bilinear<C>& sample, int64_t i, double times) {
      const W some = share * W(times);
      for (int side = 0; side < 2; ++side)
        visit(static_cast<int32_t>(side == 0 ? sample.low : sample.high),
              some * W(side == 0 ? sample.weight_low : sample.weight_high), i,
              sample.moves ? some * W(2 * side - 1) : W(0));
    });
  }

  // d(position of sample i of bin p)/d(lower edge, upper edge of the box).
  ROIDL_DEVICE EdgeDerivative<C> edge(int64_t p, int64_t i) const {
    return EdgeDerivative<C>(axis, scale, bins, p, i);
  }

  // The most cells that bin p has taps on, one above the other or not.
  ROIDL_DEVICE int64_t cells_at_most(int64_t p) const {
    const SampleRange range = samples_on_map(axis, p, size);
    if (range.first >= range.stop) return 0;
    const int64_t front = bilinear(sample_position(axis, p, range.first), size).low;
    const int64_t back = bilinear(sample_position(axis, p, range.stop - 1), size).low;
    const int64_t span = (front < back ? back - front : front - back) + 2;
    const int64_t samples = 2 * (range.stop - range.first);
    return samples < span ? samples : span;
  }

  // A hull of the cells of all bins.
  ROIDL_DEVICE void window(int32_t& begin, int32_t& end) const {
    begin = end = 0;
    if (size == 0 || axis.grid == 0) return;
    const C first = axis.start, last = axis.start + C(bins) * axis.bin;
    C low = first < last ? first : last, high = first < last ? last : first;
    if (!(high - low >= C(0))) return;  // not finite: no sample is on the map
    // Positions are rounded step by step: what they may be off the straight line by.
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

  // visit(cell, weight, 0, 0) for what bin p averages.
  template <class W, class Visit>
  ROIDL_DEVICE void for_each_tap(int64_t p, Visit&& visit) const {
    const Bin covered = bin(p);
    const W share = W(1) / W(covered.end - covered.begin);
    for (int64_t cell = covered.begin; cell < covered.end; ++cell)
      visit(static_cast<int32_t>(cell), share, 0, W(0));
  }

  ROIDL_DEVICE int64_t cells_at_most(int64_t p) const {
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
  int64_t image;  // -1: the box is to be passed over
  Axis y, x;
};

template <class C>
struct AlignRois {
  using Axis = AlignBins<C>;
  Boxes boxes;
  RoiAlignParams params;
  int64_t images, height, width;
  double scale;

  explicit AlignRois(const RoiAlignProblem& problem)
      : boxes(problem.boxes),
        params(problem.params),
        images(problem.images),
        height(problem.maps[0].height),
        width(problem.maps[0].width),
        scale(problem.maps[0].scale) {}

  ROIDL_DEVICE_CALL Roi<Axis> load(int64_t k) const {
    const Box<C> box = load_known_box<C>(boxes, k, images);
    const AlignAxes<C> axes(params, static_cast<C>(scale), box, true);
    return {box.image,
            {axes.y, params.output_height, height, scale},
            {axes.x, params.output_width, width, scale}};
  }
};

template <class C>
struct PoolRois {
  using Axis = PoolBins<C>;
  Boxes boxes;
  int64_t bins_y, bins_x;
  int64_t images, height, width;
  double scale;

  explicit PoolRois(const RoiPoolProblem& problem)
      : boxes(problem.boxes),
        bins_y(problem.output_height),
        bins_x(problem.output_width),
        images(problem.images),
        height(problem.maps[0].height),
        width(problem.maps[0].width),
        scale(problem.maps[0].scale) {}

  ROIDL_DEVICE_CALL Roi<Axis> load(int64_t k) const {
    const Box<C> box = load_known_box<C>(boxes, k, images);
    const C rounded = static_cast<C>(scale);
    return {box.image,
            {pool_axis(box.y1, box.y2, rounded, bins_y), bins_y, height},
            {pool_axis(box.x1, box.x2, rounded, bins_x), bins_x, width}};
  }
};

template <class Axis>
ROIDL_DEVICE Window window_of(const Roi<Axis>& roi) {
  Window window;
  if (roi.image < 0) return window;
  roi.y.window(window.y_begin, window.y_end);
  roi.x.window(window.x_begin, window.x_end);
  if (window.y_begin < window.y_end && window.x_begin < window.x_end) window.image = roi.image;
  return window;
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
