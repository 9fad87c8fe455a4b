// Kernels that compute every bin by itself, walking its samples or cells: a thread is a bin.
#pragma once
#include "rois.cuh"

namespace roidl::cuda {

// body(roi, k, channel, p, q) for every channel and bin of every RoI.
template <class Rois, class Body>
struct EachBin {
  static constexpr int kResident = Body::kResident;
  Rois rois;
  Body body;
  int64_t count;  // of the RoIs
  int64_t channels, bins_y, bins_x;
  int64_t parts, part;  // of a RoI; items in each
  bool channels_first;  // in memory: neighbours are bins, else channels

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    auto* const roi = shared.take<Roi<typename Rois::Axis>>(1);
    const int64_t bins = bins_y * bins_x, items = bins * channels;
    for (int64_t work = team.block; work < count * parts; work += team.blocks) {
      const int64_t k = work / parts, first = (work - k * parts) * part;
      team.each(1, [&](int64_t) { *roi = rois.load(k); });
      const int64_t left = items - first;
      team.each(left < part ? left : part, [&](int64_t offset) {
        const int64_t i = first + offset;
        const int64_t channel = channels_first ? i / bins : i % channels;
        const int64_t bin = channels_first ? i - channel * bins : i / channels;
        const int64_t p = bin / bins_x;
        body(*roi, k, channel, p, bin - p * bins_x);
      });
    }
  }
};

template <class Rois, class Body>
void launch_each_bin(const Problem& problem, const Rois& rois, const Body& body) {
  const int64_t items = problem.channels * problem.output_height * problem.output_width;
  const int64_t part = items < 4 * kThreads ? items : 4 * kThreads;
  const EachBin<Rois, Body> kernel{rois,
                                   body,
                                   problem.rois,
                                   problem.channels,
                                   problem.output_height,
                                   problem.output_width,
                                   divide_up(items, part),
                                   part,
                                   problem.pooled.c != 1};
  launch(problem, kernel, problem.rois * kernel.parts,
         Shared::bytes_of<Roi<typename Rois::Axis>>(1));
}

// Views with the type of their elements.
template <class T>
struct Plane {  // a channel of an image
  const T* data;
  int64_t h, w;

  ROIDL_DEVICE accumulator<T> operator()(int64_t y, int64_t x) const {
    return widen(data[y * h + x * w]);
  }
};

template <class T>
ROIDL_DEVICE Plane<T> plane_of(const MapView& view, int64_t image, int64_t channel) {
  return {static_cast<const T*>(view.data) + image * view.n + channel * view.c, view.h, view.w};
}
template <class T, class Place>  // Place: a Roi or a Window
ROIDL_DEVICE Plane<T> plane_of(const Views& views, const Place& place, int64_t channel) {
  return plane_of<T>(views.of[place.map], place.image, channel);
}

template <class T>
ROIDL_DEVICE T& element_of(const PooledView& view, int64_t k, int64_t channel, int64_t p,
                           int64_t q) {
  return static_cast<T*>(view.data)[view.offset(k) + channel * view.c + p * view.h + q * view.w];
}

// A weight of zero must not read: there may be a NaN.
template <class A, class Read>
ROIDL_DEVICE A term(A weight, Read&& read) {
  return weight != A(0) ? weight * read() : A(0);
}

}  // namespace roidl::cuda
