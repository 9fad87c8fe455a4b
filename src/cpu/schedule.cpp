// Cuts problems into tasks and runs them on the pool.
#include "schedule.h"

#include <algorithm>
#include "isa.h"
#include "pages.h"
#include "parallel.h"
#include "parts.h"
#include "tasks.h"
#include "tuning.h"

namespace roidl::cpu {

namespace {

struct Piece {
  int64_t plane;               // map * images + image
  int64_t roi_begin, roi_end;  // RoIs, or parts of them
  int64_t channel, channels;
  bool direct;
};

// `planes` is how many planes a task packs; 0 for taps_sweep.
void run_pieces(const Problem& problem, const Windows& windows, const Task& base, Kernel kernel,
                const std::vector<Piece>& pieces, double nanoseconds, int planes) {
  int64_t bytes = 0;
  for (const bool direct : {false, true}) {
    const bool used = std::any_of(pieces.begin(), pieces.end(),
                                  [&](const Piece& piece) { return piece.direct == direct; });
    Task task = base;
    task.direct = direct;
    if (used)
      bytes = std::max(bytes, planes > 0 ? scratch_bytes(task, planes) : sweep_scratch_bytes(task));
  }
  parallel(static_cast<int64_t>(pieces.size()), nanoseconds, [&](Tasks& tasks) {
    const std::unique_ptr<char, Deleter> memory = take_memory(bytes);
    for (int64_t i = 0; tasks.next(i);) {
      const Piece& piece = pieces[i];
      Task task =
          part_of(problem, base, piece.plane / problem.images, piece.channel, piece.channels);
      const int64_t count = piece.roi_end - piece.roi_begin;
      if (planes > 0 || piece.direct) {
        task.rois = windows.sorted.data() + piece.roi_begin;
        task.count = count;
      } else {
        task.parts += piece.roi_begin;
        task.part_count = count;
      }
      task.image = piece.plane % problem.images;
      task.direct = piece.direct;
      task.scratch = {memory.get(), memory.get() + bytes};
      kernel(task);
    }
  });
}

// Splits the RoIs of one plane into groups of at most `size`, each a copy of the piece.
void split_rois(std::vector<Piece>& pieces, const PlaneRois& rois, Piece piece, int64_t size) {
  piece.plane = rois.plane;
  for (int64_t i = rois.begin; i < rois.end; i += size) {
    piece.roi_begin = i;
    piece.roi_end = std::min(rois.end, i + size);
    pieces.push_back(piece);
  }
}

// How many channels are read in place.
int64_t channels_in_place(const Problem& problem, const Windows& windows) {
  const int64_t lanes = lanes_of(problem), channels = problem.channels;
  const bool same_type = problem.dtype == kFloat32 || problem.dtype == kFloat64;
  bool innermost = true, one_input = true;
  for (int i = 0; i < problem.num_maps; ++i) {
    innermost &= problem.maps[i].features.c == 1 || channels == 1;
    one_input &= problem.maps[i].tangent.data == nullptr;
  }
  // Channels that are innermost are read in place if a window of them fits the cache; else, and for
  // the last, incomplete block, packing is faster.
  const double window = windows.cells / static_cast<double>(std::max<int64_t>(1, problem.rois)) *
                        static_cast<double>(channels) * problem.dtype.bits / 8;
  const bool in_place = same_type && innermost && one_input && window < kDirectWindow;
  return in_place ? channels / lanes * lanes : 0;
}

}  // namespace

const Kernels& kernels_for(abi::DLDataType dtype) {
  const Kernels(&kernels)[4] = instruction_set().kernels;
  return dtype == kFloat16    ? kernels[0]
         : dtype == kBfloat16 ? kernels[1]
         : dtype == kFloat32  ? kernels[2]
                              : kernels[3];
}

Windows windows_of(const Problem& problem, const std::vector<const Roi*>& sorted,
                   int64_t max_cells) {
  Windows windows;
  windows.sorted = sorted;
  windows.max_cells = max_cells;
  for (const Roi* roi : sorted) {
    const int64_t plane = roi->map * problem.images + roi->image;
    const int64_t at = windows.planes.empty() ? 0 : windows.planes.back().end;
    if (at == 0 || windows.planes.back().plane != plane) windows.planes.push_back({plane, at, at});
    ++windows.planes.back().end;
    windows.tallest = std::max<int64_t>(windows.tallest, roi->y_end - roi->y_begin);
    windows.widest = std::max<int64_t>(windows.widest, roi->x_end - roi->x_begin);
    windows.cells += static_cast<double>(roi->y_end - roi->y_begin) * (roi->x_end - roi->x_begin);
  }
  return windows;
}

PooledTask pooled_task(const PooledView& view) {
  return {view.data, view.per_image, view.image, view.row, view.c, view.h, view.w};
}

Task base_task(const Problem& problem, const Windows& windows) {
  Task task{};
  for (int i = 0; i < problem.num_maps; ++i) {  // scratch must fit the largest
    task.width = std::max(task.width, problem.maps[i].width);
    task.height = std::max(task.height, problem.maps[i].height);
  }
  task.output_height = problem.output_height;
  task.output_width = problem.output_width;
  task.max_cells = windows.max_cells;
  task.max_width = windows.widest;
  task.ring_columns = task.width;
  if (task.width > kSweepWidth)
    task.ring_columns = std::max(kSweepWidth, (windows.widest + 31) / 16 * 16);
  task.ring_rows = 2;
  while (task.ring_rows < windows.tallest &&
         2 * task.ring_rows * packed_lines(task.ring_columns) * kBlockBytes <= kRingBytes)
    task.ring_rows *= 2;
  const double results = static_cast<double>(problem.rois) * problem.output_height *
                         static_cast<double>(problem.output_width) * problem.channels;
  task.streams = results * problem.dtype.bits / 8 > kStreamBytes;
  task.pooled = pooled_task(problem.pooled);
  return task;
}

void run_average(const Problem& problem, const Windows& windows, const Task& base) {
  if (base.width > kSweepWidth)
    return run_by_roi(problem, windows, base, kernels_for(problem.dtype).taps_forward);
  const int64_t lanes = lanes_of(problem), channels = problem.channels;
  expect_pooled(problem, problem.pooled, problem.dtype.bits / 8);
  const int64_t direct = channels_in_place(problem, windows);
  Task task = base;
  const int64_t row_bytes = packed_lines(task.width) * kBlockBytes;
  while (task.ring_rows > kLowestRing && task.ring_rows * row_bytes > kSweepBytes)
    task.ring_rows /= 2;
  const int64_t grid_bytes = problem.output_height * problem.output_width * kBlockBytes;
  const PartLimits limits{task.ring_rows, std::max<int64_t>(1, kSlotBytes / grid_bytes),
                          problem.output_height};

  const int64_t planes = static_cast<int64_t>(windows.planes.size());
  const int64_t blocks = (channels - direct + lanes - 1) / lanes;
  const int64_t wanted = wanted_tasks(work(problem, windows));
  const int64_t shares = std::max<int64_t>(1, wanted / std::max<int64_t>(1, planes * blocks));
  std::vector<Part> parts;
  std::vector<PartBatch> batches;
  visit_accumulator(problem.dtype, [&](auto type) {
    for (const PlaneRois& plane : windows.planes)
      if (blocks > 0)
        task.slots = std::max(task.slots, make_parts<typename decltype(type)::type>(
                                              windows, plane, shares, limits, parts, batches));
  });
  task.parts = parts.data();
  for (const PartBatch& batch : batches) {  // scratch must fit the largest
    task.part_rows = std::max(task.part_rows, batch.rows);
    task.part_count = std::max(task.part_count, batch.part_end - batch.part_begin);
  }

  std::vector<Piece> pieces;
  for (const PlaneRois& plane : windows.planes)
    if (direct > 0) split_rois(pieces, plane, {0, 0, 0, 0, direct, true}, kDirectRois);
  const int64_t groups =
      std::min(blocks, wanted / std::max<int64_t>(1, static_cast<int64_t>(batches.size())) + 1);
  const int64_t step = groups > 0 ? (blocks + groups - 1) / groups * lanes : 1;
  for (const PartBatch& batch : batches)
    for (int64_t channel = direct; channel < channels; channel += step)
      pieces.push_back({batch.plane, batch.part_begin, batch.part_end, channel,
                        std::min(step, channels - channel), false});
  run_pieces(problem, windows, task, kernels_for(problem.dtype).taps_sweep, pieces,
             work(problem, windows), 0);
}

void run_by_roi(const Problem& problem, const Windows& windows, const Task& task, Kernel kernel) {
  const int64_t lanes = lanes_of(problem), channels = problem.channels;
  expect_pooled(problem, problem.pooled, problem.dtype.bits / 8);
  const int64_t direct = channels_in_place(problem, windows);
  const int64_t blocks = (channels - direct + lanes - 1) / lanes;
  const int64_t wanted = wanted_tasks(work(problem, windows));
  const int64_t planes = static_cast<int64_t>(windows.planes.size());
  const int64_t parts = std::max<int64_t>(1, wanted / std::max<int64_t>(1, planes * blocks));
  std::vector<Piece> pieces;
  for (const PlaneRois& plane : windows.planes) {
    if (direct > 0) split_rois(pieces, plane, {0, 0, 0, 0, direct, true}, kDirectRois);
    for (int64_t channel = direct; channel < channels; channel += lanes)
      split_rois(pieces, plane, {0, 0, 0, channel, std::min(lanes, channels - channel), false},
                 std::max<int64_t>(1, (plane.end - plane.begin + parts - 1) / parts));
  }
  run_pieces(problem, windows, task, kernel, pieces, work(problem, windows),
             problem.maps[0].tangent.data == nullptr ? 1 : 2);
}

void run_by_box(const Problem& problem, const Windows& windows, const Task& task, Kernel kernel) {
  std::vector<Piece> pieces;
  const int64_t wanted = wanted_tasks(4 * work(problem, windows));
  const int64_t size = std::max<int64_t>(1, (problem.rois + wanted - 1) / wanted);
  for (const PlaneRois& plane : windows.planes)
    split_rois(pieces, plane, {0, 0, 0, 0, problem.channels, false}, size);
  run_pieces(problem, windows, task, kernel, pieces, 4 * work(problem, windows), 1);
}

}  // namespace roidl::cpu
