// RoIPool on CUDA: the maximum over bins with its place, the average, and their derivatives.
#include "backend.h"
#include "bins.cuh"
#include "entries.cuh"
#include "forward.cuh"

namespace roidl::cuda {

namespace {

template <class T>
struct PoolMax {
  using A = accumulator<T>;
  static constexpr int kResident = 3;
  MapView features;
  PooledView out, argmax;  // argmax.data may be null

  template <class C>
  ROIDL_DEVICE void operator()(const Roi<PoolBins<C>>& roi, int64_t k, int64_t channel, int64_t p,
                               int64_t q) const {
    A best = A(0);
    int64_t cell = -1;
    if (roi.image >= 0) {
      const Plane<T> plane = plane_of<T>(features, roi.image, channel);
      const Bin rows = roi.y.bin(p), columns = roi.x.bin(q);
      for (int64_t y = rows.begin; y < rows.end; ++y)
        for (int64_t x = columns.begin; x < columns.end; ++x) {
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
struct AtArgmax {
  static constexpr int kResident = 3;
  MapView tangent;
  PooledView out, argmax;
  int64_t height, width;

  template <class C>
  ROIDL_DEVICE void operator()(const Roi<PoolBins<C>>& roi, int64_t k, int64_t channel, int64_t p,
                               int64_t q) const {
    using A = accumulator<T>;
    const int64_t cell = element_of<int32_t>(argmax, k, channel, p, q);
    A value = A(0);
    if (roi.image >= 0 && cell >= 0 && cell < height * width)
      value = plane_of<T>(tangent, roi.image, channel)(cell / width, cell % width);
    narrow(value, element_of<T>(out, k, channel, p, q));
  }
};

struct ArgmaxCells {
  static constexpr int kCells = 1;
  static constexpr int kResident = 3;
  using Known = int64_t;  // k
  PooledView argmax;
  int64_t width;

  ROIDL_DEVICE int64_t know(int64_t k) const { return k; }
  template <class Give>
  ROIDL_DEVICE void find(int64_t k, int64_t, int64_t channel, const Place& place,
                         Give&& give) const {
    const int64_t cell = element_of<int32_t>(argmax, k, channel, place.p, place.q);
    if (cell >= 0) give(cell / width, cell % width, 1.0f);
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
                    PoolMax<T>{problem.maps[0].features, problem.pooled, problem.argmax});
  });
}

void roi_pool_backward(const RoiPoolProblem& problem) {
  const Map& map = problem.maps[0];
  if (problem.channels == 0 || map.height == 0 || map.width == 0) return;
  const DeviceGuard guard(problem);
  visit_elements(problem, [&](auto type) {
    using T = typename decltype(type)::type;
    with_plan<accumulator<T>, 1>(problem, [&](const auto& plan) {
      if (problem.mode == PoolMode::avg)
        gather<T>(problem, Products<T, 1>{}, plan);
      else
        gather<T>(problem, Entries<T, ArgmaxCells>{{problem.argmax, map.width}}, plan);
    });
  });
}

// Of the maximum; the average is linear, and its derivative the forward call.
void roi_pool_jvp(const RoiPoolProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const DeviceGuard guard(problem);
  const Map& map = problem.maps[0];
  visit_elements(problem, [&](auto type) {
    using T = typename decltype(type)::type;
    launch_each_bin(
        problem, PoolRois<double>(problem),
        AtArgmax<T>{map.tangent, problem.pooled, problem.argmax, map.height, map.width});
  });
}

}  // namespace roidl::cuda
