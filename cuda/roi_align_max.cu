// RoIAlign's max modes on CUDA: forward, the gradient to the input, and the derivative along it.
#include "max_gradient.cuh"
#include "max_sample.cuh"
#include "operators.h"

namespace roidl::cuda {

namespace {

template <class T>
struct MaxForward : NoRoiData {
  using A = accumulator<T>;
  static constexpr int kMinBlocks = 2;
  Views features;
  PooledView out;
  bool onnx;

  template <class C>
  ROIDL_DEVICE void operator()(const Roi<AlignBins<C>>& roi, Space, int64_t k, int64_t channel,
                               int64_t p, int64_t q) const {
    A value = A(0);
    if (roi.image >= 0)
      value = find_max_sample(roi, p, q, onnx, plane_of<T>(features, roi, channel)).value;
    narrow(value, element_of<T>(out, k, channel, p, q));
  }
};

// The tangent's value at the maximum of the features.
template <class T>
struct MaxTangent : NoRoiData {
  using A = accumulator<T>;
  static constexpr int kMinBlocks = 2;
  Views features, tangent;
  PooledView out;
  bool onnx;

  template <class C>
  ROIDL_DEVICE void operator()(const Roi<AlignBins<C>>& roi, Space, int64_t k, int64_t channel,
                               int64_t p, int64_t q) const {
    A value = A(0);
    if (roi.image >= 0) {
      const Plane<T> along = plane_of<T>(tangent, roi, channel);
      const auto max_sample = find_max_sample(roi, p, q, onnx, plane_of<T>(features, roi, channel));
      for_each_corner(roi, p, q, onnx, max_sample, [&](int64_t row, int64_t column, A weight) {
        value = fused(weight, A(along(row, column)), value);
      });
    }
    narrow(value, element_of<T>(out, k, channel, p, q));
  }
};

template <class T, class C>
struct MaxSampleCells {
  static constexpr int kCells = 4;
  static constexpr int kMinBlocks = 2;
  static constexpr int kLoads = 1;
  using RoiData = Roi<AlignBins<C>>;
  AlignRois<C> rois;
  Views features;
  bool onnx;

  ROIDL_DEVICE RoiData load_roi(int64_t k) const { return rois.load(k); }

  struct Bin {
    const RoiData& roi;
    int64_t channel;
    int32_t p, q;
  };
  ROIDL_DEVICE Bin bin_of(const RoiData& roi, const BinPlace& place) const {
    return {roi, place.channel, place.p, place.q};
  }
  struct Extra {};
  bool counts() const { return true; }
  ROIDL_DEVICE Extra load_extra(const Bin&, int32_t) const { return {}; }
  template <class Give>
  ROIDL_DEVICE void find(const Bin& bin, int32_t c, const Extra&, Give&& give) const {
    const auto plane = plane_of<T>(features, bin.roi, bin.channel + c);
    const auto max_sample = find_max_sample(bin.roi, bin.p, bin.q, onnx, plane);
    for_each_corner(bin.roi, bin.p, bin.q, onnx, max_sample,
                    [&](int64_t row, int64_t column, accumulator<T> weight) {
                      give(static_cast<int32_t>(row), static_cast<int32_t>(column), weight);
                    });
  }
};

bool is_onnx(const RoiAlignProblem& problem) { return problem.mode == AlignMode::max_onnx; }

}  // namespace

void roi_align_max_forward(const RoiAlignProblem& problem) {
  visit_types(problem, [&](auto type, auto coordinate) {
    using T = typename decltype(type)::type;
    launch_each_bin(
        problem, AlignRois<typename decltype(coordinate)::type>(problem),
        MaxForward<T>{{}, views_of(problem, &Map::features), problem.pooled, is_onnx(problem)});
  });
}

void roi_align_max_backward(const RoiAlignProblem& problem) {
  visit_types(problem, [&](auto type, auto coordinate) {
    using T = typename decltype(type)::type;
    using C = typename decltype(coordinate)::type;
    const MaxSampleCells<T, C> finder{AlignRois<C>(problem), views_of(problem, &Map::features),
                                      is_onnx(problem)};
    with_plan<accumulator<T>, 1>(problem, [&](const auto& plan) {
      gather<T>(problem, MaxGradient<T, MaxSampleCells<T, C>>{finder}, plan);
    });
  });
}

void roi_align_max_jvp(const RoiAlignProblem& problem) {
  visit_types(problem, [&](auto type, auto coordinate) {
    using T = typename decltype(type)::type;
    launch_each_bin(problem, AlignRois<typename decltype(coordinate)::type>(problem),
                    MaxTangent<T>{{},
                                  views_of(problem, &Map::features),
                                  views_of(problem, &Map::tangent),
                                  problem.pooled,
                                  is_onnx(problem)});
  });
}

}  // namespace roidl::cuda
