// The averages, forward, from a plan: by rows or by channels.
//
// Both kernels work on one RoI and some of its channels a block. Rows (NCHW, and any strides): for
// every row of bins the columns with taps are summed down first, lanes along x, then across.
// Channels (NHWC): lanes are channels, 16 bytes each, and every bin is summed directly.
//
// `Plans` says where the plan is: in global memory (Plan), or found by the block (PlanHere).
#pragma once
#include "plan.cuh"
#include "tuning.h"

namespace roidl::cuda {

template <class T, class Plans>
struct ForwardRows {
  using A = accumulator<T>;
  static constexpr int kResident = Plans::kMostResident;
  Plans plan;
  Views features;
  PooledView out;
  int64_t count;  // of the RoIs
  int64_t channels;
  int32_t slabs, slab_channels;
  int32_t sums;  // room in shared memory for so many
  Divider by_bins_y, by_bins_x;

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    A* const sum = shared.take<A>(sums);
    const auto space = plan.place(shared);
    for (int64_t work = team.block; work < count * slabs; work += team.blocks) {
      const int64_t k = work / slabs, channel = (work - k * slabs) * slab_channels;
      const int64_t left = channels - channel;
      const RoiPlan<A, 1> roi = plan.of(team, space, k);
      const int64_t image = roi.window.image < 0 ? 0 : roi.window.image;
      const MapView& map = features.of[roi.window.map];
      run(team, roi, sum,
          {static_cast<T*>(map.data) + image * map.n + channel * map.c, 0, map.c, map.h, map.w},
          static_cast<T*>(out.data) + out.offset(k) + channel * out.c,
          left < slab_channels ? static_cast<int32_t>(left) : slab_channels);
    }
  }

 private:
  // A row is a channel and a row of bins; as many at a time as there is room for.
  ROIDL_DEVICE void run(const Team& team, const RoiPlan<A, 1>& roi, A* sum, const MapView& map,
                        T* target, int32_t some) const {
    const int32_t bins_y = plan.y.bins, bins_x = plan.x.bins;
    const T* const source = static_cast<const T*>(map.data);
    const Span *const y = roi.y, *const x = roi.x;
    const Tap<A, 1>*const y_taps = roi.y_taps, *const x_taps = roi.x_taps;
    const int32_t columns = x[bins_x].stop;
    // What is counted at a time, in either direction, stays below the sums or is one row.
    const int32_t longest = columns > bins_x ? columns : bins_x;
    const int32_t most = longest < sums ? sums / longest : 1;
    const int32_t all = some * bins_y;
    for (int32_t first = 0; first < all; first += most) {
      const int32_t rows = all - first < most ? all - first : most;
      team.rows(rows, columns, [&](int32_t row, int32_t column) {
        int32_t p = first + row;
        const int32_t c = by_bins_y.split(p);
        const int32_t cell = x_taps[column].cell;
        A total = A(0);
        if (cell >= 0) {
          const T* const from = source + c * map.c + cell * map.w;
          const Span span = y[p];
#pragma unroll 4
          for (int32_t j = span.first; j < span.stop; ++j)
            total = fused(y_taps[j].weight[0], A(widen(from[y_taps[j].cell * map.h])), total);
        }
        sum[row * columns + column] = total;
      });
      team.sync();
      team.each(int64_t{rows} * bins_x, [&](int64_t index) {
        int32_t q = static_cast<int32_t>(index);
        const int32_t row = by_bins_x.split(q);
        int32_t p = first + row;
        const int32_t c = by_bins_y.split(p);
        const Span span = x[q];
        A total = A(0);
        for (int32_t j = span.first; j < span.stop; ++j)
          total = fused(x_taps[j].weight[0], sum[row * columns + j], total);
        narrow(total, target[c * out.c + p * out.h + q * out.w]);
      });
    }
  }
};

template <class T, int kTogether, class Plans>
struct ForwardChannels {
  using A = accumulator<T>;
  using Together = Vec<T, kTogether>;
  static constexpr int kResident = kTogether > 4 || Plans::kMostResident < 3 ? 2 : 3;
  Plans plan;
  Views features;
  PooledView out;
  int64_t count;  // of the RoIs
  int64_t channels;
  int32_t slabs, slab_groups;  // of kTogether channels
  int64_t parts, part_bins;
  Divider by_groups, by_last_groups, by_bins_x;

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    const auto space = plan.place(shared);
    const int64_t pieces = slabs * parts, bins = int64_t{plan.y.bins} * plan.x.bins;
    for (int64_t work = team.block; work < count * pieces; work += team.blocks) {
      const int64_t k = work / pieces, piece = work - k * pieces;
      const int64_t slab = piece / parts, first = (piece - slab * parts) * part_bins;
      const int64_t left = bins - first, mine = left < part_bins ? left : part_bins;
      const int64_t channel = slab * slab_groups * kTogether;
      const int64_t rest = (channels - channel) / kTogether;
      const int32_t groups = rest < slab_groups ? static_cast<int32_t>(rest) : slab_groups;
      const RoiPlan<A, 1> roi = plan.of(team, space, k);
      const int64_t image = roi.window.image < 0 ? 0 : roi.window.image;
      const MapView& map = features.of[roi.window.map];
      const MapView source{static_cast<T*>(map.data) + image * map.n + channel * map.c, 0, map.c,
                           map.h, map.w};
      T* const target = static_cast<T*>(out.data) + out.offset(k) + channel * out.c;
      const int64_t first_p = first / plan.x.bins;
      const int32_t first_q = static_cast<int32_t>(first - first_p * plan.x.bins);
      team.each(mine * groups, [&](int64_t index) {
        // Parts are so small, and rows so short, that they can be counted in 32 bits.
        int32_t group = static_cast<int32_t>(index);
        int32_t q = first_q + (groups == slab_groups ? by_groups : by_last_groups).split(group);
        const int64_t c = int64_t{group} * kTogether, p = first_p + by_bins_x.split(q);
        A total[kTogether] = {};
        add_bin(roi, p, q, source, c, total);
        Together result;
#pragma unroll
        for (int j = 0; j < kTogether; ++j) narrow(total[j], result.at[j]);
        store_together(target + c * out.c + p * out.h + q * out.w, result);
      });
    }
  }

 private:
  ROIDL_DEVICE static void add_bin(const RoiPlan<A, 1>& roi, int64_t p, int32_t q,
                                   const MapView& map, int64_t c, A (&total)[kTogether]) {
    const Span y = roi.y[p], x = roi.x[q];
    const T* const source = static_cast<const T*>(map.data) + c * map.c;
    for (int32_t i = y.first; i < y.stop; ++i) {
      const T* const row = source + roi.y_taps[i].cell * map.h;
      A across[kTogether] = {};
#pragma unroll 4
      for (int32_t j = x.first; j < x.stop; ++j) {
        const Tap<A, 1> tap = roi.x_taps[j];
        const Together cells = *reinterpret_cast<const Together*>(row + tap.cell * map.w);
#pragma unroll
        for (int c = 0; c < kTogether; ++c)
          across[c] = fused(tap.weight[0], A(widen(cells.at[c])), across[c]);
      }
      const A weight = roi.y_taps[i].weight[0];
#pragma unroll
      for (int c = 0; c < kTogether; ++c) total[c] = fused(weight, across[c], total[c]);
    }
  }
};

template <class T, class Plans>
void forward_rows(const Problem& problem, const Plans& plan) {
  using A = accumulator<T>;
  constexpr int64_t kSums = 4096;
  // A RoI is cut up until there are blocks enough, but not so small that nobody reads a whole row.
  int64_t slab = problem.channels < ROIDL_TUNE_SLAB ? problem.channels : ROIDL_TUNE_SLAB;
  while (slab > 4 && problem.rois * divide_up(problem.channels, slab) < enough_blocks(problem))
    slab = divide_up(slab, 2);
  const int64_t slabs = divide_up(problem.channels, slab);
  const int64_t sums = plan.x.most < kSums ? kSums : plan.x.most;
  const ForwardRows<T, Plans> kernel{plan,
                                     views_of(problem, &Map::features),
                                     problem.pooled,
                                     problem.rois,
                                     problem.channels,
                                     static_cast<int32_t>(slabs),
                                     static_cast<int32_t>(slab),
                                     static_cast<int32_t>(sums),
                                     Divider(problem.output_height),
                                     Divider(problem.output_width)};
  launch(problem, kernel, problem.rois * slabs, Shared::bytes_of<A>(sums) + plan.bytes());
}

template <class T, int kTogether, class Plans>
void forward_channels(const Problem& problem, const Plans& plan) {
  const int64_t groups = problem.channels / kTogether;
  const int64_t bins = problem.output_height * problem.output_width;
  const int64_t slab = groups < kLanes ? groups : kLanes, slabs = divide_up(groups, slab);
  int64_t part = bins < (1 << 20) ? bins : 1 << 20;
  while (part * slab > 2 * kThreads &&
         problem.rois * slabs * divide_up(bins, part) < enough_blocks(problem))
    part = divide_up(part, 2);
  const int64_t parts = divide_up(bins, part);
  const ForwardChannels<T, kTogether, Plans> kernel{plan,
                                                    views_of(problem, &Map::features),
                                                    problem.pooled,
                                                    problem.rois,
                                                    problem.channels,
                                                    static_cast<int32_t>(slabs),
                                                    static_cast<int32_t>(slab),
                                                    parts,
                                                    part,
                                                    Divider(slab),
                                                    Divider(groups - (slabs - 1) * slab),
                                                    Divider(problem.output_width)};
  launch(problem, kernel, problem.rois * slabs * parts, plan.bytes());
}

template <class T, class Plans>
void forward(const Problem& problem, const Plans& plan) {
  constexpr int kWide = 16 / sizeof(T);
  const PooledView& out = problem.pooled;
  bool together = moves_together(out.data, {out.image, out.row, out.h, out.w}, out.c,
                                 problem.channels, kWide, sizeof(T));
  bool channels_last = problem.channels > 1;
  for (int i = 0; i < problem.num_maps; ++i) {
    const MapView& in = problem.maps[i].features;
    together &=
        moves_together(in.data, {in.n, in.h, in.w}, in.c, problem.channels, kWide, sizeof(T));
    channels_last &= in.c == 1;
  }
  const bool row_fits =
      plan.x.most * static_cast<int64_t>(sizeof(accumulator<T>)) <= kSharedBytes &&
      problem.output_height < 1 << 24 && problem.channels < 1 << 30;
  if (together)
    forward_channels<T, kWide>(problem, plan);
  else if (channels_last || !row_fits)
    forward_channels<T, 1>(problem, plan);
  else
    forward_rows<T>(problem, plan);
}

}  // namespace roidl::cuda
