// RoIPool on CPU: the maximum over bins, its derivatives, and the average as sparse weights.
#include "../roi_pool.h"

#include <atomic>

#include "backend.h"
#include "batches.h"
#include "pages.h"
#include "parallel.h"
#include "schedule.h"
#include "tables.h"

namespace roidl::cpu {

namespace {

// Reads the map at the argmax of every output.
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
          const int64_t at = read_once(from + c * argmax.c + p * argmax.h + q * argmax.w);
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

// Reports an argmax other than -1 in a box without cells, all of whose bins are empty.
void expect_empty(const RoiPoolProblem& problem, int64_t k) {
  if (!place_box<float>(problem, k).exists) return;
  const PooledView& argmax = problem.argmax;
  const int32_t* cell = static_cast<const int32_t*>(argmax.data) + argmax.offset(k);
  for (int64_t c = 0; c < problem.channels; ++c)
    for (int64_t p = 0; p < problem.output_height; ++p)
      for (int64_t q = 0; q < problem.output_width; ++q) {
        const int64_t at = cell[c * argmax.c + p * argmax.h + q * argmax.w];
        if (at != -1) *problem.wrong_cell = at;
      }
}

}  // namespace

void roi_pool_forward(const RoiPoolProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  const Kernels& kernels = kernels_for(problem.dtype);
  if (problem.mode == PoolMode::max) {
    expect_pooled(problem, problem.argmax, sizeof(int32_t));
    return run_in_batches(problem, *make_bins(problem), [&](const Windows& windows) {
      Task task = base_task(problem, windows);
      task.argmax = pooled_task(problem.argmax);
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
    const auto tables = make_pool_windows(problem);
    const SortedRois rois = sort_rois(problem, *tables);
    for (const Roi& roi : rois.windows)
      if (roi.y_begin == roi.y_end || roi.x_begin == roi.x_end) expect_empty(problem, roi.row);
    return run_by_plane(
        problem, rois,
        {false, kMostGradientBlocks, false, pooled_task(problem.argmax), problem.wrong_cell},
        kernels_for(problem.dtype).pool_backward);
  }
  visit_accumulator(problem.dtype, [&](auto type) {
    const auto tables = make_taps<typename decltype(type)::type>(problem, TapsFor::backward);
    run_by_plane(problem, sort_rois(problem, *tables), {false, kMostGradientBlocks},
                 kernels_for(problem.dtype).taps_backward);
  });
}

// The derivative of the maximum. The average is linear, so its derivative is the forward call.
void roi_pool_jvp(const RoiPoolProblem& problem) {
  if (problem.rois == 0 || problem.channels == 0) return;
  visit_float(problem.dtype, [&](auto type) { gather<typename decltype(type)::type>(problem); });
}

}  // namespace roidl::cpu
