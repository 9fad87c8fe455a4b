// Kernels that compute every bin separately from its samples or cells: each thread computes one
// bin.
#pragma once
#include "arithmetic.cuh"
#include "elements.cuh"
#include "launch.cuh"
#include "rois.cuh"

namespace roidl::cuda {

// The numbered items of a RoI: each is a bin on one channel, or on a few channels that are
// neighbours in memory.
class Items {
 public:
  explicit Items(const Problem& problem, int item_channels = 1)
      : bins_(problem.output_height * problem.output_width),
        bins_x_(problem.output_width),
        channels_(problem.pooled_channels / item_channels),
        own_channels_(problem.pooled_channels != problem.channels),
        fits_32_bits_(count() <= INT32_MAX),
        by_bins_(fits_32_bits_ ? bins_ : 1),
        by_bins_x_(fits_32_bits_ ? bins_x_ : 1),
        by_channels_(fits_32_bits_ ? channels_ : 1),
        channels_first_(problem.pooled.c != 1) {}

  ROIDL_HOST_DEVICE int64_t count() const { return bins_ * channels_; }
  // The channel of the map that a bin of a channel of the result is pooled from.
  ROIDL_DEVICE int64_t map_channel(int64_t channel, int64_t p, int64_t q) const {
    return own_channels_ ? channel * bins_ + p * bins_x_ + q : channel;
  }

  // Calls visit(channel, p, q) for item i; neighbours in memory have neighbouring numbers.
  template <class Visit>
  ROIDL_DEVICE void split(int64_t i, Visit&& visit) const {
    int64_t channel, p, q;
    if (fits_32_bits_) {
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
  bool own_channels_;  // every bin has channels of its own
  bool fits_32_bits_;
  Divider by_bins_, by_bins_x_, by_channels_;
  bool channels_first_;
};

// The members of a Body of EachBin that needs no shared memory.
struct NoRoiData {
  static constexpr int kItemChannels = 1;  // channels of an item
  struct Space {};
  static int64_t bytes() { return 0; }
  ROIDL_DEVICE static Space place(Shared&) { return {}; }
  template <class RoiType>
  ROIDL_DEVICE static void prepare(const Block&, const RoiType&, const Space&) {}
};

// `Rois`: see PlanRoi (plan.cuh). `Body` computes a bin. It has
//   kMinBlocks                                 blocks that share a multiprocessor
//   kItemChannels                              channels of an item
//   Space, bytes(), place(shared)              shared memory for what it needs of a RoI
//   prepare(block, roi, space)                 fills that
//   operator()(roi, space, k, channel, p, q)   an item of RoI k
template <class Rois, class Body>
struct EachBin {
  static constexpr int kMinBlocks = Body::kMinBlocks;
  Rois rois;
  Body body;
  Items items;
  int64_t count;        // number of RoIs
  int64_t parts, part;  // parts of a RoI; items of a part

  ROIDL_DEVICE void operator()(const Block& block, Shared shared) const {
    auto* const roi = shared.take<Roi<typename Rois::Axis>>(1);
    const auto space = body.place(shared);
    const int64_t k = block.index / parts, first = (block.index - k * parts) * part;
    block.each(1, [&](int64_t) { *roi = rois.load(k); });
    body.prepare(block, *roi, space);
    const int64_t left = items.count() - first;
    block.each(left < part ? left : part, [&](int64_t offset) {
      items.split(first + offset, [&](int64_t channel, int64_t p, int64_t q) {
        body(*roi, space, k, channel, p, q);
      });
    });
  }
};

template <class Rois, class Body>
void launch_each_bin(const Problem& problem, const Rois& rois, const Body& body) {
  const Items items(problem, Body::kItemChannels);
  const int64_t part = items.count() < 4 * kThreads ? items.count() : 4 * kThreads;
  const EachBin<Rois, Body> kernel{rois, body, items, problem.rois, divide_up(items.count(), part),
                                   part};
  launch(problem, kernel, problem.rois * kernel.parts,
         Shared::bytes_of<Roi<typename Rois::Axis>>(1) + body.bytes());
}

// Typed views.
template <class T>
struct Plane {  // one channel of one image
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
template <class T, class Location>  // a Roi or a Window
ROIDL_DEVICE Plane<T> plane_of(const Views& views, const Location& location, int64_t channel) {
  return plane_of<T>(views.of[location.map], location.image, channel);
}

template <class T>
ROIDL_DEVICE T& element_of(const PooledView& view, int64_t k, int64_t channel, int64_t p,
                           int64_t q) {
  return static_cast<T*>(view.data)[view.offset(k) + channel * view.c + p * view.h + q * view.w];
}

// With a weight of zero, the value must not be read: it may be NaN.
template <class A, class Read>
ROIDL_DEVICE A term(A weight, Read&& read) {
  return weight != A(0) ? weight * read() : A(0);
}

}  // namespace roidl::cuda
