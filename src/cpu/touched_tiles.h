// TouchedTiles: marks which cells of the rows that a task sums are in use; all others are zero.
#pragma once
#include "plane.h"

namespace roidl::cpu {
namespace {

class TouchedTiles {
 public:
  // One bit for every tile of a row: kTile cells, or more if the row is longer than
  // kGradientColumns.
  static constexpr int kWords = (kGradientColumns / kTile + 63) / 64;
  struct Marks {
    int64_t y;
    uint64_t word[kWords];
  };

  TouchedTiles(const Task& task, Scratch& scratch)
      : task_(task),
        width_(task.x_end - task.x_begin),
        shift_(__builtin_ctz(kTile)),
        rows_(scratch.take<Marks>(task.gradient_rows)) {
    while (width_ > int64_t{kWords} * 64 << shift_) ++shift_;
    for (int64_t i = 0; i < task.gradient_rows; ++i) rows_[i].y = -1;
  }

  // Marks the cells [begin, end) of row y that are in the task's part, and calls clear(x, count)
  // for those that were not marked. Columns count from the task's first column, as everywhere here.
  template <class Clear>
  ROIDL_INLINE void touch(int64_t y, int64_t begin, int64_t end, Clear&& clear) {
    begin = most(0, begin - task_.x_begin) >> shift_;
    end = ((least(end - task_.x_begin, width_) - 1) >> shift_) + 1;
    if (y < task_.y_begin || y >= task_.y_end) return;
    Marks& row = rows_[y & (task_.gradient_rows - 1)];
    if (row.y != y) row = {y, {}};
    for (int i = 0; i < kWords; ++i) {
      const uint64_t added = bits(begin - i * 64, end - i * 64) & ~row.word[i];
      row.word[i] |= added;
      for_each(added, i, clear);
    }
  }

  Marks of(int64_t y) const {
    const Marks& row = rows_[y & (task_.gradient_rows - 1)];
    return row.y == y ? row : Marks{};
  }
  bool has(const Marks& row, int64_t x) const {
    const int64_t tile = x >> shift_;
    return (row.word[tile / 64] >> tile % 64 & 1) != 0;
  }
  // Calls visit(x, count) for the cells of each tile that is marked in `row` and not in `but`.
  template <class Visit>
  ROIDL_INLINE void each(const Marks& row, const Marks& but, Visit&& visit) const {
    for (int i = 0; i < kWords; ++i) for_each(row.word[i] & ~but.word[i], i, visit);
  }
  template <class Visit>
  ROIDL_INLINE void each(const Marks& row, Visit&& visit) const {
    each(row, Marks{}, visit);
  }
  // Does the same for the tiles that are not marked in `row`.
  template <class Visit>
  ROIDL_INLINE void each_other(const Marks& row, Visit&& visit) const {
    const int64_t tiles = ((width_ - 1) >> shift_) + 1;
    for (int i = 0; i < kWords; ++i) for_each(bits(0, tiles - i * 64) & ~row.word[i], i, visit);
  }

 private:
  // Returns a word with the bits [begin, end) set, cut to 0 .. 63.
  static uint64_t bits(int64_t begin, int64_t end) {
    begin = most(0, begin);
    end = least(64, end);
    return begin < end ? ~uint64_t{0} << begin & ~uint64_t{0} >> (64 - end) : 0;
  }
  template <class Visit>
  ROIDL_INLINE void for_each(uint64_t set, int word, Visit&& visit) const {
    for (; set != 0; set &= set - 1) {
      const int64_t x = int64_t{word * 64 + __builtin_ctzll(set)} << shift_;
      visit(x, least(int64_t{1} << shift_, width_ - x));
    }
  }

  const Task& task_;
  int64_t width_;
  int shift_;
  Marks* rows_;
};

}  // namespace
}  // namespace roidl::cpu
