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

// A range of cells along an axis.
struct Span {
  int64_t begin, end;
};

// Collects the taps of one axis bin by bin, merges taps on the same cell, and sorts them by cell.
template <class A>
class TapsBuilder {
 public:
  // Begins an axis; only the cells of `span` get taps.
  void begin(int64_t bins, const Span& span) {
    bins_ = bins;
    span_ = span;
    start_.assign(1, 0);
    cell_.clear();
    sum_.clear();
  }
  void add(int64_t cell, double weight) {
    if (weight == 0) return;  // no tap: the cell must not be read, as it may hold NaN
    if (cell < span_.begin || cell >= span_.end) return;
    // Samples are monotone: the same cell can only be among the last few of this bin.
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
  void skip_bins(int64_t bins) {
    start_.insert(start_.end(), bins, static_cast<int32_t>(cell_.size()));
  }
  void end_bin() {
    const size_t first = start_.back(), count = cell_.size() - first;
    // In a reversed box, the cells of a bin come as 7, 8, 6, 5.
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
    if (!std::is_sorted(distinct_.begin(), distinct_.end()))
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
  Span span_{};
  std::vector<int32_t> start_, cell_, distinct_, filled_;
  std::vector<double> sum_;
  std::vector<std::pair<int32_t, double>> unsorted_;
};

// Sets the window of a RoI from its taps; with `differences`, those of derivatives reach one cell
// further. A RoI without taps keeps an empty window.
template <class A>
void set_window(TapsRoi<A>& roi, bool differences) {
  const auto span = [&](std::initializer_list<const Taps<A>*> all, int32_t& begin, int32_t& end) {
    for (const Taps<A>* taps : all) {
      if (taps->count == 0) continue;
      const int32_t behind = differences && taps != *all.begin() ? 2 : 1;
      const int32_t low = taps->position[0], high = taps->position[taps->count - 1] + behind;
      begin = end == 0 ? low : std::min(begin, low);
      end = std::max(end, high);
    }
  };
  span({&roi.y, &roi.y_derivative[0], &roi.y_derivative[1]}, roi.y_begin, roi.y_end);
  span({&roi.x, &roi.x_derivative[0], &roi.x_derivative[1]}, roi.x_begin, roi.x_end);
}

// Calls visit(sample, p, i, times), bin after bin, for the samples that touch the cells of `span`.
// Positions are monotone within a bin, and so is sample i from bin to bin.
template <class T, class A, class Visit>
Taps<A> taps_of_samples(const AlignAxis<T>& axis, int64_t bins, int64_t size, const Span& span,
                        bool by_cell, TapsBuilder<A>& builder, Arena& arena, Visit&& visit) {
  builder.begin(bins, span);
  const bool all = span.begin <= 0 && span.end >= size, rising = !(axis.bin < T(0));
  // The first cell of a sample; for a sample off the map, the nearest one on the map.
  const auto low = [&](int64_t p, int64_t i) {
    const T position = sample_position(axis, p, i);
    if (!(position > T(0))) return int64_t{0};
    return position < T(size - 1) ? static_cast<int64_t>(position) : size - 1;
  };
  const auto before = [&](int64_t cell) { return cell + 1 < span.begin; };
  const auto behind = [&](int64_t cell) { return cell >= span.end; };
  // Returns the range, of bins or of the samples of a bin, from the first that reaches the span to
  // the first beyond it.
  const auto between = [&](int64_t first, int64_t stop, auto&& lowest, auto&& highest) {
    const auto entered = [&](int64_t at) {
      return rising ? !before(highest(at)) : !behind(lowest(at));
    };
    const auto left = [&](int64_t at) { return rising ? behind(lowest(at)) : before(highest(at)); };
    first = first_that(first, stop, entered);
    return SampleRange{first, first_that(first, stop, left)};
  };
  SampleRange some{0, bins};
  const int64_t front = rising ? 0 : axis.grid - 1, back = rising ? axis.grid - 1 : 0;
  if (!all && axis.grid > 0)
    some = between(
        0, bins, [&](int64_t p) { return low(p, front); }, [&](int64_t p) { return low(p, back); });
  builder.skip_bins(some.first);
  for (int64_t p = some.first; p < some.stop; ++p) {
    SampleRange range = samples_on_map(axis, p, size);
    const auto cell = [&](int64_t i) { return low(p, i); };
    if (!all) range = between(range.first, range.stop, cell, cell);
    for_each_sample(axis, p, size, range, [&](const Bilinear<T>& sample, int64_t i, double times) {
      visit(sample, p, i, times);
    });
    builder.end_bin();
  }
  builder.skip_bins(bins - some.stop);
  return builder.finish(arena, by_cell);
}

template <class T, class A>
Taps<A> align_taps(const AlignAxis<T>& axis, int64_t bins, int64_t size, const Span& span,
                   bool by_cell, TapsBuilder<A>& builder, Arena& arena) {
  const double share = axis.grid > 0 ? 1.0 / static_cast<double>(axis.grid) : 0.0;
  return taps_of_samples(axis, bins, size, span, by_cell, builder, arena,
                         [&](const Bilinear<T>& sample, int64_t, int64_t, double times) {
                           builder.add(sample.low, share * times * sample.weight_low);
                           builder.add(sample.high, share * times * sample.weight_high);
                         });
}

// The derivative of the matrix of align_taps along (low, high), a direction of the two edges of the
// box. Unless it is to be transposed, its taps are on differences: the next cell minus the cell.
template <class T, class A>
Taps<A> align_derivative(const AlignAxis<T>& axis, int64_t bins, int64_t size, const Span& span,
                         double scale, double low, double high, bool by_cell,
                         TapsBuilder<A>& builder, Arena& arena) {
  return taps_of_samples(axis, bins, size, span, by_cell, builder, arena,
                         [&](const Bilinear<T>& sample, int64_t p, int64_t i, double times) {
                           if (!sample.moves) return;
                           const EdgeDerivative<T> edge(axis, scale, bins, p, i);
                           const double share = times * (edge.low * low + edge.high * high) /
                                                static_cast<double>(axis.grid);
                           builder.add(sample.low, by_cell ? -share : share);
                           if (by_cell) builder.add(sample.high, share);
                         });
}

// Two matrices with taps on the same cells share their tables of cells, and kernels apply them
// together.
template <class A>
void share_places(Taps<A> (&taps)[2], int64_t bins) {
  const int32_t count = taps[0].start[bins];
  if (taps[0].count != taps[1].count || count != taps[1].start[bins] ||
      !std::equal(taps[0].start, taps[0].start + bins, taps[1].start) ||
      !std::equal(taps[0].slot, taps[0].slot + count, taps[1].slot) ||
      !std::equal(taps[0].position, taps[0].position + taps[0].count, taps[1].position))
    return;
  const A* weight = taps[1].weight;
  taps[1] = taps[0];
  taps[1].weight = weight;
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
  const Roi* make(int64_t k, const Area& area, Arena& arena) override {
    const int64_t ph = problem_.output_height, pw = problem_.output_width;
    const bool backward = use_ == TapsFor::jvp_boxes_backward;
    const bool directions = use_ == TapsFor::jvp_boxes || backward;
    const bool by_cell = use_ == TapsFor::backward || backward;
    const Span rows{area.y_begin, area.y_end}, columns{area.x_begin, area.x_end};
    const PlacedBox<T> placed = place_box<T>(problem_, k);
    const Map& map = problem_.maps[placed.map];
    const AlignAxes<T> axes(problem_.params, static_cast<T>(map.scale), placed.box, placed.exists);
    TapsRoi<A>& roi = *new (arena.take<TapsRoi<A>>(1)) TapsRoi<A>;
    set_place(roi, k, placed);
    roi.y = align_taps(axes.y, ph, map.height, rows, by_cell, builder_, arena);
    roi.x = align_taps(axes.x, pw, map.width, columns, by_cell, builder_, arena);
    const auto derivatives = [&](double y_low, double y_high, double x_low, double x_high,
                                 int edge) {
      roi.y_derivative[edge] = align_derivative(axes.y, ph, map.height, rows, map.scale, y_low,
                                                y_high, by_cell, builder_, arena);
      roi.x_derivative[edge] = align_derivative(axes.x, pw, map.width, columns, map.scale, x_low,
                                                x_high, by_cell, builder_, arena);
    };
    if (use_ == TapsFor::boxes) {
      derivatives(1, 0, 1, 0, 0);
      derivatives(0, 1, 0, 1, 1);
    }
    if (directions) {
      const Box<double> along = load_box<double>(problem_.boxes_tangent, k);
      derivatives(along.y1, along.y2, along.x1, along.x2, 0);
    }
    if (use_ == TapsFor::boxes) {
      share_places(roi.y_derivative, ph);
      share_places(roi.x_derivative, pw);
    }
    set_window(roi, !by_cell);
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
Taps<A> bins_to_taps(const Bins& bins, int64_t count, const Span& span, bool by_cell,
                     TapsBuilder<A>& builder, Arena& arena) {
  builder.begin(count, span);
  for (int64_t p = 0; p < count; ++p) {
    const int64_t begin = bins.begin[p], end = bins.end[p];
    for (int64_t cell = std::max(begin, span.begin); cell < std::min(end, span.end); ++cell)
      builder.add(cell, 1.0 / static_cast<double>(end - begin));
    builder.end_bin();
  }
  return builder.finish(arena, by_cell);
}

template <class A, class ProblemType>
class PoolTaps final : public Tables {
 public:
  PoolTaps(const ProblemType& problem, TapsFor use)
      : problem_(problem), use_(use), bins_(make_bins(problem)) {}

  std::unique_ptr<Tables> another() const override {
    return std::make_unique<PoolTaps>(problem_, use_);
  }
  const Roi* make(int64_t k, const Area& area, Arena& arena) override {
    const BinsRoi& bins = static_cast<const BinsRoi&>(*bins_->make(k, area, arena));
    const bool by_cell = use_ == TapsFor::backward;
    TapsRoi<A>& roi = *new (arena.take<TapsRoi<A>>(1)) TapsRoi<A>;
    static_cast<Roi&>(roi) = bins;
    roi.y = bins_to_taps(bins.y, problem_.output_height, {area.y_begin, area.y_end}, by_cell,
                         builder_, arena);
    roi.x = bins_to_taps(bins.x, problem_.output_width, {area.x_begin, area.x_end}, by_cell,
                         builder_, arena);
    return &roi;
  }
  int64_t sums(const Roi& roi) const override {
    return most_cells(static_cast<const TapsRoi<A>&>(roi));
  }

 private:
  const ProblemType& problem_;
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
  return std::make_unique<PoolTaps<A, RoiPoolProblem>>(problem, use);
}

template <class A>
std::unique_ptr<Tables> make_taps(const PsRoiPoolProblem& problem, TapsFor use) {
  return std::make_unique<PoolTaps<A, PsRoiPoolProblem>>(problem, use);
}

template std::unique_ptr<Tables> make_taps<float>(const RoiAlignProblem&, TapsFor);
template std::unique_ptr<Tables> make_taps<double>(const RoiAlignProblem&, TapsFor);
template std::unique_ptr<Tables> make_taps<float>(const RoiPoolProblem&, TapsFor);
template std::unique_ptr<Tables> make_taps<double>(const RoiPoolProblem&, TapsFor);
template std::unique_ptr<Tables> make_taps<float>(const PsRoiPoolProblem&, TapsFor);
template std::unique_ptr<Tables> make_taps<double>(const PsRoiPoolProblem&, TapsFor);

}  // namespace roidl::cpu
