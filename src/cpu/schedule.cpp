// Cuts problems into tasks and runs them on the pool.
#include "schedule.h"

#include <algorithm>
#include <memory>
#include <new>

#include "batches.h"
#include "isa.h"
#include "pages.h"
#include "parallel.h"
#include "parts.h"
#include "tuning.h"

namespace roidl::cpu {

namespace {

struct Deleter {
  void operator()(char* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};

std::unique_ptr<char, Deleter> take_memory(int64_t bytes) {
  void* memory = ::operator new[](static_cast<size_t>(bytes), std::align_val_t{64});
  return std::unique_ptr<char, Deleter>(static_cast<char*>(memory));
}

char* shift(void* data, int64_t elements, int64_t bytes) {
  return static_cast<char*>(data) + (data != nullptr ? elements * bytes : 0);
}

// The same task for one map, and for the channels from `first` on.
Task part_of(const Problem& problem, Task task, int64_t map_index, int64_t first,
             int64_t channels) {
  const int64_t bytes = problem.dtype.bits / 8;
  const Map& map = problem.maps[map_index];
  const auto part = [&](const MapView& view) {
    return MapTask{shift(view.data, first * view.c, bytes), view.n, view.c, view.h, view.w};
  };
  task.height = map.height;
  task.width = map.width;
  task.y_begin = task.x_begin = 0;
  task.y_end = map.height;
  task.x_end = map.width;
  task.features = part(map.features);
  task.tangent = part(map.tangent);
  task.gradient = part(map.gradient);
  task.pooled.data = shift(task.pooled.data, first * task.pooled.c, bytes);
  task.argmax.data = shift(task.argmax.data, first * task.argmax.c, sizeof(int32_t));
  task.channels = channels;
  return task;
}

struct Piece {
  int64_t plane;               // map * images + image
  int64_t roi_begin, roi_end;  // or parts
  int64_t channel, channels;
  bool direct;
};

double work(const Problem& problem, const Windows& windows) {
  const double bins = static_cast<double>(problem.rois) * problem.output_height *
                      static_cast<double>(problem.output_width);
  return (windows.cells + 4 * bins) * static_cast<double>(problem.channels) * kNanoseconds;
}

// `planes`: how many a task packs; 0 for taps_sweep.
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

int64_t lanes_of(const Problem& problem) {
  return kBlockBytes / (problem.dtype == kFloat64 ? 8 : 4);
}

void split_rois(std::vector<Piece>& pieces, const Windows& windows, Piece piece, int64_t size) {
  const int64_t end = windows.plane_start[piece.plane + 1];
  for (int64_t i = windows.plane_start[piece.plane]; i < end; i += size) {
    piece.roi_begin = i;
    piece.roi_end = std::min(end, i + size);
    pieces.push_back(piece);
  }
}

// How many channels are read where they lie.
int64_t channels_in_place(const Problem& problem, const Windows& windows) {
  const int64_t lanes = lanes_of(problem), channels = problem.channels;
  const bool same_type = problem.dtype == kFloat32 || problem.dtype == kFloat64;
  bool innermost = true, one_input = true;
  for (int i = 0; i < problem.num_maps; ++i) {
    innermost &= problem.maps[i].features.c == 1 || channels == 1;
    one_input &= problem.maps[i].tangent.data == nullptr;
  }
  // Channels that are innermost are read where they lie, if a window of them fits the cache; else,
  // and for the last part of a block, packing pays.
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
  const int64_t planes = problem.num_maps * problem.images;
  windows.plane_start.assign(static_cast<size_t>(planes) + 1, 0);
  for (const Roi* roi : sorted) {
    ++windows.plane_start[roi->map * problem.images + roi->image + 1];
    windows.tallest = std::max<int64_t>(windows.tallest, roi->y_end - roi->y_begin);
    windows.widest = std::max<int64_t>(windows.widest, roi->x_end - roi->x_begin);
    windows.cells += static_cast<double>(roi->y_end - roi->y_begin) * (roi->x_end - roi->x_begin);
  }
  for (int64_t i = 0; i < planes; ++i) windows.plane_start[i + 1] += windows.plane_start[i];
  return windows;
}

PooledTask pooled_task(const PooledView& view) {
  return {view.data, view.per_image, view.image, view.row, view.c, view.h, view.w};
}

Task base_task(const Problem& problem, const Windows& windows) {
  Task task{};
  for (int i = 0; i < problem.num_maps; ++i) {  // scratch is enough for the largest
    task.width = std::max(task.width, problem.maps[i].width);
    task.height = std::max(task.height, problem.maps[i].height);
  }
  task.output_height = problem.output_height;
  task.output_width = problem.output_width;
  task.max_cells = windows.max_cells;
  task.max_width = windows.widest;
  task.ring_rows = 2;
  while (task.ring_rows < windows.tallest &&
         2 * task.ring_rows * packed_lines(task.width) * kBlockBytes <= kRingBytes)
    task.ring_rows *= 2;
  const double results = static_cast<double>(problem.rois) * problem.output_height *
                         static_cast<double>(problem.output_width) * problem.channels;
  task.streams = results * problem.dtype.bits / 8 > kStreamBytes;
  task.pooled = pooled_task(problem.pooled);
  return task;
}

void run_average(const Problem& problem, const Windows& windows, const Task& base) {
  if (base.width > kSweepWidth || base.height * base.width > kSweepCells)
    return run_by_roi(problem, windows, base, kernels_for(problem.dtype).taps_forward);
  const int64_t lanes = lanes_of(problem), channels = problem.channels;
  expect_pooled(problem, problem.pooled, problem.dtype.bits / 8);
  const int64_t direct = channels_in_place(problem, windows);
  Task task = base;
  const int64_t row_bytes = packed_lines(task.width) * kBlockBytes;
  while (task.ring_rows > kLowestRing && task.ring_rows * row_bytes > kSweepBytes)
    task.ring_rows /= 2;
  const int64_t grid_bytes = problem.output_height * problem.output_width * kBlockBytes;
  const int64_t most_slots = std::max<int64_t>(1, kSlotBytes / std::max<int64_t>(1, grid_bytes));

  const int64_t planes = problem.num_maps * problem.images;
  const int64_t blocks = (channels - direct + lanes - 1) / lanes;
  const int64_t wanted = wanted_tasks(work(problem, windows));
  const int64_t shares = std::max<int64_t>(1, wanted / std::max<int64_t>(1, planes * blocks));
  std::vector<Part> parts;
  std::vector<PartBatch> batches;
  for (int64_t i = 0; blocks > 0 && i < planes; ++i)
    task.slots = std::max(
        task.slots, make_parts(windows, i, shares, task.ring_rows, most_slots, parts, batches));
  task.parts = parts.data();

  std::vector<Piece> pieces;
  for (int64_t i = 0; direct > 0 && i < planes; ++i)
    split_rois(pieces, windows, {i, 0, 0, 0, direct, true}, kDirectRois);
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
  const int64_t planes = problem.num_maps * problem.images;
  const int64_t parts = std::max<int64_t>(1, wanted / std::max<int64_t>(1, planes * blocks));
  std::vector<Piece> pieces;
  for (int64_t i = 0; i < planes; ++i) {
    if (direct > 0) split_rois(pieces, windows, {i, 0, 0, 0, direct, true}, kDirectRois);
    const int64_t rois = windows.plane_start[i + 1] - windows.plane_start[i];
    for (int64_t channel = direct; channel < channels; channel += lanes)
      split_rois(pieces, windows, {i, 0, 0, channel, std::min(lanes, channels - channel), false},
                 std::max<int64_t>(1, (rois + parts - 1) / parts));
  }
  run_pieces(problem, windows, task, kernel, pieces, work(problem, windows),
             problem.maps[0].tangent.data == nullptr ? 1 : 2);
}

namespace {

// Whether the bins of a channel follow each other, and channels do.
bool in_planes(const PooledTask& pooled, const Problem& problem) {
  const int64_t bins = problem.output_height * problem.output_width;
  return pooled.w == 1 && pooled.h == problem.output_width &&
         (pooled.c == bins || problem.channels == 1);
}

// How the gradient of a map is cut: into bands of rows and columns, for so many blocks of channels.
struct Cut {
  int64_t band, columns;
  int64_t rows_kept, blocks;
};

struct CutLimits {
  int64_t columns, shortest_band;
  int64_t shares, shortest_share;  // so many bands, if they do not get lower than this
  int64_t blocks;
  int64_t bytes;  // in one block of channels
};

Cut cut_map(const Map& map, int64_t tallest, const CutLimits& most) {
  Cut cut{map.height, std::min(map.width, most.columns), 1, 1};
  const auto bytes = [&](int64_t blocks) {
    return cut.rows_kept * packed_lines(cut.columns, blocks) * kBlockBytes;
  };
  tallest = std::min(tallest, map.height);
  while (cut.rows_kept < tallest) cut.rows_kept *= 2;
  while (cut.rows_kept > most.shortest_band && bytes(1) > most.bytes) cut.rows_kept /= 2;
  while (cut.blocks < most.blocks && bytes(cut.blocks + 1) <= kRingBytes) ++cut.blocks;
  // As long as a window needs no more rows than are kept, rows are written as the windows go down
  // the map; else a band has as many as are kept.
  if (cut.rows_kept < tallest) cut.band = cut.rows_kept;
  cut.band = std::min(cut.band,
                      std::max(most.shortest_share, (map.height + most.shares - 1) / most.shares));
  const int64_t bands = (map.height + cut.band - 1) / cut.band;
  cut.band = (map.height + bands - 1) / bands;
  return cut;
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
  // What RoIPool adds lies as it is added up: neither has to be transposed.
  const bool bins_in_planes = (problem.dtype == kFloat32 || problem.dtype == kFloat64) &&
                              in_planes(base.pooled, problem) && in_planes(base.argmax, problem);
  // Where each band makes the tables of its RoIs anew, or reads more than it adds up, few bands are
  // better than the cache.
  const bool few_bands = base.linear || (rois.made.empty() && problem.rois > 0);
  const int64_t wanted = wanted_tasks(few_bands ? 0 : 2 * work(problem, windows));
  // Blocks that lie together in memory are read together, as long as every thread has tasks.
  const double window =
      std::max(1.0, windows.cells / static_cast<double>(std::max<int64_t>(1, problem.rois)));
  const int64_t most_blocks =
      std::clamp<int64_t>(std::min(image_blocks / wanted_tasks(0),
                                   static_cast<int64_t>(kBlocksWindow / kBlockBytes / window)),
                          1, std::min(given.most_blocks, blocks));
  std::vector<Task> pieces;
  double written = 0;
  int64_t bytes = 0;
  for (int64_t i = 0; i < problem.num_maps * problem.images; ++i) {
    const Map& map = problem.maps[i / problem.images];
    written += static_cast<double>(map.height) * static_cast<double>(map.width);
    if (map.height == 0 || map.width == 0) continue;
    base.in_place =
        base.linear && bins_in_planes && map.gradient.w == 1 && map.gradient.h == map.width;
    const Cut cut =
        cut_map(map, base.in_place ? 1 : windows.tallest,
                {base.linear ? map.width : kGradientColumns, base.linear ? 1 : kShortestBand,
                 (wanted + image_blocks - 1) / std::max<int64_t>(1, image_blocks),
                 base.linear ? std::max(kShortestBand, windows.tallest) : kShortestBand,
                 map.gradient.c == 1 && !base.in_place ? most_blocks : 1,
                 few_bands ? kRingBytes : kGradientBytes});
    const int64_t step = cut.blocks * lanes;
    for (int64_t channel = 0; channel < channels; channel += step) {
      Task task =
          part_of(problem, base, i / problem.images, channel, std::min(step, channels - channel));
      task.image = i % problem.images;
      task.list = {rois.windows.data(), nullptr, windows.plane_start[i]};
      task.count = windows.plane_start[i + 1] - windows.plane_start[i];
      task.gradient_rows = cut.rows_kept;
      task.gradient_blocks = cut.blocks;
      for (int64_t y = 0; y < map.height; y += cut.band)
        for (int64_t x = 0; x < map.width; x += cut.columns) {
          task.y_begin = y;
          task.y_end = std::min(map.height, y + cut.band);
          task.x_begin = x;
          task.x_end = std::min(map.width, x + cut.columns);
          if (!task.in_place) bytes = std::max(bytes, scratch_bytes(task, 1));
          pieces.push_back(task);
        }
    }
  }
  written *= static_cast<double>(channels);
  const bool streams = written * problem.dtype.bits / 8 > kStreamBytes;
  const double nanoseconds = 2 * work(problem, windows) + written * 2 * kNanoseconds;
  parallel(static_cast<int64_t>(pieces.size()), nanoseconds, [&](Tasks& tasks) {
    const std::unique_ptr<char, Deleter> memory = take_memory(bytes);
    ThreadBatch batch(rois);
    for (int64_t i = 0; tasks.next(i);) {
      Task task = pieces[i];
      task.streams = streams;
      task.list.batch = &batch;
      batch.stop = task.list.first + task.count;
      task.scratch = {memory.get(), memory.get() + bytes};
      kernel(task);
    }
  });
}

void run_by_box(const Problem& problem, const Windows& windows, const Task& task, Kernel kernel) {
  std::vector<Piece> pieces;
  const int64_t wanted = wanted_tasks(4 * work(problem, windows));
  const int64_t size = std::max<int64_t>(1, (problem.rois + wanted - 1) / wanted);
  for (int64_t i = 0; i < problem.num_maps * problem.images; ++i)
    split_rois(pieces, windows, {i, 0, 0, 0, problem.channels, false}, size);
  run_pieces(problem, windows, task, kernel, pieces, 4 * work(problem, windows), 1);
}

}  // namespace roidl::cpu
