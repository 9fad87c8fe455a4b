// Cuts a problem into tasks for the kernels: by plane, by block of channels, by group of RoIs.
// However it is cut, every result is computed by the same operations in the same order.
#pragma once
#include <cstdint>
#include <vector>

#include "../problem.h"
#include "kernels.h"

namespace roidl::cpu {

// The table's entry for the problem's element type.
const Kernels& kernels_for(abi::DLDataType dtype);

// RoIs of one plane: map * images + image. There may be far more planes than RoIs.
struct PlaneRois {
  int64_t plane;
  int64_t begin, end;  // of Windows::sorted
};

// The RoIs of every plane, the most distinct rows or columns that one of them touches, and the
// windows.
struct Windows {
  std::vector<const Roi*> sorted;  // by map, image, and first row of the map
  std::vector<PlaneRois> planes;   // those that have any, ascending
  int64_t max_cells = 1;
  int64_t tallest = 1, widest = 1;
  double cells = 0;  // summed over the windows
};

// Of RoIs that are sorted already.
Windows windows_of(const Problem& problem, const std::vector<const Roi*>& sorted,
                   int64_t max_cells);

PooledTask pooled_task(const PooledView& view);
// A task with everything but its RoIs, channels and map filled in.
Task base_task(const Problem& problem, const Windows& windows);

using Kernel = void (*)(const Task&);
using Run = void (*)(const Problem&, const Windows&, const Task&, Kernel);

// Results by RoI: any split of RoIs and channels will do.
void run_by_roi(const Problem& problem, const Windows& windows, const Task& task, Kernel kernel);
// The forward of averages: the same, but windows that are taller than what fits the cache come in
// parts; the general kernel where the map is too wide for that.
void run_average(const Problem& problem, const Windows& windows, const Task& task);
// Results summed over channels: a task owns some RoIs.
void run_by_box(const Problem& problem, const Windows& windows, const Task& task, Kernel kernel);

// Results by cell of the map: a task owns some channels of a part of an image.
struct SortedRois;
struct GradientOf {
  bool onnx = false;        // as in Task
  int64_t most_blocks = 1;  // of channels, innermost in the gradient, that a task may take together
  bool in_pieces = false;   // the kernel itself goes through maps in pieces: see Task
  PooledTask argmax{};
  int64_t* wrong_cell = nullptr;
};
void run_by_plane(const Problem& problem, const SortedRois& rois, const GradientOf& given,
                  Kernel kernel);

}  // namespace roidl::cpu
