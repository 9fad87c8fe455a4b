// The position-sensitive operators on CUDA: every channel of a map belongs to one bin. Their
// derivatives to the boxes are RoIAlign's, whose kernels know which channel a bin has.
#include "operators.h"
#include "planned_bins.cuh"

namespace roidl::cuda {

namespace {

// A block owns a plane of the gradient and goes through the RoIs in their order: so nothing is
// added to at once, and sums do not depend on how threads run. The weights of the plan are the
// average's (1), or those and their derivatives along a direction of the boxes (2).
template <class T, int kWeights>
struct OwnPlaneGradient {
  using A = accumulator<T>;
  static constexpr int kMinBlocks = 4;
  struct Size {
    int64_t height, width;
    A* sums;  // of all planes, where the map's elements are of another type
  };
  Plan<A, kWeights> plan;
  Views gradients;
  Size sizes[kMaxMaps];
  PooledView grad_output;
  int64_t images, channels, rois;
  int64_t bins, bins_x;

  ROIDL_DEVICE void operator()(const Block& block, Shared) const {
    const int64_t map = block.index / (images * channels);
    const int64_t plane = block.index - map * images * channels;
    const int64_t image = plane / channels, channel = plane - image * channels;
    const int64_t bin = channel % bins, p = bin / bins_x, q = bin - p * bins_x;
    const Size size = sizes[map];
    const MapView view = gradients.of[map];
    T* const stored = static_cast<T*>(view.data) + image * view.n + channel * view.c;
    const auto sum_at = [&](int64_t y, int64_t x) -> A& {
      if constexpr (sizeof(T) == sizeof(A)) return stored[y * view.h + x * view.w];
      return size.sums[(plane * size.height + y) * size.width + x];
    };
    const int64_t cells = size.height * size.width;
    block.each(cells, [&](int64_t i) { sum_at(i / size.width, i % size.width) = A(0); });
    for (int64_t k = 0; k < rois; ++k) {
      const Window window = plan.windows[k];
      if (window.image != image || window.map != map) continue;
      const BinTaps<A, kWeights> rows = plan.y.bin(k, p), columns = plan.x.bin(k, q);
      const int64_t width = columns.stop - columns.first;
      const A grad = widen(element_of<T>(grad_output, k, channel / bins, p, q));
      block.each((rows.stop - rows.first) * width, [&](int64_t i) {
        const auto& row = rows.first[i / width];
        const auto& column = columns.first[i % width];
        A weight = row.weight[0] * column.weight[0];
        if constexpr (kWeights == 2)
          weight = row.weight[1] * column.weight[0] + row.weight[0] * column.weight[1];
        if (weight != A(0)) sum_at(row.cell, column.cell) += grad * weight;
      });
    }
    if constexpr (sizeof(T) != sizeof(A))
      block.each(cells, [&](int64_t i) {
        const int64_t y = i / size.width, x = i % size.width;
        narrow(sum_at(y, x), stored[y * view.h + x * view.w]);
      });
  }
};

template <int kWeights, class ProblemType>
void run_gradient(const ProblemType& problem) {
  if (problem.channels == 0) return;
  const DeviceGuard guard(problem);
  visit_elements(problem, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = accumulator<T>;
    with_plan<A, kWeights>(problem, [&](const auto& plan) {
      OwnPlaneGradient<T, kWeights> kernel{plan,
                                           views_of(problem, &Map::gradient),
                                           {},
                                           problem.pooled,
                                           problem.images,
                                           problem.channels,
                                           problem.rois,
                                           problem.output_height * problem.output_width,
                                           problem.output_width};
      const int64_t planes = problem.images * problem.channels;
      for (int i = 0; i < problem.num_maps; ++i) {
        const Map& map = problem.maps[i];
        kernel.sizes[i] = {map.height, map.width, nullptr};
        if constexpr (sizeof(T) != sizeof(A))
          kernel.sizes[i].sums = take_scratch<A>(problem, planes * map.height * map.width);
      }
      launch(problem, kernel, problem.num_maps * planes, 0);
    });
  });
}

}  // namespace

void ps_roi_align_forward(const PsRoiAlignProblem& problem) {
  compute_planned_bins<1>(as_roi_align(problem));
}

void ps_roi_align_backward(const PsRoiAlignProblem& problem) {
  run_gradient<1>(as_roi_align(problem));
}

void ps_roi_align_backward_boxes(const PsRoiAlignProblem& problem) {
  roi_align_backward_boxes(as_roi_align(problem));
}

void ps_roi_align_jvp_boxes(const PsRoiAlignProblem& problem) {
  roi_align_jvp_boxes(as_roi_align(problem));
}

void ps_roi_align_jvp_boxes_backward(const PsRoiAlignProblem& problem) {
  run_gradient<2>(as_roi_align(problem));
}

void ps_roi_pool_forward(const PsRoiPoolProblem& problem) { compute_planned_bins<1>(problem); }

void ps_roi_pool_backward(const PsRoiPoolProblem& problem) { run_gradient<1>(problem); }

}  // namespace roidl::cuda
