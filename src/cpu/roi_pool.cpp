// RoIPool on CPU: the maximum over bins, its scattered gradient, and the average as sparse weights.
#include "../roi_pool.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "backend.h"
#include "batches.h"
#include "pages.h"
#include "parallel.h"
#include "schedule.h"
#include "tables.h"

namespace roidl::cpu {

namespace {

// The first cell of a task that has some rows of the map, or of one that has all.
template <bool Bands>
struct First {
  int64_t first;
};
template <>
struct First<false> {
  static constexpr int64_t first = 0;
};

// Where a task adds up: cell i of its channel c is data[i * cell + c * channel]. Cells become zero
// shortly before they are added to, while the caches hold them.
template <class A, bool Bands>
struct Sums : First<Bands> {
  A* data;
  int64_t cell, channel;
  int64_t stop;  // the end of the task's cells
  int64_t channels;
  int64_t ready;  // the cells before this one are

  void make_ready(int64_t needed) {
    constexpr int64_t kChunk = 2048;
    const int64_t end = std::min(stop, (needed + kChunk - 1) / kChunk * kChunk);
    if (end <= ready) return;
    const bool planes = cell == 1;
    for (int64_t i = planes ? 0 : ready; i < (planes ? channels : end); ++i) {
      A* row = data + (planes ? i * channel + ready : i * cell);
      const int64_t count = planes ? end - ready : channels, step = planes ? 1 : channel;
      if (step == 1)
        std::memset(row, 0, static_cast<size_t>(count) * sizeof(A));
      else
        for (int64_t j = 0; j < count; ++j) row[j * step] = 0;
    }
    ready = end;
  }
};

// Adds every output's gradient at its argmax. A task owns a cache line of channels of an image of
// a map: what it reads of each RoI lies together.
template <class T>
class Scatter {
  using A = accumulator<T>;

 public:
  explicit Scatter(const RoiPoolProblem& problem)
      : problem_(problem), rois_(static_cast<size_t>(problem.num_maps * problem.images)) {
    for (int i = 0; i < problem.num_maps; ++i) {
      const Map& map = problem.maps[i];
      innermost_ &= map.gradient.c == 1 && problem.channels > 1;
      in_place_ &= std::is_same_v<T, A> && map.gradient.h == map.width * map.gradient.w;
    }
    // A cache line of channels; more where they lie together in the gradient, too, as long as every
    // thread has a few tasks.
    constexpr int64_t line = kBlockBytes / static_cast<int64_t>(sizeof(A));
    const int64_t planes = static_cast<int64_t>(rois_.size());
    const int64_t tasks = get_num_threads() > 1 ? 4 * get_num_threads() : 1;
    together_ = innermost_ && in_place_ ? 16 * line : line;
    while (together_ > line && planes * problem.channels < tasks * together_) together_ /= 2;
    std::vector<float> top(static_cast<size_t>(problem.rois));
    for (int64_t k = 0; k < problem.rois; ++k) {
      const PlacedBox<float> placed = place_box<float>(problem, k);
      top[k] = placed.box.y1;
      if (placed.exists) rois_[placed.map * problem.images + placed.box.image].push_back(k);
    }
    // From the top of the map down: neighbours add to the same cells.
    for (std::vector<int64_t>& rois : rois_)
      std::stable_sort(rois.begin(), rois.end(),
                       [&](int64_t a, int64_t b) { return top[a] < top[b]; });
  }

  void run() {
    expect_gradients(problem_);
    const int64_t blocks = (problem_.channels + together_ - 1) / together_;
    const double bins = static_cast<double>(problem_.rois) * problem_.output_height *
                        static_cast<double>(problem_.output_width);
    double cells = 0;
    for (int i = 0; i < problem_.num_maps; ++i)
      cells += static_cast<double>(problem_.images) * problem_.maps[i].height *
               static_cast<double>(problem_.maps[i].width);
    parallel(static_cast<int64_t>(rois_.size()) * blocks,
             (bins + cells / 4) * static_cast<double>(problem_.channels), [&](Tasks& tasks) {
               std::vector<A> memory;
               for (int64_t i = 0; tasks.next(i);)
                 scatter(i / blocks, i % blocks * together_, memory);
             });
    if (wrong_ != kEmpty) *problem_.wrong_cell = wrong_;
  }

 private:
  void scatter(int64_t plane, int64_t channel, std::vector<A>& memory) {
    const Map& map = problem_.maps[plane / problem_.images];
    const MapView& view = map.gradient;
    const int64_t cells = map.height * map.width;
    const int64_t channels = std::min(together_, problem_.channels - channel);
    T* target = static_cast<T*>(view.data) + plane % problem_.images * view.n + channel * view.c;
    if constexpr (std::is_same_v<T, A>) {
      if (in_place_)
        return add_all(plane, channel,
                       Sums<A, false>{{}, target, view.w, view.c, cells, channels, 0});
    }
    // Sums beside the gradient, of as many rows of the map at a time as take little memory.
    const int64_t row = map.width * together_;
    if (cells == 0) return;
    const int64_t band =
        std::clamp<int64_t>(kMostBytes / (row * int64_t{sizeof(A)}), 1, map.height);
    memory.resize(static_cast<size_t>(band * row));
    const int64_t cell = innermost_ ? together_ : 1, step = innermost_ ? 1 : band * map.width;
    for (int64_t begin = 0; begin < map.height; begin += band) {
      const int64_t end = std::min(map.height, begin + band);
      A* sums = memory.data() - begin * map.width * cell;
      const int64_t first = begin * map.width, stop = end * map.width;
      add_all(plane, channel, Sums<A, true>{{first}, sums, cell, step, stop, channels, first});
      for (int64_t y = begin; y < end; ++y)
        for (int64_t x = 0; x < map.width; ++x)
          for (int64_t c = 0; c < channels; ++c)
            target[y * view.h + x * view.w + c * view.c] =
                static_cast<T>(sums[(y * map.width + x) * cell + c * step]);
    }
  }

  template <class Part>
  void add_all(int64_t plane, int64_t channel, Part sums) {
    const Map& map = problem_.maps[plane / problem_.images];
    for (const int64_t k : rois_[plane]) add_roi(k, channel, map.height * map.width, sums);
    sums.make_ready(sums.stop);
  }

  template <class Part>
  void add(int64_t at, T value, int64_t c, int64_t cells, Part& sums) {
    // One test keeps out what is not ready, the empty bins, and whatever else may be passed.
    if (static_cast<uint64_t>(at - sums.first) >= static_cast<uint64_t>(sums.ready - sums.first)) {
      if (at < 0 || at >= cells) {
        if (at != kEmpty) wrong_ = at;
        return;
      }
      if (at < sums.first || at >= sums.stop) return;
      sums.make_ready(at + 1);
    }
    sums.data[at * sums.cell + c * sums.channel] += static_cast<A>(value);
  }

  // The order in which channels and bins are walked is that of the sums in memory; each sum gets
  // its terms in the order of RoIs and bins either way.
  template <class Part>
  void add_roi(int64_t k, int64_t channel, int64_t cells, Part& sums) {
    const PooledView &grads = problem_.pooled, &argmax = problem_.argmax;
    const T* grad = static_cast<const T*>(grads.data) + grads.offset(k) + channel * grads.c;
    const int32_t* cell =
        static_cast<const int32_t*>(argmax.data) + argmax.offset(k) + channel * argmax.c;
    const int64_t height = problem_.output_height, width = problem_.output_width;
    if (innermost_) {
      for (int64_t p = 0; p < height; ++p)
        for (int64_t q = 0; q < width; ++q)
          for (int64_t c = 0; c < sums.channels; ++c)
            add(cell[p * argmax.h + q * argmax.w + c * argmax.c],
                grad[p * grads.h + q * grads.w + c * grads.c], c, cells, sums);
      return;
    }
    const auto is_row = [&](const PooledView& view) { return view.w == 1 && view.h == width; };
    const bool rows = is_row(grads) && is_row(argmax);
    for (int64_t c = 0; c < sums.channels; ++c, grad += grads.c, cell += argmax.c) {
      if (rows) {
        for (int64_t q = 0; q < height * width; ++q) add(cell[q], grad[q], c, cells, sums);
        continue;
      }
      for (int64_t p = 0; p < height; ++p)
        for (int64_t q = 0; q < width; ++q)
          add(cell[p * argmax.h + q * argmax.w], grad[p * grads.h + q * grads.w], c, cells, sums);
    }
  }

  static constexpr int64_t kEmpty = -1;           // the argmax of an empty bin
  static constexpr int64_t kMostBytes = 8 << 20;  // of sums beside the gradient
  const RoiPoolProblem& problem_;
  bool innermost_ = true;                   // channels are innermost in the gradients' memory
  bool in_place_ = true;                    // its planes are what is added to
  int64_t together_ = 0;                    // channels of a task
  std::vector<std::vector<int64_t>> rois_;  // of every plane, from the top of the map down
  std::atomic<int64_t> wrong_{kEmpty};
};

// What lies at every output's argmax.
template <class T>
void gather(const RoiPoolProblem& problem) {
  const PooledView &out = problem.pooled, &argmax = problem.argmax;
  std::atomic<int64_t> wrong{-1};
  const auto gather_roi = [&](int64_t k) {
    const PlacedBox<float> placed = place_box<float>(problem, k);
    const Map& map = problem.maps[placed.map];
    const MapView& view = map.tangent;
    const int64_t cells = placed.exists ? map.height * map.width : 0;
    const T* source = static_cast<const T*>(view.data) + placed.box.image * view.n;
    T* target = static_cast<T*>(out.data) + out.offset(k);
    const int32_t* from = static_cast<const int32_t*>(argmax.data) + argmax.offset(k);
    for (int64_t c = 0; c < problem.channels; ++c)
      for (int64_t p = 0; p < problem.output_height; ++p)
        for (int64_t q = 0; q < problem.output_width; ++q) {
          const int64_t at = from[c * argmax.c + p * argmax.h + q * argmax.w];
          const bool exists = static_cast<uint64_t>(at) < static_cast<uint64_t>(cells);
          if (!exists && at != -1 && placed.exists) wrong = at;
          target[c * out.c + p * out.h + q * out.w] =
              exists ? source[c * view.c + at / map.width * view.h + at % map.width * view.w]
                     : T(0.0f);
        }
  };
  const double results = static_cast<double>(problem.rois * problem.channels) *
                         static_cast<double>(problem.output_height * problem.output_width);
  parallel(problem.rois, results * 2, [&](Tasks& tasks) {
    for (int64_t k = 0; tasks.next(k);) gather_roi(k);
  });
  if (wrong != -1) *problem.wrong_cell = wrong;
}

}  // namespace

void roi_pool_forward(const RoiPoolProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  if (problem.mode == PoolMode::max) {
    expect_pooled(problem, problem.argmax, sizeof(int32_t));
    return run_in_batches(problem, *make_bins(problem), [&](const Windows& windows) {
      Task task = base_task(problem, windows);
      const PooledView& argmax = problem.argmax;
      task.argmax = {argmax.data, argmax.per_image, argmax.image, argmax.row,
                     argmax.c,    argmax.h,         argmax.w};
      run_by_roi(problem, windows, task, kernels.pool_forward);
    });
  }
  visit_accumulator(problem.dtype, [&](auto type) {
    const auto tables = make_taps<typename decltype(type)::type>(problem, TapsFor::forward);
    run_in_batches(problem, *tables, [&](const Windows& windows) {
      run_average(problem, windows, base_task(problem, windows));
    });
  });
}

void roi_pool_backward(const RoiPoolProblem& problem) {
  if (problem.channels == 0) return;
  if (problem.mode == PoolMode::max) {
    visit_float(problem.dtype,
                [&](auto type) { Scatter<typename decltype(type)::type>(problem).run(); });
    return;
  }
  visit_accumulator(problem.dtype, [&](auto type) {
    const auto tables = make_taps<typename decltype(type)::type>(problem, TapsFor::backward);
    run_by_plane(problem, sort_rois(problem, *tables), {false, kMostGradientBlocks},
                 kernels_for(problem.dtype).taps_backward);
  });
}

// Of the maximum; the average is linear, and its derivative the forward call.
void roi_pool_jvp(const RoiPoolProblem& problem) {
  visit_float(problem.dtype, [&](auto type) { gather<typename decltype(type)::type>(problem); });
}

}  // namespace roidl::cpu
