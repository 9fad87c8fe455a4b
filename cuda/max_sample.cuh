// The max modes of RoIAlign: the largest sample of a bin, or the largest weighted corner.
#pragma once
#include "bins.cuh"

namespace roidl::cuda {

// The largest value and its sample: the indices along y and x, or -1 for a value that depends on no
// feature; in the ONNX mode also the corner.
template <class A>
struct MaxSample {
  A value = A(0);
  int64_t y = -1, x = -1;
  int corner = 0;
  bool empty = true;

  // A candidate replaces the value if it is larger, or the first NaN.
  ROIDL_DEVICE void consider(A candidate, int64_t at_y, int64_t at_x, int at_corner) {
    if (empty || candidate > value || (candidate != candidate && value == value)) {
      value = candidate;
      y = at_y;
      x = at_x;
      corner = at_corner;
    }
    empty = false;
  }
};

// The four corners of a sample: bits 1 and 0 of a corner's number are its row and its column.
template <class C, class A>
struct Corners {
  Bilinear<C> y, x;

  ROIDL_DEVICE int64_t row(int corner) const { return corner & 2 ? y.high : y.low; }
  ROIDL_DEVICE int64_t column(int corner) const { return corner & 1 ? x.high : x.low; }
  ROIDL_DEVICE A weight(int corner) const {
    return A(corner & 2 ? y.weight_high : y.weight_low) *
           A(corner & 1 ? x.weight_high : x.weight_low);
  }

  // Interpolates along y, then along x; src/cpu/kernels_max.h explains the order of the steps.
  template <class T>
  ROIDL_DEVICE A value(const Plane<T>& plane) const {
    const auto between_rows = [&](int64_t column) {
      return term(A(y.weight_low), [&] { return A(plane(y.low, column)); }) +
             term(A(y.weight_high), [&] { return A(plane(y.high, column)); });
    };
    return term(A(x.weight_low), [&] { return between_rows(x.low); }) +
           term(A(x.weight_high), [&] { return between_rows(x.high); });
  }
};

// Finds the maximum of bin (p, q), samples in row-major order. Samples off the map have the value
// 0; among equal values the earlier sample wins, and of those off the map the first one counts.
template <class T, class C>
ROIDL_DEVICE MaxSample<accumulator<T>> find_max_sample(const Roi<AlignBins<C>>& roi, int64_t p,
                                                       int64_t q, bool onnx,
                                                       const Plane<T>& plane) {
  using A = accumulator<T>;
  MaxSample<A> max_sample;
  const AlignBins<C>&y = roi.y, &x = roi.x;
  if (y.axis.grid == 0) return max_sample;
  const SampleRange rows = samples_on_map(y.axis, p, y.size);
  const SampleRange columns = samples_on_map(x.axis, q, x.size);
  const bool no_rows = rows.first >= rows.stop, no_columns = columns.first >= columns.stop;
  const auto outside = [&](bool exists) {
    if (exists) max_sample.consider(A(0), -1, -1, 0);
  };
  outside(no_rows || no_columns || rows.first > 0 || columns.first > 0);
  if (no_rows || no_columns) return max_sample;
  for_each_sample(y.axis, p, y.size, [&](const Bilinear<C>& down, int64_t i, double) {
    for_each_sample(x.axis, q, x.size, [&](const Bilinear<C>& across, int64_t j, double) {
      const Corners<C, A> corners{down, across};
      if (!onnx) return max_sample.consider(corners.value(plane), i, j, 0);
      for (int corner = 0; corner < 4; ++corner) {
        const A weight = corners.weight(corner);
        if (weight == A(0))
          max_sample.consider(A(0), -1, -1, 0);
        else
          max_sample.consider(weight * A(plane(corners.row(corner), corners.column(corner))), i, j,
                              corner);
      }
    });
    outside(columns.stop < x.axis.grid);
  });
  outside(rows.stop < y.axis.grid);
  return max_sample;
}

template <class A, class C>
ROIDL_DEVICE Corners<C, A> corners_of(const Roi<AlignBins<C>>& roi, int64_t p, int64_t q,
                                      const MaxSample<A>& max_sample) {
  return {bilinear(sample_position(roi.y.axis, p, max_sample.y), roi.y.size),
          bilinear(sample_position(roi.x.axis, q, max_sample.x), roi.x.size)};
}

// Calls visit(row, column, weight) for the cells that the maximum comes from.
template <class A, class C, class Visit>
ROIDL_DEVICE void for_each_corner(const Roi<AlignBins<C>>& roi, int64_t p, int64_t q, bool onnx,
                                  const MaxSample<A>& max_sample, Visit&& visit) {
  if (max_sample.y < 0) return;
  const Corners<C, A> corners = corners_of(roi, p, q, max_sample);
  for (int corner = 0; corner < 4; ++corner) {
    if (onnx && corner != max_sample.corner) continue;
    const A weight = corners.weight(corner);
    if (weight != A(0)) visit(corners.row(corner), corners.column(corner), weight);
  }
}

}  // namespace roidl::cuda
