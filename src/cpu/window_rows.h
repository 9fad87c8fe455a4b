// WindowRows: gives a kernel the rows of a RoI's window one after the other, if it needs only a few
// at a time.
#pragma once
#include "plane.h"

namespace roidl::cpu {
namespace {

template <class T>
class WindowRows {
 public:
  using A = accumulator<T>;

  WindowRows(const Task& task, const MapTask& map, Scratch& scratch)
      : task_(task), map_(map), packed_(task, scratch) {}
  void enter(const Roi& roi, int64_t channel, int64_t channels) {
    if (!task_.direct) {
      if (channel != channel_) packed_.forget();
      packed_.reach(roi.x_begin, roi.x_end);
    }
    begin_ = roi.x_begin;
    end_ = roi.x_end;
    channel_ = channel;
    channels_ = channels;
  }
  // Cell x of row y lies at row(y) + x * cell_stride(). The last at_once() rows stay valid.
  ROIDL_INLINE const A* row(int64_t y) {
    if (task_.direct)
      return static_cast<const A*>(map_.data) + task_.image * map_.n + channel_ + y * map_.h;
    packed_.read(map_, task_.image, channel_, channels_, y, begin_, end_);
    return packed_.plane().row(y);
  }
  int64_t cell_stride() const { return task_.direct ? map_.w : kLanes<A>; }
  int64_t at_once() const { return task_.direct ? task_.height : task_.ring_rows; }

 private:
  const Task& task_;
  const MapTask& map_;
  PackedPlane<T> packed_;
  int64_t begin_ = 0, end_ = 0, channel_ = -1, channels_ = 0;
};

// Calls visit(roi, rows, channel, channels) for every RoI and block of channels of the task; for up
// to Together blocks at a time if the map is read in place.
template <class T, class RoiType, int Together = 1, class Visit>
void for_each_window(const Task& task, Scratch& scratch, Visit&& visit) {
  constexpr int64_t lanes = kLanes<accumulator<T>>;
  WindowRows<T> rows(task, task.features, scratch);
  const auto enter = [&](int64_t i, int64_t channel, int64_t channels) {
    const RoiType& roi = static_cast<const RoiType&>(*task.rois[i]);
    rows.enter(roi, channel, channels);
    visit(roi, rows, channel, channels);
  };
  if (task.direct) {
    for (int64_t i = 0; i < task.count; ++i)
      for (int64_t channel = 0; channel < task.channels; channel += Together * lanes)
        enter(i, channel, least(Together * lanes, task.channels - channel));
  } else {
    for (int64_t channel = 0; channel < task.channels; channel += lanes)
      for (int64_t i = 0; i < task.count; ++i)
        enter(i, channel, least(lanes, task.channels - channel));
  }
  end_streams();
}

}  // namespace
}  // namespace roidl::cpu
