// Sorts RoIs and makes their tables in batches.
#include "batches.h"

#include <algorithm>

#include "../interrupt.h"
#include "tuning.h"

namespace roidl::cpu {

namespace {

// Makes the tables of the RoIs from `first` on until they take `bytes`; returns the index where it
// stopped.
int64_t make_batch(Tables& tables, const std::vector<Roi>& windows, int64_t first, int64_t stop,
                   const Area& area, int64_t bytes, Arena& arena, std::vector<const Roi*>& made) {
  arena.clear();
  made.clear();
  int64_t at = first;
  do made.push_back(tables.make(windows[at++].row, area, arena));
  while (at < stop && arena.taken() < bytes);
  return at;
}

}  // namespace

SortedRois sort_rois(const Problem& problem, Tables& tables) {
  SortedRois rois;
  rois.tables = &tables;
  rois.windows.reserve(static_cast<size_t>(problem.rois));
  std::vector<const Roi*> made;
  bool all = true;
  for (int64_t k = 0; k < problem.rois; ++k) {
    if (k % kRowsPerInterrupt == kRowsPerInterrupt - 1) check_interrupt();
    all &= rois.arena.taken() < kSharedBytes;
    if (!all) rois.arena.clear();
    const Roi* roi = tables.make(k, kWholeMap, rois.arena);
    rois.windows.push_back(*roi);
    rois.max_cells = std::max(rois.max_cells, tables.sums(*roi));
    if (all) made.push_back(roi);
  }
  const auto plane_of = [&](const Roi& roi) { return roi.map * problem.images + roi.image; };
  std::stable_sort(rois.windows.begin(), rois.windows.end(), [&](const Roi& a, const Roi& b) {
    const int64_t plane_a = plane_of(a), plane_b = plane_of(b);
    return plane_a != plane_b ? plane_a < plane_b : a.y_begin < b.y_begin;
  });
  if (!all) return rois;
  rois.made.reserve(made.size());
  for (const Roi& roi : rois.windows) rois.made.push_back(made[roi.row]);
  return rois;
}

void run_in_batches(const Problem& problem, Tables& tables,
                    const std::function<void(const Windows&)>& run) {
  const SortedRois rois = sort_rois(problem, tables);
  if (!rois.made.empty()) return run(windows_of(problem, rois.made, rois.max_cells));
  Arena arena;
  std::vector<const Roi*> made;
  for (int64_t first = 0; first < problem.rois;) {
    check_interrupt();
    first =
        make_batch(tables, rois.windows, first, problem.rois, kWholeMap, kSharedBytes, arena, made);
    run(windows_of(problem, made, rois.max_cells));
  }
}

ThreadBatch::ThreadBatch(const SortedRois& rois) : all_(rois) {
  const int64_t count = static_cast<int64_t>(rois.windows.size());
  static_cast<TableBatch&>(*this) = {rois.made.data(), 0, count, count, kWholeMap, make_more};
  if (!rois.made.empty() || count == 0) return;
  end = 0;
  tables_ = rois.tables->another();
}

void ThreadBatch::enter(const Task& task) {
  stop = task.list.first + task.count;
  if (tables_ == nullptr) return;
  const Area next{task.y_begin, task.y_end, task.x_begin, task.x_end};
  const bool same = area.y_begin == next.y_begin && area.y_end == next.y_end &&
                    area.x_begin == next.x_begin && area.x_end == next.x_end;
  if (!same) begin = end = 0;
  area = next;
}

void ThreadBatch::make_more(TableBatch& batch, int64_t first) {
  check_interrupt();
  auto& self = static_cast<ThreadBatch&>(batch);
  self.begin = first;
  self.end = make_batch(*self.tables_, self.all_.windows, first, self.stop, self.area, kThreadBytes,
                        self.arena_, self.made_);
  self.rois = self.made_.data();
}

}  // namespace roidl::cpu
