// The sparse weights of averages: the taps of every bin, merged by cell. Compiled without
// contraction: see geometry.h.
#include <algorithm>
#include <initializer_list>

#include "../samples.h"
#include "tables.h"

namespace roidl::cpu {

namespace {

// Collects the taps of one axis bin by bin and merges those that meet on a cell.
template <class A>
class TapsBuilder {
 public:
  void begin(int64_t bins) {
    bins_ = bins;
    start_.assign(1, 0);
    cell_.clear();
    sum_.clear();
  }
  void add(int64_t cell, double weight) {
    if (weight == 0) return;  // must not read the cell: it may hold NaN
    // Samples are monotone: an equal cell is among the last few of this bin.
    const size_t first =
        std::max<size_t>(start_.back(), cell_.size() - std::min<size_t>(cell_.size(), 4));
    for (size_t j = cell_.size(); j-- > first;)
      if (cell_[j] == cell) {
        sum_[j] += weight;
        return;
      }
    cell_.push_back(static_cast<int32_t>(cell));
    sum_.push_back(weight);
  }
  void end_bin() { start_.push_back(static_cast<int32_t>(cell_.size())); }

  Taps<A> finish(Arena& arena, bool by_column) {
    Taps<A> taps;
    const size_t count = cell_.size();
    A* weight = arena.take<A>(count);
    for (size_t j = 0; j < count; ++j) weight[j] = static_cast<A>(sum_[j]);
    distinct_ = cell_;
    std::sort(distinct_.begin(), distinct_.end());
    distinct_.erase(std::unique(distinct_.begin(), distinct_.end()), distinct_.end());
    int32_t* slot = arena.take<int32_t>(count);
    for (size_t j = 0, at = 0; j < count; ++j) {
      // Neighbouring taps have neighbouring slots.
      while (distinct_[at] < cell_[j]) ++at;
      while (distinct_[at] > cell_[j]) --at;
      slot[j] = static_cast<int32_t>(at);
    }
    taps.start = arena.copy(start_);
    taps.slot = slot;
    taps.weight = weight;
    taps.position = arena.copy(distinct_);
    taps.count = static_cast<int32_t>(distinct_.size());
    if (by_column) transpose(taps, arena, count);
    return taps;
  }

 private:
  void transpose(Taps<A>& taps, Arena& arena, size_t count) {
    int32_t* start = arena.take<int32_t>(taps.count + 1);
    int32_t* bin = arena.take<int32_t>(count);
    A* weight = arena.take<A>(count);
    std::fill(start, start + taps.count + 1, 0);
    for (size_t j = 0; j < count; ++j) ++start[taps.slot[j] + 1];
    for (int32_t i = 0; i < taps.count; ++i) start[i + 1] += start[i];
    filled_.assign(start, start + taps.count);
    for (int64_t p = 0; p < bins_; ++p)
      for (int32_t j = taps.start[p]; j < taps.start[p + 1]; ++j) {
        const int32_t at = filled_[taps.slot[j]]++;
        bin[at] = static_cast<int32_t>(p);
        weight[at] = taps.weight[j];
      }
    taps.column_start = start;
    taps.column_bin = bin;
    taps.column_weight = weight;
  }

  int64_t bins_ = 0;
  std::vector<int32_t> start_, cell_, distinct_, filled_;
  std::vector<double> sum_;
};

// The window of a RoI with taps; a RoI that touches nothing keeps an empty one.
template <class A>
void set_window(TapsRoi<A>& roi) {
  const auto span = [](std::initializer_list<const Taps<A>*> all, int32_t& begin, int32_t& end) {
    for (const Taps<A>* taps : all) {
      if (taps->count == 0) continue;
      const int32_t low = taps->position[0], high = taps->position[taps->count - 1] + 1;
      begin = end == 0 ? low : std::min(begin, low);
      end = std::max(end, high);
    }
  };
  span({&roi.y, &roi.y_derivative[0], &roi.y_derivative[1]}, roi.y_begin, roi.y_end);
  span({&roi.x, &roi.x_derivative[0], &roi.x_derivative[1]}, roi.x_begin, roi.x_end);
}

template <class T, class A>
Taps<A> align_taps(const AlignAxis<T>& axis, int64_t bins, int64_t size, bool by_column,
                   TapsBuilder<A>& builder, Arena& arena) {
  builder.begin(bins);
  const double share = axis.grid > 0 ? 1.0 / static_cast<double>(axis.grid) : 0.0;
  for (int64_t p = 0; p < bins; ++p) {
    for_each_sample(axis, p, size, [&](const Bilinear<T>& sample, int64_t, double times) {
      builder.add(sample.low, share * times * sample.weight_low);
      builder.add(sample.high, share * times * sample.weight_high);
    });
    builder.end_bin();
  }
  return builder.finish(arena, by_column);
}

// The derivative of the matrix above along (low, high): a direction of the box's two edges.
template <class T, class A>
Taps<A> align_derivative(const AlignAxis<T>& axis, int64_t bins, int64_t size, double scale,
                         double low, double high, bool by_column, TapsBuilder<A>& builder,
                         Arena& arena) {
  builder.begin(bins);
  for (int64_t p = 0; p < bins; ++p) {
    for_each_sample(axis, p, size, [&](const Bilinear<T>& sample, int64_t i, double times) {
      if (!sample.moves) return;
      const EdgeDerivative<T> edge(axis, scale, bins, p, i);
      const double share =
          times * (edge.low * low + edge.high * high) / static_cast<double>(axis.grid);
      builder.add(sample.low, -share);
      builder.add(sample.high, share);
    });
    builder.end_bin();
  }
  return builder.finish(arena, by_column);
}

template <class T, class A>
std::vector<TapsRoi<A>> make_align_taps(const RoiAlignProblem& problem, TapsFor use, Arena& arena) {
  const int64_t ph = problem.output_height, pw = problem.output_width;
  const bool directions = use == TapsFor::jvp_boxes;
  const bool by_column = use == TapsFor::backward || directions;
  std::vector<TapsRoi<A>> rois(problem.rois);
  TapsBuilder<A> builder;
  for (int64_t k = 0; k < problem.rois; ++k) {
    const PlacedBox<T> placed = place_box<T>(problem, k);
    const Map& map = problem.maps[placed.map];
    const AlignAxes<T> axes(problem.params, static_cast<T>(map.scale), placed.box, placed.exists);
    TapsRoi<A>& roi = rois[k];
    set_place(roi, k, placed);
    roi.y = align_taps(axes.y, ph, map.height, false, builder, arena);
    roi.x = align_taps(axes.x, pw, map.width, by_column, builder, arena);
    for (int edge = 0; use == TapsFor::boxes && edge < 2; ++edge) {
      const double low = edge == 0, high = edge == 1;
      roi.y_derivative[edge] =
          align_derivative(axes.y, ph, map.height, map.scale, low, high, false, builder, arena);
      roi.x_derivative[edge] =
          align_derivative(axes.x, pw, map.width, map.scale, low, high, false, builder, arena);
    }
    if (directions) {
      const Box<double> along = load_box<double>(problem.boxes_tangent, k);
      roi.y_derivative[0] = align_derivative(axes.y, ph, map.height, map.scale, along.y1, along.y2,
                                             false, builder, arena);
      roi.x_derivative[0] = align_derivative(axes.x, pw, map.width, map.scale, along.x1, along.x2,
                                             true, builder, arena);
    }
    set_window(roi);
  }
  return rois;
}

template <class A>
Taps<A> bins_to_taps(const Bins& bins, int64_t count, bool by_column, TapsBuilder<A>& builder,
                     Arena& arena) {
  builder.begin(count);
  for (int64_t p = 0; p < count; ++p) {
    for (int32_t cell = bins.begin[p]; cell < bins.end[p]; ++cell)
      builder.add(cell, 1.0 / (bins.end[p] - bins.begin[p]));
    builder.end_bin();
  }
  return builder.finish(arena, by_column);
}

}  // namespace

template <class A>
std::vector<TapsRoi<A>> make_taps(const RoiAlignProblem& problem, TapsFor use, Arena& arena) {
  return problem.double_coordinates ? make_align_taps<double, A>(problem, use, arena)
                                    : make_align_taps<float, A>(problem, use, arena);
}

template <class A>
std::vector<TapsRoi<A>> make_taps(const RoiPoolProblem& problem, TapsFor use, Arena& arena) {
  const std::vector<BinsRoi> bins = make_bins(problem, arena);
  std::vector<TapsRoi<A>> rois(bins.size());
  TapsBuilder<A> builder;
  for (size_t k = 0; k < bins.size(); ++k) {
    static_cast<Roi&>(rois[k]) = bins[k];
    rois[k].y = bins_to_taps(bins[k].y, problem.output_height, false, builder, arena);
    rois[k].x =
        bins_to_taps(bins[k].x, problem.output_width, use == TapsFor::backward, builder, arena);
  }
  return rois;
}

template std::vector<TapsRoi<float>> make_taps(const RoiAlignProblem&, TapsFor, Arena&);
template std::vector<TapsRoi<double>> make_taps(const RoiAlignProblem&, TapsFor, Arena&);
template std::vector<TapsRoi<float>> make_taps(const RoiPoolProblem&, TapsFor, Arena&);
template std::vector<TapsRoi<double>> make_taps(const RoiPoolProblem&, TapsFor, Arena&);

}  // namespace roidl::cpu
