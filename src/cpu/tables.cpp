// Builds the tables of taps, samples and bins. Compiled without contraction: see geometry.h.
#include "tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../geometry.h"

namespace roidl::cpu {

char* Arena::take_bytes(size_t bytes) {
  constexpr size_t kBlock = 256 << 10;
  bytes = (bytes + 7) / 8 * 8;
  if (bytes > left_) {
    left_ = std::max(bytes, kBlock);
    blocks_.emplace_back(new char[left_]);
    next_ = blocks_.back().get();
  }
  char* taken = next_;
  next_ += bytes;
  left_ -= bytes;
  return taken;
}

namespace {

template <class T>
T* copy_to(Arena& arena, const std::vector<T>& values) {
  T* copy = arena.take<T>(values.size());
  if (!values.empty()) std::memcpy(copy, values.data(), values.size() * sizeof(T));
  return copy;
}

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
    taps.start = copy_to(arena, start_);
    taps.slot = slot;
    taps.weight = weight;
    taps.position = copy_to(arena, distinct_);
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

// d(position of sample i of bin p)/d(lower edge, upper edge of the box): OPS, chain rule.
template <class T>
struct EdgeDerivative {
  double low, high;
  EdgeDerivative(const AlignAxis<T>& axis, double scale, int64_t bins, int64_t p, int64_t i) {
    const double along = axis.clamped ? 0.0 : (p + (i + 0.5) / axis.grid) / bins;
    low = scale * (1 - along);
    high = scale * along;
  }
};

// Calls visit(sample, i, times) for the samples of bin p on the map. Where hundreds of samples
// share a cell, everything that we sum is linear in i there, so the first and the last stand for
// the run, half each, and the cost is bounded by the map, not by the grid.
template <class T, class Visit>
void for_each_sample(const AlignAxis<T>& axis, int64_t p, int64_t size, Visit&& visit) {
  constexpr double kDense = 64;  // samples per cell
  const SampleRange range = samples_on_map(axis, p, size);
  const bool dense = static_cast<double>(axis.grid) > kDense * (std::fabs(double{axis.bin}) + 1);
  for (int64_t i = range.first; i < range.stop;) {
    const Bilinear<T> sample = bilinear(sample_position(axis, p, i), size);
    int64_t last = i;
    if (dense) {
      int64_t count = range.stop - i - 1;
      while (count > 0) {
        const int64_t step = (count + 1) / 2;
        const Bilinear<T> other = bilinear(sample_position(axis, p, last + step), size);
        const bool same = other.low == sample.low && other.moves == sample.moves;
        if (same) last += step;
        count = same ? count - step : step - 1;
      }
    }
    const int64_t times = last - i + 1;
    if (times == 1) {
      visit(sample, i, 1.0);
    } else {
      visit(sample, i, 0.5 * static_cast<double>(times));
      visit(bilinear(sample_position(axis, p, last), size), last, 0.5 * static_cast<double>(times));
    }
    i = last + 1;
  }
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

// The derivative of the matrix above to one edge of the box.
template <class T, class A>
Taps<A> align_derivative(const AlignAxis<T>& axis, int64_t bins, int64_t size, double scale,
                         bool to_high, TapsBuilder<A>& builder, Arena& arena) {
  builder.begin(bins);
  for (int64_t p = 0; p < bins; ++p) {
    for_each_sample(axis, p, size, [&](const Bilinear<T>& sample, int64_t i, double times) {
      if (!sample.moves) return;
      const EdgeDerivative<T> edge(axis, scale, bins, p, i);
      const double share =
          times * (to_high ? edge.high : edge.low) / static_cast<double>(axis.grid);
      builder.add(sample.low, -share);
      builder.add(sample.high, share);
    });
    builder.end_bin();
  }
  return builder.finish(arena, false);
}

template <class T>
struct AlignAxes {
  AlignAxis<T> y, x;
  AlignAxes(const RoiAlignProblem& problem, const Box<T>& box) {
    const RoiAlignParams& params = problem.params;
    const T scale = static_cast<T>(problem.maps[0].scale);
    y = align_axis(box.y1, box.y2, scale, params.aligned, params.output_height,
                   params.sampling_height);
    x = align_axis(box.x1, box.x2, scale, params.aligned, params.output_width,
                   params.sampling_width);
    // A grid without extent along one axis has no samples at all.
    if (y.grid == 0 || x.grid == 0) y.grid = x.grid = 0;
  }
};

template <class T, class A>
std::vector<TapsRoi<A>> make_align_taps(const RoiAlignProblem& problem, TapsFor use, Arena& arena) {
  const Map& map = problem.maps[0];
  const int64_t ph = problem.output_height, pw = problem.output_width;
  const bool by_column = use == TapsFor::backward;
  std::vector<TapsRoi<A>> rois(problem.rois);
  TapsBuilder<A> builder;
  for (int64_t k = 0; k < problem.rois; ++k) {
    const Box<T> box = load_known_box<T>(problem.op, problem.boxes, k, problem.images);
    const AlignAxes<T> axes(problem, box);
    TapsRoi<A>& roi = rois[k];
    roi.row = k;
    roi.image = box.image;
    roi.y = align_taps(axes.y, ph, map.height, false, builder, arena);
    roi.x = align_taps(axes.x, pw, map.width, by_column, builder, arena);
    for (int edge = 0; use == TapsFor::boxes && edge < 2; ++edge) {
      roi.y_derivative[edge] =
          align_derivative(axes.y, ph, map.height, map.scale, edge == 1, builder, arena);
      roi.x_derivative[edge] =
          align_derivative(axes.x, pw, map.width, map.scale, edge == 1, builder, arena);
    }
    set_window(roi);
  }
  return rois;
}

template <class T, class A>
Samples<A> align_samples(const AlignAxis<T>& axis, int64_t bins, int64_t size, double scale,
                         int32_t& window_begin, int32_t& window_end, Arena& arena) {
  int32_t* start = arena.take<int32_t>(bins + 1);
  bool* off_before = arena.take<bool>(bins);
  bool* off_after = arena.take<bool>(bins);
  std::vector<int32_t> low, high;
  std::vector<A> weight_low, weight_high, derivative_low, derivative_high;
  for (int64_t p = 0; p < bins; ++p) {
    const SampleRange range = samples_on_map(axis, p, size);
    start[p] = static_cast<int32_t>(low.size());
    const bool none = range.first >= range.stop;
    off_before[p] = axis.grid > 0 && (none || range.first > 0);
    off_after[p] = !none && range.stop < axis.grid;
    // Within a cell the interpolation and the weights are linear along each axis, so the ends of a
    // run of samples hold its maximum.
    for_each_sample(axis, p, size, [&](const Bilinear<T>& sample, int64_t i, double) {
      const EdgeDerivative<T> edge(axis, scale, bins, p, i);
      low.push_back(static_cast<int32_t>(sample.low));
      high.push_back(static_cast<int32_t>(sample.high));
      weight_low.push_back(static_cast<A>(sample.weight_low));
      weight_high.push_back(static_cast<A>(sample.weight_high));
      derivative_low.push_back(static_cast<A>(sample.moves ? edge.low : 0.0));
      derivative_high.push_back(static_cast<A>(sample.moves ? edge.high : 0.0));
    });
  }
  start[bins] = static_cast<int32_t>(low.size());
  if (!low.empty()) {
    window_begin = *std::min_element(low.begin(), low.end());
    window_end = *std::max_element(high.begin(), high.end()) + 1;
  }
  Samples<A> samples;
  samples.start = start;
  samples.off_before = off_before;
  samples.off_after = off_after;
  samples.low = copy_to(arena, low);
  samples.high = copy_to(arena, high);
  samples.weight_low = copy_to(arena, weight_low);
  samples.weight_high = copy_to(arena, weight_high);
  samples.derivative_low = copy_to(arena, derivative_low);
  samples.derivative_high = copy_to(arena, derivative_high);
  return samples;
}

template <class T, class A>
std::vector<SamplesRoi<A>> make_align_samples(const RoiAlignProblem& problem, Arena& arena) {
  const Map& map = problem.maps[0];
  std::vector<SamplesRoi<A>> rois(problem.rois);
  for (int64_t k = 0; k < problem.rois; ++k) {
    const Box<T> box = load_known_box<T>(problem.op, problem.boxes, k, problem.images);
    const AlignAxes<T> axes(problem, box);
    SamplesRoi<A>& roi = rois[k];
    roi.row = k;
    roi.image = box.image;
    roi.y = align_samples<T, A>(axes.y, problem.output_height, map.height, map.scale, roi.y_begin,
                                roi.y_end, arena);
    roi.x = align_samples<T, A>(axes.x, problem.output_width, map.width, map.scale, roi.x_begin,
                                roi.x_end, arena);
  }
  return rois;
}

template <class T>
Bins make_axis_bins(T low, T high, T scale, int64_t count, int64_t size, int32_t& window_begin,
                    int32_t& window_end, Arena& arena) {
  const PoolAxis<T> axis = pool_axis(low, high, scale, count);
  int32_t* begin = arena.take<int32_t>(count);
  int32_t* end = arena.take<int32_t>(count);
  for (int64_t p = 0; p < count; ++p) {
    const Bin bin = pool_bin(axis, p, size);
    begin[p] = static_cast<int32_t>(bin.begin);
    end[p] = static_cast<int32_t>(bin.end);
    if (bin.begin >= bin.end) continue;
    window_begin = window_end == 0 ? begin[p] : std::min(window_begin, begin[p]);
    window_end = std::max(window_end, end[p]);
  }
  return {begin, end};
}

template <class T>
std::vector<BinsRoi> make_pool_bins(const RoiPoolProblem& problem, Arena& arena) {
  const Map& map = problem.maps[0];
  const T scale = static_cast<T>(map.scale);
  std::vector<BinsRoi> rois(problem.rois);
  for (int64_t k = 0; k < problem.rois; ++k) {
    const Box<T> box = load_known_box<T>(problem.op, problem.boxes, k, problem.images);
    BinsRoi& roi = rois[k];
    roi.row = k;
    roi.image = box.image;
    roi.y = make_axis_bins(box.y1, box.y2, scale, problem.output_height, map.height, roi.y_begin,
                           roi.y_end, arena);
    roi.x = make_axis_bins(box.x1, box.x2, scale, problem.output_width, map.width, roi.x_begin,
                           roi.x_end, arena);
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

template <class A>
std::vector<SamplesRoi<A>> make_samples(const RoiAlignProblem& problem, Arena& arena) {
  return problem.double_coordinates ? make_align_samples<double, A>(problem, arena)
                                    : make_align_samples<float, A>(problem, arena);
}

std::vector<BinsRoi> make_bins(const RoiPoolProblem& problem, Arena& arena) {
  return problem.double_coordinates ? make_pool_bins<double>(problem, arena)
                                    : make_pool_bins<float>(problem, arena);
}

template std::vector<TapsRoi<float>> make_taps(const RoiAlignProblem&, TapsFor, Arena&);
template std::vector<TapsRoi<double>> make_taps(const RoiAlignProblem&, TapsFor, Arena&);
template std::vector<TapsRoi<float>> make_taps(const RoiPoolProblem&, TapsFor, Arena&);
template std::vector<TapsRoi<double>> make_taps(const RoiPoolProblem&, TapsFor, Arena&);
template std::vector<SamplesRoi<float>> make_samples(const RoiAlignProblem&, Arena&);
template std::vector<SamplesRoi<double>> make_samples(const RoiAlignProblem&, Arena&);

}  // namespace roidl::cpu
