// RoIPool on CUDA: the maximum over bins with its place, the average, and their derivatives.
#include "backend.h"
#include "bins.cuh"
#include "entries.cuh"
#include "forward.cuh"
#include "products.cuh"

namespace roidl::cuda {

namespace {

// The maximum of every bin. The cells of the first bins along either axis are found once for all
// channels that a block has.
template <class T>
struct PoolMax {
  using A = accumulator<T>;
  static constexpr int kResident = 3;
  static constexpr int kKnown = 64;  // along an axis
  struct Cells {
    int32_t begin, end;
  };
  using Space = Cells*;
  Views features;
  PooledView out, argmax;  // argmax.data may be null

  static int64_t bytes() { return Shared::bytes_of<Cells>(2 * kKnown); }
  ROIDL_DEVICE static Space place(Shared& shared) { return shared.take<Cells>(2 * kKnown); }

  template <class C>
  ROIDL_DEVICE static Cells cells_of(const PoolBins<C>& axis, int64_t p) {
    const Bin bin = axis.bin(p);
    return {static_cast<int32_t>(bin.begin), static_cast<int32_t>(bin.end)};
  }
  template <class C>
  ROIDL_DEVICE static void prepare(const Team& team, const Roi<PoolBins<C>>& roi, Space known) {
    team.each(2 * kKnown, [&](int64_t i) {
      const int64_t p = i % kKnown;
      const PoolBins<C>& axis = i < kKnown ? roi.y : roi.x;
      if (p < axis.bins) known[i] = cells_of(axis, p);
    });
  }

  template <class C>
  ROIDL_DEVICE void operator()(const Roi<PoolBins<C>>& roi, const Cells* known, int64_t k,
                               int64_t channel, int64_t p, int64_t q) const {
    A best = A(0);
    int64_t cell = -1;
    if (roi.image >= 0) {
      const Plane<T> plane = plane_of<T>(features, roi, channel);
      const Cells rows = p < kKnown ? known[p] : cells_of(roi.y, p);
      const Cells columns = q < kKnown ? known[kKnown + q] : cells_of(roi.x, q);
      for (int32_t y = rows.begin; y < rows.end; ++y)
        for (int32_t x = columns.begin; x < columns.end; ++x) {
          const A value = plane(y, x);
          // The first NaN wins, so that it cannot hide.
          if (cell >= 0 && !(value > best) && !(value != value && best == best)) continue;
          best = value;
          cell = y * roi.x.size + x;
        }
    }
    narrow(best, element_of<T>(out, k, channel, p, q));
    if (argmax.data != nullptr)
      element_of<int32_t>(argmax, k, channel, p, q) = static_cast<int32_t>(cell);
  }
};

// What lies at every output's argmax. One that is not on the map moves nothing.
template <class T>
struct AtArgmax : NothingMore {
  static constexpr int kResident = 3;
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
  static constexpr int kResident = ROIDL_TUNE_POOL_GATHERS;
  static constexpr int kStaged = ROIDL_TUNE_STAGED;
  using Known = int64_t;  // where the RoI's argmax begins
  PooledView argmax;
  Divider by_width[kMaxMaps];

  explicit ArgmaxCells(const RoiPoolProblem& problem) : argmax(problem.argmax) {
    for (int i = 0; i < problem.num_maps; ++i)
      if (problem.maps[i].width > 0) by_width[i] = Divider(problem.maps[i].width);
  }

  ROIDL_DEVICE Known know(int64_t k) const { return argmax.offset(k); }

  struct Bin {
    const int32_t* cells;
    int32_t stride;
    Divider by_width;
  };
  ROIDL_DEVICE Bin bin_of(Known offset, const Place& place) const {
    return {static_cast<const int32_t*>(argmax.data) + offset + place.channel * argmax.c +
                place.p * argmax.h + place.q * argmax.w,
            static_cast<int32_t>(argmax.c), by_width[place.map]};
  }
  using More = int32_t;  // the argmax
  bool counts() const { return counts_channels(argmax); }
  ROIDL_DEVICE More more(const Bin& bin, int32_t c) const { return bin.cells[c * bin.stride]; }
  template <class Give>
  ROIDL_DEVICE void find(const Bin& bin, int32_t, More cell, Give&& give) const {
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
    launch_each_bin(problem, PoolRois<typename decltype(coordinate)::type>(problem),
                    PoolMax<T>{views_of(problem, &Map::features), problem.pooled, problem.argmax});
  });
}

void roi_pool_backward(const RoiPoolProblem& problem) {
  if (problem.channels == 0) return;
  const DeviceGuard guard(problem);
  visit_elements(problem, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = accumulator<T>;
    if (problem.mode == PoolMode::max)
      return gather_once<T, PoolRois<A>>(problem, Entries<T, ArgmaxCells>{ArgmaxCells(problem)});
    with_plan<A, 1>(problem, [&](const auto& plan) { gather<T>(problem, Products<T, 1>{}, plan); });
  });
}

// Of the maximum; the average is linear, and its derivative the forward call.
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
