// Cuts a problem into tasks for the kernels: by plane, block of channels and group of RoIs. However
// it is cut, every result is computed by the same operations in the same order.
#pragma once
#include <cstdint>
#include <vector>

#include "../problem.h"
#include "kernels.h"

namespace roidl::cpu {

// Returns the kernels for an element type.
const Kernels& kernels_for(abi::DLDataType dtype);

// RoIs of one plane: map * images + image. There may be far more planes than RoIs.
struct PlaneRois {
  int64_t plane;
  int64_t begin, end;  // indices of Windows::sorted
};

// The RoIs of all planes, the extents of their windows, and the most distinct rows or columns that
// a RoI touches.
struct Windows {
  std::vector<const Roi*> sorted;  // by map, image, and first row of the map
  std::vector<PlaneRois> planes;   // planes with RoIs, ascending
  int64_t max_cells = 1;
  int64_t tallest = 1, widest = 1;
  double cells = 0;  // the sum over all windows
};

// Makes the windows of RoIs that are sorted.
Windows windows_of(const Problem& problem, const std::vector<const Roi*>& sorted,
                   int64_t max_cells);

PooledTask pooled_task(const PooledView& view);
// Returns a task in which everything is filled in but RoIs, channels and map.
Task base_task(const Problem& problem, const Windows& windows);

using Kernel = void (*)(const Task&);
using Run = void (*)(const Problem&, const Windows&, const Task&, Kernel);

// For results by RoI: RoIs and channels may be split in any way.
void run_by_roi(const Problem& problem, const Windows& windows, const Task& task, Kernel kernel);
// For the forward of averages: like run_by_roi, but windows that are taller than what fits the
// cache are cut into parts; the general kernel is used if the map is too wide for that.
void run_average(const Problem& problem, const Windows& windows, const Task& task);
// For results that are summed over channels: a task owns some RoIs.
void run_by_box(const Problem& problem, const Windows& windows, const Task& task, Kernel kernel);

// For results by cell of the map: a task owns some channels of a part of an image.
struct SortedRois;
struct GradientOf {
  bool onnx = false;        // as in Task
  int64_t most_blocks = 1;  // the most blocks of channels in a task, innermost in the gradient
  bool in_pieces = false;   // the kernel goes through the map in pieces: see Task
  PooledTask argmax{};
  int64_t* wrong_cell = nullptr;
};
void run_by_plane(const Problem& problem, const SortedRois& rois, const GradientOf& given,
                  Kernel kernel);

}  // namespace roidl::cpu
