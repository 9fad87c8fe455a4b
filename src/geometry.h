// The positions of samples and bins on a map. Every step is rounded in the order written here: the
// test at the edge of the map is a jump, so one ulp can add or remove a whole sample. Compile
// without contraction to FMA.
#pragma once
#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace roidl {

// One axis of one box: bin p's sample i lies at (start + p * bin) + ((i + 1/2) * bin) / grid.
template <class T>
struct AlignAxis {
  T start;
  T bin;
  int64_t grid;  // samples per bin; 0 when an adaptive box has no extent
  bool clamped;  // not aligned and smaller than a cell: the size is 1, whatever the box
};

template <class T>
ROIDL_HOST_DEVICE AlignAxis<T> align_axis(T low, T high, T scale, bool aligned, int64_t bins,
                                          int64_t sampling_ratio) {
  const T offset = aligned ? T(0.5) : T(0);
  AlignAxis<T> axis;
  axis.start = scale * low - offset;
  const T end = scale * high - offset;
  T size = end - axis.start;
  axis.clamped = !aligned && !(size >= T(1));
  if (axis.clamped) size = T(1);
  axis.bin = size / T(bins);
  axis.grid = sampling_ratio;
  if (sampling_ratio <= 0) {
    const double cells = ::ceil(static_cast<double>(axis.bin));
    axis.grid = !(cells > 0) ? 0 : cells < 2147483647.0 ? static_cast<int64_t>(cells) : 2147483647;
  }
  return axis;
}

template <class T>
ROIDL_HOST_DEVICE T sample_position(const AlignAxis<T>& axis, int64_t p, int64_t i) {
  const T corner = axis.start + T(p) * axis.bin;
  return corner + ((T(i) + T(0.5)) * axis.bin) / T(axis.grid);
}

// The samples [first, stop) of bin p lie on the map; there is no gap, as positions are monotone in
// i. Positions that are not finite are off the map: each test is written so that NaN fails it.
struct SampleRange {
  int64_t first, stop;
};

template <class T>
ROIDL_HOST_DEVICE SampleRange samples_on_map(const AlignAxis<T>& axis, int64_t p, int64_t size) {
  if (size == 0 || axis.grid == 0) return {0, 0};
  const T low = T(-1), high = T(size);
  const T front = sample_position(axis, p, 0), back = sample_position(axis, p, axis.grid - 1);
  const bool rising = !(axis.bin < T(0));
  if (front >= low && front <= high && back >= low && back <= high) return {0, axis.grid};
  // `first` is the first sample on the map, `stop` the first one behind it.
  int64_t first = 0, count = axis.grid;
  while (count > 0) {
    const int64_t half = count / 2;
    const T position = sample_position(axis, p, first + half);
    const bool entered = rising ? position >= low : position <= high;
    if (!entered) first += half + 1;
    count = entered ? half : count - half - 1;
  }
  int64_t stop = first;
  count = axis.grid - first;
  while (count > 0) {
    const int64_t half = count / 2;
    const T position = sample_position(axis, p, stop + half);
    const bool inside = rising ? position <= high : position >= low;
    if (inside) stop += half + 1;
    count = inside ? count - half - 1 : half;
  }
  return {first, stop};
}

// A sample on the map touches cells low and high with these weights along the axis.
template <class T>
struct Bilinear {
  int64_t low, high;
  T weight_low, weight_high;
  bool moves;  // the value depends on the position: no edge clamped it
};

template <class T>
ROIDL_HOST_DEVICE Bilinear<T> bilinear(T position, int64_t size) {
  const T y = position > T(0) ? position : T(0);
  const int64_t low = static_cast<int64_t>(y);
  if (low >= size - 1) return {size - 1, size - 1, T(1), T(0), false};
  const T fraction = y - T(low);
  return {low, low + 1, T(1) - fraction, fraction, !(position < T(0))};
}

// RoIPool: bin p covers the cells [begin, end).
struct Bin {
  int64_t begin, end;
};

template <class T>
struct PoolAxis {
  int64_t start;
  T bin;  // rounded to T: for widths of 57, 114, 121, ... this moves a border
};

template <class T>
ROIDL_HOST_DEVICE PoolAxis<T> pool_axis(T low, T high, T scale, int64_t bins) {
  const double limit = 1073741824.0;  // 2^30, outside every map
  const auto cell = [&](T coordinate) {
    const double scaled = static_cast<double>(scale * coordinate);
    if (scaled != scaled) return int64_t{0};  // NaN: 0 times a scale that overflows T
    const double clamped = scaled < -limit ? -limit : scaled > limit ? limit : scaled;
    return static_cast<int64_t>(::round(clamped));  // half away from zero
  };
  const int64_t start = cell(low), size = cell(high) - start + 1;
  return {start, T(size > 1 ? size : 1) / T(bins)};
}

template <class T>
ROIDL_HOST_DEVICE Bin pool_bin(const PoolAxis<T>& axis, int64_t p, int64_t size) {
  const auto clip = [&](int64_t cell) { return cell < 0 ? 0 : cell > size ? size : cell; };
  const T low = T(p) * axis.bin, high = T(p + 1) * axis.bin;
  return {clip(static_cast<int64_t>(::floor(static_cast<double>(low))) + axis.start),
          clip(static_cast<int64_t>(::ceil(static_cast<double>(high))) + axis.start)};
}

// Position-sensitive RoIPool: as above, except that the end of a box is outside it.
template <class T>
ROIDL_HOST_DEVICE PoolAxis<T> ps_pool_axis(T low, T high, T scale, int64_t bins) {
  const int64_t start = pool_axis(low, low, scale, bins).start;
  const int64_t size = pool_axis(high, high, scale, bins).start - start;
  return {start, T(size > 1 ? size : 1) / T(bins)};
}

// Feature Pyramid Networks (arXiv:1612.03144), equation 1, rounded as in torchvision: the index of
// a box's map among those whose scales are 2^-lowest ... 2^-highest. The finest map is used for a
// box without area or with NaN.
template <class T>
ROIDL_HOST_DEVICE int64_t pyramid_level(T x1, T y1, T x2, T y2, double canonical_scale,
                                        double canonical_level, double lowest, double highest) {
  const T size = T(::sqrt(static_cast<double>((x2 - x1) * (y2 - y1))));
  // Computed in float64: logarithms of float32 differ between libraries, which matters at a border.
  const double doublings = ::log2(static_cast<double>(size / T(canonical_scale)));
  const T level = T(::floor(static_cast<double>(T(canonical_level)) + doublings + T(1e-6)));
  const T first = T(lowest), last = T(highest);
  if (!(level > first)) return 0;
  return static_cast<int64_t>((level < last ? level : last) - first);
}

}  // namespace roidl
