// The sparse weights of averages: the taps of every bin, merged by cell. Compiled without
// contraction: see geometry.h.
#include <algorithm>
#include <initializer_list>
#include <new>
#include <tuple>
#include <utility>

#include "../samples.h"
#include "tables.h"

namespace roidl::cpu {

namespace {

// Collects the taps of one axis bin by bin, merges those that meet on a cell and sorts them by it.
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
  void end_bin() {
    const size_t first = start_.back(), count = cell_.size() - first;
    // In a box that is turned around they come as 7, 8, 6, 5.
    if (!std::is_sorted(cell_.begin() + first, cell_.end())) {
      unsorted_.clear();
      for (size_t j = first; j < first + count; ++j) unsorted_.emplace_back(cell_[j], sum_[j]);
      std::sort(unsorted_.begin(), unsorted_.end());
      for (size_t j = 0; j < count; ++j) std::tie(cell_[first + j], sum_[first + j]) = unsorted_[j];
    }
    start_.push_back(static_cast<int32_t>(cell_.size()));
  }

  Taps<A> finish(Arena& arena, bool by_cell) {
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
    if (by_cell) transpose(taps, arena, count);
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
  std::vector<std::pair<int32_t, double>> unsorted_;
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
Taps<A> align_taps(const AlignAxis<T>& axis, int64_t bins, int64_t size, bool by_cell,
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
  return builder.finish(arena, by_cell);
}

// The derivative of the matrix above along (low, high): a direction of the box's two edges.
template <class T, class A>
Taps<A> align_derivative(const AlignAxis<T>& axis, int64_t bins, int64_t size, double scale,
                         double low, double high, bool by_cell, TapsBuilder<A>& builder,
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
  return builder.finish(arena, by_cell);
}

template <class A>
int64_t most_cells(const TapsRoi<A>& roi) {
  return std::max({roi.y.count, roi.x.count, roi.y_derivative[0].count, roi.y_derivative[1].count,
                   roi.x_derivative[0].count, roi.x_derivative[1].count});
}

template <class T, class A>
class AlignTaps final : public Tables {
 public:
  AlignTaps(const RoiAlignProblem& problem, TapsFor use) : problem_(problem), use_(use) {}

  std::unique_ptr<Tables> another() const override {
    return std::make_unique<AlignTaps>(problem_, use_);
  }
  const Roi* make(int64_t k, Arena& arena) override {
    const int64_t ph = problem_.output_height, pw = problem_.output_width;
    const bool directions = use_ == TapsFor::jvp_boxes;
    const bool by_cell = use_ == TapsFor::backward || directions;
    const PlacedBox<T> placed = place_box<T>(problem_, k);
    const Map& map = problem_.maps[placed.map];
    const AlignAxes<T> axes(problem_.params, static_cast<T>(map.scale), placed.box, placed.exists);
    TapsRoi<A>& roi = *new (arena.take<TapsRoi<A>>(1)) TapsRoi<A>;
    set_place(roi, k, placed);
    roi.y = align_taps(axes.y, ph, map.height, by_cell, builder_, arena);
    roi.x = align_taps(axes.x, pw, map.width, by_cell, builder_, arena);
    const auto derivative = [&](const AlignAxis<T>& axis, int64_t bins, int64_t size, double low,
                                double high) {
      return align_derivative(axis, bins, size, map.scale, low, high, by_cell, builder_, arena);
    };
    for (int edge = 0; use_ == TapsFor::boxes && edge < 2; ++edge) {
      roi.y_derivative[edge] = derivative(axes.y, ph, map.height, edge == 0, edge == 1);
      roi.x_derivative[edge] = derivative(axes.x, pw, map.width, edge == 0, edge == 1);
    }
    if (directions) {
      const Box<double> along = load_box<double>(problem_.boxes_tangent, k);
      roi.y_derivative[0] = derivative(axes.y, ph, map.height, along.y1, along.y2);
      roi.x_derivative[0] = derivative(axes.x, pw, map.width, along.x1, along.x2);
    }
    set_window(roi);
    return &roi;
  }
  int64_t sums(const Roi& roi) const override {
    return most_cells(static_cast<const TapsRoi<A>&>(roi));
  }

 private:
  const RoiAlignProblem& problem_;
  TapsFor use_;
  TapsBuilder<A> builder_;
};

template <class A>
Taps<A> bins_to_taps(const Bins& bins, int64_t count, bool by_cell, TapsBuilder<A>& builder,
                     Arena& arena) {
  builder.begin(count);
  for (int64_t p = 0; p < count; ++p) {
    for (int32_t cell = bins.begin[p]; cell < bins.end[p]; ++cell)
      builder.add(cell, 1.0 / (bins.end[p] - bins.begin[p]));
    builder.end_bin();
  }
  return builder.finish(arena, by_cell);
}

template <class A>
class PoolTaps final : public Tables {
 public:
  PoolTaps(const RoiPoolProblem& problem, TapsFor use)
      : problem_(problem), use_(use), bins_(make_bins(problem)) {}

  std::unique_ptr<Tables> another() const override {
    return std::make_unique<PoolTaps>(problem_, use_);
  }
  const Roi* make(int64_t k, Arena& arena) override {
    const BinsRoi& bins = static_cast<const BinsRoi&>(*bins_->make(k, arena));
    const bool by_cell = use_ == TapsFor::backward;
    TapsRoi<A>& roi = *new (arena.take<TapsRoi<A>>(1)) TapsRoi<A>;
    static_cast<Roi&>(roi) = bins;
    roi.y = bins_to_taps(bins.y, problem_.output_height, by_cell, builder_, arena);
    roi.x = bins_to_taps(bins.x, problem_.output_width, by_cell, builder_, arena);
    return &roi;
  }
  int64_t sums(const Roi& roi) const override {
    return most_cells(static_cast<const TapsRoi<A>&>(roi));
  }

 private:
  const RoiPoolProblem& problem_;
  TapsFor use_;
  std::unique_ptr<Tables> bins_;
  TapsBuilder<A> builder_;
};

}  // namespace

template <class A>
std::unique_ptr<Tables> make_taps(const RoiAlignProblem& problem, TapsFor use) {
  if (problem.double_coordinates) return std::make_unique<AlignTaps<double, A>>(problem, use);
  return std::make_unique<AlignTaps<float, A>>(problem, use);
}

template <class A>
std::unique_ptr<Tables> make_taps(const RoiPoolProblem& problem, TapsFor use) {
  return std::make_unique<PoolTaps<A>>(problem, use);
}

template std::unique_ptr<Tables> make_taps<float>(const RoiAlignProblem&, TapsFor);
template std::unique_ptr<Tables> make_taps<double>(const RoiAlignProblem&, TapsFor);
template std::unique_ptr<Tables> make_taps<float>(const RoiPoolProblem&, TapsFor);
template std::unique_ptr<Tables> make_taps<double>(const RoiPoolProblem&, TapsFor);

}  // namespace roidl::cpu
