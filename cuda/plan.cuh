// The plan of a call: the window of every RoI and the taps of its bins, found once by a kernel.
//
// A tap is a cell along one axis and its weights: the average's, and its derivatives to the box.
// Taps on the same cell are merged. The bins of a RoI are adjacent on the map, so an axis has no
// more taps than cells, and three for every bin.
#pragma once
#include "arithmetic.cuh"
#include "launch.cuh"
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

// The taps of one bin along one axis.
template <class A, int kWeights>
struct BinTaps {
  const Tap<A, kWeights>*first, *stop;

  ROIDL_DEVICE const Tap<A, kWeights>* begin() const { return first; }
  ROIDL_DEVICE const Tap<A, kWeights>* end() const { return stop; }
};

// One axis of all RoIs.
template <class A, int kWeights>
struct AxisPlan {
  Span* spans;  // [RoI][bins + 1]: the taps of each bin; of the last: 0 and how many places
  Tap<A, kWeights>* taps;  // [RoI][max_taps]
  int32_t bins;
  int64_t max_taps;

  ROIDL_DEVICE Span* spans_of(int64_t k) const { return spans + k * (bins + 1); }
  ROIDL_DEVICE Tap<A, kWeights>* taps_of(int64_t k) const { return taps + k * max_taps; }
  ROIDL_DEVICE BinTaps<A, kWeights> bin(int64_t k, int64_t p) const {
    const Span span = spans_of(k)[p];
    return {taps_of(k) + span.first, taps_of(k) + span.stop};
  }
  ROIDL_DEVICE AxisPlan from(int64_t k) const { return {spans_of(k), taps_of(k), bins, max_taps}; }
};

// The plan of one RoI.
template <class A, int kWeights>
struct RoiPlan {
  Window window;
  const Span *y, *x;
  const Tap<A, kWeights>*y_taps, *x_taps;
};

// The plans of all RoIs, in global memory.
template <class A, int kWeights>
struct Plan {
  Window* windows;  // [RoI]
  AxisPlan<A, kWeights> y, x;

  // The other members of a Plans (forward.cuh), as in BlockPlan.
  static constexpr int kMaxMinBlocks = 4;
  static constexpr int kMaxRois = ROIDL_TUNE_ROWS_ROIS;  // RoIs of a block
  static constexpr int kSlab = ROIDL_TUNE_ROWS_SLAB;     // channels of a block
  struct Space {};
  int64_t bytes() const { return 0; }
  ROIDL_DEVICE Space place(Shared&) const { return {}; }
  template <class T>
  ROIDL_DEVICE static T* opaque(T* pointer) {
    return opaque_global(pointer);
  }
  ROIDL_DEVICE void prepare(const Block&, const Space&, int64_t) const {}
  ROIDL_DEVICE RoiPlan<A, kWeights> of(const Space&, int64_t k) const {
    return {windows[k], y.spans_of(k), x.spans_of(k), y.taps_of(k), x.taps_of(k)};
  }
};

// Finds the plans of a few RoIs, with all threads of a block. `Rois` is AlignRois or PoolRois
// (rois.cuh). Its members are
//   Axis     a RoI's bins along one axis: size, the cells of the map along it;
//            for_each_tap<W>(p, visit), max_cells(p), window(begin, end);
//            and for derivatives edge(p, i)
//   load(k)  the Roi<Axis> number k
// kWeights says which weights a tap has. 1: the average's. 2: the average's, and its derivative
// along a direction of the boxes. 3: the average's, and its derivatives to the lower and the upper
// edge, as weights of the difference between the next cell and the tap's. These are as large as the
// average's weights, and a value that the features have in common costs no digits.
template <class A, class Rois, int kWeights>
struct PlanRoi {
  using RoiType = Roi<typename Rois::Axis>;

  struct Space {  // in shared memory
    RoiType* rois;
    Box<double>* along;
  };
  static int64_t bytes(int64_t count) {
    return Shared::bytes_of<RoiType>(count) + Shared::bytes_of<Box<double>>(count);
  }
  ROIDL_DEVICE static Space place(Shared& shared, int64_t count) {
    Space space;
    space.rois = shared.take<RoiType>(count);
    space.along = shared.take<Box<double>>(count);
    return space;
  }

  // Makes the plans of `count` RoIs from k on, the first of `plan`.
  ROIDL_DEVICE static void run(const Block& block, const Space& space, const Rois& rois,
                               const Boxes& direction, int64_t k, int32_t count,
                               const Plan<A, kWeights>& plan) {
    const int32_t rows = plan.y.bins, all = rows + plan.x.bins;
    block.each(count, [&](int64_t i) {
      space.rois[i] = rois.load(k + i);
      if constexpr (kWeights == 2) space.along[i] = load_box<double>(direction, k + i);
      plan.windows[i] = window_of(space.rois[i]);
    });
    block.each(count * all, [&](int64_t index) {
      const int32_t i = static_cast<int32_t>(index) / all, bin = static_cast<int32_t>(index) % all;
      const RoiType& roi = space.rois[i];
      if (bin < rows)
        count_places(roi.image, roi.y, bin, plan.y.spans_of(i));
      else
        count_places(roi.image, roi.x, bin - rows, plan.x.spans_of(i));
    });
    block.each(2 * count, [&](int64_t i) {
      i < count ? add_up(plan.y, plan.y.spans_of(i)) : add_up(plan.x, plan.x.spans_of(i - count));
    });
    block.each(count * all, [&](int64_t index) {
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
    spans[p] = {0, image < 0 ? 0 : static_cast<int32_t>(axis.max_cells(p))};
  }

  ROIDL_DEVICE static void add_up(const AxisPlan<A, kWeights>& axis, Span* spans) {
    int64_t next = 0;
    for (int32_t p = 0; p < axis.bins; ++p) {
      const int64_t stop = next + spans[p].stop;
      spans[p].first = static_cast<int32_t>(next);
      next = stop < axis.max_taps ? stop : axis.max_taps;  // a bound for any values of the boxes
      spans[p].stop = static_cast<int32_t>(next);
    }
    spans[axis.bins] = {0, static_cast<int32_t>(next)};
  }

  // `low` and `high`, the direction of the edges, are used if there are two weights.
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
          const A share = slope < A(0) ? -slope : A(0);  // the weight of the first cell
          tap.weight[1] = A(edge.low) * share;
          tap.weight[2] = A(edge.high) * share;
        }
      }
      bool none = true;
      for (int j = 0; j < kWeights; ++j) none &= tap.weight[j] == A(0);
      if (none) return;  // the cell must not be read: it may hold NaN
      // Samples are monotone: the same cell can only be among the last few.
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

// The kernel that finds the plans of all RoIs, a few in each block.
template <class A, class Rois, int kWeights>
struct MakePlan {
  using Each = PlanRoi<A, Rois, kWeights>;
  static constexpr int kMinBlocks = 2;
  Rois rois;
  Plan<A, kWeights> plan;
  Boxes direction;  // if kWeights is 2
  int64_t count;
  int32_t block_rois;

  ROIDL_DEVICE void operator()(const Block& block, Shared shared) const {
    const typename Each::Space space = Each::place(shared, block_rois);
    const int64_t k = block.index * block_rois;
    const int32_t left = count - k < block_rois ? static_cast<int32_t>(count - k) : block_rois;
    Each::run(block, space, rois, direction, k, left,
              {plan.windows + k, plan.y.from(k), plan.x.from(k)});
  }
};

// The most taps that an axis can have.
inline int64_t max_taps_of_axis(int64_t bins, int64_t size, int64_t samples) {
  const int64_t by_cells = size + 2 + 3 * bins;
  const bool few_samples = samples > 0 && samples < by_cells && 2 * samples * bins < by_cells;
  return few_samples ? 2 * samples * bins : by_cells;
}

struct MaxTaps {  // for any RoI of the problem
  int64_t y, x;

  MaxTaps(const Problem& problem, int64_t samples_y, int64_t samples_x)
      : y(max_over_maps(problem,
                        [&](const Map& map) {
                          return max_taps_of_axis(problem.output_height, map.height, samples_y);
                        })),
        x(max_over_maps(problem, [&](const Map& map) {
          return max_taps_of_axis(problem.output_width, map.width, samples_x);
        })) {}
  explicit MaxTaps(const RoiAlignProblem& problem)
      : MaxTaps(problem, problem.params.sampling_height, problem.params.sampling_width) {}
  explicit MaxTaps(const RoiPoolProblem& problem) : MaxTaps(problem, 0, 0) {}
  explicit MaxTaps(const PsRoiPoolProblem& problem) : MaxTaps(problem, 0, 0) {}
};

// Replaces a plan in global memory: each block finds the plan of its RoI itself, by the same steps.
template <class A, class Rois>
struct BlockPlan {
  using Each = PlanRoi<A, Rois, 1>;
  static constexpr int kMaxMinBlocks = 2;  // for problems that do not fill a device
  static constexpr int kMaxRois = 1;
  static constexpr int kSlab = 64;
  Rois rois;
  AxisPlan<A, 1> y, x;  // the pointers are not set

  template <class ProblemType>
  BlockPlan(const ProblemType& problem, const MaxTaps& max_taps)
      : rois(problem),
        y{nullptr, nullptr, static_cast<int32_t>(problem.output_height), max_taps.y},
        x{nullptr, nullptr, static_cast<int32_t>(problem.output_width), max_taps.x} {}

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
    space.plan.y.taps = shared.take<Tap<A, 1>>(y.max_taps);
    space.plan.x.spans = shared.take<Span>(x.bins + 1);
    space.plan.x.taps = shared.take<Tap<A, 1>>(x.max_taps);
    return space;
  }
  template <class T>
  ROIDL_DEVICE static T* opaque(T* pointer) {
    return opaque_shared(pointer);
  }
  ROIDL_DEVICE void prepare(const Block& block, const Space& space, int64_t k) const {
    Each::run(block, space.each, rois, Boxes(), k, 1, space.plan);
  }
  ROIDL_DEVICE RoiPlan<A, 1> of(const Space& space, int64_t) const { return space.plan.of({}, 0); }

 private:
  static int64_t axis_bytes(const AxisPlan<A, 1>& axis) {
    return Shared::bytes_of<Span>(axis.bins + 1) + Shared::bytes_of<Tap<A, 1>>(axis.max_taps);
  }
};

// The plan of a call and its memory.
template <class A, int kWeights>
class PlanMemory {
 public:
  PlanMemory(const Problem& problem, int64_t max_taps_y, int64_t max_taps_x)
      : spans_(problem.rois * (problem.output_height + problem.output_width + 2)),
        taps_(problem.rois * (max_taps_y + max_taps_x)) {
    Shared memory{take_scratch<char>(problem, problem.rois == 0
                                                  ? 0
                                                  : Shared::bytes_of<Window>(problem.rois) +
                                                        Shared::bytes_of<Span>(spans_) +
                                                        Shared::bytes_of<Tap<A, kWeights>>(taps_))};
    const int32_t rows = static_cast<int32_t>(problem.output_height);
    plan.windows = memory.take<Window>(problem.rois);
    Span* const spans = memory.take<Span>(spans_);
    auto* const taps = memory.take<Tap<A, kWeights>>(taps_);
    plan.y = {spans, taps, rows, max_taps_y};
    plan.x = {spans + problem.rois * (rows + 1), taps + problem.rois * max_taps_y,
              static_cast<int32_t>(problem.output_width), max_taps_x};
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
template <class C>
PoolRois<C> rois_of(const PsRoiPoolProblem& problem) {
  return PoolRois<C>(problem);
}
inline Boxes direction_of(const RoiAlignProblem& problem) { return problem.boxes_tangent; }
inline Boxes direction_of(const RoiPoolProblem&) { return {}; }
inline Boxes direction_of(const PsRoiPoolProblem&) { return {}; }

// Makes the plan of a call and calls use(plan); the plan is valid during this call.
template <class A, int kWeights, class ProblemType, class Use>
void with_plan(const ProblemType& problem, Use&& use) {
  const MaxTaps max_taps(problem);
  const PlanMemory<A, kWeights> planned(problem, max_taps.y, max_taps.x);
  const auto make = [&](auto rois) {
    using Rois = decltype(rois);
    // As many RoIs as a block has threads for, and few enough that every multiprocessor gets some.
    constexpr int64_t kMax = 16;
    const int64_t bins = problem.output_height + problem.output_width;
    int64_t block_rois = problem.rois / multiprocessors(problem);
    for (const int64_t limit : {kMax, kThreads / bins})
      block_rois = block_rois < limit ? block_rois : limit;
    if (block_rois < 1) block_rois = 1;
    const MakePlan<A, Rois, kWeights> kernel{rois, planned.plan, direction_of(problem),
                                             problem.rois, static_cast<int32_t>(block_rois)};
    launch(problem, kernel, divide_up(problem.rois, block_rois),
           MakePlan<A, Rois, kWeights>::Each::bytes(block_rois));
  };
  if (sizeof(A) == 8 || problem.double_coordinates)
    make(rois_of<double>(problem));
  else if constexpr (sizeof(A) == 4)
    make(rois_of<float>(problem));
  use(planned.plan);
}

inline constexpr int64_t kBlockPlans = ROIDL_TUNE_BLOCK_PLANS;  // 0: never

// Whether each block finds the plan, or the weights of a box, itself. This costs less than one more
// launch if all blocks run at once, so that the time for it is spent once. When memory is only
// estimated, without a known device, the answer is no, so that the estimate includes a plan.
template <class A>
bool can_plan_in_blocks(const Problem& problem, int64_t blocks) {
  return !has_no_device(problem) && blocks <= kBlockPlans * multiprocessors(problem) &&
         problem.rois <= kThreads && (sizeof(A) == 8 || !problem.double_coordinates);
}

// Calls f(Type<T>{}) with the type of the elements.
template <class F>
void visit_elements(const Problem& problem, F&& f) {
  visit_float(problem.dtype, f);
}

}  // namespace roidl::cuda
