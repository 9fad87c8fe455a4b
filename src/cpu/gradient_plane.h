// GradientPlane: where a task sums up the gradient of its part of a map, channels innermost, before
// every row of it is written once.
#pragma once
#include "plane.h"

namespace roidl::cpu {
namespace {

template <class T>
class GradientPlane {
 public:
  using A = accumulator<T>;

  GradientPlane(const Task& task, Scratch& scratch)
      : task_(task),
        cell_(task.gradient_blocks * kLanes<A>),
        width_(task.x_end - task.x_begin),
        row_(packed_lines(width_, task.gradient_blocks) * kLanes<A>),
        state_(scratch.take<State>(task.gradient_rows)),
        data_(scratch.take<A>(task.gradient_rows * row_)),
        next_(task.y_begin),
        lines_(scratch.take<T>((width_ + kTile) * kLanes<A>)) {
    for (int64_t i = 0; i < task.gradient_rows; ++i) state_[i].y = -1;
    std::memset(static_cast<void*>(lines_), 0, (width_ + kTile) * kLanes<A> * sizeof(T));
  }

  // Channels [block * kLanes, (block + 1) * kLanes) of the task's.
  Plane<A> plane(int64_t block) const {
    return {data_ - task_.x_begin * cell_ + block * kLanes<A>, row_, cell_,
            task_.gradient_rows - 1};
  }

  // Makes cells [begin, end) of row y, if they are of the task's part, ready to be added to.
  void touch(int64_t y, int64_t begin, int64_t end) {
    begin = most(0, begin - task_.x_begin) / kTile;
    end = (least(end - task_.x_begin, width_) + kTile - 1) / kTile;
    if (y < task_.y_begin || y >= task_.y_end) return;
    State& state = state_[y & (task_.gradient_rows - 1)];
    if (state.y != y) state = {y, {}};
    for (int word = 0; word < kWords; ++word) {
      const uint64_t added = bits(begin - word * 64, end - word * 64) & ~state.tiles.word[word];
      state.tiles.word[word] |= added;
      for_each_bit(added, [&](int64_t bit) {
        std::memset(static_cast<void*>(cells(y, (word * 64 + bit) * kTile)), 0,
                    kTile * cell_ * sizeof(A));
      });
    }
  }

  // Writes the rows before y; nothing is added to them any more.
  void write_up_to(int64_t y) {
    for (; next_ < least(y, task_.y_end); ++next_) write(next_);
  }

 private:
  // A bit for every kTile cells of a row.
  static constexpr int kWords = kGradientColumns / kTile / 64;
  struct TilesOfRow {
    uint64_t word[kWords];

    bool has(int64_t tile) const { return (word[tile / 64] >> tile % 64 & 1) != 0; }
  };
  // The tiles of row y that something was added to; what was never touched is zero.
  struct State {
    int64_t y;
    TilesOfRow tiles;
  };

  // Bits [begin, end), as far as there are such.
  static uint64_t bits(int64_t begin, int64_t end) {
    begin = most(0, begin);
    end = least(64, end);
    return begin < end ? ~uint64_t{0} << begin & ~uint64_t{0} >> (64 - end) : 0;
  }
  template <class Visit>
  ROIDL_INLINE static void for_each_bit(uint64_t set, Visit&& visit) {
    for (; set != 0; set &= set - 1) visit(__builtin_ctzll(set));
  }

  // Columns count from the first of the task's.
  A* cells(int64_t y, int64_t x) const {
    return data_ + (y & (task_.gradient_rows - 1)) * row_ + x * cell_;
  }

  void write(int64_t y) {
    const State& state = state_[y & (task_.gradient_rows - 1)];
    const TilesOfRow tiles = state.y == y ? state.tiles : TilesOfRow{};
    Row<T> row = map_row<T>(task_.gradient, task_.image, 0, y);
    row.data += task_.x_begin * row.cell_stride;
    if (row.cell_stride == 1 && cell_ == kLanes<A>) return write_lines(y, tiles, row);
    const auto at = [&](int64_t x) {
      return Row<T>{row.data + x * row.cell_stride, row.channel_stride, row.cell_stride};
    };
    if constexpr (sizeof(T) == sizeof(A)) {
      // A cell's channels are whole lines: nothing of them needs to be fetched first.
      if (task_.streams && row.channel_stride == 1 && task_.channels == cell_) {
        const A zero[kMostGradientBlocks * kLanes<A>] = {};
        for (int64_t x = 0; x < width_; ++x)
          stream(at(x).data, reinterpret_cast<const T*>(tiles.has(x / kTile) ? cells(y, x) : zero),
                 cell_);
        return;
      }
    }
    for (int64_t x = 0; x < width_; x += kTile) {
      const int64_t count = least(kTile, width_ - x);
      if (tiles.has(x / kTile))
        unpack<T>(cells(y, x), cell_, count, task_.channels, at(x));
      else
        clear(at(x), count, task_.channels);
    }
  }

  // A row of one channel after the other: whole lines at a time, past the caches.
  void write_lines(int64_t y, const TilesOfRow& tiles, const Row<T>& row) {
    const int64_t line = width_ + kTile;
    for (int word = 0; word < kWords; ++word) {
      for_each_bit(tiles.word[word], [&](int64_t bit) {
        const int64_t x = (word * 64 + bit) * kTile;
        unpack<T>(cells(y, x), kTile, kLanes<A>, {lines_ + x, line, 1});
      });
      for_each_bit(written_.word[word] & ~tiles.word[word], [&](int64_t bit) {
        clear(Row<T>{lines_ + (word * 64 + bit) * kTile, line, 1}, kTile, kLanes<A>);
      });
    }
    written_ = tiles;
    for (int64_t c = 0; c < task_.channels; ++c) {
      T* to = row.data + c * row.channel_stride;
      if (task_.streams)
        stream(to, lines_ + c * line, width_);
      else
        std::memcpy(static_cast<void*>(to), lines_ + c * line, width_ * sizeof(T));
    }
  }

  const Task& task_;
  int64_t cell_, width_, row_;  // strides in data_
  State* state_;
  A* data_;
  int64_t next_;  // the first row that is not written yet
  T* lines_;      // a row, channels outermost: zero but for these tiles
  TilesOfRow written_{};
};

// Fetches what the next RoI adds: RoIs are worked through in another order than they lie in memory,
// so that nothing else would.
template <class T>
void prefetch_grid(const Task& task, int64_t k) {
  const PooledTask& pooled = task.pooled;
  const int64_t bins = task.output_height * task.output_width;
  if (pooled.w != 1 || pooled.h != task.output_width || pooled.c != bins) return;
  const char* from = reinterpret_cast<const char*>(pooled_row<const T>(pooled, k, 0));
  const int64_t bytes = task.channels * bins * static_cast<int64_t>(sizeof(T));
  for (int64_t at = 0; at < bytes; at += kBlockBytes) __builtin_prefetch(from + at);
}

// Calls add(roi, gradient) with the rows ready that `touch` names as touch(y, begin, end), in the
// order of the RoIs, for those that meet the task's part of the map; every cell of that is written
// exactly once.
template <class T, class RoiType, class Touch, class Add>
void gather_gradient(const Task& task, Scratch& scratch, Touch&& touch, Add&& add) {
  GradientPlane<T> gradient(task, scratch);
  for (int64_t i = 0; i < task.count; ++i) {
    const Roi& window = task.list.window(i);
    if (window.y_begin >= task.y_end) break;
    if (window.y_end <= task.y_begin || window.x_end <= task.x_begin ||
        window.x_begin >= task.x_end)
      continue;
    gradient.write_up_to(window.y_begin);
    if (i + 1 < task.count) prefetch_grid<T>(task, task.list.window(i + 1).row);
    const RoiType& roi = static_cast<const RoiType&>(*task.list[i]);
    touch(roi, [&](int64_t y, int64_t begin, int64_t end) { gradient.touch(y, begin, end); });
    add(roi, gradient);
  }
  gradient.write_up_to(task.y_end);
  end_streams();
}

}  // namespace
}  // namespace roidl::cpu
