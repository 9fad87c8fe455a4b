// The parts of windows.
#include "parts.h"

#include <algorithm>

namespace roidl::cpu {

int64_t make_parts(const Windows& windows, int64_t plane, int64_t shares, int64_t ring_rows,
                   int64_t most_slots, std::vector<Part>& parts, std::vector<PartBatch>& batches) {
  const int64_t end = windows.plane_start[plane + 1];
  const int64_t share = (end - windows.plane_start[plane] + shares - 1) / shares;
  int64_t slots = 0;
  for (int64_t i = windows.plane_start[plane]; i < end;) {
    PartBatch batch{plane, static_cast<int64_t>(parts.size()), 0};
    int32_t used = 0;
    for (const int64_t first = i; i < end && i - first < share; ++i) {
      const Roi* roi = windows.sorted[i];
      const bool whole = roi->y_end - roi->y_begin <= ring_rows;
      if (!whole && used == most_slots) break;
      const int32_t slot = whole ? -1 : used++, step = static_cast<int32_t>(ring_rows);
      int32_t stop = roi->y_begin;
      do {  // a RoI that touches nothing has a result, too
        const int32_t begin = stop;
        stop = roi->y_end - begin <= step ? roi->y_end : begin + step;
        parts.push_back({roi, begin, stop, slot, begin == roi->y_begin, stop == roi->y_end});
      } while (stop < roi->y_end);
    }
    std::stable_sort(parts.begin() + batch.part_begin, parts.end(),
                     [](const Part& a, const Part& b) { return a.begin < b.begin; });
    batch.part_end = static_cast<int64_t>(parts.size());
    batches.push_back(batch);
    slots = std::max<int64_t>(slots, used);
  }
  return slots;
}

}  // namespace roidl::cpu
