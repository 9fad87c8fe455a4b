// The plan of a call: for every RoI its window and the taps of its bins, found once by a kernel.
//
// A tap is a cell along one axis and its weight, or several weights: the average's own, and its
// derivatives to the box. Taps on the same cell are merged. The bins of a RoI follow each other
// along the map, so the taps of an axis are no more than its cells and three for every bin.
#pragma once
#include "rois.cuh"

namespace roidl::cuda {

template <class A, int kWeights>
struct Tap {
  int32_t cell;  // -1: none
  A weight[kWeights];
};

struct Span {
  int32_t first, stop;
};

// One axis of all RoIs.
template <class A, int kWeights>
struct AxisPlan {
  Span* spans;  // [RoI][bins + 1]: the taps of each bin; of the last: 0 and how many places
  Tap<A, kWeights>* taps;  // [RoI][most]
  int32_t bins;
  int64_t most;

  ROIDL_DEVICE const Span* spans_of(int64_t k) const { return spans + k * (bins + 1); }
  ROIDL_DEVICE const Tap<A, kWeights>* taps_of(int64_t k) const { return taps + k * most; }
};

template <class A, int kWeights>
struct Plan {
  Window* windows;  // [RoI]
  AxisPlan<A, kWeights> y, x;
};

// What the weights of a tap are: the average's (1); and its derivative along a direction of the
// boxes (2); or and its derivatives to the lower and the upper edge (3).
template <class A, class Rois, int kWeights>
struct MakePlan {
  static constexpr int kResident = 2;
  Rois rois;
  Plan<A, kWeights> plan;
  Boxes direction;  // of 2
  int64_t count;

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    using Roi = Roi<typename Rois::Axis>;
    Roi* const roi = shared.take<Roi>(1);
    Box<double>* const along = shared.take<Box<double>>(1);
    const int32_t rows = plan.y.bins, all = rows + plan.x.bins;
    for (int64_t k = team.block; k < count; k += team.blocks) {
      Span* const y = plan.y.spans + k * (plan.y.bins + 1);
      Span* const x = plan.x.spans + k * (plan.x.bins + 1);
      team.each(1, [&](int64_t) {
        *roi = rois.load(k);
        if constexpr (kWeights == 2) *along = load_box<double>(direction, k);
        plan.windows[k] = window_of(*roi);
      });
      team.each(all, [&](int64_t i) {
        if (i < rows)
          count_places(roi->image, roi->y, i, y);
        else
          count_places(roi->image, roi->x, i - rows, x);
      });
      team.each(2, [&](int64_t i) { i == 0 ? add_up(plan.y, y) : add_up(plan.x, x); });
      team.each(all, [&](int64_t i) {
        if (i < rows)
          fill(roi->y, i, y, plan.y.taps + k * plan.y.most, along->y1, along->y2);
        else
          fill(roi->x, i - rows, x, plan.x.taps + k * plan.x.most, along->x1, along->x2);
      });
    }
  }

 private:
  template <class Axis>
  ROIDL_DEVICE static void count_places(int64_t image, const Axis& axis, int64_t p, Span* spans) {
    spans[p] = {0, image < 0 ? 0 : static_cast<int32_t>(axis.cells_at_most(p))};
  }

  ROIDL_DEVICE static void add_up(const AxisPlan<A, kWeights>& axis, Span* spans) {
    int64_t next = 0;
    for (int32_t p = 0; p < axis.bins; ++p) {
      const int64_t stop = next + spans[p].stop;
      spans[p].first = static_cast<int32_t>(next);
      next = stop < axis.most ? stop : axis.most;  // whatever the boxes hold, never beyond
      spans[p].stop = static_cast<int32_t>(next);
    }
    spans[axis.bins] = {0, static_cast<int32_t>(next)};
  }

  template <class Axis>
  ROIDL_DEVICE static void fill(const Axis& axis, int64_t p, Span* spans, Tap<A, kWeights>* taps,
                                double low, double high) {
    const int32_t first = spans[p].first, stop = spans[p].stop;
    if (first == stop) return;
    int32_t next = first;
    axis.template for_each_tap<A>(p, [&](int32_t cell, A weight, int64_t i, A slope) {
      Tap<A, kWeights> tap{cell, {weight}};
      if constexpr (kWeights > 1) {
        const auto edge = axis.edge(p, i);
        if constexpr (kWeights == 2) {
          tap.weight[1] = A(edge.low * low + edge.high * high) * slope;
        } else {
          tap.weight[1] = A(edge.low) * slope;
          tap.weight[2] = A(edge.high) * slope;
        }
      }
      bool none = true;
      for (int j = 0; j < kWeights; ++j) none &= tap.weight[j] == A(0);
      if (none) return;  // must not read the cell: it may hold NaN
      // Samples are monotone: an equal cell is among the last few.
      for (int32_t at = next - 1; at >= first && at >= next - 4; --at)
        if (taps[at].cell == cell) {
          for (int j = 0; j < kWeights; ++j) taps[at].weight[j] += tap.weight[j];
          return;
        }
      if (next < stop) taps[next++] = tap;
    });
    spans[p].stop = next;
    for (; next < stop; ++next) taps[next] = Tap<A, kWeights>{-1, {}};
  }
};

// The plan of a call and the memory that it is in.
template <class A, int kWeights>
class Planned {
 public:
  Planned(const Problem& problem, int64_t most_y, int64_t most_x)
      : spans_(problem.rois * (problem.output_height + problem.output_width + 2)),
        taps_(problem.rois * (most_y + most_x)),
        memory_(problem, problem.rois == 0 ? 0
                                           : Shared::bytes_of<Window>(problem.rois) +
                                                 Shared::bytes_of<Span>(spans_) +
                                                 Shared::bytes_of<Tap<A, kWeights>>(taps_)) {
    Shared memory{memory_.data()};
    const int32_t rows = static_cast<int32_t>(problem.output_height);
    plan.windows = memory.take<Window>(problem.rois);
    Span* const spans = memory.take<Span>(spans_);
    auto* const taps = memory.take<Tap<A, kWeights>>(taps_);
    plan.y = {spans, taps, rows, most_y};
    plan.x = {spans + problem.rois * (rows + 1), taps + problem.rois * most_y,
              static_cast<int32_t>(problem.output_width), most_x};
  }

  Plan<A, kWeights> plan;

 private:
  int64_t spans_, taps_;
  Scratch<char> memory_;
};

// How many taps an axis has at most.
inline int64_t taps_at_most(int64_t bins, int64_t size, int64_t samples) {
  const int64_t by_cells = size + 2 + 3 * bins;
  const bool few = samples > 0 && samples < by_cells && 2 * samples * bins < by_cells;
  return few ? 2 * samples * bins : by_cells;
}

template <class A, int kWeights, class Rois>
void make_plan(const Problem& problem, const Rois& rois, const Boxes& direction,
               const Plan<A, kWeights>& plan) {
  const MakePlan<A, Rois, kWeights> kernel{rois, plan, direction, problem.rois};
  launch(problem, kernel, problem.rois,
         Shared::bytes_of<Roi<typename Rois::Axis>>(1) + Shared::bytes_of<Box<double>>(1));
}

// Calls use(plan) with the plan of a call, which lives as long as that takes.
template <class A, int kWeights, class Use>
void with_plan(const RoiAlignProblem& problem, Use&& use) {
  const Map& map = problem.maps[0];
  const RoiAlignParams& params = problem.params;
  const Planned<A, kWeights> planned(
      problem, taps_at_most(problem.output_height, map.height, params.sampling_height),
      taps_at_most(problem.output_width, map.width, params.sampling_width));
  if (sizeof(A) == 8 || problem.double_coordinates)
    make_plan(problem, AlignRois<double>(problem), problem.boxes_tangent, planned.plan);
  else if constexpr (sizeof(A) == 4)
    make_plan(problem, AlignRois<float>(problem), problem.boxes_tangent, planned.plan);
  use(planned.plan);
}

template <class A, int kWeights, class Use>
void with_plan(const RoiPoolProblem& problem, Use&& use) {
  static_assert(kWeights == 1, "RoIPool does not follow the boxes");
  const Map& map = problem.maps[0];
  const Planned<A, kWeights> planned(problem, taps_at_most(problem.output_height, map.height, 0),
                                     taps_at_most(problem.output_width, map.width, 0));
  if (sizeof(A) == 8 || problem.double_coordinates)
    make_plan(problem, PoolRois<double>(problem), Boxes(), planned.plan);
  else if constexpr (sizeof(A) == 4)
    make_plan(problem, PoolRois<float>(problem), Boxes(), planned.plan);
  use(planned.plan);
}

// Calls f(Type<T>{}) with the type of the elements.
template <class F>
void visit_elements(const Problem& problem, F&& f) {
  visit_float(problem.dtype, f);
}

}  // namespace roidl::cuda
