// The arguments of kernels, and their table for each instruction set and storage type. Plain data
// only: this header is compiled under every instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../dtype.h"
#include "tuning.h"

namespace roidl::cpu {

// Kernels work on blocks of channels, one cache line of accumulators.
inline constexpr int kBlockBytes = 64;
// Cache lines from the sums of one column to those of the next. With eight lines, the sums would
// share an eighth of the sets of the cache.
inline constexpr int kSumsLines = kRowsTogether + 1;

// Reads a number once, so that the value that is used is the one that was checked, even if another
// thread writes to it.
[[gnu::always_inline]] inline int32_t read_once(const int32_t* from) {
  return *static_cast<const volatile int32_t*>(from);
}

// The sparse matrix of one axis of one RoI: bin p is the sum of weight * cell over its taps. The
// cells of a bin ascend, even if the box is reversed; from bin to bin they ascend or descend.
template <class A>
struct Taps {
  const int32_t* start = nullptr;     // [bins + 1]: the taps of bin p are start[p] .. start[p + 1]
  const int32_t* slot = nullptr;      // [taps]: an index into position
  const A* weight = nullptr;          // [taps]
  const int32_t* position = nullptr;  // [count]: the distinct cells, ascending
  int32_t count = 0;
  const int32_t* column_start = nullptr;  // [count + 1]: the same taps by cell, for the transpose
  const int32_t* column_bin = nullptr;    // [taps]
  const A* column_weight = nullptr;       // [taps]
};

// The samples of one axis of one RoI that lie on the map; the max modes need them one by one.
template <class A>
struct Samples {
  const int32_t* start = nullptr;    // [bins + 1]
  const bool* off_before = nullptr;  // [bins]: whether samples before these lie off the map
  const bool* off_after = nullptr;   // [bins]: whether samples after these do
  const int32_t* low = nullptr;      // [samples]: the cells and their weights
  const int32_t* high = nullptr;
  const A* weight_low = nullptr;
  const A* weight_high = nullptr;
  const A* derivative_low = nullptr;   // [samples]: derivative of the position to the lower
  const A* derivative_high = nullptr;  // and the upper edge; 0 where the value was clamped
};

// One axis of one RoI of RoIPool: bin p covers the cells [begin[p], end[p]).
struct Bins {
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
};

// The part that all types of RoIs share: the row of the results and the window of cells that the
// RoI touches. Its tables, of one of the types below, may be made later.
struct Roi {
  int64_t row = 0;  // k
  int64_t image = 0;
  int64_t map = 0;
  int32_t y_begin = 0, y_end = 0, x_begin = 0, x_end = 0;
};

template <class A>
struct TapsRoi : Roi {
  Taps<A> y, x;
  // The derivatives to the lower and the upper edge, for the gradient to the boxes; or in [0] alone
  // the derivative along the direction of the box, for jvp_boxes. Except in a transpose, their taps
  // are on differences: a cell's next neighbour along the axis minus the cell. The weights of a
  // derivative add up to zero, so a value that the features have in common would cost digits. Two
  // derivatives with taps on the same cells share `position`.
  Taps<A> y_derivative[2], x_derivative[2];
};

template <class A>
struct SamplesRoi : Roi {
  Samples<A> y, x;
};

struct BinsRoi : Roi {
  Bins y, x;
};

// A part of a map.
struct Area {
  int64_t y_begin, y_end, x_begin, x_end;
};

// The RoIs [begin, end) of the problem, whose tables exist.
struct TableBatch {
  const Roi* const* rois;
  int64_t begin, end;
  int64_t stop;                                    // end of the RoIs that the task needs
  Area area;                                       // the part of the map that it needs
  void (*make)(TableBatch& batch, int64_t first);  // makes the batch from `first` on
};

// RoIs whose tables are made when they are needed.
struct RoiList {
  const Roi* windows;
  TableBatch* batch;
  int64_t first;

  const Roi& window(int64_t i) const { return windows[first + i]; }
  // Returns a RoI with its tables, which are valid until another RoI is asked for.
  const Roi* operator[](int64_t i) const {
    const int64_t at = first + i;
    if (at < batch->begin || at >= batch->end) batch->make(*batch, at);
    return batch->rois[at - batch->begin];
  }
};

// Rows [begin, end) of a RoI's window, at most as many as the ring holds, and the rows of bins that
// have taps there. A RoI of several parts has a slot for its sums.
struct Part {
  const Roi* roi;
  int32_t begin, end;
  int32_t bin_begin, bin_end;
  int32_t slot;  // -1: the RoI is one part
  bool first, last;
};

// A bump allocator over memory that the caller owns.
struct Scratch {
  char* next;
  char* end;

  template <class T>
  T* take(int64_t count) {
    char* taken = next;
    next += (count * static_cast<int64_t>(sizeof(T)) + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    return reinterpret_cast<T*>(taken);
  }
};

// Returns the first index in [first, last) for which `is` holds, or `last`. It must hold for all
// indices behind that one.
template <class Int, class Is>
ROIDL_INLINE Int first_that(Int first, Int last, Is&& is) {
  while (first < last) {
    const Int middle = first + (last - first) / 2;
    if (is(middle))
      last = middle;
    else
      first = middle + 1;
  }
  return first;
}

// Strides in elements of the storage type.
struct MapTask {
  void* data;  // the first channel of the task, at image 0
  int64_t n, c, h, w;
};

struct PooledTask {
  void* data;  // the first channel of the task, at row 0
  int64_t per_image, image, row, c, h, w;
};

// A kernel processes the RoIs of one image for some of its channels.
struct Task {
  const Roi* const* rois;  // RoIs of one image, by first row of the map
  int64_t count;
  const Part* parts;  // instead of `rois`: parts of them, by first row
  int64_t part_count;
  int64_t part_rows;  // rows of the map that are in a part
  int64_t slots;
  int64_t image;
  int64_t height, width;
  int64_t output_height, output_width;
  int64_t channels;
  bool direct;           // channels are innermost and whole blocks: the map is read in place
  int64_t ring_rows;     // rows of a packed plane that are kept, a power of two
  int64_t ring_columns;  // columns of them: all, or whole tiles with room for any window
  int64_t max_cells;     // the most distinct rows or columns that a RoI touches
  int64_t max_width;     // the widest window
  bool streams;          // the results do not fit the caches
  bool onnx;  // the max modes: maxima of weighted corners instead of interpolated samples
  // For gradients to the maps: the RoIs, the part of the map that the task writes, and the number
  // of its rows that are summed at a time: all, or as many as the tallest window has.
  RoiList list;
  int64_t y_begin, y_end, x_begin, x_end;
  // If windows are larger than what is summed at a time, a kernel that should see each window once
  // goes through the part of the map in pieces.
  int64_t piece_height, piece_width;
  bool in_pieces;
  int64_t gradient_rows;    // a power of two
  int64_t gradient_blocks;  // blocks of channels, innermost in the gradient, summed together
  bool linear;              // rows of sums are contiguous, as an argmax counts cells
  // The sums are the map's gradient itself, in at most one block of channels; the bins of a channel
  // are contiguous, too.
  bool in_place;
  MapTask features, tangent, gradient;
  PooledTask pooled, argmax;
  int64_t* wrong_cell;     // receives an argmax that is not a cell of its box
  double* boxes_gradient;  // [K, 4], added to
  Scratch scratch;
};

// How many output rows of bins are computed together: fewer if a row of sums is long.
inline int64_t rows_together(const Task& task) {
  const int64_t row = task.max_cells * (task.direct ? kBlocksTogether : 1) * kBlockBytes;
  const int64_t rows = kRowsBytes / row;
  return rows < 1 ? 1 : rows < kRowsTogether ? rows : kRowsTogether;
}

// Cache lines from one packed row of cells to the next, with room for a whole tile behind the last
// cell. The number is odd: rows at a distance of a power of two lines would share few sets of the
// cache.
inline int64_t packed_lines(int64_t width, int64_t blocks = 1) { return (width + 16) * blocks | 1; }

// The scratch memory of one task, for any kernel that packs `planes` planes.
inline int64_t scratch_bytes(const Task& task, int planes) {
  constexpr int64_t line = kBlockBytes;
  const int64_t blocks = task.direct ? kBlocksTogether : 1;
  const int64_t plane =
      task.direct ? 0 : task.ring_rows * (packed_lines(task.ring_columns) + 1) * line;
  const int64_t part = task.piece_width;
  const int64_t spread = part < task.max_width ? part : task.max_width;
  const int64_t gradient =
      task.gradient_rows > 0
          ? task.gradient_rows * (packed_lines(part, task.gradient_blocks) + 1) * line +
                (part + 17) * line + (kSumsLines * spread + 2) * line
          : 0;
  const int64_t grid = (task.output_height * task.output_width * blocks + 1) * line;
  const int64_t sums = ((2 * rows_together(task) + 1) * blocks * task.max_cells + 2) * line;
  const int64_t places = (2 + 2 * kBlocksTogether) * task.max_cells * 8 + 8 * kPoolRows + 4 * line;
  const int64_t bests = (5 * task.output_width + 2) * line;
  return planes * plane + gradient + 3 * grid + sums + places + bests;
}

// The cell of a maximum of a max mode, and its weights along each axis: of the cell, and of the
// next, which is not read if its weight is 0.
template <class A>
struct WinnerCells {
  int32_t y, x;  // no cell: the maximum is the value of a sample off the map
  A weight_y[2], weight_x[2];
};

// The memory for the maxima of all RoIs of an image, which a kernel keeps if it goes through a map
// in pieces.
inline int64_t kept_bytes(const Task& task, int64_t accumulator_bytes) {
  if (!task.in_pieces) return 0;
  const int64_t bins = task.output_height * task.output_width;
  const int64_t cells = 2 * sizeof(int32_t) + 4 * accumulator_bytes;
  return task.count * (bins * task.channels * cells + 1) + 2 * kBlockBytes;
}

// The scratch memory of a task of taps_sweep.
inline int64_t sweep_scratch_bytes(const Task& task) {
  constexpr int64_t line = kBlockBytes;
  const int64_t blocks = task.direct ? kBlocksTogether : 1;
  const int64_t plane = task.direct ? 0 : task.ring_rows * packed_lines(task.width) * line;
  const int64_t tiles =
      task.direct ? 0
                  : task.part_rows * (task.width / 1024 + 1) * 8 + task.part_count * 16 + 4 * line;
  const int64_t grid = task.output_height * task.output_width * blocks * line;
  const int64_t sums = kSumsLines * task.max_width * blocks * line;
  return plane + tiles + (3 + task.slots) * grid + sums;
}

struct Kernels {
  void (*taps_sweep)(const Task&);  // taps_forward in parts of windows
  void (*taps_forward)(const Task&);
  void (*taps_backward)(const Task&);
  void (*taps_boxes)(const Task&);      // the gradient to the boxes
  void (*taps_jvp_boxes)(const Task&);  // the derivative along a direction of the boxes
  void (*taps_jvp_boxes_backward)(const Task&);
  void (*max_forward)(const Task&);
  void (*max_backward)(const Task&);
  void (*max_boxes)(const Task&);
  void (*max_jvp)(const Task&);
  void (*pool_forward)(const Task&);
  void (*pool_backward)(const Task&);
};

struct InstructionSet {
  const char* name;
  bool stress;         // compiled with ROIDL_STRESS
  Kernels kernels[4];  // float16, bfloat16, float32, float64
};

}  // namespace roidl::cpu
