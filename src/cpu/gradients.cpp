// Cuts gradients to the maps into tasks, and runs them on the pool.
#include <algorithm>

#include "batches.h"
#include "pages.h"
#include "parallel.h"
#include "schedule.h"
#include "tasks.h"
#include "tuning.h"

namespace roidl::cpu {

namespace {

// Whether the bins of each channel are contiguous, and the channels are, too.
bool in_planes(const PooledTask& pooled, const Problem& problem) {
  const int64_t bins = problem.output_height * problem.output_width;
  return pooled.w == 1 && pooled.h == problem.output_width &&
         (pooled.c == bins || problem.channels == 1);
}

// How the gradient of a map is cut: into bands of rows and strips of columns, each for some blocks
// of channels.
struct Cut {
  int64_t band, columns;
  int64_t rows_kept, blocks;
  bool whole;  // every window fits the rows and columns that are kept
};

struct CutLimits {
  int64_t columns, shortest_band;
  int64_t shares, shortest_share;  // wanted number of bands, and their least height
  int64_t blocks;
  int64_t bytes;  // for one block of channels
};

Cut cut_map(const Map& map, int64_t tallest, const CutLimits& most) {
  Cut cut{map.height, std::min(map.width, most.columns), 1, 1, true};
  const auto bytes = [&](int64_t blocks) {
    return cut.rows_kept * packed_lines(cut.columns, blocks) * kBlockBytes;
  };
  tallest = std::min(tallest, map.height);
  while (cut.rows_kept < tallest) cut.rows_kept *= 2;
  while (cut.rows_kept > most.shortest_band && bytes(1) > most.bytes) cut.rows_kept /= 2;
  while (cut.blocks < most.blocks && bytes(cut.blocks + 1) <= kRingBytes) ++cut.blocks;
  cut.whole = cut.rows_kept >= tallest && cut.columns == map.width;
  // If the tallest window fits the rows that are kept, rows are written as the windows move down
  // the map; else a band has as many rows as are kept.
  if (cut.rows_kept < tallest) cut.band = cut.rows_kept;
  cut.band = std::min(cut.band,
                      std::max(most.shortest_share, (map.height + most.shares - 1) / most.shares));
  const int64_t bands = (map.height + cut.band - 1) / cut.band;
  cut.band = (map.height + bands - 1) / bands;
  return cut;
}

// The tasks of a map. Tasks are computed from their index: there may be far more images than RoIs.
struct MapTasks {
  int64_t map;
  Cut cut;
  bool in_place, in_pieces;
  int64_t step;                  // channels of a task
  int64_t steps, bands, strips;  // tasks of an image along each axis
  int64_t first;                 // index among the tasks of the problem
};

// Task `index` of a map, without its memory.
Task task_of(const Problem& problem, const Windows& windows, const Task& base,
             const MapTasks& tasks, int64_t index) {
  const Map& map = problem.maps[tasks.map];
  const int64_t strip = index % tasks.strips, band = index / tasks.strips % tasks.bands;
  const int64_t in_map = index / tasks.strips / tasks.bands;
  const int64_t channel = in_map % tasks.steps * tasks.step;
  Task task =
      part_of(problem, base, tasks.map, channel, std::min(tasks.step, problem.channels - channel));
  task.image = in_map / tasks.steps;
  task.in_place = tasks.in_place;
  task.in_pieces = tasks.in_pieces;
  task.gradient_rows = tasks.cut.rows_kept;
  task.gradient_blocks = tasks.cut.blocks;
  task.piece_height = tasks.cut.band;
  task.piece_width = tasks.cut.columns;
  if (!tasks.in_pieces) {
    task.y_begin = band * tasks.cut.band;
    task.y_end = std::min(map.height, task.y_begin + tasks.cut.band);
    task.x_begin = strip * tasks.cut.columns;
    task.x_end = std::min(map.width, task.x_begin + tasks.cut.columns);
  }
  const int64_t plane = tasks.map * problem.images + task.image;
  const auto rois = std::lower_bound(windows.planes.begin(), windows.planes.end(), plane,
                                     [](const PlaneRois& a, int64_t b) { return a.plane < b; });
  if (rois == windows.planes.end() || rois->plane != plane) return task;
  task.list.first = rois->begin;
  task.count = rois->end - rois->begin;
  return task;
}

}  // namespace

void run_by_plane(const Problem& problem, const SortedRois& rois, const GradientOf& given,
                  Kernel kernel) {
  const int64_t lanes = lanes_of(problem), channels = problem.channels;
  const int64_t blocks = (channels + lanes - 1) / lanes, image_blocks = problem.images * blocks;
  expect_gradients(problem);
  std::vector<const Roi*> pointers;
  for (const Roi& roi : rois.windows) pointers.push_back(&roi);
  const Windows windows = windows_of(problem, pointers, rois.max_cells);
  Task base = base_task(problem, windows);
  base.onnx = given.onnx;
  base.argmax = given.argmax;
  base.wrong_cell = given.wrong_cell;
  base.linear = given.argmax.data != nullptr;
  // RoIPool's gradients, argmaxes and sums have the same order in memory: none has to be
  // transposed.
  const bool bins_in_planes = (problem.dtype == kFloat32 || problem.dtype == kFloat64) &&
                              in_planes(base.pooled, problem) && in_planes(base.argmax, problem);
  // If each band makes the tables of its RoIs again, or reads more than it adds, few bands are
  // faster than bands that fit the cache.
  const bool few_bands = base.linear || (rois.made.empty() && problem.rois > 0);
  const int64_t wanted = wanted_tasks(few_bands ? 0 : 2 * work(problem, windows));
  // Blocks of channels that are neighbours in memory are processed together, as long as there are
  // tasks for every thread.
  const double window =
      std::max(1.0, windows.cells / static_cast<double>(std::max<int64_t>(1, problem.rois)));
  const int64_t most_blocks =
      std::clamp<int64_t>(std::min(image_blocks / wanted_tasks(0),
                                   static_cast<int64_t>(kBlocksWindow / kBlockBytes / window)),
                          1, std::min(given.most_blocks, blocks));
  int64_t most_rois = 0;  // of one plane
  for (const PlaneRois& plane : windows.planes)
    most_rois = std::max(most_rois, plane.end - plane.begin);
  std::vector<MapTasks> maps;
  double written = 0;
  int64_t bytes = 0, count = 0;
  for (int64_t i = 0; i < problem.num_maps; ++i) {
    const Map& map = problem.maps[i];
    written += static_cast<double>(problem.images) * static_cast<double>(map.height) *
               static_cast<double>(map.width);
    if (map.height == 0 || map.width == 0) continue;
    const bool in_place =
        base.linear && bins_in_planes && map.gradient.w == 1 && map.gradient.h == map.width;
    // An argmax counts cells along rows, so the sums are whole rows of the map; where one row alone
    // is too long, they are a part of it.
    const bool long_rows = base.linear && !in_place && map.width > kRingBytes / kBlockBytes;
    const int64_t columns = long_rows     ? kRingBytes / kBlockBytes
                            : base.linear ? map.width
                                          : kGradientColumns;
    const Cut cut = cut_map(map, in_place ? 1 : windows.tallest,
                            {columns, base.linear ? 1 : kShortestBand,
                             (wanted + image_blocks - 1) / std::max<int64_t>(1, image_blocks),
                             base.linear ? std::max(kShortestBand, windows.tallest) : kShortestBand,
                             map.gradient.c == 1 && !in_place ? most_blocks : 1,
                             long_rows   ? 0
                             : few_bands ? kRingBytes
                                         : kGradientBytes});
    MapTasks tasks{i, cut, in_place, given.in_pieces && !cut.whole, cut.blocks * lanes, 1,
                   1, 1,   count};
    tasks.steps = (channels + tasks.step - 1) / tasks.step;
    if (!tasks.in_pieces) {
      tasks.bands = (map.height + cut.band - 1) / cut.band;
      tasks.strips = (map.width + cut.columns - 1) / cut.columns;
    }
    Task task = task_of(problem, windows, base, tasks, 0);  // no task is larger
    task.count = most_rois;
    if (!in_place)
      bytes = std::max(bytes, scratch_bytes(task, 1) + kept_bytes(task, kBlockBytes / lanes));
    count += problem.images * tasks.steps * tasks.bands * tasks.strips;
    maps.push_back(tasks);
  }
  written *= static_cast<double>(channels);
  const bool streams = written * problem.dtype.bits / 8 > kStreamBytes;
  const double nanoseconds = 2 * work(problem, windows) + written * 2 * kNanoseconds;
  parallel(count, nanoseconds, [&](Tasks& tasks) {
    const TaskMemory memory = take_memory(bytes);
    ThreadBatch batch(rois);
    for (int64_t i = 0; tasks.next(i);) {
      const MapTasks* map = maps.data() + maps.size() - 1;
      while (map->first > i) --map;
      Task task = task_of(problem, windows, base, *map, i - map->first);
      task.streams = streams;
      task.list.windows = rois.windows.data();
      task.list.batch = &batch;
      batch.enter(task);
      task.scratch = {memory.get(), memory.get() + bytes};
      kernel(task);
    }
  });
}

}  // namespace roidl::cpu
