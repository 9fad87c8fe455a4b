// Sweep: a map on its way through the cache, each row packed once into a ring that stays there; and
// Outflow: results on their way out.
#pragma once
#include "plane.h"

namespace roidl::cpu {
namespace {

// The tiles of the map that some RoI of the task reads: a bit each, by row.
class Tiles {
 public:
  Tiles(const Task& task, Scratch& scratch)
      : height_(task.height),
        words_(task.width / (64 * kTile) + 1),
        bits_(scratch.take<uint64_t>(height_ * words_ + 1)) {
    for (int64_t i = 0; i <= height_ * words_; ++i) bits_[i] = 0;
  }

  void add(int64_t y, int64_t x_begin, int64_t x_end) {
    for (int64_t tile = x_begin / kTile; tile * kTile < x_end; ++tile)
      bits_[y * words_ + tile / 64] |= uint64_t{1} << tile % 64;
  }

  // A tile after the other, from the top.
  class Walk {
   public:
    explicit Walk(const Tiles& tiles) : tiles_(&tiles), word_(0), left_(tiles.bits_[0]) { skip(); }
    bool done() const { return left_ == 0; }
    int64_t y() const { return y_; }
    int64_t x() const {
      return ((word_ - y_ * tiles_->words_) * 64 + __builtin_ctzll(left_)) * kTile;
    }
    void next() {
      left_ &= left_ - 1;
      skip();
    }

   private:
    ROIDL_INLINE void skip() {
      if (left_ != 0) return;
      const int64_t words = tiles_->height_ * tiles_->words_;
      while (left_ == 0 && ++word_ < words) left_ = tiles_->bits_[word_];
      y_ = word_ / tiles_->words_;
    }

    const Tiles* tiles_;
    int64_t word_, y_ = 0;
    uint64_t left_;
  };

 private:
  int64_t height_, words_;
  uint64_t* bits_;
};

// Rows of the map, packed in order into a ring; of each, the tiles that are read.
template <class T>
class Sweep {
 public:
  using A = accumulator<T>;

  Sweep(const Task& task, Scratch& scratch)
      : task_(task), tiles_(task, scratch), next_(tiles_), ahead_(tiles_) {
    const int64_t row = packed_lines(task.width) * kLanes<A>;
    plane_ = {scratch.take<A>(task.ring_rows * row), row, kLanes<A>, task.ring_rows - 1};
    for (int64_t i = 0; i < task.part_count; ++i) {
      const TapsRoi<A>& roi = static_cast<const TapsRoi<A>&>(*task.parts[i].roi);
      if (!task.parts[i].first) continue;
      for (int32_t j = 0; j < roi.y.count; ++j)
        tiles_.add(roi.y.position[j], roi.x_begin, roi.x_end);
    }
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
      // The processor does not see sixteen short streams coming.
      if (fetched_ < kTilesAhead) fetch_next();
      --fetched_;
      pack(next_.y(), next_.x());
    }
  }

  // Fetches a tile of the rows before `end`, while something else is computed.
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
  int fetched_ = 0;  // tiles from one to the other
  Plane<A> plane_;
  int64_t channel_ = 0, channels_ = 0;
};

// Results on their way to memory, a few lines at a time between the sums of the next RoI: the
// processor has not enough buffers to take them at once.
template <class T>
class Outflow {
 public:
  // `from` stays as it is until the next call.
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
