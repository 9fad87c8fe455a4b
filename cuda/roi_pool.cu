// RoIPool on CUDA: the maximum and its argmax, the average, and their derivatives.
#include "average_gradient.cuh"
#include "forward.cuh"
#include "max_gradient.cuh"
#include "operators.h"
#include "pool_max.cuh"

namespace roidl::cuda {

namespace {

// Reads the map at the argmax of every output. An argmax that is not on the map gives 0.
template <class T>
struct AtArgmax : NoRoiData {
  static constexpr int kMinBlocks = 3;
  Views tangent;
  PooledView out, argmax;

  template <class C>
  ROIDL_DEVICE void operator()(const Roi<PoolBins<C>>& roi, Space, int64_t k, int64_t channel,
                               int64_t p, int64_t q) const {
    using A = accumulator<T>;
    const int64_t cell = element_of<int32_t>(argmax, k, channel, p, q);
    A value = A(0);
    const int64_t width = roi.x.size;
    if (roi.image >= 0 && cell >= 0 && cell < roi.y.size * width)
      value = plane_of<T>(tangent, roi, channel)(cell / width, cell % width);
    narrow(value, element_of<T>(out, k, channel, p, q));
  }
};

struct ArgmaxCells {
  static constexpr int kCells = 1;
  static constexpr int kMinBlocks = ROIDL_TUNE_POOL_MAX_GATHER_MIN_BLOCKS;
  static constexpr int kLoads = ROIDL_TUNE_GATHER_LOADS;
  using RoiData = int64_t;  // offset of the RoI's argmax
  PooledView argmax;
  Divider by_width[kMaxMaps];

  explicit ArgmaxCells(const RoiPoolProblem& problem) : argmax(problem.argmax) {
    for (int i = 0; i < problem.num_maps; ++i)
      if (problem.maps[i].width > 0) by_width[i] = Divider(problem.maps[i].width);
  }

  ROIDL_DEVICE RoiData load_roi(int64_t k) const { return argmax.offset(k); }

  struct Bin {
    const int32_t* cells;
    int32_t stride;
    Divider by_width;
  };
  ROIDL_DEVICE Bin bin_of(RoiData offset, const BinPlace& place) const {
    return {static_cast<const int32_t*>(argmax.data) + offset + place.channel * argmax.c +
                place.p * argmax.h + place.q * argmax.w,
            static_cast<int32_t>(argmax.c), by_width[place.map]};
  }
  using Extra = int32_t;  // the argmax
  bool counts() const { return counts_channels(argmax); }
  ROIDL_DEVICE Extra load_extra(const Bin& bin, int32_t c) const {
    return bin.cells[c * bin.stride];
  }
  template <class Give>
  ROIDL_DEVICE void find(const Bin& bin, int32_t, Extra cell, Give&& give) const {
    int32_t column = cell < 0 ? 0 : cell;
    const int32_t row = bin.by_width.split(column);
    give(cell < 0 ? -1 : row, column, 1.0f);
  }
};

}  // namespace

void roi_pool_forward(const RoiPoolProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const DeviceGuard guard(problem);
  if (problem.mode == PoolMode::avg)
    return visit_elements(problem, [&](auto type) {
      using T = typename decltype(type)::type;
      with_plan<accumulator<T>, 1>(problem, [&](const auto& plan) { forward<T>(problem, plan); });
    });
  visit_types(problem, [&](auto type, auto coordinate) {
    using T = typename decltype(type)::type;
    using Rois = PoolRois<typename decltype(coordinate)::type>;
    if (!is_channels_last(problem) && MaxRows<T, Rois>::takes(problem))
      with_order(
          problem, BoxGeometry<accumulator<T>, Rois>{Rois(problem)}, [&](const int32_t* order) {
            launch_rows(problem, MaxRows<T, Rois>(problem), order, 2 * enough_blocks(problem));
          });
    else
      max_by_bins<T, Rois>(problem);
  });
}

void roi_pool_backward(const RoiPoolProblem& problem) {
  if (problem.channels == 0) return;
  const DeviceGuard guard(problem);
  visit_elements(problem, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = accumulator<T>;
    if (problem.mode == PoolMode::max)
      return gather_planning<T, PoolRois<A>>(problem,
                                             MaxGradient<T, ArgmaxCells>{ArgmaxCells(problem)});
    with_plan<A, 1>(problem,
                    [&](const auto& plan) { gather<T>(problem, AverageGradient<T, 1>{}, plan); });
  });
}

// The derivative of the maximum. The average is linear, so its derivative is the forward call.
void roi_pool_jvp(const RoiPoolProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const DeviceGuard guard(problem);
  visit_types(problem, [&](auto type, auto coordinate) {
    using T = typename decltype(type)::type;
    launch_each_bin(
        problem, PoolRois<typename decltype(coordinate)::type>(problem),
        AtArgmax<T>{{}, views_of(problem, &Map::tangent), problem.pooled, problem.argmax});
  });
}

}  // namespace roidl::cuda
