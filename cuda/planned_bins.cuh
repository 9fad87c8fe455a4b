// Computes each bin from the plan of a call: the average, or its derivative along a direction of
// the boxes.
#pragma once
#include "bins.cuh"
#include "plan.cuh"

namespace roidl::cuda {

// A thread computes one bin of one channel: the average from taps with one weight, its derivative
// from taps that also have the weight's derivative.
template <class T, int kWeights>
struct PlannedBins {
  static_assert(kWeights == 1 || kWeights == 2);
  using A = accumulator<T>;
  static constexpr int kMinBlocks = 4;
  Plan<A, kWeights> plan;
  Views features;
  PooledView out;
  Items items;
  int64_t parts;  // blocks for each RoI

  ROIDL_DEVICE void operator()(const Block& block, Shared) const {
    const int64_t k = block.index / parts, first = (block.index - k * parts) * kThreads;
    const int64_t left = items.count() - first;
    block.each(left < kThreads ? left : kThreads, [&](int64_t offset) {
      items.split(first + offset, [&](int64_t channel, int64_t p, int64_t q) {
        narrow(value(k, channel, p, q), element_of<T>(out, k, channel, p, q));
      });
    });
  }

 private:
  ROIDL_DEVICE A value(int64_t k, int64_t channel, int64_t p, int64_t q) const {
    Window window = plan.windows[k];
    if (window.image < 0) window.image = 0;  // the RoI has no taps
    const Plane<T> plane = plane_of<T>(features, window, items.map_channel(channel, p, q));
    A total = A(0);
    for (const auto& row : plan.y.bin(k, p)) {
      A across = A(0), slope = A(0);
      for (const auto& column : plan.x.bin(k, q)) {
        const A cell = plane(row.cell, column.cell);
        across += term(column.weight[0], [&] { return cell; });
        if constexpr (kWeights == 2) slope += term(column.weight[1], [&] { return cell; });
      }
      if constexpr (kWeights == 1)
        total += term(row.weight[0], [&] { return across; });
      else
        total += term(row.weight[1], [&] { return across; }) +
                 term(row.weight[0], [&] { return slope; });
    }
    return total;
  }
};

template <int kWeights, class ProblemType>
void compute_planned_bins(const ProblemType& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const DeviceGuard guard(problem);
  visit_elements(problem, [&](auto type) {
    using T = typename decltype(type)::type;
    with_plan<accumulator<T>, kWeights>(problem, [&](const auto& plan) {
      const Items items(problem);
      const PlannedBins<T, kWeights> kernel{plan, views_of(problem, &Map::features), problem.pooled,
                                            items, divide_up(items.count(), kThreads)};
      launch(problem, kernel, problem.rois * kernel.parts, 0);
    });
  });
}

}  // namespace roidl::cuda
