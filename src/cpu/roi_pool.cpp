// RoIPool on CPU: the maximum over bins, its scattered gradient, and the average as sparse weights.
#include "../roi_pool.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "../check.h"
#include "backend.h"
#include "parallel.h"
#include "schedule.h"
#include "tables.h"

namespace roidl::cpu {

namespace {

using Run = void (*)(const Problem&, const Windows&, const Task&, Kernel);

void run_average(const RoiPoolProblem& problem, TapsFor use, Run run, Kernel kernel) {
  Arena arena;
  const auto with = [&](auto zero) {
    using A = decltype(zero);
    const auto rois = make_taps<A>(problem, use, arena);
    const Windows windows = windows_of(rois, problem.images, [](const TapsRoi<A>& roi) -> int64_t {
      return std::max(roi.y.count, roi.x.count);
    });
    run(problem, windows, base_task(problem, windows), kernel);
  };
  if (problem.dtype == kFloat64)
    with(0.0);
  else
    with(0.0f);
}

// Adds every output's gradient at its argmax. A task owns some channels of an image; sums are kept
// cell by cell with the channels of the task innermost.
template <class T>
class Scatter {
  using A = accumulator<T>;

 public:
  explicit Scatter(const RoiPoolProblem& problem)
      : problem_(problem), map_(problem.maps[0]), cells_(map_.height * map_.width) {
    // Where channels are innermost in memory, a cache line of them shares a task.
    const bool blocked = map_.gradient.c == 1 && problem.channels > 1;
    together_ = blocked ? kBlockBytes / static_cast<int64_t>(sizeof(A)) : 1;
    in_place_ = !blocked && std::is_same_v<T, A> && map_.gradient.h == map_.width * map_.gradient.w;
    rois_.resize(static_cast<size_t>(problem.images));
    for (int64_t k = 0; k < problem.rois; ++k)
      rois_[load_box<double>(problem.boxes, k).image].push_back(k);
  }

  void run() {
    const int64_t blocks = (problem_.channels + together_ - 1) / together_;
    const double bins = static_cast<double>(problem_.rois) * problem_.output_height *
                        static_cast<double>(problem_.output_width);
    const double cells = static_cast<double>(cells_) * static_cast<double>(problem_.images);
    parallel(problem_.images * blocks, (bins + cells / 4) * static_cast<double>(problem_.channels),
             [&](Tasks& tasks) {
               std::vector<A> sums(in_place_ ? 0 : cells_ * together_);
               for (int64_t i = 0; tasks.next(i);)
                 scatter(i / blocks, i % blocks * together_, sums);
             });
    if (wrong_ != kNone)
      fail(ErrorKind::value, problem_.op, "argmax must be -1 or a cell in [0, ", cells_, "), got ",
           wrong_.load());
  }

 private:
  void scatter(int64_t image, int64_t channel, std::vector<A>& sums) {
    const MapView& view = map_.gradient;
    const int64_t channels = std::min(together_, problem_.channels - channel);
    T* target = static_cast<T*>(view.data) + image * view.n + channel * view.c;
    if constexpr (std::is_same_v<T, A>) {
      if (in_place_) {
        for (int64_t y = 0; y < map_.height; ++y) zero(target + y * view.h, view.w);
        for (const int64_t k : rois_[image]) add(k, channel, 1, target, view.w);
        return;
      }
    }
    std::fill(sums.begin(), sums.end(), A(0));
    for (const int64_t k : rois_[image]) add(k, channel, channels, sums.data(), together_);
    for (int64_t y = 0; y < map_.height; ++y)
      for (int64_t x = 0; x < map_.width; ++x)
        for (int64_t c = 0; c < channels; ++c)
          target[y * view.h + x * view.w + c * view.c] =
              static_cast<T>(sums[(y * map_.width + x) * together_ + c]);
  }

  void zero(A* row, int64_t stride) const {
    if (stride == 1) {
      std::memset(row, 0, static_cast<size_t>(map_.width) * sizeof(A));
      return;
    }
    for (int64_t x = 0; x < map_.width; ++x) row[x * stride] = 0;
  }

  void add(int64_t k, int64_t channel, int64_t channels, A* sums, int64_t cell_stride) {
    const PooledView &grads = problem_.pooled, &cells = problem_.argmax;
    const T* grad = static_cast<const T*>(grads.data) + grads.offset(k) + channel * grads.c;
    const int32_t* cell =
        static_cast<const int32_t*>(cells.data) + cells.offset(k) + channel * cells.c;
    for (int64_t p = 0; p < problem_.output_height; ++p)
      for (int64_t q = 0; q < problem_.output_width; ++q)
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t at = cell[p * cells.h + q * cells.w + c * cells.c];
          // One test keeps out the empty bins and whatever else the caller may have passed.
          if (static_cast<uint64_t>(at) < static_cast<uint64_t>(cells_))
            sums[at * cell_stride + c] +=
                static_cast<A>(grad[p * grads.h + q * grads.w + c * grads.c]);
          else if (at != -1)
            wrong_ = at;
        }
  }

  static constexpr int64_t kNone = -1;
  const RoiPoolProblem& problem_;
  const Map& map_;
  const int64_t cells_;
  int64_t together_ = 1;
  bool in_place_ = false;
  std::vector<std::vector<int64_t>> rois_;  // of every image, in the caller's order
  std::atomic<int64_t> wrong_{kNone};
};

}  // namespace

void roi_pool_forward(const RoiPoolProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  if (problem.mode == PoolMode::avg)
    return run_average(problem, TapsFor::forward, run_by_roi, kernels.taps_forward);
  Arena arena;
  const std::vector<BinsRoi> rois = make_bins(problem, arena);
  const Windows windows =
      windows_of(rois, problem.images, [](const BinsRoi&) -> int64_t { return 0; });
  Task task = base_task(problem, windows);
  const PooledView& argmax = problem.argmax;
  task.argmax = {argmax.data, argmax.per_image, argmax.image, argmax.row,
                 argmax.c,    argmax.h,         argmax.w};
  run_by_roi(problem, windows, task, kernels.pool_forward);
}

void roi_pool_backward(const RoiPoolProblem& problem) {
  if (problem.channels == 0 || problem.maps[0].height == 0 || problem.maps[0].width == 0) return;
  if (problem.mode == PoolMode::avg)
    return run_average(problem, TapsFor::backward, run_by_image,
                       kernels_for(problem.dtype).taps_backward);
  visit_float(problem.dtype,
              [&](auto type) { Scatter<typename decltype(type)::type>(problem).run(); });
}

}  // namespace roidl::cpu
