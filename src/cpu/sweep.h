// Sweep: reads a map from top to bottom and packs each row once, into a ring that stays in the
// cache; Outflow: writes results gradually.
#pragma once
#include "plane.h"

namespace roidl::cpu {
namespace {

// The tiles of the map that a RoI of the task reads: one bit each, row by row. Only rows that are
// in a part have bits; parts that touch or overlap form one run of rows.
class Tiles {
 public:
  Tiles(const Task& task, Scratch& scratch)
      : words_(task.width / (64 * kTile) + 1),
        runs_(scratch.take<Run>(task.part_count + 1)),
        bits_(scratch.take<uint64_t>(task.part_rows * words_ + 1)) {}

  // Parts must be added in the order of their first rows.
  template <class A>
  void add(const Part& part, const TapsRoi<A>& roi) {
    if (runs_used_ == 0 || part.begin > end_) {
      runs_[runs_used_++] = {part.begin, rows_};
      end_ = part.begin;
    }
    for (; end_ < part.end; ++end_, ++rows_)
      for (int64_t i = 0; i < words_; ++i) bits_[rows_ * words_ + i] = 0;
    const Run& run = runs_[runs_used_ - 1];
    const Taps<A>& y = roi.y;
    for (int32_t i = first_that(0, y.count, [&](int32_t j) { return y.position[j] >= part.begin; });
         i < y.count && y.position[i] < part.end; ++i)
      for (int64_t tile = roi.x_begin / kTile; tile * kTile < roi.x_end; ++tile)
        bits_[(run.row + y.position[i] - run.y) * words_ + tile / 64] |= uint64_t{1} << tile % 64;
  }
  void end() {
    bits_[rows_ * words_] = 0;
    runs_[runs_used_] = {0, rows_};
  }

  // A run of rows of the map from y on; `row` is the first of them among the rows with bits.
  struct Run {
    int64_t y, row;
  };

  // Visits the tiles one by one, from the top.
  class Walk {
   public:
    Walk() = default;
    explicit Walk(const Tiles& tiles) : tiles_(&tiles), run_(tiles.runs_), left_(tiles.bits_[0]) {
      find();
    }
    bool done() const { return left_ == 0; }
    int64_t y() const { return row_ - run_->row + run_->y; }
    int64_t x() const {
      return ((word_ - row_ * tiles_->words_) * 64 + __builtin_ctzll(left_)) * kTile;
    }
    void next() {
      left_ &= left_ - 1;
      if (left_ == 0) find();
    }

   private:
    ROIDL_INLINE void find() {
      const int64_t words = tiles_->rows_ * tiles_->words_;
      while (left_ == 0 && ++word_ < words) left_ = tiles_->bits_[word_];
      if (left_ == 0) return;
      row_ = word_ / tiles_->words_;
      while (run_[1].row <= row_) ++run_;
    }

    const Tiles* tiles_ = nullptr;
    const Run* run_ = nullptr;
    int64_t word_ = 0, row_ = 0;
    uint64_t left_ = 0;
  };

 private:
  int64_t words_;
  Run* runs_;
  uint64_t* bits_;
  int64_t runs_used_ = 0, rows_ = 0;
  int64_t end_ = 0;  // end of the last run
};

// The rows of the map, packed in order into a ring; of each, only the tiles that are read.
template <class T>
class Sweep {
 public:
  using A = accumulator<T>;

  Sweep(const Task& task, Scratch& scratch) : task_(task), tiles_(task, scratch) {
    const int64_t row = packed_lines(task.width) * kLanes<A>;
    plane_ = {scratch.take<A>(task.ring_rows * row), row, kLanes<A>, task.ring_rows - 1};
    for (int64_t i = 0; i < task.part_count; ++i)
      tiles_.add(task.parts[i], static_cast<const TapsRoi<A>&>(*task.parts[i].roi));
    tiles_.end();
  }

  const Plane<A>& plane() const { return plane_; }

  void restart(int64_t channel, int64_t channels) {
    channel_ = channel;
    channels_ = channels;
    next_ = ahead_ = Tiles::Walk(tiles_);
    fetched_ = 0;
    for (int i = 0; i < kTilesAhead; ++i) fetch_next();
  }

  void pack_up_to(int64_t end) {
    for (; !next_.done() && next_.y() < end; next_.next()) {
      // Prefetched here, because the processor does not predict sixteen short streams.
      if (fetched_ < kTilesAhead) fetch_next();
      --fetched_;
      pack(next_.y(), next_.x());
    }
  }

  // Prefetches a tile of the rows before `end` while something else is computed.
  ROIDL_INLINE void step(int64_t end) {
    if (fetched_ < kMostAhead && ahead_.y() < end) fetch_next();
  }

 private:
  static constexpr int kTilesAhead = 4, kMostAhead = 64;

  ROIDL_INLINE void fetch_next() {
    if (ahead_.done()) return;
    fetch(ahead_.y(), ahead_.x());
    ahead_.next();
    ++fetched_;
  }

  ROIDL_INLINE Row<const T> tile(int64_t y, int64_t x) const {
    Row<const T> row = map_row<const T>(task_.features, task_.image, channel_, y);
    row.data += x * row.cell_stride;
    return row;
  }

  void fetch(int64_t y, int64_t x) const {
    const Row<const T> row = tile(y, x);
    if (row.cell_stride == 1) {
      for (int64_t c = 0; c < channels_; ++c) __builtin_prefetch(row.data + c * row.channel_stride);
    } else {
      const int64_t cells = least(kTile, task_.width - x);
      for (int64_t j = 0; j < cells; ++j) __builtin_prefetch(row.data + j * row.cell_stride);
    }
  }

  void pack(int64_t y, int64_t x) {
    cpu::pack<T>(tile(y, x), least(kTile, task_.width - x), channels_,
                 plane_.row(y) + x * plane_.cell_stride);
  }

  const Task& task_;
  Tiles tiles_;
  Tiles::Walk next_, ahead_;
  int fetched_ = 0;  // tiles between next_ and ahead_
  Plane<A> plane_;
  int64_t channel_ = 0, channels_ = 0;
};

// Writes results to memory a few lines at a time, between the sums of the next RoI: the processor
// has too few buffers to take them all at once.
template <class T>
class Outflow {
 public:
  // `from` must not change until the next call.
  void start(T* to, const T* from, int64_t count, int64_t steps) {
    finish();
    to_ = to;
    from_ = from;
    left_ = count;
    constexpr int64_t line = kBlockBytes / static_cast<int64_t>(sizeof(T));
    step_ = (count / line / steps + 1) * line;
    const int64_t past_line =
        reinterpret_cast<intptr_t>(to) / static_cast<int64_t>(sizeof(T)) % line;
    if (past_line != 0) flow(line - past_line);
  }
  ROIDL_INLINE void step() {
    if (left_ > 0) flow(step_);
  }
  void finish() {
    if (left_ > 0) flow(left_);
  }

 private:
  void flow(int64_t count) {
    count = least(count, left_);
    stream(to_, from_, count);
    to_ += count;
    from_ += count;
    left_ -= count;
  }

  T* to_ = nullptr;
  const T* from_ = nullptr;
  int64_t left_ = 0, step_ = 0;
};

}  // namespace
}  // namespace roidl::cpu
