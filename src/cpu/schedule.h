// Cuts a problem into tasks for the kernels: by image, by block of channels, by group of RoIs.
// However it is cut, every result is computed by the same operations in the same order.
#pragma once
#include <cstdint>
#include <vector>

#include "../problem.h"
#include "kernels.h"

namespace roidl::cpu {

// The table's entry for the problem's element type.
const Kernels& kernels_for(abi::DLDataType dtype);

// Rows of every image, the most distinct rows or columns that one of them touches, and the windows.
struct Windows {
  std::vector<const Roi*> sorted;    // by image, then by first row of the map; stable
  std::vector<int64_t> image_start;  // [images + 1] into sorted
  int64_t max_cells = 1;
  int64_t tallest = 1;
  double cells = 0;  // summed over the windows
};

template <class RoiType, class Cells>
Windows windows_of(const std::vector<RoiType>& rois, int64_t images, Cells&& distinct_cells);

// A task with everything but its RoIs and channels filled in.
Task base_task(const Problem& problem, const Windows& windows);

using Kernel = void (*)(const Task&);
using Run = void (*)(const Problem&, const Windows&, const Task&,
                     Kernel);  // one of the three below

// Results by RoI: any split of RoIs and channels will do.
void run_by_roi(const Problem& problem, const Windows& windows, const Task& task, Kernel kernel);
// Results by cell of the map: a task owns some channels of an image.
void run_by_image(const Problem& problem, const Windows& windows, const Task& task, Kernel kernel);
// Results summed over channels: a task owns some RoIs.
void run_by_box(const Problem& problem, const Windows& windows, const Task& task, Kernel kernel);

void sort_windows(Windows& windows, int64_t images);

template <class RoiType, class Cells>
Windows windows_of(const std::vector<RoiType>& rois, int64_t images, Cells&& distinct_cells) {
  Windows windows;
  windows.sorted.reserve(rois.size());
  for (const RoiType& roi : rois) {
    windows.sorted.push_back(&roi);
    const int64_t cells = distinct_cells(roi);
    if (cells > windows.max_cells) windows.max_cells = cells;
  }
  sort_windows(windows, images);
  return windows;
}

}  // namespace roidl::cpu
