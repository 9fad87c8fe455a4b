// RoIAlign's derivatives along the boxes on CUDA: the gradient to the boxes, and the derivative
// along a direction.
#include "average_gradient.cuh"
#include "max_sample.cuh"
#include "operators.h"
#include "planned_bins.cuh"

namespace roidl::cuda {

namespace {

// d(results)/d(x1, y1, x2, y2) of one RoI, weighted by the gradients of the results.
struct Edges {
  double at[4];
};

// A value that does not depend on the box contributes nothing, even if its gradient is infinite.
template <class A>
ROIDL_DEVICE double slope_times(A derivative, A slope) {
  return derivative != A(0) ? static_cast<double>(derivative * slope) : 0.0;
}

// Uses a plan whose taps have a weight and its derivatives to both edges.
template <class T>
struct AverageEdges {
  using A = accumulator<T>;
  using RoiData = int64_t;  // k
  Plan<A, 3> plan;

  ROIDL_DEVICE RoiData load_roi(int64_t k) const { return k; }
  ROIDL_DEVICE Window location_of(RoiData k) const { return plan.windows[k]; }
  ROIDL_DEVICE void add(RoiData k, int64_t p, int64_t q, const Plane<T>& plane, A gradient,
                        Edges& sum) const {
    A edges[4] = {};
    for (const auto& y : plan.y.bin(k, p)) {
      const int64_t row = y.cell;
      const bool moves = y.weight[1] != A(0) || y.weight[2] != A(0);  // reads the next row
      A down = A(0), low = A(0), high = A(0);
      for (const auto& x : plan.x.bin(k, q)) {
        const int64_t column = x.cell;
        const auto right = [&] { return A(plane(row, column + 1)) - A(plane(row, column)); };
        if (moves)
          down +=
              term(x.weight[0], [&] { return A(plane(row + 1, column)) - A(plane(row, column)); });
        low += term(x.weight[1], right);
        high += term(x.weight[2], right);
      }
      edges[0] += term(y.weight[0], [&] { return low; });
      edges[1] += term(y.weight[1], [&] { return down; });
      edges[2] += term(y.weight[0], [&] { return high; });
      edges[3] += term(y.weight[2], [&] { return down; });
    }
    for (int j = 0; j < 4; ++j) sum.at[j] += static_cast<double>(gradient * edges[j]);
  }
};

template <class T, class C>
struct MaxEdges {
  using A = accumulator<T>;
  using RoiData = Roi<AlignBins<C>>;
  AlignRois<C> rois;

  ROIDL_DEVICE RoiData load_roi(int64_t k) const { return rois.load(k); }
  ROIDL_DEVICE const RoiData& location_of(const RoiData& roi) const { return roi; }
  ROIDL_DEVICE void add(const RoiData& roi, int64_t p, int64_t q, const Plane<T>& plane, A gradient,
                        Edges& sum) const {
    const MaxSample<A> max_sample = find_max_sample(roi, p, q, false, plane);
    if (max_sample.y < 0) return;
    const Corners<C, A> at = corners_of(roi, p, q, max_sample);
    const auto slope_y = [&](int64_t column) {
      return A(plane(at.y.high, column)) - A(plane(at.y.low, column));
    };
    const auto slope_x = [&](int64_t row) {
      return A(plane(row, at.x.high)) - A(plane(row, at.x.low));
    };
    const A by_y = gradient * (term(A(at.x.weight_low), [&] { return slope_y(at.x.low); }) +
                               term(A(at.x.weight_high), [&] { return slope_y(at.x.high); }));
    const A by_x = gradient * (term(A(at.y.weight_low), [&] { return slope_x(at.y.low); }) +
                               term(A(at.y.weight_high), [&] { return slope_x(at.y.high); }));
    const auto add = [&](const AlignBins<C>& axis, const Bilinear<C>& sample, int64_t bin,
                         int64_t i, A slope, double& low, double& high) {
      if (!sample.moves) return;
      const EdgeDerivative<C> edge(axis.axis, axis.scale, axis.bins, bin, i);
      low += slope_times(A(edge.low), slope);
      high += slope_times(A(edge.high), slope);
    };
    add(roi.x, at.x, q, max_sample.x, by_x, sum.at[0], sum.at[2]);
    add(roi.y, at.y, p, max_sample.y, by_y, sum.at[1], sum.at[3]);
  }
};

// Each block computes one RoI; its threads divide the channels and bins, and their sums are added
// in pairs. `Body` is AverageEdges or MaxEdges. Its members are
//   RoiData, load_roi(k)   its data of a RoI
//   location_of(roi_data)  its image and map
//   add(roi_data, p, q, plane, gradient, sum)
//                          adds the gradient of a bin and channel to the edges
template <class T, class Body>
struct BoxesGradient {
  using A = accumulator<T>;
  static constexpr int kMinBlocks = 2;
  using RoiData = typename Body::RoiData;
  Body body;
  Views features;
  PooledView grad_output;
  Boxes out;  // the rows of the gradient, described like boxes
  Items items;
  int64_t count;

  ROIDL_DEVICE void operator()(const Block& block, Shared shared) const {
    Edges* const sums = shared.take<Edges>(kThreads);
    RoiData* const roi = shared.take<RoiData>(1);
    const int64_t k = block.index;
    block.each(1, [&](int64_t) { *roi = body.load_roi(k); });
    block.each(kThreads, [&](int64_t thread) {
      Edges sum{};
      const auto location = body.location_of(*roi);
      for (int64_t i = thread; i < items.count() && location.image >= 0; i += kThreads)
        items.split(i, [&](int64_t channel, int64_t p, int64_t q) {
          body.add(*roi, p, q, plane_of<T>(features, location, items.map_channel(channel, p, q)),
                   A(widen(element_of<T>(grad_output, k, channel, p, q))), sum);
        });
      sums[thread] = sum;
    });
    for (int half = kThreads / 2; half > 0; half /= 2)
      block.each(half, [&](int64_t i) {
        for (int j = 0; j < 4; ++j) sums[i].at[j] += sums[i + half].at[j];
      });
    block.each(out.has_index_column ? 5 : 4, [&](int64_t column) {
      const int64_t j = column - (out.has_index_column ? 1 : 0);
      store(k, column, j < 0 ? 0.0 : sums[0].at[j]);
    });
  }

 private:
  ROIDL_DEVICE void store(int64_t k, int64_t column, double value) const {
    const int64_t image = out.by_position ? k / out.per_image : 0;
    const int64_t at = image * out.image_stride + (k - image * out.per_image) * out.row_stride +
                       column * out.column_stride;
    visit_float(out.dtype, [&](auto type) {
      using Out = typename decltype(type)::type;
      Out narrowed;
      narrow(static_cast<accumulator<Out>>(value), narrowed);
      reinterpret_cast<Out*>(const_cast<char*>(out.data))[at] = narrowed;
    });
  }
};

template <class T, class Body>
void run_gradient(const RoiAlignProblem& problem, const Body& body) {
  const BoxesGradient<T, Body> kernel{
      body,           views_of(problem, &Map::features),
      problem.pooled, describe_like_boxes(problem.boxes, problem.boxes_gradient),
      Items(problem), problem.rois};
  launch(problem, kernel, problem.rois,
         Shared::bytes_of<Edges>(kThreads) + Shared::bytes_of<typename Body::RoiData>(1));
}

}  // namespace

void roi_align_backward_boxes(const RoiAlignProblem& problem) {
  if (problem.rois == 0) return;
  const DeviceGuard guard(problem);
  if (problem.mode == AlignMode::avg)
    return visit_elements(problem, [&](auto type) {
      using T = typename decltype(type)::type;
      with_plan<accumulator<T>, 3>(
          problem, [&](const auto& plan) { run_gradient<T>(problem, AverageEdges<T>{plan}); });
    });
  visit_types(problem, [&](auto type, auto coordinate) {
    using T = typename decltype(type)::type;
    using C = typename decltype(coordinate)::type;
    run_gradient<T>(problem, MaxEdges<T, C>{AlignRois<C>(problem)});
  });
}

void roi_align_jvp_boxes(const RoiAlignProblem& problem) { compute_planned_bins<2>(problem); }

void roi_align_jvp_boxes_backward(const RoiAlignProblem& problem) {
  if (problem.channels == 0) return;
  const DeviceGuard guard(problem);
  visit_elements(problem, [&](auto type) {
    using T = typename decltype(type)::type;
    with_plan<accumulator<T>, 2>(
        problem, [&](const auto& plan) { gather<T>(problem, AverageGradient<T, 2>{}, plan); });
  });
}

}  // namespace roidl::cuda
