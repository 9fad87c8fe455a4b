// Kernels that compute every bin by itself, walking its samples or cells: a thread is a bin.
#pragma once
#include "rois.cuh"

namespace roidl::cuda {

// The items of a RoI, numbered: its bins on every channel, or on every few that lie together.
class Items {
 public:
  explicit Items(const Problem& problem, int together = 1)
      : bins_(problem.output_height * problem.output_width),
        bins_x_(problem.output_width),
        channels_(problem.channels / together),
        few_(count() <= INT32_MAX),
        by_bins_(few_ ? bins_ : 1),
        by_bins_x_(few_ ? bins_x_ : 1),
        by_channels_(few_ ? channels_ : 1),
        channels_first_(problem.pooled.c != 1) {}

  ROIDL_HOST_DEVICE int64_t count() const { return bins_ * channels_; }

  // Calls visit(channel, p, q) of item i; neighbours in memory have neighbouring numbers.
  template <class Visit>
  ROIDL_DEVICE void split(int64_t i, Visit&& visit) const {
    int64_t channel, p, q;
    if (few_) {
      int32_t inner = static_cast<int32_t>(i);
      const int32_t outer = (channels_first_ ? by_bins_ : by_channels_).split(inner);
      int32_t bin = channels_first_ ? inner : outer;
      channel = channels_first_ ? outer : inner;
      p = by_bins_x_.split(bin);
      q = bin;
    } else {
      const int64_t bin = channels_first_ ? i % bins_ : i / channels_;
      channel = channels_first_ ? i / bins_ : i % channels_;
      p = bin / bins_x_;
      q = bin - p * bins_x_;
    }
    visit(channel, p, q);
  }

 private:
  int64_t bins_, bins_x_, channels_;
  bool few_;
  Divider by_bins_, by_bins_x_, by_channels_;
  bool channels_first_;
};

// What most bodies of EachBin know of a RoI beside itself: nothing.
struct NothingMore {
  static constexpr int kTogether = 1;  // channels of an item
  struct Space {};
  static int64_t bytes() { return 0; }
  ROIDL_DEVICE static Space place(Shared&) { return {}; }
  template <class RoiType>
  ROIDL_DEVICE static void prepare(const Team&, const RoiType&, const Space&) {}
};

// body(roi, space, k, channel, p, q) for every channel, or every kTogether of them, and bin of
// every RoI, after prepare(team, roi, space).
template <class Rois, class Body>
struct EachBin {
  static constexpr int kResident = Body::kResident;
  Rois rois;
  Body body;
  Items items;
  int64_t count;        // of the RoIs
  int64_t parts, part;  // of a RoI; items in each

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    auto* const roi = shared.take<Roi<typename Rois::Axis>>(1);
    const auto space = body.place(shared);
    const int64_t k = team.block / parts, first = (team.block - k * parts) * part;
    team.each(1, [&](int64_t) { *roi = rois.load(k); });
    body.prepare(team, *roi, space);
    const int64_t left = items.count() - first;
    team.each(left < part ? left : part, [&](int64_t offset) {
      items.split(first + offset, [&](int64_t channel, int64_t p, int64_t q) {
        body(*roi, space, k, channel, p, q);
      });
    });
  }
};

template <class Rois, class Body>
void launch_each_bin(const Problem& problem, const Rois& rois, const Body& body) {
  const Items items(problem, Body::kTogether);
  const int64_t part = items.count() < 4 * kThreads ? items.count() : 4 * kThreads;
  const EachBin<Rois, Body> kernel{rois, body, items, problem.rois, divide_up(items.count(), part),
                                   part};
  launch(problem, kernel, problem.rois * kernel.parts,
         Shared::bytes_of<Roi<typename Rois::Axis>>(1) + body.bytes());
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
