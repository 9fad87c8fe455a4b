// Gradients to the input: every cell gathers its gradient from the RoIs that touch it, in their
// order.
//
// A block computes a tile of a map on 32 channels, a warp a patch of the tile, a lane one channel.
// The block selects the RoIs whose windows overlap the tile. For a few of them at a time, it writes
// to shared memory the weights of each bin for the rows and columns of the tile, and the gradients
// of those bins. There are no atomics, no memory has to be zeroed before, and the order is always
// the same.
#pragma once
#include <type_traits>

#include "chunks.cuh"
#include "overlaps.cuh"

namespace roidl::cuda {

inline constexpr int kListed = kLanes * kLanes;  // RoIs that a block tests at a time

// `Source` says what a bin adds to a cell: AverageGradient (average_gradient.cuh) or MaxGradient
// (max_gradient.cuh). Its members are
//   Patch              the cells of a warp (Patches)
//   Wide               the same Source with wide tiles, or void
//   kWeights           weights of a tap that it reads from the table of an axis
//   kMaxBins           bins of a chunk along an axis, at most
//   kMinBlocks         blocks that share a multiprocessor
//   kLoads, kIsShort   gradients that a lane has in flight; whether put() is a few instructions
//   SharedSums         sums in shared memory, if they are not in registers: sums_bytes(),
//                      place_sums(shared), begin(sums, thread), end(sums, thread, sum)
//   Gradients          the gradients of a batch in shared memory: gradient_bytes(places, chunks),
//                      place(shared, places, chunks)
//   load_roi(gradients, slot, k)       its data of a RoI, once for a chunk
//   bin_of(gradients, place)           its data of a bin
//   load(bin, c, gradient), put(gradients, bin, c, loaded)
//                                      from global memory, as a Loaded; to shared memory
//   counts()                           whether 32-bit offsets suffice for what it loads besides
//                                      gradients
//   add(…)                             adds the bins of a chunk to a thread's sums
//
// `Geometry` says where the RoIs are: PlanGeometry or BoxGeometry (overlaps.cuh). Its members are
//   kMaxMinBlocks                                    the most blocks that share a multiprocessor
//   window(k)                                        the cells that RoI k may touch
//   find(block, tiling, tile, k, count, words)       bits: which RoIs from k on overlap the tile
//   for_each_tap(along_y, k, p, visit)               visit(cell, weights)
template <class T, class Source, class Geometry>
struct Gather {
  using A = accumulator<T>;
  using Patch = typename Source::Patch;
  using ChunksType = Chunks<T, Source>;
  static constexpr int kMinBlocks =
      Source::kMinBlocks < Geometry::kMaxMinBlocks ? Source::kMinBlocks : Geometry::kMaxMinBlocks;
  // The channels whose sums are in shared memory at a time, to be stored.
  static constexpr int kMaxStored = (32 << 10) / (Patch::kTileCells * static_cast<int>(sizeof(A)));
  static constexpr int kStored = kMaxStored < kLanes ? kMaxStored : kLanes;
  static constexpr int kStoredStride = Patch::kTileCells + 1;
  struct Sum {
    A at[Patch::kCells];
  };

  struct Workspace {
    Work* work;     // in shared memory, to save registers
    int32_t* list;  // RoIs, counted from the first of those tested
    uint32_t* words;
    typename Source::SharedSums sums;
    typename ChunksType::Space bins;
    A* stored;  // shares the memory of the sums and the bins
  };

  ChunksType chunks;
  Geometry geometry;
  Views grad_inputs;
  Tiling tiling;
  int64_t count;  // number of RoIs
  int64_t channels, slabs;

  Gather(const Problem& problem, const Tiling& tiles, const Source& asked,
         const Geometry& roi_geometry)
      : chunks(problem, asked),
        geometry(roi_geometry),
        grad_inputs(views_of(problem, &Map::gradient)),
        tiling(tiles),
        count(problem.rois),
        channels(problem.channels),
        slabs(divide_up(channels, kLanes)) {
    // Several RoIs at a time hide each other's latency, as long as their shared memory leaves room
    // for kMinBlocks blocks.
    const int64_t room = shared_bytes_of_block(problem, kMinBlocks);
    while (chunks.batch_size < ChunksType::kMaxChunks && shared_bytes() <= room)
      ++chunks.batch_size;
    if (chunks.batch_size > 1 && shared_bytes() > room) --chunks.batch_size;
  }

  int64_t shared_bytes() const {
    const int64_t working = Source::sums_bytes() + chunks.bytes(chunks.batch_size);
    const int64_t stored = Shared::bytes_of<A>(kStored * kStoredStride);
    return Shared::bytes_of<Work>(1) + Shared::bytes_of<int32_t>(kListed) +
           Shared::bytes_of<uint32_t>(kLanes) + (working > stored ? working : stored);
  }

  int64_t blocks() const { return tiling.count * slabs; }

  ROIDL_DEVICE void operator()(const Block& block, Shared shared) const {
    const Workspace space = place(shared);
    block.each(1, [&](int64_t) { *space.work = work_of(block.index); });
    const Work& work = *space.work;
    PerThread<Sum> sums;
    block.each_thread([&](int thread) {
      sums[thread] = Sum{};
      chunks.source.begin(space.sums, thread);
    });
    for (int64_t first = 0; first < count; first += kListed) {
      geometry.find(block, tiling, work.tile, first, count, space.words);
      const int listed = block.list(space.list, space.words);
      add(block, space, work, first, listed, sums);
    }
    store(block, space, work, sums);
  }

 private:
  // Consecutive blocks are the tiles of a map on the same channels: they read the same gradients,
  // which are then in L2.
  ROIDL_DEVICE Work work_of(int64_t block) const {
    int32_t map = 0;
    while (map + 1 < tiling.maps && block < tiling.of[map].first * slabs) ++map;
    const Tiling::MapTiles& those = tiling.of[map];
    const int64_t tiles = tiling.images * those.each, within = block - those.first * slabs;
    const bool fits_32_bits = tiles * slabs <= INT32_MAX;  // a 64-bit division takes much longer
    const int64_t slab = fits_32_bits ? static_cast<uint32_t>(within) / static_cast<uint32_t>(tiles)
                                      : within / tiles;
    const int64_t channel = slab * kLanes, left = channels - channel;
    return {tiling.tile_of(those.first + within - slab * tiles), channel,
            left < kLanes ? static_cast<int32_t>(left) : kLanes};
  }

  ROIDL_DEVICE Workspace place(Shared shared) const {
    Workspace space;
    space.work = shared.take<Work>(1);
    space.list = shared.take<int32_t>(kListed);
    space.words = shared.take<uint32_t>(kLanes);
    space.stored = reinterpret_cast<A*>(shared.next);
    space.sums = Source::place_sums(shared);
    space.bins = chunks.place(shared);
    return space;
  }

  // Adds the gradients of the listed RoIs, chunk by chunk in order.
  ROIDL_DEVICE void add(const Block& block, const Workspace& space, const Work& work, int64_t first,
                        int32_t listed, PerThread<Sum>& sums) const {
    for (int32_t roi = 0, chunk = 0; roi < listed;) {
      const int64_t left = int64_t{listed - roi} * chunks.chunks_of_roi - chunk;
      const int32_t count =
          left < chunks.batch_size ? static_cast<int32_t>(left) : chunks.batch_size;
      const Batch batch{first, space.list, roi, chunk, count};
      chunks.find_weights(block, space.bins, geometry, work.tile, batch);
      chunks.load_gradients(block, space.bins, work, batch);
      block.each_thread([&](int thread) {
        if (thread % kLanes < work.channels) sum_up(space, count, thread, sums[thread]);
      });
      block.sync();
      for (chunk += count; chunk >= chunks.chunks_of_roi; chunk -= chunks.chunks_of_roi) ++roi;
    }
  }

  ROIDL_DEVICE void sum_up(const Workspace& space, int count, int thread, Sum& sum) const {
    const int warp = thread / kLanes, lane = thread % kLanes;
    const typename ChunksType::Space& gradients = space.bins;
    for (int slot = 0; slot < count; ++slot) {
      const Range rows = gradients.y.giving_to(slot, warp / Patch::kAcross);
      if (rows.first == rows.stop) continue;
      const Range columns = gradients.x.giving_to(slot, warp % Patch::kAcross);
      if (columns.first == columns.stop) continue;
      const int32_t at = chunks.at(slot, rows.first, columns.first) + lane;
      chunks.source.add(space.sums, gradients.gradients, at, ChunksType::kBinStride,
                        chunks.chunk_x * ChunksType::kBinStride, gradients.y, gradients.x, slot,
                        rows, columns, warp, lane, sum);
    }
  }

  ROIDL_DEVICE void store(const Block& block, const Workspace& space, const Work& work,
                          PerThread<Sum>& sums) const {
    const Tile& tile = work.tile;
    const MapView& map = grad_inputs.of[tile.map];
    T* const target = static_cast<T*>(map.data) + tile.image * map.n + work.channel * map.c;
    const int64_t rows = tiling.of[tile.map].height - tile.y,
                  columns = tiling.of[tile.map].width - tile.x;
    block.each_thread([&](int thread) { chunks.source.end(space.sums, thread, sums[thread]); });
    block.sync();
    if (map.c == 1) {  // lanes are neighbours in memory
      block.each_thread([&](int thread) {
        const int warp = thread / kLanes, lane = thread % kLanes;
        if (lane >= work.channels) return;
        const int y = Patch::row_of(warp), x = Patch::column_of(warp);
        T* to = target + lane + (tile.y + y) * map.h + (tile.x + x) * map.w;
#pragma unroll
        for (int i = 0; i < Patch::kCells; ++i) {
          const int down = i / Patch::kColumns, across = i % Patch::kColumns;
          if (y + down < rows && x + across < columns) narrow(sums[thread].at[i], *to);
          const bool ends = across == Patch::kColumns - 1;
          to += ends ? map.h - across * map.w : map.w;
        }
      });
      return;
    }
    for (int first = 0; first < work.channels; first += kStored) {
      block.each_thread([&](int thread) {
        const int warp = thread / kLanes, channel = thread % kLanes - first;
        if (channel < 0 || channel >= kStored) return;
        A* const cells = space.stored + channel * kStoredStride +
                         Patch::row_of(warp) * Patch::kTileColumns + Patch::column_of(warp);
#pragma unroll
        for (int i = 0; i < Patch::kCells; ++i)
          cells[i / Patch::kColumns * Patch::kTileColumns + i % Patch::kColumns] =
              sums[thread].at[i];
      });
      block.sync();
      // Lanes are cells of a row.
      constexpr int kCells = Patch::kTileCells;
      constexpr int kChannelStep = kThreads > kCells ? kThreads / kCells : 1;  // channels
      const int left = work.channels - first, stop = left < kStored ? left : kStored;
      block.each_thread([&](int thread) {
#pragma unroll
        for (int cell = thread % kCells; cell < kCells; cell += kThreads) {
          const int y = cell / Patch::kTileColumns, x = cell % Patch::kTileColumns;
          if (y >= rows || x >= columns) continue;
          int channel = thread / kCells;
          const A* from = space.stored + channel * kStoredStride + cell;
          T* to = target + (tile.y + y) * map.h + (tile.x + x) * map.w + (first + channel) * map.c;
          const int64_t stride = kChannelStep * map.c;
#pragma unroll 4
          for (; channel < stop; channel += kChannelStep, to += stride) {
            narrow(*from, *to);
            from += kChannelStep * kStoredStride;
          }
        }
      });
      block.sync();
    }
  }
};

template <class T, class Source, class Geometry>
void launch_gather(const Problem& problem, const Tiling& tiling, const Source& source,
                   const Geometry& geometry) {
  const Gather<T, Source, Geometry> kernel(problem, tiling, source, geometry);
  launch(problem, kernel, kernel.blocks(), kernel.shared_bytes());
}

template <class T, class Source, int kWeights>
void gather_tiles(const Problem& problem, const Tiling& tiling, int64_t max_tiles,
                  const Source& source, const Plan<accumulator<T>, kWeights>& plan) {
  with_overlaps(problem, tiling, max_tiles, plan,
                [&](const auto& geometry) { launch_gather<T>(problem, tiling, source, geometry); });
}

template <class Source>
Tiling tiling_of(const Problem& problem) {
  return Tiling(problem, Source::Patch::kTileRows, Source::Patch::kTileColumns);
}

template <class T, class Source, int kWeights>
void gather(const Problem& problem, const Source& source,
            const Plan<accumulator<T>, kWeights>& plan) {
  const Tiling narrow = tiling_of<Source>(problem);  // memory is measured for it: wide needs less
  if constexpr (!std::is_void_v<typename Source::Wide>) {
    const Tiling wide = tiling_of<typename Source::Wide>(problem);
    const int64_t blocks = wide.count * divide_up(problem.channels, kLanes);
    if (!has_no_device(problem) && blocks >= ROIDL_TUNE_WIDE_TILES * multiprocessors(problem))
      return gather_tiles<T>(problem, wide, narrow.count, typename Source::Wide{}, plan);
  }
  gather_tiles<T>(problem, narrow, narrow.count, source, plan);
}

// Runs a gather without a plan: each block finds the plan if the problem is small, else a kernel
// does.
template <class T, class Rois, class ProblemType, class Source>
void gather_planning(const ProblemType& problem, const Source& source) {
  using A = accumulator<T>;
  const Tiling tiling = tiling_of<Source>(problem);
  if constexpr (kBlockPlans > 0) {
    if (can_plan_in_blocks<A>(problem, tiling.count * divide_up(problem.channels, kLanes)))
      return launch_gather<T>(problem, tiling, source, BoxGeometry<A, Rois>{Rois(problem)});
  }
  with_plan<A, 1>(problem, [&](const auto& plan) { gather<T>(problem, source, plan); });
}

}  // namespace roidl::cuda
