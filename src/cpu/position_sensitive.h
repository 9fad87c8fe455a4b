// How the position-sensitive operators go through maps: every channel of a map belongs to one bin,
// so that a plane of it meets one bin of every RoI, and a result is a sum over that bin's few
// cells.
#pragma once
#include <algorithm>
#include <array>
#include <memory>
#include <type_traits>
#include <vector>

#include "batches.h"
#include "parallel.h"
#include "tables.h"

namespace roidl::cpu {

namespace {

constexpr double kNanosecondsPerResult = 6;
// Planes of one bin that are gone through for all RoIs before the next ones: they stay in a cache.
constexpr int64_t kPlaneBytes = 256 << 10;
// Sums that are added up side by side, as one of them waits for each of its additions.
constexpr int kSums = 12;

// Calls f(count), the number a constant that the compiler knows.
template <int most = kSums, class F>
void visit_count(int64_t count, F&& f) {
  if (count == most) return f(std::integral_constant<int, most>{});
  if constexpr (most > 1) visit_count<most - 1>(count, f);
}

// The cells of a bin: their places in a plane and their weights.
template <class A>
class Cells {
 public:
  // Of the taps of bin p along y and q along x, in a plane of these strides.
  void set(const Taps<A>& y, int64_t p, const Taps<A>& x, int64_t q, const MapView& map) {
    const int32_t x_first = x.start[q], x_stop = x.start[q + 1];
    size_ = int64_t{y.start[p + 1] - y.start[p]} * (x_stop - x_first);
    if (size_ > static_cast<int64_t>(place_.size())) {
      place_.resize(static_cast<size_t>(size_));
      weight_.resize(static_cast<size_t>(size_));
    }
    int64_t* place = place_.data();
    A* weight = weight_.data();
    for (int32_t j = y.start[p]; j < y.start[p + 1]; ++j) {
      const int64_t row = y.position[y.slot[j]] * map.h;
      for (int32_t i = x_first; i < x_stop; ++i) {
        *place++ = row + x.position[x.slot[i]] * map.w;
        *weight++ = y.weight[j] * x.weight[i];
      }
    }
  }
  // The weighted sums of value(address) in `count` planes that lie `stride` apart, at most kSums.
  template <class T, class Value>
  void sum(const T* plane, int64_t stride, int64_t count, A* sums, Value&& value) const {
    visit_count(count, [&](auto number) {
      A total[number] = {};
      for (int64_t i = 0; i < size_; ++i)
        for (int c = 0; c < number; ++c)
          total[c] += weight_[i] * value(plane + c * stride + place_[i]);
      std::copy(total, total + number, sums);
    });
  }
  template <class T>
  void sum_values(const T* plane, int64_t stride, int64_t count, A* sums) const {
    sum(plane, stride, count, sums, [](const T* cell) { return static_cast<A>(*cell); });
  }
  // The same of the differences to the cells one step behind: derivatives have their taps on those.
  template <class T>
  void sum_differences(const T* plane, int64_t stride, int64_t count, int64_t step, A* sums) const {
    sum(plane, stride, count, sums,
        [&](const T* cell) { return static_cast<A>(cell[step]) - static_cast<A>(*cell); });
  }
  // Adds the weights times `grads` to the cells of as many planes.
  void add(A* plane, int64_t stride, int64_t count, const A* grads) const {
    visit_count(count, [&](auto number) {
      for (int64_t i = 0; i < size_; ++i)
        for (int c = 0; c < number; ++c) plane[c * stride + place_[i]] += weight_[i] * grads[c];
    });
  }

 private:
  int64_t size_ = 0;
  std::vector<int64_t> place_;
  std::vector<A> weight_;
};

// Channels of the result in one bin, and the channels of the map that they are pooled from: a task
// computes them for all RoIs.
struct Unit {
  int64_t p, q;
  int64_t first, stop;  // channels of the result

  int64_t offset(const PooledView& view) const { return first * view.c + p * view.h + q * view.w; }
};

class Units {
 public:
  // As many channels together as lie in a cache, in groups of about the same size.
  Units(const Problem& problem, int64_t plane_bytes)
      : bins_(problem.output_height * problem.output_width),
        width_(problem.output_width),
        channels_(problem.pooled_channels) {
    const int64_t most =
        std::clamp<int64_t>(kPlaneBytes / std::max<int64_t>(plane_bytes, 1), 1, kSums);
    groups_ = (channels_ + most - 1) / most;
  }
  int64_t count() const { return bins_ * groups_; }
  Unit operator[](int64_t i) const {
    const int64_t bin = i / groups_, group = i % groups_;
    return {bin / width_, bin % width_, channels_ * group / groups_,
            channels_ * (group + 1) / groups_};
  }
  // Of the first channel of a unit, in the map.
  int64_t map_channel(const Unit& unit) const {
    return unit.first * bins_ + unit.p * width_ + unit.q;
  }
  int64_t bins() const { return bins_; }

 private:
  int64_t bins_, width_, channels_, groups_;
};

template <class T>
T* plane_of(const MapView& view, int64_t image, int64_t channel) {
  return static_cast<T*>(view.data) + image * view.n + channel * view.c;
}

// Where the results of each of the sorted RoIs lie.
std::vector<int64_t> offsets_of(const Problem& problem, const SortedRois& rois) {
  std::vector<int64_t> offsets;
  offsets.reserve(rois.windows.size());
  for (const Roi& roi : rois.windows) offsets.push_back(problem.pooled.offset(roi.row));
  return offsets;
}

// Calls begin(unit) and then work(roi, offset of its results, unit) for all RoIs, those of a unit
// on one thread and in the order of the RoIs; every thread has a work of its own, made by
// make_work(). `map` says which of two loops is the inner one: memory is read as it lies.
template <class A, class Begin, class MakeWork>
void for_each_unit(const Problem& problem, Tables& tables, const MapView& map, const Units& units,
                   Begin&& begin, MakeWork&& make_work) {
  const SortedRois rois = sort_rois(problem, tables);
  const std::vector<int64_t> offsets = offsets_of(problem, rois);
  const int64_t count = problem.rois;
  const double work =
      static_cast<double>(count) * static_cast<double>(problem.channels) * kNanosecondsPerResult;
  const int64_t wanted = std::min(wanted_tasks(work), units.count());
  const bool plane_by_plane = map.c > map.w && (!rois.made.empty() || count == 0);
  parallel(wanted, work, [&](Tasks& tasks) {
    auto work_on = make_work();
    ThreadBatch batch(rois);
    batch.stop = count;
    const RoiList list{rois.windows.data(), &batch, 0};
    const auto work_on_roi = [&](int64_t i, const Unit& unit) {
      work_on(static_cast<const TapsRoi<A>&>(*list[i]), offsets[i], unit);
    };
    for (int64_t task; tasks.next(task);) {
      const int64_t first = units.count() * task / wanted;
      const int64_t stop = units.count() * (task + 1) / wanted;
      for (int64_t u = first; u < stop; ++u) {
        const Unit unit = units[u];
        begin(unit);
        for (int64_t i = 0; plane_by_plane && i < count; ++i) work_on_roi(i, unit);
      }
      for (int64_t i = 0; !plane_by_plane && i < count; ++i)
        for (int64_t u = first; u < stop; ++u) work_on_roi(i, units[u]);
    }
  });
}

template <class T>
Units units_of(const Problem& problem) {
  int64_t cells = 1;
  for (int m = 0; m < problem.num_maps; ++m)
    cells = std::max(cells, problem.maps[m].height * problem.maps[m].width);
  return Units(problem, cells * static_cast<int64_t>(sizeof(T)));
}

// Results for every bin: sum(roi, unit, map, its first plane, stride of planes, sums).
template <class T, class MakeSum>
void compute_pooled(const Problem& problem, Tables& tables, MakeSum&& make_sum) {
  using A = accumulator<T>;
  if (problem.rois == 0 || problem.channels == 0) return;
  const Units units = units_of<T>(problem);
  const auto begin = [](const Unit&) {};
  for_each_unit<A>(problem, tables, problem.maps[0].features, units, begin, [&] {
    return [&, sum = make_sum()](const TapsRoi<A>& roi, int64_t offset, const Unit& unit) mutable {
      const MapView& map = problem.maps[roi.map].features;
      A sums[kSums];
      sum(roi, unit, map, plane_of<const T>(map, roi.image, units.map_channel(unit)),
          units.bins() * map.c, sums);
      T* const out = static_cast<T*>(problem.pooled.data) + offset + unit.offset(problem.pooled);
      for (int64_t c = 0; c < unit.stop - unit.first; ++c)
        out[c * problem.pooled.c] = static_cast<T>(sums[c]);
    };
  });
}

// The gradients to the maps in the type in which they are summed: their own memory, or arrays of
// float that are stored once all is added.
template <class T>
class SummedMaps {
 public:
  using A = accumulator<T>;

  explicit SummedMaps(const Problem& problem) : problem_(problem) {
    for (int m = 0; m < problem.num_maps; ++m) {
      const Map& map = problem.maps[m];
      views_[m] = map.gradient;
      if constexpr (!std::is_same_v<T, A>) {
        const int64_t plane = map.height * map.width;
        sums_[m].reset(new A[static_cast<size_t>(problem.images * problem.channels * plane)]);
        views_[m] = {sums_[m].get(), problem.channels * plane, plane, map.width, 1};
      }
    }
  }
  const MapView& view(int64_t map) const { return views_[map]; }
  void clear(int64_t channel) const {
    for_each_row(channel, [](const Map& map, const MapView& view, A* row, int64_t, int64_t) {
      if (view.w == 1)
        std::fill(row, row + map.width, A(0));
      else
        for (int64_t x = 0; x < map.width; ++x) row[x * view.w] = 0;
    });
  }
  void store() const {
    if constexpr (!std::is_same_v<T, A>)
      parallel(problem_.channels, work(), [&](Tasks& tasks) {
        for (int64_t channel; tasks.next(channel);)
          for_each_row(channel,
                       [&](const Map& map, const MapView& view, A* row, int64_t n, int64_t y) {
                         const MapView& to = map.gradient;
                         T* const stored = plane_of<T>(to, n, channel) + y * to.h;
                         for (int64_t x = 0; x < map.width; ++x)
                           stored[x * to.w] = static_cast<T>(row[x * view.w]);
                       });
      });
  }

 private:
  double work() const {
    double cells = 0;
    for (int m = 0; m < problem_.num_maps; ++m)
      cells += static_cast<double>(problem_.maps[m].height * problem_.maps[m].width);
    return cells * static_cast<double>(problem_.images * problem_.channels);
  }
  // Calls visit(map, view, row, image, y) for the rows of a channel in all maps and images.
  template <class Visit>
  void for_each_row(int64_t channel, Visit&& visit) const {
    for (int m = 0; m < problem_.num_maps; ++m)
      for (int64_t n = 0; n < problem_.images; ++n)
        for (int64_t y = 0; y < problem_.maps[m].height; ++y)
          visit(problem_.maps[m], views_[m], plane_of<A>(views_[m], n, channel) + y * views_[m].h,
                n, y);
  }

  const Problem& problem_;
  MapView views_[kMaxMaps];
  std::unique_ptr<A[]> sums_[kMaxMaps];
};

// Gradients to the maps: set(roi, unit, map, cells) says which two lists of cells, the second of
// which may be empty, take the gradient to a bin.
template <class T, class SetCells>
void compute_gradient(const Problem& problem, Tables& tables, SetCells&& set) {
  using A = accumulator<T>;
  if (problem.channels == 0) return;
  const SummedMaps<T> sums(problem);
  const Units units = units_of<A>(problem);
  const auto begin = [&](const Unit& unit) {
    for (int64_t c = 0; c < unit.stop - unit.first; ++c)
      sums.clear(units.map_channel(unit) + c * units.bins());
  };
  for_each_unit<A>(problem, tables, sums.view(0), units, begin, [&] {
    return [&, cells = std::array<Cells<A>, 2>()](const TapsRoi<A>& roi, int64_t offset,
                                                  const Unit& unit) mutable {
      const MapView& map = sums.view(roi.map);
      set(roi, unit, map, cells);
      A* const plane = plane_of<A>(map, roi.image, units.map_channel(unit));
      const T* const pooled =
          static_cast<const T*>(problem.pooled.data) + offset + unit.offset(problem.pooled);
      A grads[kSums];
      const int64_t number = unit.stop - unit.first;
      for (int64_t c = 0; c < number; ++c) grads[c] = static_cast<A>(pooled[c * problem.pooled.c]);
      for (const Cells<A>& each : cells) each.add(plane, units.bins() * map.c, number, grads);
    };
  });
  sums.store();
}

}  // namespace

}  // namespace roidl::cpu
