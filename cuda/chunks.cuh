// The chunks of bins that a gather keeps in shared memory: the weights of each bin for the rows and
// columns of a tile, and the gradients of the bins that have any.
#pragma once
#include "elements.cuh"
#include "tile.cuh"
#include "tuning.h"

namespace roidl::cuda {

// The bins of a RoI, or a chunk of them if there are many.
struct Chunk {
  int64_t k, offset;  // offset of the RoI's gradients
  int32_t p, q, rows, columns;
};

// The chunks that are in shared memory at the same time: `count` chunks of a list of RoIs, from
// chunk number `chunk` of the RoI at `roi` on.
struct Batch {
  int64_t first;  // RoI from which the list counts
  const int32_t* list;
  int32_t roi, chunk, count;
};

// `Source`: see Gather (gather.cuh).
template <class T, class Source>
struct Chunks {
  using A = accumulator<T>;
  using Patch = typename Source::Patch;
  static constexpr int kWeights = Source::kWeights;
  static constexpr int kLoads = Source::kLoads;
  static constexpr int kBinStride = kLanes + 1;                // neighbours use different banks
  static constexpr int kMaxChunks = ROIDL_TUNE_GATHER_CHUNKS;  // chunks of a batch

  using Rows = Table<A, Patch::kTileRows, Patch::kDown>;
  using Columns = Table<A, Patch::kTileColumns, Patch::kAcross>;
  struct Space {
    Chunk* chunks;
    Rows y;
    Columns x;
    typename Source::Gradients gradients;
  };

  Source source;
  PooledView grad_output;
  int32_t bins_y, bins_x;
  int32_t chunk_y, chunk_x, batch_size;  // bins of a chunk along each axis; chunks at a time
  int32_t chunks_of_roi;
  Divider by_chunks, by_chunks_x;
  bool lanes_are_bins;

  Chunks(const Problem& problem, const Source& asked)
      : source(asked),
        grad_output(problem.pooled),
        bins_y(static_cast<int32_t>(problem.output_height)),
        bins_x(static_cast<int32_t>(problem.output_width)),
        chunk_y(bins_y < Source::kMaxBins ? bins_y : Source::kMaxBins),
        chunk_x(bins_x < Source::kMaxBins ? bins_x : Source::kMaxBins),
        batch_size(1),
        chunks_of_roi(number_of(divide_up(bins_y, chunk_y) * divide_up(bins_x, chunk_x))),
        by_chunks(chunks_of_roi),
        by_chunks_x(divide_up(bins_x, chunk_x)),
        lanes_are_bins(grad_output.c != 1 && counts_channels(grad_output) && source.counts()) {}

  int64_t bytes(int64_t count) const {
    return Shared::bytes_of<Chunk>(count) + Rows::bytes(count, chunk_y, kWeights) +
           Columns::bytes(count, chunk_x, kWeights) +
           Source::gradient_bytes(count * chunk_y * chunk_x * kBinStride, count);
  }
  ROIDL_DEVICE Space place(Shared shared) const {
    Space space;
    space.chunks = shared.take<Chunk>(batch_size);
    space.y = Rows::place(shared, batch_size, chunk_y, kWeights);
    space.x = Columns::place(shared, batch_size, chunk_x, kWeights);
    space.gradients =
        Source::place(shared, int64_t{batch_size} * chunk_y * chunk_x * kBinStride, batch_size);
    return space;
  }

  // Finds the weights of each bin for the rows and columns of the tile.
  template <class Geometry>
  ROIDL_DEVICE void find_weights(const Block& block, const Space& space, const Geometry& geometry,
                                 const Tile& tile, const Batch& batch) const {
    const int32_t both = chunk_y + chunk_x;
    block.each(batch.count * both, [&](int64_t index) {
      const int32_t i = static_cast<int32_t>(index), slot = i / both, bin = i - slot * both;
      Chunk chunk = chunk_of(batch, slot);
      if (bin == 0) {
        chunk.offset = grad_output.offset(chunk.k);
        space.chunks[slot] = chunk;
        source.load_roi(space.gradients, slot, chunk.k);
      }
      const int32_t row = bin, column = bin - chunk_y;
      if (row < chunk.rows)
        find_weights_of_bin<Patch::kTileRows>(geometry, true, chunk.k, chunk.p + row, tile.y,
                                              space.y, slot, row);
      else if (column >= 0 && column < chunk.columns)
        find_weights_of_bin<Patch::kTileColumns>(geometry, false, chunk.k, chunk.q + column, tile.x,
                                                 space.x, slot, column);
    });
    constexpr int kRanges = Rows::kRanges + Columns::kRanges;
    block.each(batch.count * kRanges, [&](int64_t index) {
      const int i = static_cast<int>(index), slot = i / kRanges, patch = i % kRanges;
      if (patch < Rows::kRanges)
        space.y.find_giving(slot, patch, space.chunks[slot].rows);
      else
        space.x.find_giving(slot, patch - Rows::kRanges, space.chunks[slot].columns);
    });
  }

  // Loads the gradients of the bins that have weights in the tile.
  ROIDL_DEVICE void load_gradients(const Block& block, const Space& space, const Work& work,
                                   const Batch& batch) const {
    lanes_are_bins ? move_gradients<true>(block, space, work, batch)
                   : move_gradients<false>(block, space, work, batch);
    wait_for_copies();
    block.sync();
  }

  ROIDL_DEVICE int32_t at(int slot, int32_t row, int32_t column) const {
    return ((slot * chunk_y + row) * chunk_x + column) * kBinStride;
  }

 private:
  // With more chunks, the result would exceed any memory.
  static int32_t number_of(int64_t chunks) {
    return static_cast<int32_t>(chunks < INT32_MAX ? chunks : INT32_MAX);
  }

  ROIDL_DEVICE Chunk chunk_of(const Batch& batch, int slot) const {
    int32_t x = batch.chunk + slot;
    const int64_t k = batch.first + batch.list[batch.roi + by_chunks.split(x)];
    const int32_t p = by_chunks_x.split(x) * chunk_y, q = x * chunk_x;
    const int32_t rows = bins_y - p, columns = bins_x - q;
    return {k, 0, p, q, rows < chunk_y ? rows : chunk_y, columns < chunk_x ? columns : chunk_x};
  }

  template <int kCells, class Geometry, class TableType>
  ROIDL_DEVICE void find_weights_of_bin(const Geometry& geometry, bool along_y, int64_t k,
                                        int32_t p, int32_t begin, const TableType& table, int slot,
                                        int32_t bin) const {
    A* const weight = table.row(slot, bin);
    if constexpr (kWeights > 0)
      for (int cell = 0; cell < kCells; ++cell)
        for (int j = 0; j < kWeights; ++j) weight[j * table.second + cell] = A(0);
    uint32_t gives = 0;
    geometry.for_each_tap(along_y, k, p, [&](int32_t cell, const A* weights) {
      const int32_t at = cell - begin;
      if (at < 0 || at >= kCells) return;
      for (int j = 0; j < kWeights; ++j) weight[j * table.second + at] += weights[j];
      gives |= 1u << at;
    });
    table.gives[slot * table.bins + bin] = gives;
  }

  // The bins of a chunk that may have weights in the tile, row by row.
  struct Bins {
    int slot;
    Range rows, columns;
    uint32_t across;

    ROIDL_DEVICE int32_t row(uint32_t i) const { return rows.first + i / across; }
    ROIDL_DEVICE int32_t column(uint32_t i) const { return columns.first + i % across; }
  };

  // Lanes are bins; or they are channels, if channels are neighbours in memory or too far apart for
  // 32-bit offsets. Each lane has kLoads loads in flight along the other one.
  template <bool kChannelsFirst>
  ROIDL_DEVICE void move_gradients(const Block& block, const Space& space, const Work& work,
                                   const Batch& batch) const {
    // Warps are divided equally among the chunks; each has at least kLoads channels.
    int halvings = 0;
    while (batch.count << halvings < kWarps && kLoads << halvings < kLanes) ++halvings;
    block.rows(batch.count << halvings, kLanes, [&](int32_t unit, int32_t lane) {
      const int32_t slot = unit >> halvings;
      const Range rows = space.y.giving_at_all(slot);
      const Range columns = space.x.giving_at_all(slot);
      const int32_t across = columns.stop - columns.first, bins = (rows.stop - rows.first) * across;
      int32_t piece = unit & ((1 << halvings) - 1);
      const Bins bin{slot, rows, columns, static_cast<uint32_t>(across)};
      const Chunk& chunk = space.chunks[slot];
      const T* const from = static_cast<const T*>(grad_output.data) + chunk.offset +
                            work.channel * grad_output.c + chunk.p * grad_output.h +
                            chunk.q * grad_output.w;
      if constexpr (kChannelsFirst) {
        // If half of the lanes have no bin, they take other channels of the bins of the first half.
        int shift = 5, parts = halvings;
        for (; kLoads << parts < kLanes && 1 << (shift - 1) >= bins; ++parts) --shift;
        piece += lane >> shift << halvings;
        for (int32_t i = lane & ((1 << shift) - 1); i < bins; i += 1 << shift)
          load_channels(space, work, bin, i, piece * kLoads, kLoads << parts, from);
      } else if (lane < work.channels) {
        const int32_t step = kLoads << halvings;
        for (int32_t i = piece * kLoads; i < bins; i += step)
          load_bins(space, work, bin, i, lane, bins - i, from);
      }
    });
  }

  // Moves bin i, kLoads channels at a time, from channel `first` on.
  ROIDL_DEVICE void load_channels(const Space& space, const Work& work, const Bins& bins, int32_t i,
                                  int32_t first, int32_t step, const T* from) const {
    const int32_t row = bins.row(i), column = bins.column(i), channels = work.channels;
    const int32_t stride = static_cast<int32_t>(grad_output.c);
    from += row * grad_output.h + column * grad_output.w + first * stride;
    const auto bin =
        source.bin_of(space.gradients, place_of(space, work, bins, row, column, first));
    for (int32_t c = first; c < channels; c += step, from += step * stride) {
      const auto move_channels = [&](int32_t count) {
        typename Source::Loaded loaded[kLoads];
#pragma unroll
        for (int j = 0; j < kLoads; ++j)
          if (j < count) loaded[j] = source.load(bin, c - first + j, from + j * stride);
#pragma unroll
        for (int j = 0; j < kLoads; ++j)
          if (j < count) source.put(space.gradients, bin, c - first + j, loaded[j]);
      };
      if (Source::kIsShort && channels - c >= kLoads)
        move_channels(kLoads);  // usually without a test for each channel
      else
        move_channels(channels - c);
    }
  }

  // Moves channel c of kLoads bins from bin i on, but of at most `left`.
  ROIDL_DEVICE void load_bins(const Space& space, const Work& work, const Bins& bins, int32_t i,
                              int32_t c, int32_t left, const T* from) const {
    const int32_t row = bins.row(i), column = bins.column(i);
    from += row * grad_output.h + column * grad_output.w + c * grad_output.c;
    int32_t y = row, x = column;
    const auto next = [&] {  // returns whether the next bin is in the same row
      if (++x < bins.columns.stop) return true;
      x = bins.columns.first;
      ++y;
      return false;
    };
    const auto bin_of = [&] {
      return source.bin_of(space.gradients, place_of(space, work, bins, y, x, c));
    };
    typename Source::Loaded loaded[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      if (j < left) loaded[j] = source.load(bin_of(), 0, from);
      from += next() ? grad_output.w : grad_output.h - int64_t{bins.across - 1} * grad_output.w;
    }
    y = row;
    x = column;
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      if (j < left) source.put(space.gradients, bin_of(), 0, loaded[j]);
      next();
    }
  }

  ROIDL_DEVICE BinPlace place_of(const Space& space, const Work& work, const Bins& bins,
                                 int32_t row, int32_t column, int32_t c) const {
    const Chunk& chunk = space.chunks[bins.slot];
    return {work.channel + c,
            bins.slot,
            work.tile.map,
            chunk.p + row,
            chunk.q + column,
            work.tile.y,
            work.tile.x,
            space.y.gives_of(bins.slot, row),
            space.x.gives_of(bins.slot, column),
            at(bins.slot, row, column) + c};
  }
};

}  // namespace roidl::cuda
