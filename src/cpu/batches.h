// The RoIs of a problem in the order in which kernels work through them, and their tables: of all,
// as long as those are small, else of a batch of RoIs after the other.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "../problem.h"
#include "kernels.h"
#include "schedule.h"
#include "tables.h"

namespace roidl::cpu {

struct SortedRois {
  Tables* tables = nullptr;
  std::vector<Roi> windows;      // by map, image, and first row of the map; stable
  std::vector<const Roi*> made;  // with tables, in the same order; or none, if that is too much
  int64_t max_cells = 1;
  Arena arena;
};
SortedRois sort_rois(const Problem& problem, Tables& tables);

// Calls run(windows) with the tables of all RoIs, or several times with those of some.
void run_in_batches(const Problem& problem, Tables& tables,
                    const std::function<void(const Windows&)>& run);

// The tables of the RoIs that a thread asks for, some at a time.
class ThreadBatch : public TableBatch {
 public:
  explicit ThreadBatch(const SortedRois& rois);
  // The tables of the next task: where not all are made, those of its part of the map.
  void enter(const Task& task);

 private:
  static void make_more(TableBatch& batch, int64_t first);

  const SortedRois& all_;
  std::unique_ptr<Tables> tables_;
  Arena arena_;
  std::vector<const Roi*> made_;
};

}  // namespace roidl::cpu
