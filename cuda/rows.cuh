// Kernels whose lanes run along the rows of a map: for NCHW, and any strides.
//
// Each warp works independently on a unit: a RoI, a few channels and some rows of bins. For each
// row of bins it first reduces every column of the map over the cells of the bins (down), then each
// bin over its columns (across). An item holds the values of one column for one row of bins, and
// one lane computes it. Items have a fixed amount of shared memory, which limits how many bins are
// computed at a time.
#pragma once
#include "bins.cuh"
#include "order.cuh"

namespace roidl::cuda {

inline constexpr int kItems = ROIDL_TUNE_ROWS_ITEMS;  // items of a warp
static_assert(kItems <= 128, "items are divided by Reciprocal");
inline constexpr int kMaxUnitChannels = 32;  // channels of a unit

// The values of each channel of a unit for every item, and for one more, which carries the result
// of a bin that is wider than kItems from piece to piece.
template <class V, int kUnitChannels>
struct ItemArray {
  static constexpr int kWide = 16 / sizeof(V) < kUnitChannels ? 16 / sizeof(V) : kUnitChannels;
  static constexpr int kParts = kUnitChannels / kWide;
  using Wide = Vec<V, kWide>;
  Wide* at;  // [part][item]: neighbouring lanes use different banks

  static int64_t bytes() { return kWarps * Shared::bytes_of<Wide>((kItems + 1) * kParts); }
  ROIDL_DEVICE static ItemArray place(Shared& shared) {
    return {shared.take<Wide>(kWarps * (kItems + 1) * kParts)};
  }
  ROIDL_DEVICE ItemArray of(const Warp& warp) const {
    return {opaque_shared(at + warp.number * (kItems + 1) * kParts)};
  }
  ROIDL_DEVICE void put(int32_t item, const V (&values)[kUnitChannels]) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      Wide vector;
#pragma unroll
      for (int j = 0; j < kWide; ++j) vector.at[j] = values[part * kWide + j];
      at[part * (kItems + 1) + item] = vector;
    }
  }
  ROIDL_DEVICE void get(int32_t item, V (&values)[kUnitChannels]) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const Wide vector = at[part * (kItems + 1) + item];
#pragma unroll
      for (int j = 0; j < kWide; ++j) values[part * kWide + j] = vector.at[j];
    }
  }
};

// The address of the first channel of a slab for a RoI: on its map, and in the results.
template <class T>
struct Start {
  const T* from;
  T* to;
  int32_t c, h, w;  // strides of the map

  template <class Location>  // a Window or a Roi
  ROIDL_DEVICE Start(const Views& views, const PooledView& out, const Location& location, int64_t k,
                     int64_t channel) {
    const MapView& map = views.of[location.map];
    const int64_t image = location.image < 0 ? 0 : location.image;
    from = static_cast<const T*>(map.data) + image * map.n + channel * map.c;
    to = static_cast<T*>(out.data) + out.offset(k) + channel * out.c;
    c = static_cast<int32_t>(map.c);
    h = static_cast<int32_t>(map.h);
    w = static_cast<int32_t>(map.w);
  }
};

// The channels of a unit, from number `first` of the slab on. Missing channels repeat the last one,
// and are not stored, so that no loop needs a test.
template <class T, int kUnitChannels>
struct Channels {
  const T* at[kUnitChannels];
  int32_t h, w;
  int32_t count;

  ROIDL_DEVICE Channels(const Start<T>& start, int32_t first, int32_t channels)
      : h(opaque(start.h)),
        w(opaque(start.w)),
        count(opaque(channels - first < kUnitChannels ? channels - first : kUnitChannels)) {
    const T* const origin = opaque_global(start.from + int64_t{first} * start.c);
    const int32_t stride = start.c;
#pragma unroll
    for (int c = 0; c < kUnitChannels; ++c)
      at[c] = opaque_global(origin + (c < count ? c : count - 1) * stride);
  }
};

// The addresses of the results of a unit.
template <class T>
struct Results {
  T* at;      // null: they are not stored
  int64_t c;  // strides
  int32_t h, w;

  ROIDL_DEVICE Results(T* start, const PooledView& view, int32_t first)
      : at(opaque(start + first * view.c)),
        c(view.c),
        h(static_cast<int32_t>(view.h)),
        w(static_cast<int32_t>(view.w)) {}

  // Calls visit(c, result) for the first `count` channels.
  template <int kUnitChannels, class Visit>
  ROIDL_DEVICE void for_each(int32_t count, int32_t p, int32_t q, Visit&& visit) const {
    T* result = opaque_global(at + (p * h + q * w));
    if (count == kUnitChannels) {
#pragma unroll
      for (int i = 0; i < kUnitChannels; ++i, result = opaque_global(result + c)) visit(i, *result);
    } else {
#pragma unroll
      for (int i = 0; i < kUnitChannels; ++i, result = opaque_global(result + c))
        if (i < count) visit(i, *result);
    }
  }
};

// `Body` says what is reduced: AverageRows (forward.cuh) or MaxRows (pool_max.cuh). Its members are
//   kUnitChannels              channels of a unit
//   kMaxRois, kSlab            the most RoIs and channels of a block
//   kMinBlocks                 blocks that share a multiprocessor
//   ItemArrays                 the items of all warps in shared memory: bytes(), place(shared);
//                              of(warp) returns those of one warp
//   bytes(rois), place(shared, rois)
//                              shared memory for data that all units of a RoI share
//   prepare(block, space, rois, roi_of, channel)
//                              computes that data for the RoIs of a block
//   load_roi(space, i)         the data of RoI i of the block, as a RoiData
//   unit_of(roi_data, first, channels)
//                              where the channels of a unit are
//   columns(roi_data, q, q_stop)
//                              the columns of these bins, in ascending order
//   down(roi_data, unit, p, column, items, item)
//                              computes an item: a column for row p of bins
//   across(roi_data, unit, p, q, piece, items, first)
//                              computes a result from the items of this piece of the columns
template <class Body>
struct Rows {
  static constexpr int kMinBlocks = Body::kMinBlocks;
  static constexpr int kUnitChannels = Body::kUnitChannels;
  static_assert(Body::kSlab % kUnitChannels == 0 && (Body::kSlab & (Body::kSlab - 1)) == 0,
                "a slab can be halved down to the channels of a unit");
  static_assert(kUnitChannels <= kMaxUnitChannels);
  Body body;
  const int32_t* order;      // the order of the RoIs, or null
  int32_t count, channels;   // RoIs
  int32_t block_rois, slab;  // RoIs and channels of a block
  int32_t slab_units;        // units of kUnitChannels channels in a slab
  int32_t parts, rows;       // parts of a RoI's rows of bins; rows of a part
  int32_t bins_y, bins_x;
  Divider by_groups, by_parts, by_slab_units, by_bins_x;

  int64_t shared_bytes() const { return Body::ItemArrays::bytes() + body.bytes(block_rois); }

  ROIDL_DEVICE void operator()(const Block& block, Shared shared) const {
    const auto items = Body::ItemArrays::place(shared);
    const auto space = body.place(shared, block_rois);
    // Blocks are numbered by slab first, so that the parts of the maps that they read stay in L2.
    int32_t group = static_cast<int32_t>(block.index);
    const int32_t channel = by_groups.split(group) * slab, place = group * block_rois;
    const int32_t mine = count - place < block_rois ? count - place : block_rois;
    const auto roi_of = [&](int32_t i) { return order != nullptr ? order[place + i] : place + i; };
    body.prepare(block, space, mine, roi_of, channel);
    block.warps(mine * slab_units * parts, [&](const Warp& warp, int32_t unit) {
      int32_t part = unit;
      int32_t c = by_parts.split(part);
      const int32_t i = by_slab_units.split(c), p = part * rows;
      if (channel + c * kUnitChannels < channels)
        run(warp, items.of(warp), body.load_roi(space, i), c * kUnitChannels, channels - channel, p,
            p + rows < bins_y ? p + rows : bins_y);
    });
  }

 private:
  template <class ItemArrays, class RoiData>
  ROIDL_DEVICE void run(const Warp& warp, const ItemArrays& items, const RoiData& roi_data,
                        int32_t first, int32_t left, int32_t p_first, int32_t p_stop) const {
    const auto unit = body.unit_of(roi_data, first, left);
    for (int32_t q = 0, q_stop; q < bins_x; q = q_stop) {
      Span columns = body.columns(roi_data, q, q_stop = bins_x);
      if (columns.stop - columns.first > kItems) {
        for (q_stop = q + 1; q_stop < bins_x; ++q_stop) {
          const Span more = body.columns(roi_data, q, q_stop + 1);
          if (more.stop - more.first > kItems) break;
        }
        columns = body.columns(roi_data, q, q_stop);
      }
      const int32_t width = columns.stop - columns.first, bins = q_stop - q;
      const int32_t max_columns = width < kItems ? width : kItems;
      const Reciprocal by_columns(max_columns > 1 ? max_columns : 1);
      const int32_t max_rows = by_columns.quotient(kItems);
      for (int32_t p = p_first; p < p_stop; p += max_rows) {
        const int32_t piece_rows = p_stop - p < max_rows ? p_stop - p : max_rows;
        // There are several pieces only if a bin is wider than kItems.
        Span piece{columns.first, columns.first + max_columns};
        for (bool more = true; more; piece = {piece.stop, piece.stop + kItems}) {
          more = piece.stop < columns.stop;
          if (!more) piece.stop = columns.stop;
          const int32_t piece_columns = piece.stop - piece.first;
          warp.each(piece_rows * piece_columns, [&](int32_t item) {
            const int32_t row = by_columns.quotient(item);
            body.down(roi_data, unit, p + row, piece.first + item - row * piece_columns, items,
                      item);
          });
          warp.each(piece_rows * bins, [&](int32_t bin) {
            const int32_t row = bins == bins_x ? by_bins_x.quotient(bin) : bin / bins;
            body.across(roi_data, unit, p + row, q + bin - row * bins, piece, items,
                        row * piece_columns);
          });
        }
      }
    }
  }
};

// Whether lanes should run along channels instead of rows.
inline bool is_channels_last(const Problem& problem) {
  bool last = problem.channels > 1;
  for (int i = 0; i < problem.num_maps; ++i) last &= problem.maps[i].features.c == 1;
  return last;
}

inline bool can_move_pooled_vectors(const PooledView& view, int64_t channels, int count,
                                    int item_bytes) {
  return can_move_vectors(view.data, {view.image, view.row, view.h, view.w}, view.c, channels,
                          count, item_bytes);
}

// Whether 16 bytes of channels can be moved at once, in all maps and in the results.
template <class T>
bool can_move_channel_vectors(const Problem& problem) {
  constexpr int kWide = 16 / sizeof(T);
  bool all = can_move_pooled_vectors(problem.pooled, problem.channels, kWide, sizeof(T));
  for (int i = 0; i < problem.num_maps; ++i) {
    const MapView& in = problem.maps[i].features;
    all &= can_move_vectors(in.data, {in.n, in.h, in.w}, in.c, problem.channels, kWide, sizeof(T));
  }
  return all;
}

// Whether 31 bits suffice for offsets within a plane of this size, and between the planes of a few
// channels.
inline bool counts_plane(const Problem& problem, int64_t height, int64_t width, int64_t h,
                         int64_t w, int64_t c) {
  const auto reach = [](int64_t size, int64_t stride) {
    return static_cast<double>(size - 1) * static_cast<double>(stride < 0 ? -stride : stride);
  };
  const int64_t planes = problem.channels > 1 ? kMaxUnitChannels + 1 : 1;
  return reach(height, h) + reach(width, w) < INT32_MAX && reach(planes, c) < INT32_MAX;
}
inline bool counts_plane(const Problem& problem, const PooledView& view) {
  return counts_plane(problem, problem.output_height, problem.output_width, view.h, view.w, view.c);
}

// Whether 31 bits suffice for the offsets in all maps and in the results, and for all counts.
inline bool walks_rows(const Problem& problem) {
  bool all = counts_plane(problem, problem.pooled);
  for (int i = 0; i < problem.num_maps; ++i) {
    const Map& map = problem.maps[i];
    const MapView& view = map.features;
    all &= counts_plane(problem, map.height, map.width, view.h, view.w, view.c);
  }
  const auto product = [](int64_t a, int64_t b) {
    return static_cast<double>(a) * static_cast<double>(b);
  };
  return all && product(problem.rois, problem.channels) < INT32_MAX &&
         product(problem.output_height, problem.output_width) < INT32_MAX &&
         product(kItems, problem.output_width) < INT32_MAX;
}

template <class Body>
void launch_rows(const Problem& problem, const Body& body, const int32_t* order, int64_t enough) {
  constexpr int kUnitChannels = Body::kUnitChannels;
  // Blocks are made smaller until there are enough of them: first they get fewer RoIs, then fewer
  // channels, so that the warps of a block share L1; then rows of bins are given to idle warps.
  int64_t block_rois = Body::kMaxRois, slab = Body::kSlab;
  const auto blocks = [&] {
    return divide_up(problem.rois, block_rois) * divide_up(problem.channels, slab);
  };
  const auto fits = [&] {
    return Body::ItemArrays::bytes() + body.bytes(block_rois) <= kSharedBytes;
  };
  while (block_rois > 1 && (!fits() || blocks() < enough)) block_rois = divide_up(block_rois, 2);
  while (slab > kUnitChannels && blocks() < enough) slab /= 2;
  const int64_t slab_units =
      divide_up(slab < problem.channels ? slab : problem.channels, kUnitChannels);
  const int64_t units = block_rois * slab_units, bins = problem.output_height;
  const int64_t parts = divide_up(kWarps, units) < bins ? divide_up(kWarps, units) : bins;
  const int64_t rows = divide_up(bins, parts);
  const Rows<Body> kernel{body,
                          order,
                          static_cast<int32_t>(problem.rois),
                          static_cast<int32_t>(problem.channels),
                          static_cast<int32_t>(block_rois),
                          static_cast<int32_t>(slab),
                          static_cast<int32_t>(slab_units),
                          static_cast<int32_t>(divide_up(bins, rows)),
                          static_cast<int32_t>(rows),
                          static_cast<int32_t>(bins),
                          static_cast<int32_t>(problem.output_width),
                          Divider(divide_up(problem.rois, block_rois)),
                          Divider(divide_up(bins, rows)),
                          Divider(slab_units),
                          Divider(problem.output_width)};
  launch(problem, kernel, blocks(), kernel.shared_bytes());
}

}  // namespace roidl::cuda
