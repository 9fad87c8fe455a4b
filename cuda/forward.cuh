// The forward kernels of averages, from a plan: by rows or by channels.
//
// By rows (NCHW, and any strides): see rows.cuh. By channels (NHWC): a block has a RoI and some
// channels; each lane has channels of 16 bytes, and every bin is summed directly.
//
// `Plans` says where the plan is: in global memory (Plan), or in shared memory, computed by the
// block (BlockPlan; plan.cuh). Its members are
//   y, x                       the AxisPlan of both axes, whose `bins` are the problem's
//   kMaxMinBlocks              the most blocks that share a multiprocessor
//   kMaxRois, kSlab            the most RoIs and channels of a block, by rows
//   bytes(), place(shared)     its Space in shared memory
//   prepare(block, space, k)   computes the plan of RoI k, if it is not in global memory
//   of(space, k)               the RoiPlan of RoI k
//   opaque(pointer)            an opaque pointer into the plan's memory (intrinsics.cuh)
#pragma once
#include "rows.cuh"

namespace roidl::cuda {

// By rows: the columns of a RoI are the cells of its window, or the places of its taps if these are
// fewer.
template <class T, class Plans>
struct AverageRows {
  using A = accumulator<T>;
  static constexpr int kUnitChannels = ROIDL_TUNE_ROWS_CHANNELS * 4 / sizeof(A);
  static constexpr int kMinBlocks = Plans::kMaxMinBlocks < ROIDL_TUNE_ROWS_MIN_BLOCKS
                                        ? Plans::kMaxMinBlocks
                                        : ROIDL_TUNE_ROWS_MIN_BLOCKS;
  static constexpr int kMaxRois = Plans::kMaxRois, kSlab = Plans::kSlab;
  using ItemArrays = ItemArray<A, kUnitChannels>;
  struct RoiData {
    Start<T> start;
    const Span *y, *x;
    const Tap<A, 1>*y_taps, *x_taps;
    int32_t x_begin, cells;  // columns of the window; cells = -1: columns are places
  };
  struct Space {
    typename Plans::Space plan;
    RoiData* roi_data;
  };
  struct Unit {
    Channels<T, kUnitChannels> from;
    Results<T> to;
  };
  Plans plan;
  Views features;
  PooledView out;

  int64_t bytes(int64_t rois) const { return plan.bytes() + Shared::bytes_of<RoiData>(rois); }
  ROIDL_DEVICE Space place(Shared& shared, int64_t rois) const {
    const auto planned = plan.place(shared);
    return {planned, shared.take<RoiData>(rois)};
  }
  template <class RoiOf>
  ROIDL_DEVICE void prepare(const Block& block, const Space& space, int32_t rois, RoiOf&& roi_of,
                            int32_t channel) const {
    if constexpr (Plans::kMaxRois == 1) plan.prepare(block, space.plan, roi_of(0));
    block.each(rois, [&](int64_t i) {
      const int32_t k = roi_of(static_cast<int32_t>(i));
      const RoiPlan<A, 1> roi = plan.of(space.plan, k);
      const int32_t cells = roi.window.x_end - roi.window.x_begin;
      const bool by_cells = cells <= kItems && cells <= roi.x[plan.x.bins].stop;
      space.roi_data[i] = {{features, out, roi.window, k, channel},
                           roi.y,
                           roi.x,
                           roi.y_taps,
                           roi.x_taps,
                           roi.window.x_begin,
                           by_cells ? cells : -1};
    });
  }
  ROIDL_DEVICE RoiData load_roi(const Space& space, int32_t i) const {
    RoiData roi_data = space.roi_data[i];
    roi_data.y = Plans::opaque(roi_data.y);
    roi_data.x = Plans::opaque(roi_data.x);
    roi_data.y_taps = Plans::opaque(roi_data.y_taps);
    roi_data.x_taps = Plans::opaque(roi_data.x_taps);
    roi_data.x_begin = cuda::opaque(roi_data.x_begin);
    roi_data.cells = cuda::opaque(roi_data.cells);
    return roi_data;
  }
  ROIDL_DEVICE Unit unit_of(const RoiData& roi_data, int32_t first, int32_t channels) const {
    return {{roi_data.start, first, channels}, {roi_data.start.to, out, first}};
  }
  ROIDL_DEVICE Span columns(const RoiData& roi_data, int32_t q, int32_t q_stop) const {
    if (roi_data.cells >= 0) return {0, roi_data.cells};
    return {roi_data.x[q].first, roi_data.x[q_stop - 1].stop};
  }

  ROIDL_DEVICE void down(const RoiData& roi_data, const Unit& unit, int32_t p, int32_t column,
                         const ItemArrays& items, int32_t item) const {
    int32_t cell = roi_data.x_begin + column;
    if (roi_data.cells < 0) cell = roi_data.x_taps[column].cell;
    if (cell < 0) return;  // no bin has a tap at this place
    A total[kUnitChannels] = {};
    const Span span = roi_data.y[p];
#pragma unroll 1
    for (int32_t j = span.first; j < span.stop; ++j) {
      const Tap<A, 1> tap = roi_data.y_taps[j];
      const int32_t at = tap.cell * unit.from.h + cell * unit.from.w;
#pragma unroll
      for (int c = 0; c < kUnitChannels; ++c)
        total[c] = fused(tap.weight[0], A(widen(unit.from.at[c][at])), total[c]);
    }
    items.put(item, total);
  }

  ROIDL_DEVICE void across(const RoiData& roi_data, const Unit& unit, int32_t p, int32_t q,
                           const Span& piece, const ItemArrays& items, int32_t first) const {
    const Span span = roi_data.x[q];
    const bool by_cells = roi_data.cells >= 0;
    A total[kUnitChannels] = {};
    Span taps = span;
    if (!by_cells) {
      if (span.first < piece.first) items.get(kItems, total), taps.first = piece.first;
      if (span.stop > piece.stop) taps.stop = piece.stop;
    }
#pragma unroll 1
    for (int32_t j = taps.first; j < taps.stop; ++j) {
      const Tap<A, 1> tap = roi_data.x_taps[j];
      A sums[kUnitChannels];
      items.get(first + (by_cells ? tap.cell - roi_data.x_begin : j - piece.first), sums);
#pragma unroll
      for (int c = 0; c < kUnitChannels; ++c) total[c] = fused(tap.weight[0], sums[c], total[c]);
    }
    if (taps.stop < span.stop) return items.put(kItems, total);
    unit.to.template for_each<kUnitChannels>(unit.from.count, p, q,
                                             [&](int c, T& result) { narrow(total[c], result); });
  }
};

template <class T, int kVector, class Plans>
struct ForwardChannels {
  using A = accumulator<T>;
  using Vector = Vec<T, kVector>;
  static constexpr int kMinBlocks = kVector > 4 || Plans::kMaxMinBlocks < 3 ? 2 : 3;
  Plans plan;
  Views features;
  PooledView out;
  int64_t count;  // number of RoIs
  int64_t channels;
  int32_t slabs, slab_groups;  // groups of kVector channels
  int64_t parts, part_bins;
  Divider by_groups, by_last_groups, by_bins_x;

  ROIDL_DEVICE void operator()(const Block& block, Shared shared) const {
    const auto space = plan.place(shared);
    const int64_t bins = int64_t{plan.y.bins} * plan.x.bins;
    // Blocks are numbered by slab first, so that the parts of the maps that they read stay in L2.
    const int64_t piece = block.index / count, k = block.index - piece * count;
    const int64_t slab = piece / parts, first = (piece - slab * parts) * part_bins;
    const int64_t left = bins - first, mine = left < part_bins ? left : part_bins;
    const int64_t channel = slab * slab_groups * kVector;
    const int64_t more = (channels - channel) / kVector;
    const int32_t groups = more < slab_groups ? static_cast<int32_t>(more) : slab_groups;
    plan.prepare(block, space, k);
    const RoiPlan<A, 1> roi = plan.of(space, k);
    const int64_t image = roi.window.image < 0 ? 0 : roi.window.image;
    const MapView& map = features.of[roi.window.map];
    const MapView source{static_cast<T*>(map.data) + image * map.n + channel * map.c, 0, map.c,
                         map.h, map.w};
    T* const target = static_cast<T*>(out.data) + out.offset(k) + channel * out.c;
    const int64_t first_p = first / plan.x.bins;
    const int32_t first_q = static_cast<int32_t>(first - first_p * plan.x.bins);
    block.each(mine * groups, [&](int64_t index) {
      // Parts and rows are small enough for 32-bit numbers.
      int32_t group = static_cast<int32_t>(index);
      int32_t q = first_q + (groups == slab_groups ? by_groups : by_last_groups).split(group);
      const int64_t c = int64_t{group} * kVector, p = first_p + by_bins_x.split(q);
      A total[kVector] = {};
      add_bin(roi, p, q, source, c, total);
      Vector result;
#pragma unroll
      for (int j = 0; j < kVector; ++j) narrow(total[j], result.at[j]);
      store_vector(target + c * out.c + p * out.h + q * out.w, result);
    });
  }

 private:
  ROIDL_DEVICE static void add_bin(const RoiPlan<A, 1>& roi, int64_t p, int32_t q,
                                   const MapView& map, int64_t c, A (&total)[kVector]) {
    const Span y = roi.y[p], x = roi.x[q];
    const T* const source = static_cast<const T*>(map.data) + c * map.c;
    for (int32_t i = y.first; i < y.stop; ++i) {
      const T* const row = source + roi.y_taps[i].cell * map.h;
      A across[kVector] = {};
#pragma unroll 4
      for (int32_t j = x.first; j < x.stop; ++j) {
        const Tap<A, 1> tap = roi.x_taps[j];
        const Vector cells = *reinterpret_cast<const Vector*>(row + tap.cell * map.w);
#pragma unroll
        for (int c = 0; c < kVector; ++c)
          across[c] = fused(tap.weight[0], A(widen(cells.at[c])), across[c]);
      }
      const A weight = roi.y_taps[i].weight[0];
#pragma unroll
      for (int c = 0; c < kVector; ++c) total[c] = fused(weight, across[c], total[c]);
    }
  }
};

template <class T, int kVector, class Plans>
void forward_channels(const Problem& problem, const Plans& plan) {
  const int64_t groups = problem.channels / kVector;
  const int64_t bins = problem.output_height * problem.output_width;
  const int64_t slab = groups < kLanes ? groups : kLanes, slabs = divide_up(groups, slab);
  int64_t part = bins < (1 << 20) ? bins : 1 << 20;
  while (part * slab > 2 * kThreads &&
         problem.rois * slabs * divide_up(bins, part) < enough_blocks(problem))
    part = divide_up(part, 2);
  const int64_t parts = divide_up(bins, part);
  const ForwardChannels<T, kVector, Plans> kernel{plan,
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

template <class T>
void forward_rows(const Problem& problem, const Plan<accumulator<T>, 1>& plan) {
  using A = accumulator<T>;
  const AverageRows<T, Plan<A, 1>> body{plan, views_of(problem, &Map::features), problem.pooled};
  with_order(problem, PlanGeometry<A, 1>{plan, nullptr}, [&](const int32_t* order) {
    launch_rows(problem, body, order, 2 * enough_blocks(problem));
  });
}
template <class T, class A, class Rois>
void forward_rows(const Problem& problem, const BlockPlan<A, Rois>& plan) {
  const AverageRows<T, BlockPlan<A, Rois>> body{plan, views_of(problem, &Map::features),
                                                problem.pooled};
  // Every block makes its plan, so there are no more blocks than run at once.
  launch_rows(problem, body, nullptr, multiprocessors(problem));
}

template <class T, class Plans>
void forward(const Problem& problem, const Plans& plan) {
  if (can_move_channel_vectors<T>(problem))
    forward_channels<T, 16 / sizeof(T)>(problem, plan);
  else if (is_channels_last(problem) || !walks_rows(problem))
    forward_channels<T, 1>(problem, plan);
  else
    forward_rows<T>(problem, plan);
}

}  // namespace roidl::cuda
