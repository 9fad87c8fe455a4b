// The order in which RoIs are processed: neighbours on a map follow each other, so that L1 holds
// cells that several of them read.
//
// Boxes are usually in the order of their scores, in which hardly a cell is still in L1 when the
// next RoI needs it. Results do not depend on the order.
#pragma once
#include "overlaps.cuh"
#include "tuning.h"

namespace roidl::cuda {

// RoIs are ordered within groups of kOrdered; if there are fewer than kMinOrdered, they are not.
inline constexpr int kOrdered = 2048;
inline constexpr int kMinOrdered = ROIDL_TUNE_ORDERED_ROIS;  // 0: never

// Spreads the lowest 9 bits, with a free bit after each.
ROIDL_DEVICE uint32_t spread(uint32_t bits) {
  bits &= 511;
  bits = (bits | bits << 8) & 0x100ff;
  bits = (bits | bits << 4) & 0x10f0f;
  bits = (bits | bits << 2) & 0x13333;
  return (bits | bits << 1) & 0x15555;
}

// The sort key: map, image, and the position of the window's centre on a Z-order curve, in steps of
// four cells.
ROIDL_DEVICE uint32_t place_on_curve(const Window& window) {
  if (window.image < 0) return 0x7fffffffu;
  const uint32_t y = static_cast<uint32_t>(window.y_begin + window.y_end) / 8;
  const uint32_t x = static_cast<uint32_t>(window.x_begin + window.x_end) / 8;
  const uint32_t image = static_cast<uint32_t>(window.image) & 1023;
  return (static_cast<uint32_t>(window.map) << 10 | image) << 18 | spread(y) << 1 | spread(x);
}

// A RoI's place in the order is the number of RoIs before it. Each block finds the places of kLanes
// RoIs. It uses only window(k) of `Geometry` (gather.cuh).
template <class Geometry>
struct OrderRois {
  static constexpr int kMinBlocks = 2;
  Geometry geometry;
  int32_t* order;
  int64_t count;

  ROIDL_DEVICE void operator()(const Block& block, Shared shared) const {
    uint32_t* const keys = shared.take<uint32_t>(kOrdered);
    int32_t* const before = shared.take<int32_t>(kThreads);
    constexpr int64_t kBlocks = kOrdered / kLanes;  // blocks for a group of kOrdered RoIs
    const int64_t first = block.index / kBlocks * kOrdered, left = count - first;
    const int32_t all = left < kOrdered ? static_cast<int32_t>(left) : kOrdered;
    const int32_t mine = static_cast<int32_t>(block.index % kBlocks) * kLanes;
    block.each(all, [&](int64_t i) { keys[i] = place_on_curve(geometry.window(first + i)); });
    block.each(kThreads, [&](int64_t thread) {
      const int32_t i = mine + static_cast<int32_t>(thread) % kLanes;
      const int32_t part = static_cast<int32_t>(thread) / kLanes;
      if (i < all)
        before[thread] = count_before(keys, i, part * all / kWarps, (part + 1) * all / kWarps);
    });
    block.each(all - mine < kLanes ? all - mine : kLanes, [&](int64_t lane) {
      int32_t place = 0;
      for (int part = 0; part < kWarps; ++part) place += before[part * kLanes + lane];
      order[first + place] = static_cast<int32_t>(first + mine + lane);
    });
  }

 private:
  // RoIs with equal keys keep their order.
  ROIDL_DEVICE static int32_t count_before(const uint32_t* keys, int32_t i, int32_t begin,
                                           int32_t end) {
    const uint32_t key = keys[i];
    int32_t before = 0;
    for (int32_t j = begin; j < end; ++j) before += keys[j] < key + (j < i ? 1 : 0) ? 1 : 0;
    return before;
  }
};

// Calls use(order); `order` is null if the RoIs keep their order.
template <class Geometry, class Use>
void with_order(const Problem& problem, const Geometry& geometry, Use&& use) {
  int32_t* order = nullptr;
  if constexpr (kMinOrdered > 0) {
    if (problem.rois >= kMinOrdered && problem.rois <= INT32_MAX) {
      constexpr int64_t kBlocks = kOrdered / kLanes;
      const int64_t last = problem.rois % kOrdered;
      order = take_scratch<int32_t>(problem, problem.rois);
      const OrderRois<Geometry> kernel{geometry, order, problem.rois};
      launch(problem, kernel, problem.rois / kOrdered * kBlocks + divide_up(last, kLanes),
             Shared::bytes_of<uint32_t>(kOrdered) + Shared::bytes_of<int32_t>(kThreads));
    }
  }
  use(static_cast<const int32_t*>(order));
}

}  // namespace roidl::cuda
