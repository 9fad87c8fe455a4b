// Cuts windows into parts, and parts into batches.
#include "parts.h"

#include <algorithm>

namespace roidl::cpu {

namespace {

// Appends the parts of one window: each has as many rows as fit the ring, and begins and ends at
// rows with taps. One pass over all bins finds the bins of each part, so the cost is linear in the
// window.
template <class A>
void cut_window(const TapsRoi<A>& roi, int32_t slot, const PartLimits& limits,
                std::vector<Part>& parts) {
  const Taps<A>& y = roi.y;
  const size_t first = parts.size();
  for (int32_t i = 0; i < y.count;) {
    Part part{&roi, y.position[i], 0, static_cast<int32_t>(limits.bins), 0, slot, i == 0, false};
    do part.end = y.position[i++] + 1;
    while (i < y.count && y.position[i] - part.begin < limits.ring_rows);
    part.last = i == y.count;
    parts.push_back(part);
  }
  for (int32_t p = 0; p < limits.bins; ++p) {
    if (y.start[p] == y.start[p + 1]) continue;
    const int32_t low = y.position[y.slot[y.start[p]]];
    const int32_t high = y.position[y.slot[y.start[p + 1] - 1]];
    auto part = std::upper_bound(parts.begin() + first, parts.end(), low,
                                 [](int32_t cell, const Part& at) { return cell < at.end; });
    for (; part != parts.end() && part->begin <= high; ++part) {
      part->bin_begin = std::min(part->bin_begin, p);
      part->bin_end = p + 1;
    }
  }
}

int64_t rows_in(const Part* begin, const Part* end) {
  int64_t rows = 0, stop = 0;
  for (const Part* part = begin; part < end; ++part) {
    rows += std::max<int64_t>(0, part->end - std::max<int64_t>(stop, part->begin));
    stop = std::max<int64_t>(stop, part->end);
  }
  return rows;
}

}  // namespace

template <class A>
int64_t make_parts(const Windows& windows, const PlaneRois& plane, int64_t shares,
                   const PartLimits& limits, std::vector<Part>& parts,
                   std::vector<PartBatch>& batches) {
  const int64_t share = (plane.end - plane.begin + shares - 1) / shares;
  int64_t slots = 0;
  for (int64_t i = plane.begin; i < plane.end;) {
    PartBatch batch{plane.plane, static_cast<int64_t>(parts.size()), 0, 0};
    int32_t used = 0;
    for (const int64_t first = i; i < plane.end && i - first < share; ++i) {
      const TapsRoi<A>& roi = static_cast<const TapsRoi<A>&>(*windows.sorted[i]);
      const bool whole = roi.y_end - roi.y_begin <= limits.ring_rows;
      if (!whole && used == limits.most_slots) break;
      if (whole)  // including RoIs that touch nothing: they have results, too
        parts.push_back(
            {&roi, roi.y_begin, roi.y_end, 0, static_cast<int32_t>(limits.bins), -1, true, true});
      else
        cut_window(roi, used++, limits, parts);
    }
    std::stable_sort(parts.begin() + batch.part_begin, parts.end(),
                     [](const Part& a, const Part& b) { return a.begin < b.begin; });
    batch.part_end = static_cast<int64_t>(parts.size());
    batch.rows = rows_in(parts.data() + batch.part_begin, parts.data() + batch.part_end);
    batches.push_back(batch);
    slots = std::max<int64_t>(slots, used);
  }
  return slots;
}

template int64_t make_parts<float>(const Windows&, const PlaneRois&, int64_t, const PartLimits&,
                                   std::vector<Part>&, std::vector<PartBatch>&);
template int64_t make_parts<double>(const Windows&, const PlaneRois&, int64_t, const PartLimits&,
                                    std::vector<Part>&, std::vector<PartBatch>&);

}  // namespace roidl::cpu
