// The RoIs of a problem in the order in which kernels process them, and their tables: all at once
// if they are small, else one batch of RoIs after the other.
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
  std::vector<const Roi*> made;  // with tables, in the same order; empty if they are too large
  int64_t max_cells = 1;
  Arena arena;
};
SortedRois sort_rois(const Problem& problem, Tables& tables);

// Calls run(windows) once with the tables of all RoIs, or once for each batch of them.
void run_in_batches(const Problem& problem, Tables& tables,
                    const std::function<void(const Windows&)>& run);

// The tables of the RoIs that a thread asks for, a batch at a time.
class ThreadBatch : public TableBatch {
 public:
  explicit ThreadBatch(const SortedRois& rois);
  // Prepares the tables of a task: if not all tables exist, those for the task's part of the map.
  void enter(const Task& task);

 private:
  static void make_more(TableBatch& batch, int64_t first);

  const SortedRois& all_;
  std::unique_ptr<Tables> tables_;
  Arena arena_;
  std::vector<const Roi*> made_;
};

}  // namespace roidl::cpu
