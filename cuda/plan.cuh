// The plan of a call: for every RoI its window and the taps of its bins, found once by a kernel.
//
// A tap is a cell along one axis and its weight, or several weights: the average's own, and its
// derivatives to the box. Taps on the same cell are merged. The bins of a RoI follow each other
// along the map, so the taps of an axis are no more than its cells and three for every bin.
#pragma once
#include "rois.cuh"
#include "tuning.h"

namespace roidl::cuda {

template <class A, int kWeights>
struct alignas(kWeights == 1 ? 2 * sizeof(A) : 16) Tap {  // read at once
  int32_t cell;                                           // -1: none
  A weight[kWeights];
};

struct alignas(8) Span {  // read at once
  int32_t first, stop;
};

// One axis of all RoIs.
template <class A, int kWeights>
struct AxisPlan {
  Span* spans;  // [RoI][bins + 1]: the taps of each bin; of the last: 0 and how many places
  Tap<A, kWeights>* taps;  // [RoI][most]
  int32_t bins;
  int64_t most;

  ROIDL_DEVICE Span* spans_of(int64_t k) const { return spans + k * (bins + 1); }
  ROIDL_DEVICE Tap<A, kWeights>* taps_of(int64_t k) const { return taps + k * most; }
  ROIDL_DEVICE AxisPlan from(int64_t k) const { return {spans_of(k), taps_of(k), bins, most}; }
};

// What is known of one RoI.
template <class A, int kWeights>
struct RoiPlan {
  Window window;
  const Span *y, *x;
  const Tap<A, kWeights>*y_taps, *x_taps;
};

// Of all of them, in global memory.
template <class A, int kWeights>
struct Plan {
  Window* windows;  // [RoI]
  AxisPlan<A, kWeights> y, x;

  // As a kernel has it from PlanHere.
  static constexpr int kMostResident = 4;
  static constexpr int kMostRois = ROIDL_TUNE_ROWS_ROIS;  // of a block
  static constexpr int kSlab = ROIDL_TUNE_ROWS_SLAB;      // channels of a block
  struct Space {};
  int64_t bytes() const { return 0; }
  ROIDL_DEVICE Space place(Shared&) const { return {}; }
  template <class T>
  ROIDL_DEVICE static T* held(T* pointer) {
    return held_global(pointer);
  }
  ROIDL_DEVICE void prepare(const Team&, const Space&, int64_t) const {}
  ROIDL_DEVICE RoiPlan<A, kWeights> of(const Space&, int64_t k) const {
    return {windows[k], y.spans_of(k), x.spans_of(k), y.taps_of(k), x.taps_of(k)};
  }
};

// Finds the plans of a few RoIs; all threads of a block together. What the weights of a tap are:
// the average's (1); and its derivative along a direction of the boxes (2); or and its derivatives
// to the lower and the upper edge, as weights of the difference of the next cell and the tap's (3):
// they are as large as the weights themselves, and what features have in common takes no digits.
template <class A, class Rois, int kWeights>
struct PlanRoi {
  using RoiType = Roi<typename Rois::Axis>;

  struct Space {  // in shared memory
    RoiType* rois;
    Box<double>* along;
  };
  static int64_t bytes(int64_t some) {
    return Shared::bytes_of<RoiType>(some) + Shared::bytes_of<Box<double>>(some);
  }
  ROIDL_DEVICE static Space place(Shared& shared, int64_t some) {
    Space space;
    space.rois = shared.take<RoiType>(some);
    space.along = shared.take<Box<double>>(some);
    return space;
  }

  // Of `some` RoIs from k on; their plans are the first of `plan`.
  ROIDL_DEVICE static void run(const Team& team, const Space& space, const Rois& rois,
                               const Boxes& direction, int64_t k, int32_t some,
                               const Plan<A, kWeights>& plan) {
    const int32_t rows = plan.y.bins, all = rows + plan.x.bins;
    team.each(some, [&](int64_t i) {
      space.rois[i] = rois.load(k + i);
      if constexpr (kWeights == 2) space.along[i] = load_box<double>(direction, k + i);
      plan.windows[i] = window_of(space.rois[i]);
    });
    team.each(some * all, [&](int64_t index) {
      const int32_t i = static_cast<int32_t>(index) / all, bin = static_cast<int32_t>(index) % all;
      const RoiType& roi = space.rois[i];
      if (bin < rows)
        count_places(roi.image, roi.y, bin, plan.y.spans_of(i));
      else
        count_places(roi.image, roi.x, bin - rows, plan.x.spans_of(i));
    });
    team.each(2 * some, [&](int64_t i) {
      i < some ? add_up(plan.y, plan.y.spans_of(i)) : add_up(plan.x, plan.x.spans_of(i - some));
    });
    team.each(some * all, [&](int64_t index) {
      const int32_t i = static_cast<int32_t>(index) / all, bin = static_cast<int32_t>(index) % all;
      const RoiType& roi = space.rois[i];
      const Box<double>& along = space.along[i];
      if (bin < rows)
        fill(roi.y, bin, plan.y.spans_of(i), plan.y.taps_of(i), along.y1, along.y2);
      else
        fill(roi.x, bin - rows, plan.x.spans_of(i), plan.x.taps_of(i), along.x1, along.x2);
    });
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

  // `low` and `high` are there where there are two weights.
  template <class Axis>
  ROIDL_DEVICE static void fill(const Axis& axis, int64_t p, Span* spans, Tap<A, kWeights>* taps,
                                const double& low, const double& high) {
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
          const A share = slope < A(0) ? -slope : A(0);  // of the difference, at its first cell
          tap.weight[1] = A(edge.low) * share;
          tap.weight[2] = A(edge.high) * share;
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

// The kernel that finds the plan of all RoIs, a few in a block.
template <class A, class Rois, int kWeights>
struct MakePlan {
  using Each = PlanRoi<A, Rois, kWeights>;
  static constexpr int kResident = 2;
  Rois rois;
  Plan<A, kWeights> plan;
  Boxes direction;  // of 2
  int64_t count;
  int32_t some;  // RoIs of a block

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    const typename Each::Space space = Each::place(shared, some);
    const int64_t k = team.block * some;
    const int32_t left = count - k < some ? static_cast<int32_t>(count - k) : some;
    Each::run(team, space, rois, direction, k, left,
              {plan.windows + k, plan.y.from(k), plan.x.from(k)});
  }
};

// How many taps an axis has at most.
inline int64_t taps_at_most(int64_t bins, int64_t size, int64_t samples) {
  const int64_t by_cells = size + 2 + 3 * bins;
  const bool few = samples > 0 && samples < by_cells && 2 * samples * bins < by_cells;
  return few ? 2 * samples * bins : by_cells;
}

struct MostTaps {  // of any RoI of the problem
  int64_t y, x;

  MostTaps(const Problem& problem, int64_t samples_y, int64_t samples_x)
      : y(most_of_maps(problem,
                       [&](const Map& map) {
                         return taps_at_most(problem.output_height, map.height, samples_y);
                       })),
        x(most_of_maps(problem, [&](const Map& map) {
          return taps_at_most(problem.output_width, map.width, samples_x);
        })) {}
  explicit MostTaps(const RoiAlignProblem& problem)
      : MostTaps(problem, problem.params.sampling_height, problem.params.sampling_width) {}
  explicit MostTaps(const RoiPoolProblem& problem) : MostTaps(problem, 0, 0) {}
};

// In place of a plan in global memory: a block finds that of its RoI for itself, by the same steps.
template <class A, class Rois>
struct PlanHere {
  using Each = PlanRoi<A, Rois, 1>;
  static constexpr int kMostResident = 2;  // of problems that fill no device
  static constexpr int kMostRois = 1;
  static constexpr int kSlab = 64;
  Rois rois;
  AxisPlan<A, 1> y, x;  // without memory

  template <class ProblemType>
  PlanHere(const ProblemType& problem, const MostTaps& most)
      : rois(problem),
        y{nullptr, nullptr, static_cast<int32_t>(problem.output_height), most.y},
        x{nullptr, nullptr, static_cast<int32_t>(problem.output_width), most.x} {}

  struct Space {
    typename Each::Space each;
    Plan<A, 1> plan;
  };
  int64_t bytes() const {
    return Each::bytes(1) + Shared::bytes_of<Window>(1) + axis_bytes(y) + axis_bytes(x);
  }
  ROIDL_DEVICE Space place(Shared& shared) const {
    Space space{Each::place(shared, 1), {shared.take<Window>(1), y, x}};
    space.plan.y.spans = shared.take<Span>(y.bins + 1);
    space.plan.y.taps = shared.take<Tap<A, 1>>(y.most);
    space.plan.x.spans = shared.take<Span>(x.bins + 1);
    space.plan.x.taps = shared.take<Tap<A, 1>>(x.most);
    return space;
  }
  template <class T>
  ROIDL_DEVICE static T* held(T* pointer) {
    return held_shared(pointer);
  }
  ROIDL_DEVICE void prepare(const Team& team, const Space& space, int64_t k) const {
    Each::run(team, space.each, rois, Boxes(), k, 1, space.plan);
  }
  ROIDL_DEVICE RoiPlan<A, 1> of(const Space& space, int64_t) const { return space.plan.of({}, 0); }

 private:
  static int64_t axis_bytes(const AxisPlan<A, 1>& axis) {
    return Shared::bytes_of<Span>(axis.bins + 1) + Shared::bytes_of<Tap<A, 1>>(axis.most);
  }
};

// The plan of a call and the memory that it is in.
template <class A, int kWeights>
class Planned {
 public:
  Planned(const Problem& problem, int64_t most_y, int64_t most_x)
      : spans_(problem.rois * (problem.output_height + problem.output_width + 2)),
        taps_(problem.rois * (most_y + most_x)) {
    Shared memory{take_scratch<char>(problem, problem.rois == 0
                                                  ? 0
                                                  : Shared::bytes_of<Window>(problem.rois) +
                                                        Shared::bytes_of<Span>(spans_) +
                                                        Shared::bytes_of<Tap<A, kWeights>>(taps_))};
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
};

// The RoIs of a problem, with coordinates of type C.
template <class C>
AlignRois<C> rois_of(const RoiAlignProblem& problem) {
  return AlignRois<C>(problem);
}
template <class C>
PoolRois<C> rois_of(const RoiPoolProblem& problem) {
  return PoolRois<C>(problem);
}
inline Boxes direction_of(const RoiAlignProblem& problem) { return problem.boxes_tangent; }
inline Boxes direction_of(const RoiPoolProblem&) { return {}; }

// Calls use(plan) with the plan of a call, which lives as long as that takes.
template <class A, int kWeights, class ProblemType, class Use>
void with_plan(const ProblemType& problem, Use&& use) {
  const MostTaps most(problem);
  const Planned<A, kWeights> planned(problem, most.y, most.x);
  const auto make = [&](auto rois) {
    using Rois = decltype(rois);
    // As many as a block has threads for, and as leave no multiprocessor without any.
    constexpr int64_t kMost = 16;
    const int64_t bins = problem.output_height + problem.output_width;
    int64_t some = problem.rois / multiprocessors(problem);
    for (const int64_t limit : {kMost, kThreads / bins}) some = some < limit ? some : limit;
    if (some < 1) some = 1;
    const MakePlan<A, Rois, kWeights> kernel{rois, planned.plan, direction_of(problem),
                                             problem.rois, static_cast<int32_t>(some)};
    launch(problem, kernel, divide_up(problem.rois, some),
           MakePlan<A, Rois, kWeights>::Each::bytes(some));
  };
  if (sizeof(A) == 8 || problem.double_coordinates)
    make(rois_of<double>(problem));
  else if constexpr (sizeof(A) == 4)
    make(rois_of<float>(problem));
  use(planned.plan);
}

// Whether finding a plan, or a box's weights, once in every block that needs it costs less than one
// more launch: all blocks run at once, so each pays for it once. Where a call is only measured, for
// a device that nobody has named, it is to need the memory of a plan.
template <class A>
bool is_small(const Problem& problem, int64_t blocks) {
  return !has_no_device(problem) && blocks <= multiprocessors(problem) &&
         problem.rois <= kThreads && (sizeof(A) == 8 || !problem.double_coordinates);
}

// Calls f(Type<T>{}) with the type of the elements.
template <class F>
void visit_elements(const Problem& problem, F&& f) {
  visit_float(problem.dtype, f);
}

}  // namespace roidl::cuda
