// What the kernels are given and what they offer: one table per instruction set and storage type.
// Plain data only: this header is compiled under every instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../dtype.h"
#include "tuning.h"

namespace roidl::cpu {

// Kernels work on blocks of channels, one cache line of accumulators.
inline constexpr int kBlockBytes = 64;
// Lines from the sums of one column to those of the next: with eight, they would share an eighth of
// the sets of the cache.
inline constexpr int kSumsLines = kRowsTogether + 1;

// What another thread may write to meanwhile: what is used is what was checked.
[[gnu::always_inline]] inline int32_t read_once(const int32_t* from) {
  return *static_cast<const volatile int32_t*>(from);
}

// The sparse matrix of one axis of one RoI: bin p is the sum of weight * cell over its taps. Their
// cells ascend, in boxes that are turned around as well; from bin to bin they go either way.
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
  const bool* off_before = nullptr;  // [bins]: samples of the bin lie off the map, before these
  const bool* off_after = nullptr;   // [bins]: or after them
  const int32_t* low = nullptr;      // [samples]: the cells and their weights
  const int32_t* high = nullptr;
  const A* weight_low = nullptr;
  const A* weight_high = nullptr;
  const A* derivative_low = nullptr;   // [samples]: of the position to the box's lower edge,
  const A* derivative_high = nullptr;  // and to its upper one; 0 where the value was clamped
};

// One axis of one RoI of RoIPool: bin p covers the cells [begin[p], end[p]).
struct Bins {
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
};

// What every RoI has: where its results lie and the window of cells that it touches. Its tables, of
// one of the types below, may be made later.
struct Roi {
  int64_t row = 0;  // k
  int64_t image = 0;
  int64_t map = 0;
  int32_t y_begin = 0, y_end = 0, x_begin = 0, x_end = 0;
};

template <class A>
struct TapsRoi : Roi {
  Taps<A> y, x;
  // To the lower and the upper edge, for the gradient to the boxes; or [0]: along the direction of
  // the box, for jvp_boxes. Unless they are to be transposed, their taps are on differences: of
  // the cell behind each along the axis and the cell itself. The weights of a derivative add up to
  // zero, so that what features have in common would take digits away. Two with taps on the same
  // cells share their places.
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

// The RoIs whose tables exist: [begin, end) of those of the problem.
struct TableBatch {
  const Roi* const* rois;
  int64_t begin, end;
  int64_t stop;                                    // a task needs none from here on
  Area area;                                       // and nothing outside of this
  void (*make)(TableBatch& batch, int64_t first);  // makes as many others as are kept at a time
};

// RoIs whose tables may have to be made first.
struct RoiList {
  const Roi* windows;
  TableBatch* batch;
  int64_t first;

  const Roi& window(int64_t i) const { return windows[first + i]; }
  // With its tables. They may be gone when another RoI is asked for.
  const Roi* operator[](int64_t i) const {
    const int64_t at = first + i;
    if (at < batch->begin || at >= batch->end) batch->make(*batch, at);
    return batch->rois[at - batch->begin];
  }
};

// Rows [begin, end) of a RoI's window, no more than the ring holds, and the rows of bins that have
// taps there. A RoI of several parts has a slot for their sums.
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

// The first index in [first, last) for which `is` holds, as it does for all behind it; or last.
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

// A kernel works through the RoIs of one image on some channels of it.
struct Task {
  const Roi* const* rois;  // of one image, by first row of the map
  int64_t count;
  const Part* parts;  // or these, by first row
  int64_t part_count;
  int64_t part_rows;  // of the map, in any of the parts
  int64_t slots;
  int64_t image;
  int64_t height, width;
  int64_t output_height, output_width;
  int64_t channels;
  bool direct;           // channels are innermost and whole blocks: the map is read where it lies
  int64_t ring_rows;     // rows of a packed plane that are kept, a power of two
  int64_t ring_columns;  // and so much of each: all, or whole tiles with room for any window
  int64_t max_cells;     // the most distinct rows or columns that a RoI touches
  int64_t max_width;     // the widest window
  bool streams;          // the results are too many for the caches
  bool onnx;             // the max modes: over weighted corners instead of interpolated samples
  // For gradients to the maps: the RoIs, the part of the map that the task writes, and the rows of
  // it that are summed up at a time: all of them, or as many as the tallest window has.
  RoiList list;
  int64_t y_begin, y_end, x_begin, x_end;
  // Where windows reach beyond what is summed up at a time, a kernel that should see each window
  // once goes through the part of the map in pieces.
  int64_t piece_height, piece_width;
  bool in_pieces;
  int64_t gradient_rows;    // a power of two
  int64_t gradient_blocks;  // of channels, innermost in the gradient and summed up side by side
  bool linear;              // rows of sums follow each other as those of the map: argmaxes count so
  // And are the map's gradient itself, in one block of channels at most; the bins of a channel
  // follow each other, too.
  bool in_place;
  MapTask features, tangent, gradient;
  PooledTask pooled, argmax;
  int64_t* wrong_cell;     // where an argmax is reported that cannot be its box's
  double* boxes_gradient;  // [K, 4], added to
  Scratch scratch;
};

// Bins of how many output rows are worked on together: fewer where a row of sums is long.
inline int64_t rows_together(const Task& task) {
  const int64_t row = task.max_cells * (task.direct ? kBlocksTogether : 1) * kBlockBytes;
  const int64_t rows = kRowsBytes / row;
  return rows < 1 ? 1 : rows < kRowsTogether ? rows : kRowsTogether;
}

// Lines from one packed row of cells to the next, with room for a whole tile behind the last. An
// odd number: rows that lie a multiple of many lines apart meet in few sets of the caches.
inline int64_t packed_lines(int64_t width, int64_t blocks = 1) { return (width + 16) * blocks | 1; }

// What one task may take from its scratch, for any kernel that packs so many planes.
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

// Where a winner of a max mode stands, and its weights there: of the cell, and of the next along
// the axis, which is not looked at if its weight is 0.
template <class A>
struct WinnerCells {
  int32_t y, x;  // -1: no feature moves it
  A weight_y[2], weight_x[2];
};

// The winners that a kernel keeps that goes through a map in pieces, of all RoIs of an image.
inline int64_t kept_bytes(const Task& task, int64_t accumulator_bytes) {
  if (!task.in_pieces) return 0;
  const int64_t bins = task.output_height * task.output_width;
  const int64_t cells = 2 * sizeof(int32_t) + 4 * accumulator_bytes;
  return task.count * (bins * task.channels * cells + 1) + 2 * kBlockBytes;
}

// What a task of taps_sweep may take.
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
  void (*taps_sweep)(const Task&);  // taps_forward in parts
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
