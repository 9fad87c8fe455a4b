// The samples of RoIAlign along the axes of a RoI. Compile without contraction: see geometry.h.
#pragma once
#include <cmath>
#include <cstdint>

#include "geometry.h"
#include "roi_align.h"

namespace roidl {

// d(position of sample i of bin p)/d(lower edge, upper edge of the box).
template <class T>
struct EdgeDerivative {
  double low, high;
  ROIDL_HOST_DEVICE EdgeDerivative(const AlignAxis<T>& axis, double scale, int64_t bins, int64_t p,
                                   int64_t i) {
    const double along = axis.clamped ? 0.0 : (p + (i + 0.5) / axis.grid) / bins;
    low = scale * (1 - along);
    high = scale * along;
  }
};

// Calls visit(sample, i, times) for the samples `range` of bin p. They lie on the map, and of the
// samples that share a cell, the range has all or none. Where more than kDense share a cell, every
// quantity that is summed is linear in i, so the first and the last sample of the cell represent
// it, each with half the count. The cost is then bounded by the map, not by the grid.
template <class T, class Visit>
ROIDL_HOST_DEVICE void for_each_sample(const AlignAxis<T>& axis, int64_t p, int64_t size,
                                       const SampleRange& range, Visit&& visit) {
  constexpr double kDense = 64;  // samples per cell
  const bool dense = static_cast<double>(axis.grid) > kDense * (::fabs(double{axis.bin}) + 1);
  for (int64_t i = range.first; i < range.stop;) {
    const Bilinear<T> sample = bilinear(sample_position(axis, p, i), size);
    int64_t last = i;
    if (dense) {
      int64_t count = range.stop - i - 1;
      while (count > 0) {
        const int64_t step = (count + 1) / 2;
        const Bilinear<T> other = bilinear(sample_position(axis, p, last + step), size);
        const bool same = other.low == sample.low && other.moves == sample.moves;
        if (same) last += step;
        count = same ? count - step : step - 1;
      }
    }
    // The only call of visit: a compiler that inlines it does so once.
    const double times = i == last ? 1.0 : 0.5 * static_cast<double>(last - i + 1);
    for (int64_t at = i;; at = last) {
      visit(at == i ? sample : bilinear(sample_position(axis, p, at), size), at, times);
      if (at == last) break;
    }
    i = last + 1;
  }
}

// Does the same for all samples of bin p on the map.
template <class T, class Visit>
ROIDL_HOST_DEVICE void for_each_sample(const AlignAxis<T>& axis, int64_t p, int64_t size,
                                       Visit&& visit) {
  for_each_sample(axis, p, size, samples_on_map(axis, p, size), visit);
}

template <class T>
struct AlignAxes {
  AlignAxis<T> y, x;
  ROIDL_HOST_DEVICE AlignAxes(const RoiAlignParams& params, T scale, const Box<T>& box, bool exists)
      : y(align_axis(box.y1, box.y2, scale, params.aligned, params.output_height,
                     params.sampling_height)),
        x(align_axis(box.x1, box.x2, scale, params.aligned, params.output_width,
                     params.sampling_width)) {
    // A grid without extent along one axis has no samples; nor has a padding row.
    if (y.grid == 0 || x.grid == 0 || !exists) y.grid = x.grid = 0;
  }
};

}  // namespace roidl
