// Kernels whose lanes run along the rows of a map: for NCHW, and any strides.
//
// A warp works alone on a unit: a RoI, a few channels and some rows of bins. For each of these rows
// it first reduces every column of the map over the cells of the bins (down), then each bin over
// its columns (across). An item, what is known of a column of a row of bins, is a lane's; their
// room in shared memory is fixed, and as many bins are done at a time as it holds.
#pragma once
#include "bins.cuh"
#include "order.cuh"

namespace roidl::cuda {

inline constexpr int kItems = ROIDL_TUNE_ROWS_ITEMS;  // of a warp
static_assert(kItems <= 128, "items are divided by Reciprocal");
inline constexpr int kMostTogether = 32;  // channels of a unit

// A value for each channel of a unit at every item, and at one more, which a bin that is wider than
// the room is carried on in.
template <class V, int kTogether>
struct Strip {
  static constexpr int kWide = 16 / sizeof(V) < kTogether ? 16 / sizeof(V) : kTogether;
  static constexpr int kParts = kTogether / kWide;
  using Wide = Vec<V, kWide>;
  Wide* at;  // [part][item]: neighbouring lanes do not meet in a bank

  static int64_t bytes() { return kWarps * Shared::bytes_of<Wide>((kItems + 1) * kParts); }
  ROIDL_DEVICE static Strip place(Shared& shared) {
    return {shared.take<Wide>(kWarps * (kItems + 1) * kParts)};
  }
  ROIDL_DEVICE Strip of(const Warp& warp) const {
    return {held_shared(at + warp.number * (kItems + 1) * kParts)};
  }
  ROIDL_DEVICE void put(int32_t item, const V (&values)[kTogether]) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      Wide some;
#pragma unroll
      for (int j = 0; j < kWide; ++j) some.at[j] = values[part * kWide + j];
      at[part * (kItems + 1) + item] = some;
    }
  }
  ROIDL_DEVICE void get(int32_t item, V (&values)[kTogether]) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const Wide some = at[part * (kItems + 1) + item];
#pragma unroll
      for (int j = 0; j < kWide; ++j) values[part * kWide + j] = some.at[j];
    }
  }
};

// Where the first channel of a slab lies for a RoI: on its map, and in the results.
template <class T>
struct Start {
  const T* from;
  T* to;
  int32_t c, h, w;  // strides of the map

  template <class Place>  // a Window or a Roi
  ROIDL_DEVICE Start(const Views& views, const PooledView& out, const Place& place, int64_t k,
                     int64_t channel) {
    const MapView& map = views.of[place.map];
    const int64_t image = place.image < 0 ? 0 : place.image;
    from = static_cast<const T*>(map.data) + image * map.n + channel * map.c;
    to = static_cast<T*>(out.data) + out.offset(k) + channel * out.c;
    c = static_cast<int32_t>(map.c);
    h = static_cast<int32_t>(map.h);
    w = static_cast<int32_t>(map.w);
  }
};

// The channels of a unit, from number `first` of the slab on. Those beyond the last are the last
// once more, which is not stored, so that no loop asks.
template <class T, int kTogether>
struct Channels {
  const T* at[kTogether];
  int32_t h, w;
  int32_t count;

  ROIDL_DEVICE Channels(const Start<T>& start, int32_t first, int32_t channels)
      : h(held(start.h)),
        w(held(start.w)),
        count(held(channels - first < kTogether ? channels - first : kTogether)) {
    const T* const origin = held_global(start.from + int64_t{first} * start.c);
    const int32_t stride = start.c;
#pragma unroll
    for (int c = 0; c < kTogether; ++c)
      at[c] = held_global(origin + (c < count ? c : count - 1) * stride);
  }
};

// Where the results of a unit go.
template <class T>
struct Results {
  T* at;      // null: nobody wants them
  int64_t c;  // strides
  int32_t h, w;

  ROIDL_DEVICE Results(T* start, const PooledView& view, int32_t first)
      : at(held(start + first * view.c)),
        c(view.c),
        h(static_cast<int32_t>(view.h)),
        w(static_cast<int32_t>(view.w)) {}

  // visit(c, result) for the first `count` channels.
  template <int kTogether, class Visit>
  ROIDL_DEVICE void for_each(int32_t count, int32_t p, int32_t q, Visit&& visit) const {
    T* result = held_global(at + (p * h + q * w));
    if (count == kTogether) {
#pragma unroll
      for (int i = 0; i < kTogether; ++i, result = held_global(result + c)) visit(i, *result);
    } else {
#pragma unroll
      for (int i = 0; i < kTogether; ++i, result = held_global(result + c))
        if (i < count) visit(i, *result);
    }
  }
};

// What a Body is asked: prepare(team, space, some, roi_of, channel), for all RoIs of a block, what
// is the same for all units of one; know(space, i), of the i-th of them, and columns(known, q,
// q_stop), of these bins, which ascend; unit_of(…), where its channels lie; down and across, which
// fill and use the items.
template <class Body>
struct Rows {
  static constexpr int kResident = Body::kResident;
  static constexpr int kTogether = Body::kTogether;
  static_assert(Body::kSlab % kTogether == 0 && (Body::kSlab & (Body::kSlab - 1)) == 0,
                "a slab can be halved down to what a warp works on together");
  static_assert(kTogether <= kMostTogether);
  Body body;
  const int32_t* order;     // of the RoIs, or null
  int32_t count, channels;  // RoIs
  int32_t some, slab;       // of them, of a block
  int32_t together;         // of kTogether channels each: they make a slab
  int32_t parts, rows;      // of a RoI's rows of bins; rows in each
  int32_t bins_y, bins_x;
  Divider by_groups, by_parts, by_together, by_bins_x;

  int64_t shared_bytes() const { return Body::Kept::bytes() + body.bytes(some); }

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    const auto kept = Body::Kept::place(shared);
    const auto space = body.place(shared, some);
    // The slab is the outer number: what is read of the maps meanwhile is to stay in L2.
    int32_t group = static_cast<int32_t>(team.block);
    const int32_t channel = by_groups.split(group) * slab, place = group * some;
    const int32_t mine = count - place < some ? count - place : some;
    const auto roi_of = [&](int32_t i) { return order != nullptr ? order[place + i] : place + i; };
    body.prepare(team, space, mine, roi_of, channel);
    team.warps(mine * together * parts, [&](const Warp& warp, int32_t unit) {
      int32_t part = unit;
      int32_t c = by_parts.split(part);
      const int32_t i = by_together.split(c), p = part * rows;
      if (channel + c * kTogether < channels)
        run(warp, kept.of(warp), body.know(space, i), c * kTogether, channels - channel, p,
            p + rows < bins_y ? p + rows : bins_y);
    });
  }

 private:
  template <class Kept, class Known>
  ROIDL_DEVICE void run(const Warp& warp, const Kept& kept, const Known& known, int32_t first,
                        int32_t left, int32_t p_first, int32_t p_stop) const {
    const auto unit = body.unit_of(known, first, left);
    for (int32_t q = 0, q_stop; q < bins_x; q = q_stop) {
      Span columns = body.columns(known, q, q_stop = bins_x);
      if (columns.stop - columns.first > kItems) {
        for (q_stop = q + 1; q_stop < bins_x; ++q_stop) {
          const Span more = body.columns(known, q, q_stop + 1);
          if (more.stop - more.first > kItems) break;
        }
        columns = body.columns(known, q, q_stop);
      }
      const int32_t width = columns.stop - columns.first, bins = q_stop - q;
      const int32_t most = width < kItems ? width : kItems;
      const Reciprocal by_columns(most > 1 ? most : 1);
      const int32_t at_once = by_columns.quotient(kItems);
      for (int32_t p = p_first; p < p_stop; p += at_once) {
        const int32_t some_rows = p_stop - p < at_once ? p_stop - p : at_once;
        // One piece, but of a bin that is wider than the room.
        Span piece{columns.first, columns.first + most};
        for (bool more = true; more; piece = {piece.stop, piece.stop + kItems}) {
          more = piece.stop < columns.stop;
          if (!more) piece.stop = columns.stop;
          const int32_t some_columns = piece.stop - piece.first;
          warp.each(some_rows * some_columns, [&](int32_t item) {
            const int32_t row = by_columns.quotient(item);
            body.down(known, unit, p + row, piece.first + item - row * some_columns, kept, item);
          });
          warp.each(some_rows * bins, [&](int32_t bin) {
            const int32_t row = bins == bins_x ? by_bins_x.quotient(bin) : bin / bins;
            body.across(known, unit, p + row, q + bin - row * bins, piece, kept,
                        row * some_columns);
          });
        }
      }
    }
  }
};

// Whether lanes had better run along channels.
inline bool is_channels_last(const Problem& problem) {
  bool last = problem.channels > 1;
  for (int i = 0; i < problem.num_maps; ++i) last &= problem.maps[i].features.c == 1;
  return last;
}

inline bool pooled_together(const PooledView& view, int64_t channels, int count, int item_bytes) {
  return moves_together(view.data, {view.image, view.row, view.h, view.w}, view.c, channels, count,
                        item_bytes);
}

// Whether 16 bytes of channels can be moved at once, of all maps and of the results.
template <class T>
bool channels_together(const Problem& problem) {
  constexpr int kWide = 16 / sizeof(T);
  bool together = pooled_together(problem.pooled, problem.channels, kWide, sizeof(T));
  for (int i = 0; i < problem.num_maps; ++i) {
    const MapView& in = problem.maps[i].features;
    together &=
        moves_together(in.data, {in.n, in.h, in.w}, in.c, problem.channels, kWide, sizeof(T));
  }
  return together;
}

// Whether the offsets within a plane of so many rows and columns are of 31 bits, and those between
// the planes of a few channels.
inline bool counts_plane(const Problem& problem, int64_t height, int64_t width, int64_t h,
                         int64_t w, int64_t c) {
  const auto reach = [](int64_t size, int64_t stride) {
    return static_cast<double>(size - 1) * static_cast<double>(stride < 0 ? -stride : stride);
  };
  const int64_t planes = problem.channels > 1 ? kMostTogether + 1 : 1;
  return reach(height, h) + reach(width, w) < INT32_MAX && reach(planes, c) < INT32_MAX;
}
inline bool counts_plane(const Problem& problem, const PooledView& view) {
  return counts_plane(problem, problem.output_height, problem.output_width, view.h, view.w, view.c);
}

// Whether that holds for all maps and for the results, and so all that is counted.
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
  constexpr int kTogether = Body::kTogether;
  // A block is made smaller until there are enough of them: first of the RoIs that it has, then of
  // the channels, so that its warps meet in L1; then rows of bins are dealt out to idle warps.
  int64_t some = Body::kMostRois, slab = Body::kSlab;
  const auto blocks = [&] {
    return divide_up(problem.rois, some) * divide_up(problem.channels, slab);
  };
  const auto fits = [&] { return Body::Kept::bytes() + body.bytes(some) <= kSharedBytes; };
  while (some > 1 && (!fits() || blocks() < enough)) some = divide_up(some, 2);
  while (slab > kTogether && blocks() < enough) slab /= 2;
  const int64_t together = divide_up(slab < problem.channels ? slab : problem.channels, kTogether);
  const int64_t units = some * together, bins = problem.output_height;
  const int64_t parts = divide_up(kWarps, units) < bins ? divide_up(kWarps, units) : bins;
  const int64_t rows = divide_up(bins, parts);
  const Rows<Body> kernel{body,
                          order,
                          static_cast<int32_t>(problem.rois),
                          static_cast<int32_t>(problem.channels),
                          static_cast<int32_t>(some),
                          static_cast<int32_t>(slab),
                          static_cast<int32_t>(together),
                          static_cast<int32_t>(divide_up(bins, rows)),
                          static_cast<int32_t>(rows),
                          static_cast<int32_t>(bins),
                          static_cast<int32_t>(problem.output_width),
                          Divider(divide_up(problem.rois, some)),
                          Divider(divide_up(bins, rows)),
                          Divider(together),
                          Divider(problem.output_width)};
  launch(problem, kernel, blocks(), kernel.shared_bytes());
}

}  // namespace roidl::cuda
