// Plane: one block of channels of one image, channels innermost: packed row by row when it is
// needed, or the tensor itself. Also the loads and stores between blocks and the caller's strided
// arrays.
#pragma once
#include "block.h"

namespace roidl::cpu {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a < b ? b : a; }

// Cell (y, x) lies at row(y) + x * cell_stride.
template <class A>
struct Plane {
  A* base;
  int64_t row_stride;
  int64_t cell_stride;
  int64_t row_mask;  // the rows of a packed plane are a ring

  ROIDL_INLINE A* row(int64_t y) const { return base + (y & row_mask) * row_stride; }
};

// One strided row of `count` cells for `channels` channels, to or from [count][kLanes].
template <class T>
struct Row {
  T* data;
  int64_t channel_stride, cell_stride;
};

inline constexpr int kTile = 16;  // cells that are converted and transposed together

// Packs one tile of at most kTile cells; its cells are contiguous, and absent channels are 0.
template <class T>
ROIDL_INLINE void pack_tile(const T* from, int64_t channel_stride, int64_t channels, int64_t cells,
                            accumulator<T>* to, int64_t to_stride) {
  using A = accumulator<T>;
  constexpr int lanes = kLanes<A>;
  if constexpr (sizeof(T) == sizeof(A)) {
    if (channels == lanes) return transpose(from, channel_stride, lanes, cells, to, to_stride);
  }
  A tile[lanes * kTile] = {};
  for (int64_t c = 0; c < channels; ++c) {
    const T* line = from + c * channel_stride;
    for (int64_t i = 0; i < cells; ++i) tile[c * kTile + i] = static_cast<A>(line[i]);
  }
  transpose(tile, kTile, lanes, cells, to, to_stride);
}

template <class T>
void pack(const Row<const T>& from, int64_t count, int64_t channels, accumulator<T>* to,
          int64_t to_stride = kLanes<accumulator<T>>) {
  using A = accumulator<T>;
  constexpr int lanes = kLanes<A>;
  if (from.cell_stride == 1) {
    for (int64_t x = 0; x < count; x += kTile)
      pack_tile<T>(from.data + x, from.channel_stride, channels, least(kTile, count - x),
                   to + x * to_stride, to_stride);
    return;
  }
  for (int64_t x = 0; x < count; ++x) {
    A* cell = to + x * to_stride;
    const T* source = from.data + x * from.cell_stride;
    if (channels == lanes && from.channel_stride == 1) {
      Block<A> block;
      if constexpr (sizeof(T) == sizeof(A)) {
        block = load(source);
      } else {
        A values[lanes];
        for (int c = 0; c < lanes; ++c) values[c] = static_cast<A>(source[c]);
        block = load(values);
      }
      store(cell, block);
      continue;
    }
    for (int64_t c = 0; c < channels; ++c)
      cell[c] = static_cast<A>(source[c * from.channel_stride]);
    for (int64_t c = channels; c < lanes; ++c) cell[c] = 0;
  }
}

// `from` holds one block for each cell, or several side by side.
template <class T>
void unpack(const accumulator<T>* from, int64_t from_stride, int64_t count, int64_t channels,
            const Row<T>& to) {
  using A = accumulator<T>;
  constexpr int lanes = kLanes<A>;
  if (channels <= lanes && to.cell_stride == 1) {
    for (int64_t x = 0; x < count; x += kTile) {
      const int64_t cells = least(kTile, count - x);
      if constexpr (sizeof(T) == sizeof(A)) {
        if (channels == lanes) {
          transpose(from + x * from_stride, from_stride, cells, lanes, to.data + x,
                    to.channel_stride);
          continue;
        }
      }
      A tile[lanes * kTile];
      transpose(from + x * from_stride, from_stride, cells, lanes, tile, kTile);
      for (int64_t c = 0; c < channels; ++c) {
        T* line = to.data + c * to.channel_stride + x;
        for (int64_t i = 0; i < cells; ++i) line[i] = static_cast<T>(tile[c * kTile + i]);
      }
    }
    return;
  }
  for (int64_t x = 0; x < count; ++x) {
    const A* cell = from + x * from_stride;
    T* target = to.data + x * to.cell_stride;
    if constexpr (sizeof(T) == sizeof(A)) {
      if (to.channel_stride == 1) {
        std::memcpy(target, cell, channels * sizeof(A));
        continue;
      }
    }
    for (int64_t c = 0; c < channels; ++c) target[c * to.channel_stride] = static_cast<T>(cell[c]);
  }
}

template <class T>
void unpack(const accumulator<T>* from, int64_t count, int64_t channels, const Row<T>& to) {
  unpack<T>(from, most(kLanes<accumulator<T>>, channels), count, channels, to);
}

template <class T>
void clear(const Row<T>& row, int64_t count, int64_t channels) {
  if (row.channel_stride == 1 && row.cell_stride != 1) {
    for (int64_t x = 0; x < count; ++x)
      std::memset(static_cast<void*>(row.data + x * row.cell_stride), 0, channels * sizeof(T));
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    T* line = row.data + c * row.channel_stride;
    if (row.cell_stride == 1)
      std::memset(static_cast<void*>(line), 0, count * sizeof(T));
    else
      for (int64_t x = 0; x < count; ++x) line[x * row.cell_stride] = T(0.0f);
  }
}

template <class T>
ROIDL_INLINE Row<T> map_row(const MapTask& map, int64_t image, int64_t channel, int64_t y) {
  return {static_cast<T*>(map.data) + image * map.n + channel * map.c + y * map.h, map.c, map.w};
}

// A ring of packed rows: which row of the map each holds, and which of its cells.
template <class T>
class PackedPlane {
 public:
  using A = accumulator<T>;

  PackedPlane(const Task& task, Scratch& scratch)
      : width_(task.width),
        columns_(task.ring_columns),
        rows_(task.direct ? 0 : task.ring_rows),
        state_(scratch.take<State>(rows_)) {
    const int64_t row_bytes = packed_lines(columns_) * kBlockBytes;
    data_ = reinterpret_cast<A*>(scratch.take<char>(rows_ * row_bytes));
    plane_ = {data_, row_bytes / static_cast<int64_t>(sizeof(A)), kLanes<A>, rows_ - 1};
  }
  const Plane<A>& plane() const { return plane_; }

  // Makes room for the cells [begin, end) of rows. In a map that is wider than the ring, this may
  // replace the columns that were kept.
  void reach(int64_t begin, int64_t end) {
    if (begin >= first_ && end <= first_ + columns_) return;
    first_ = begin / kTile * kTile;
    plane_.base = data_ - first_ * kLanes<A>;
    forget();
  }

  void forget() {
    for (int64_t i = 0; i < rows_; ++i) state_[i].y = -1;
  }

  // Reads the features of the cells [begin, end) of row y.
  ROIDL_INLINE void read(const MapTask& map, int64_t image, int64_t channel, int64_t channels,
                         int64_t y, int64_t begin, int64_t end) {
    const State& state = state_[y & plane_.row_mask];
    if (state.y != y || begin < state.begin || end > state.end)
      read_more(map, image, channel, channels, y, begin, end);
  }

 private:
  struct State {
    int64_t y, begin, end;
  };

  void read_more(const MapTask& map, int64_t image, int64_t channel, int64_t channels, int64_t y,
                 int64_t begin, int64_t end) {
    extend(y, begin, end, [&](int64_t from, int64_t to) {
      Row<const T> row = map_row<const T>(map, image, channel, y);
      row.data += from * row.cell_stride;
      pack<T>(row, to - from, channels, plane_.row(y) + from * kLanes<A>);
    });
  }
  template <class Fill>
  ROIDL_INLINE void extend(int64_t y, int64_t begin, int64_t end, Fill&& fill) {
    State& state = state_[y & plane_.row_mask];
    // Whole tiles are read: neighbouring RoIs soon need the rest, and transposing a whole tile
    // costs no more.
    begin = begin / kTile * kTile;
    end = least((end + kTile - 1) / kTile * kTile, width_);
    if (state.y != y) {
      state = {y, begin, end};
      fill(begin, end);
      return;
    }
    if (begin < state.begin) {
      fill(begin, state.begin);
      state.begin = begin;
    }
    if (end > state.end) {
      fill(state.end, end);
      state.end = end;
    }
  }

  int64_t width_, columns_, rows_;
  int64_t first_ = 0;  // the first column that is kept, a multiple of kTile
  State* state_;
  A* data_;
  Plane<A> plane_;
};

template <class T>
ROIDL_INLINE T* pooled_row(const PooledTask& pooled, int64_t k, int64_t channel) {
  const int64_t image = pooled.per_image > 0 ? k / pooled.per_image : 0;
  return static_cast<T*>(pooled.data) + image * pooled.image +
         (k - image * pooled.per_image) * pooled.row + channel * pooled.c;
}

// The grid of bins of RoI k, [bins][kLanes], from or to the caller's array. Bins that are
// contiguous in memory are moved as one row.
template <class T, class Move>
ROIDL_INLINE void for_each_grid_row(const PooledTask& pooled, const Task& task, int64_t k,
                                    int64_t channel, Move&& move) {
  T* data = pooled_row<T>(pooled, k, channel);
  const int64_t height = task.output_height, width = task.output_width;
  if (pooled.h == width * pooled.w || height == 1)
    return move(Row<T>{data, pooled.c, pooled.w}, int64_t{0}, height * width);
  for (int64_t p = 0; p < height; ++p)
    move(Row<T>{data + p * pooled.h, pooled.c, pooled.w}, p * width, width);
}

template <class T>
void load_grid(const PooledTask& pooled, const Task& task, int64_t k, int64_t channel,
               int64_t channels, accumulator<T>* grid) {
  for_each_grid_row<const T>(pooled, task, k, channel,
                             [&](const Row<const T>& row, int64_t first, int64_t count) {
                               pack<T>(row, count, channels, grid + first * kLanes<accumulator<T>>);
                             });
}

// Loads the argmax of each bin of RoI k in the same way.
template <class A>
void load_argmax(const Task& task, int64_t k, int64_t channel, int64_t channels, int32_t* grid) {
  if constexpr (sizeof(A) == sizeof(int32_t)) {
    // Indices have the size of floats and are moved as such.
    load_grid<float>(task.argmax, task, k, channel, channels, reinterpret_cast<float*>(grid));
  } else {
    for_each_grid_row<const int32_t>(
        task.argmax, task, k, channel,
        [&](const Row<const int32_t>& row, int64_t first, int64_t count) {
          for (int64_t i = 0; i < count; ++i)
            for (int64_t c = 0; c < channels; ++c)
              grid[(first + i) * kLanes<A> + c] =
                  row.data[i * row.cell_stride + c * row.channel_stride];
        });
  }
}

// Cells of `grid` lie grid_stride apart. `staging` has room for a grid; without it, or if the
// results of a block are not contiguous, the results are stored through the caches.
template <class T>
void store_grid(const accumulator<T>* grid, const PooledTask& pooled, const Task& task, int64_t k,
                int64_t channel, int64_t channels, T* staging, int64_t grid_stride) {
  constexpr int64_t lanes = kLanes<accumulator<T>>;
  const int64_t bins = task.output_height * task.output_width;
  const bool together = pooled.w == 1 && pooled.h == task.output_width && pooled.c == bins;
  if (staging != nullptr && together && channels == lanes) {
    unpack<T>(grid, grid_stride, bins, lanes, Row<T>{staging, bins, 1});
    stream(pooled_row<T>(pooled, k, channel), staging, bins * lanes);
    return;
  }
  if constexpr (sizeof(T) == sizeof(accumulator<T>)) {
    if (staging != nullptr && pooled.c == 1 && channels % lanes == 0) {
      T* row = pooled_row<T>(pooled, k, channel);
      for (int64_t p = 0; p < task.output_height; ++p)
        for (int64_t q = 0; q < task.output_width; ++q, grid += grid_stride)
          stream(row + p * pooled.h + q * pooled.w, reinterpret_cast<const T*>(grid), channels);
      return;
    }
  }
  for_each_grid_row<T>(pooled, task, k, channel,
                       [&](const Row<T>& row, int64_t first, int64_t count) {
                         unpack<T>(grid + first * grid_stride, grid_stride, count, channels, row);
                       });
}

template <class T>
void store_grid(const accumulator<T>* grid, const PooledTask& pooled, const Task& task, int64_t k,
                int64_t channel, int64_t channels, T* staging) {
  store_grid<T>(grid, pooled, task, k, channel, channels, staging,
                most(kLanes<accumulator<T>>, channels));
}

template <class T>
T* take_staging(const Task& task, Scratch& scratch) {
  const int64_t bins = task.output_height * task.output_width;
  return task.streams ? scratch.take<T>(bins * kLanes<accumulator<T>>) : nullptr;
}

}  // namespace
}  // namespace roidl::cpu
