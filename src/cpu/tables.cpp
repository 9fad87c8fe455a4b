// Builds the tables of samples and bins. Compiled without contraction: see geometry.h.
#include "tables.h"

#include <algorithm>
#include <new>

#include "../samples.h"
#include "tuning.h"

namespace roidl::cpu {

char* Arena::take_bytes(size_t bytes) {
  bytes = (bytes + 7) / 8 * 8;
  taken_ += bytes;
  if (bytes > left_) {
    left_ = std::max(bytes, static_cast<size_t>(kArenaBytes));
    blocks_.emplace_back(new char[left_]);
    if (blocks_.size() == 1) first_bytes_ = left_;
    next_ = blocks_.back().get();
  }
  char* taken = next_;
  next_ += bytes;
  left_ -= bytes;
  return taken;
}

void Arena::clear() {
  if (blocks_.empty()) return;
  blocks_.resize(1);
  next_ = blocks_[0].get();
  left_ = first_bytes_;
  taken_ = 0;
}

namespace {

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
    // Within a cell, the interpolation and the weights are linear along each axis, so the maximum
    // of a run of samples is at one of its ends.
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
  samples.low = arena.copy(low);
  samples.high = arena.copy(high);
  samples.weight_low = arena.copy(weight_low);
  samples.weight_high = arena.copy(weight_high);
  samples.derivative_low = arena.copy(derivative_low);
  samples.derivative_high = arena.copy(derivative_high);
  return samples;
}

template <class T, class A>
class AlignSamples final : public Tables {
 public:
  explicit AlignSamples(const RoiAlignProblem& problem) : problem_(problem) {}

  std::unique_ptr<Tables> another() const override {
    return std::make_unique<AlignSamples>(problem_);
  }
  const Roi* make(int64_t k, const Area&, Arena& arena) override {
    const PlacedBox<T> placed = place_box<T>(problem_, k);
    const Map& map = problem_.maps[placed.map];
    const AlignAxes<T> axes(problem_.params, static_cast<T>(map.scale), placed.box, placed.exists);
    SamplesRoi<A>& roi = *new (arena.take<SamplesRoi<A>>(1)) SamplesRoi<A>;
    set_place(roi, k, placed);
    roi.y = align_samples<T, A>(axes.y, problem_.output_height, map.height, map.scale, roi.y_begin,
                                roi.y_end, arena);
    roi.x = align_samples<T, A>(axes.x, problem_.output_width, map.width, map.scale, roi.x_begin,
                                roi.x_end, arena);
    return &roi;
  }
  int64_t sums(const Roi& roi) const override { return roi.x_end - roi.x_begin; }

 private:
  const RoiAlignProblem& problem_;
};

// The bins of an axis, clipped to [0, size].
template <class T>
Bins make_axis_bins(const PoolAxis<T>& axis, int64_t count, int64_t size, int32_t& window_begin,
                    int32_t& window_end, Arena& arena) {
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

// Bins are in order, so the first and the last give the window.
template <class T>
void make_pool_window(T low, T high, T scale, int64_t count, int64_t size, int32_t& begin,
                      int32_t& end) {
  const PoolAxis<T> axis = pool_axis(low, high, scale, count);
  const int64_t first = pool_bin(axis, 0, size).begin, stop = pool_bin(axis, count - 1, size).end;
  begin = static_cast<int32_t>(first < stop ? first : 0);
  end = static_cast<int32_t>(first < stop ? stop : 0);
}

template <class T>
class PoolWindows final : public Tables {
 public:
  explicit PoolWindows(const RoiPoolProblem& problem) : problem_(problem) {}

  std::unique_ptr<Tables> another() const override {
    return std::make_unique<PoolWindows>(problem_);
  }
  const Roi* make(int64_t k, const Area&, Arena& arena) override {
    const PlacedBox<T> placed = place_box<T>(problem_, k);
    const Box<T>& box = placed.box;
    const Map& map = problem_.maps[placed.map];
    const T scale = static_cast<T>(map.scale);
    Roi& roi = *new (arena.take<Roi>(1)) Roi;
    set_place(roi, k, placed);
    if (!placed.exists) return &roi;
    make_pool_window(box.y1, box.y2, scale, problem_.output_height, map.height, roi.y_begin,
                     roi.y_end);
    make_pool_window(box.x1, box.x2, scale, problem_.output_width, map.width, roi.x_begin,
                     roi.x_end);
    return &roi;
  }
  int64_t sums(const Roi& roi) const override { return roi.x_end - roi.x_begin; }

 private:
  const RoiPoolProblem& problem_;
};

template <class T>
PoolAxis<T> axis_of(const RoiPoolProblem&, T low, T high, T scale, int64_t bins) {
  return pool_axis(low, high, scale, bins);
}
template <class T>
PoolAxis<T> axis_of(const PsRoiPoolProblem&, T low, T high, T scale, int64_t bins) {
  return ps_pool_axis(low, high, scale, bins);
}

// Where the ends of bins are clipped to.
int64_t last_end(const RoiPoolProblem&, int64_t size) { return size; }
int64_t last_end(const PsRoiPoolProblem& problem, int64_t size) {
  const bool all = problem.params.clip == static_cast<int32_t>(PsRoiPoolClip::map);
  return all || size == 0 ? size : size - 1;
}

template <class T, class ProblemType>
class PoolBins final : public Tables {
 public:
  explicit PoolBins(const ProblemType& problem) : problem_(problem) {}

  std::unique_ptr<Tables> another() const override { return std::make_unique<PoolBins>(problem_); }
  const Roi* make(int64_t k, const Area&, Arena& arena) override {
    const PlacedBox<T> placed = place_box<T>(problem_, k);
    const Box<T>& box = placed.box;
    const Map& map = problem_.maps[placed.map];
    const T scale = static_cast<T>(map.scale);
    const int64_t height = placed.exists ? last_end(problem_, map.height) : 0;
    const int64_t width = placed.exists ? last_end(problem_, map.width) : 0;
    BinsRoi& roi = *new (arena.take<BinsRoi>(1)) BinsRoi;
    set_place(roi, k, placed);
    const int64_t ph = problem_.output_height, pw = problem_.output_width;
    roi.y = make_axis_bins(axis_of(problem_, box.y1, box.y2, scale, ph), ph, height, roi.y_begin,
                           roi.y_end, arena);
    roi.x = make_axis_bins(axis_of(problem_, box.x1, box.x2, scale, pw), pw, width, roi.x_begin,
                           roi.x_end, arena);
    return &roi;
  }
  int64_t sums(const Roi& roi) const override { return roi.x_end - roi.x_begin; }

 private:
  const ProblemType& problem_;
};

}  // namespace

template <class A>
std::unique_ptr<Tables> make_samples(const RoiAlignProblem& problem) {
  if (problem.double_coordinates) return std::make_unique<AlignSamples<double, A>>(problem);
  return std::make_unique<AlignSamples<float, A>>(problem);
}

template <class ProblemType>
static std::unique_ptr<Tables> make_bins_of(const ProblemType& problem) {
  if (problem.double_coordinates) return std::make_unique<PoolBins<double, ProblemType>>(problem);
  return std::make_unique<PoolBins<float, ProblemType>>(problem);
}

std::unique_ptr<Tables> make_bins(const RoiPoolProblem& problem) { return make_bins_of(problem); }
std::unique_ptr<Tables> make_bins(const PsRoiPoolProblem& problem) { return make_bins_of(problem); }

std::unique_ptr<Tables> make_pool_windows(const RoiPoolProblem& problem) {
  if (problem.double_coordinates) return std::make_unique<PoolWindows<double>>(problem);
  return std::make_unique<PoolWindows<float>>(problem);
}

template std::unique_ptr<Tables> make_samples<float>(const RoiAlignProblem&);
template std::unique_ptr<Tables> make_samples<double>(const RoiAlignProblem&);

}  // namespace roidl::cpu
