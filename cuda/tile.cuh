// The units of a gather: the tiles of the maps, and the bins with weights in a tile.
#pragma once
#include <cstdlib>

#include "plan.cuh"

namespace roidl::cuda {

// The patch of a tile that a warp sums. Each lane has a channel, so decisions hold for all lanes of
// a warp. The rows and columns of a tile are bits of a word.
template <int kPatchRows, int kPatchColumns, int kColumnsOfTile>
struct Patches {
  static constexpr int kRows = kPatchRows, kColumns = kPatchColumns, kCells = kRows * kColumns;
  static constexpr int kTileColumns = kColumnsOfTile;
  static constexpr int kAcross = kTileColumns / kColumns, kDown = kWarps / kAcross;
  static constexpr int kTileRows = kDown * kRows, kTileCells = kTileRows * kTileColumns;
  static_assert(kAcross * kColumns == kTileColumns && kAcross * kDown == kWarps, "they fill it");
  static_assert(kTileRows <= 32 && kTileColumns <= 32, "bits of a word");

  ROIDL_DEVICE static int row_of(int warp) { return warp / kAcross * kRows; }
  ROIDL_DEVICE static int column_of(int warp) { return warp % kAcross * kColumns; }
};

// A bin of a chunk (chunks.cuh) as seen from a tile: the rows and columns in which it has weights,
// as bits; the channel; and the index of its gradient on that channel in shared memory.
struct BinPlace {
  int64_t channel;
  int32_t slot, map, p, q, y, x;
  uint32_t rows, columns;
  int32_t at;

  // Returns the number in the tile of a cell of the map, or -1 if the bin has no weight there.
  template <class Patch>
  ROIDL_DEVICE int32_t cell_of(int32_t row, int32_t column) const {
    const int32_t down = row - y, right = column - x;
    const bool near = static_cast<uint32_t>(down | right) < kLanes;
    return near && (rows >> down & columns >> right & 1) != 0 ? down * Patch::kTileColumns + right
                                                              : -1;
  }
};

// Whether 32 bits suffice for the distance in elements between the channels of a warp.
inline bool counts_channels(const PooledView& view) {
  return std::abs(view.c) <= INT32_MAX / kLanes;
}

// A tile of an image of a map.
struct Tile {
  int64_t number, image;
  int32_t map, y, x, rows, columns;

  // `&` instead of `&&`, so that all loads are in flight at the same time.
  ROIDL_DEVICE bool overlaps(const Window& window) const {
    return (window.image == image) & (window.map == map) & (window.y_begin - y < rows) &
           (window.y_end > y) & (window.x_begin - x < columns) & (window.x_end > x);
  }
};

// A tile and some channels of it.
struct Work {
  Tile tile;
  int64_t channel;
  int32_t channels;
};

// The tiles of all maps. The tiles of the smallest map come first: most RoIs overlap one of them.
struct Tiling {
  struct MapTiles {
    int64_t first, height, width, each;  // each: tiles of an image
    bool fits_32_bits;
    Divider by_each, by_columns;
    int64_t columns;
  };
  MapTiles of[kMaxMaps];
  int64_t images, count;
  int32_t maps, tile_rows, tile_columns;

  Tiling(const Problem& problem, int rows_of_tile, int columns_of_tile)
      : images(problem.images),
        count(0),
        maps(problem.num_maps),
        tile_rows(rows_of_tile),
        tile_columns(columns_of_tile) {
    for (int i = maps - 1; i >= 0; --i) {
      const Map& map = problem.maps[i];
      const int64_t columns = divide_up(map.width, tile_columns);
      const int64_t each = columns * divide_up(map.height, tile_rows);
      const bool fits_32_bits = each > 0 && each <= INT32_MAX && images * each <= INT32_MAX;
      of[i] = {count,
               map.height,
               map.width,
               each,
               fits_32_bits,
               Divider(fits_32_bits ? each : 1),
               Divider(fits_32_bits ? columns : 1),
               columns};
      count += images * each;
    }
  }

  ROIDL_DEVICE int32_t map_of(int64_t number) const {
    int32_t map = 0;
    while (map + 1 < maps && number < of[map].first) ++map;
    return map;
  }
  ROIDL_DEVICE Tile tile_of(int64_t number) const {
    const int32_t map = map_of(number);
    const MapTiles& those = of[map];
    int64_t image, row, column;
    if (those.fits_32_bits) {
      int32_t at = static_cast<int32_t>(number - those.first);
      image = those.by_each.split(at);
      row = those.by_columns.split(at);
      column = at;
    } else {
      image = (number - those.first) / those.each;
      const int64_t at = number - those.first - image * those.each;
      row = at / those.columns;
      column = at - row * those.columns;
    }
    return {number,
            image,
            map,
            static_cast<int32_t>(row) * tile_rows,
            static_cast<int32_t>(column) * tile_columns,
            tile_rows,
            tile_columns};
  }
};

// The table of one axis of a tile, whose kCells rows or columns form kPatches patches: in which of
// them each bin has weights, the weights, and the range of bins with weights in each patch.
template <class A, int kCells, int kPatches>
struct Table {
  static constexpr int kStride = kCells + 16 / static_cast<int>(sizeof(A));  // padded by 16 bytes
  static constexpr int kRanges = kPatches + 1;  // the last is for the whole tile
  uint32_t* gives;                              // [chunk][bin]
  Range* giving;                                // [chunk][kRanges]
  A* weight;                                    // [chunk][bin][kStride], for each weight
  int32_t bins;                                 // bins at a time
  int32_t second;                               // distance from the first to the second weights

  static int64_t bytes(int64_t count, int64_t bins, int weights) {
    return Shared::bytes_of<uint32_t>(count * bins) + Shared::bytes_of<Range>(count * kRanges) +
           Shared::bytes_of<A>(weights * count * bins * kStride);
  }
  ROIDL_DEVICE static Table place(Shared& shared, int32_t count, int32_t bins, int weights) {
    Table table;
    table.bins = bins;
    table.second = weights > 1 ? count * bins * kStride : 0;
    table.gives = shared.take<uint32_t>(count * bins);
    table.giving = shared.take<Range>(count * kRanges);
    table.weight = shared.take<A>(weights * count * bins * kStride);
    return table;
  }

  ROIDL_DEVICE uint32_t gives_of(int slot, int32_t bin) const { return gives[slot * bins + bin]; }
  ROIDL_DEVICE Range giving_to(int slot, int patch) const { return giving[slot * kRanges + patch]; }
  ROIDL_DEVICE Range giving_at_all(int slot) const { return giving_to(slot, kPatches); }
  ROIDL_DEVICE A* row(int slot, int32_t bin) const {
    return weight + (slot * bins + bin) * kStride;
  }

  // Finds the range from the first to the last of `count` bins with weights in a patch.
  ROIDL_DEVICE void find_giving(int slot, int patch, int32_t count) const {
    constexpr int kSize = kCells / kPatches;
    const uint32_t cells = patch == kPatches ? ~0u : ((1u << kSize) - 1u) << patch * kSize;
    Range range{0, 0};
    for (int32_t bin = 0; bin < count; ++bin) {
      if ((gives_of(slot, bin) & cells) == 0) continue;
      if (range.stop == 0) range.first = bin;
      range.stop = bin + 1;
    }
    giving[slot * kRanges + patch] = range;
  }
};

}  // namespace roidl::cuda
