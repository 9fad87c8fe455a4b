// Gradients to the input: every cell gathers what it is owed, RoI by RoI in their order.
//
// A block owns a tile of a map and 32 channels, a warp a patch of the tile, a lane a channel. The
// block picks the RoIs whose window meets the tile, and for a few of them at a time lays out in
// shared memory what each bin gives to the rows and columns of the tile, and the gradients of those
// bins. No atomics, no memory to be zeroed before, the same order every time.
#pragma once
#include <type_traits>

#include "meeting.cuh"
#include "staging.cuh"

namespace roidl::cuda {

inline constexpr int kListed = kLanes * kLanes;  // RoIs that a block looks at together

// `Source` says what a bin gives to a cell: Products (products.cuh), or Entries (entries.cuh). It
// has a Patch; what it keeps of its own in shared memory (Own), where begin() and end() make and
// hand over a thread's sums, if they are there; what it stages of a gradient (Staged), by load()
// and put(), for a bin that bin_of() has looked at; and add(), which adds the bins of a chunk.
// `From` (meeting.cuh) says which RoIs meet a tile, and what the weights of their bins are.
template <class T, class Source, class From>
struct Gather {
  using A = accumulator<T>;
  using Patch = typename Source::Patch;
  using Stage = Staging<T, Source>;
  static constexpr int kResident =
      Source::kResident < From::kMostResident ? Source::kResident : From::kMostResident;
  // What waits in shared memory to be stored, of so many channels together.
  static constexpr int kMostStored = (32 << 10) / (Patch::kTileCells * static_cast<int>(sizeof(A)));
  static constexpr int kStored = kMostStored < kLanes ? kMostStored : kLanes;
  static constexpr int kStoredStride = Patch::kTileCells + 1;
  struct Sum {
    A at[Patch::kCells];
  };

  struct Workspace {
    Work* work;     // not worth every thread's registers
    int32_t* list;  // of RoIs, counted from the first that was looked at
    uint32_t* words;
    typename Source::Own own;
    typename Stage::Space bins;
    A* stored;  // in the place of the sums and the bins
  };

  Stage staging;
  From from;
  Views grad_inputs;
  Tiling tiling;
  int64_t count;  // of the RoIs
  int64_t channels, slabs;

  Gather(const Problem& problem, const Tiling& tiles, const Source& asked, const From& found)
      : staging(problem, asked),
        from(found),
        grad_inputs(views_of(problem, &Map::gradient)),
        tiling(tiles),
        count(problem.rois),
        channels(problem.channels),
        slabs(divide_up(channels, kLanes)) {
    // Several RoIs at a time hide each other's waiting, as long as blocks do not crowd each other
    // out of shared memory.
    const int64_t room = shared_bytes_of_block(problem, kResident);
    while (staging.at_once < Stage::kMostAtOnce && shared_bytes() <= room) ++staging.at_once;
    if (staging.at_once > 1 && shared_bytes() > room) --staging.at_once;
  }

  int64_t shared_bytes() const {
    const int64_t staged = Source::own_bytes() + staging.bytes(staging.at_once);
    const int64_t stored = Shared::bytes_of<A>(kStored * kStoredStride);
    return Shared::bytes_of<Work>(1) + Shared::bytes_of<int32_t>(kListed) +
           Shared::bytes_of<uint32_t>(kLanes) + (staged > stored ? staged : stored);
  }

  int64_t blocks() const { return tiling.count * slabs; }

  ROIDL_DEVICE void operator()(const Team& team, Shared shared) const {
    const Workspace space = place(shared);
    team.each(1, [&](int64_t) { *space.work = work_of(team.block); });
    const Work& work = *space.work;
    PerThread<Sum> sums;
    team.each_thread([&](int thread) {
      sums[thread] = Sum{};
      staging.source.begin(space.own, thread);
    });
    for (int64_t first = 0; first < count; first += kListed) {
      from.find(team, tiling, work.tile, first, count, space.words);
      const int listed = team.list(space.list, space.words);
      add(team, space, work, first, listed, sums);
    }
    store(team, space, work, sums);
  }

 private:
  // All tiles of a map with the same channels come together: what they read of the gradients is
  // found in L2.
  ROIDL_DEVICE Work work_of(int64_t block) const {
    int32_t map = 0;
    while (map + 1 < tiling.maps && block < tiling.of[map].first * slabs) ++map;
    const Tiling::MapTiles& those = tiling.of[map];
    const int64_t tiles = tiling.images * those.each, within = block - those.first * slabs;
    const bool few = tiles * slabs <= INT32_MAX;  // a division of 64 bits is much longer
    const int64_t slab =
        few ? static_cast<uint32_t>(within) / static_cast<uint32_t>(tiles) : within / tiles;
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
    space.own = Source::place_own(shared);
    space.bins = staging.place(shared);
    return space;
  }

  // What the RoIs of the list give, chunk by chunk in their order.
  ROIDL_DEVICE void add(const Team& team, const Workspace& space, const Work& work, int64_t first,
                        int32_t listed, PerThread<Sum>& sums) const {
    for (int32_t roi = 0, chunk = 0; roi < listed;) {
      const int64_t left = int64_t{listed - roi} * staging.chunks_of_roi - chunk;
      const int32_t count = left < staging.at_once ? static_cast<int32_t>(left) : staging.at_once;
      const Batch batch{first, space.list, roi, chunk, count};
      staging.weigh(team, space.bins, from, work.tile, batch);
      staging.stage(team, space.bins, work, batch);
      team.each_thread([&](int thread) {
        if (thread % kLanes < work.channels) sum_up(space, count, thread, sums[thread]);
      });
      team.sync();
      for (chunk += count; chunk >= staging.chunks_of_roi; chunk -= staging.chunks_of_roi) ++roi;
    }
  }

  ROIDL_DEVICE void sum_up(const Workspace& space, int count, int thread, Sum& sum) const {
    const int warp = thread / kLanes, lane = thread % kLanes;
    const typename Stage::Space& staged = space.bins;
    for (int slot = 0; slot < count; ++slot) {
      const Range rows = staged.y.giving_to(slot, warp / Patch::kAcross);
      if (rows.first == rows.stop) continue;
      const Range columns = staged.x.giving_to(slot, warp % Patch::kAcross);
      if (columns.first == columns.stop) continue;
      const int32_t at = staging.at(slot, rows.first, columns.first) + lane;
      staging.source.add(space.own, staged.staged, at, Stage::kBinStride,
                         staging.chunk_x * Stage::kBinStride, staged.y, staged.x, slot, rows,
                         columns, warp, lane, sum);
    }
  }

  ROIDL_DEVICE void store(const Team& team, const Workspace& space, const Work& work,
                          PerThread<Sum>& sums) const {
    const Tile& tile = work.tile;
    const MapView& map = grad_inputs.of[tile.map];
    T* const target = static_cast<T*>(map.data) + tile.image * map.n + work.channel * map.c;
    const int64_t rows = tiling.of[tile.map].height - tile.y,
                  columns = tiling.of[tile.map].width - tile.x;
    team.each_thread([&](int thread) { staging.source.end(space.own, thread, sums[thread]); });
    team.sync();
    if (map.c == 1) {  // lanes are neighbours in memory
      team.each_thread([&](int thread) {
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
      team.each_thread([&](int thread) {
        const int warp = thread / kLanes, channel = thread % kLanes - first;
        if (channel < 0 || channel >= kStored) return;
        A* const cells = space.stored + channel * kStoredStride +
                         Patch::row_of(warp) * Patch::kTileColumns + Patch::column_of(warp);
#pragma unroll
        for (int i = 0; i < Patch::kCells; ++i)
          cells[i / Patch::kColumns * Patch::kTileColumns + i % Patch::kColumns] =
              sums[thread].at[i];
      });
      team.sync();
      // Lanes are cells of a row.
      constexpr int kCells = Patch::kTileCells;
      constexpr int kTogether = kThreads > kCells ? kThreads / kCells : 1;  // channels
      const int left = work.channels - first, stop = left < kStored ? left : kStored;
      team.each_thread([&](int thread) {
#pragma unroll
        for (int cell = thread % kCells; cell < kCells; cell += kThreads) {
          const int y = cell / Patch::kTileColumns, x = cell % Patch::kTileColumns;
          if (y >= rows || x >= columns) continue;
          int channel = thread / kCells;
          const A* from = space.stored + channel * kStoredStride + cell;
          T* to = target + (tile.y + y) * map.h + (tile.x + x) * map.w + (first + channel) * map.c;
          const int64_t stride = kTogether * map.c;
#pragma unroll 4
          for (; channel < stop; channel += kTogether, to += stride) {
            narrow(*from, *to);
            from += kTogether * kStoredStride;
          }
        }
      });
      team.sync();
    }
  }
};

template <class T, class Source, class From>
void gather_from(const Problem& problem, const Tiling& tiling, const Source& source,
                 const From& from) {
  const Gather<T, Source, From> kernel(problem, tiling, source, from);
  launch(problem, kernel, kernel.blocks(), kernel.shared_bytes());
}

template <class T, class Source, int kWeights>
void gather_tiles(const Problem& problem, const Tiling& tiling, int64_t most, const Source& source,
                  const Plan<accumulator<T>, kWeights>& plan) {
  with_meetings(problem, tiling, most, plan,
                [&](const auto& from) { gather_from<T>(problem, tiling, source, from); });
}

template <class Source>
Tiling tiling_of(const Problem& problem) {
  return Tiling(problem, Source::Patch::kTileRows, Source::Patch::kTileColumns);
}

template <class T, class Source, int kWeights>
void gather(const Problem& problem, const Source& source,
            const Plan<accumulator<T>, kWeights>& plan) {
  const Tiling narrow = tiling_of<Source>(problem);  // measured by: it needs more memory than wide
  if constexpr (!std::is_void_v<typename Source::Wide>) {
    const Tiling wide = tiling_of<typename Source::Wide>(problem);
    const int64_t blocks = wide.count * divide_up(problem.channels, kLanes);
    if (!has_no_device(problem) && blocks >= ROIDL_TUNE_GATHER_WIDE * multiprocessors(problem))
      return gather_tiles<T>(problem, wide, narrow.count, typename Source::Wide{}, plan);
  }
  gather_tiles<T>(problem, narrow, narrow.count, source, plan);
}

// Whatever finds a plan for itself where the problem is small, and by one where it is not.
template <class T, class Rois, class ProblemType, class Source>
void gather_once(const ProblemType& problem, const Source& source) {
  using A = accumulator<T>;
  const Tiling tiling = tiling_of<Source>(problem);
  if (is_small<A>(problem, tiling.count * divide_up(problem.channels, kLanes)))
    return gather_from<T>(problem, tiling, source, FromBoxes<A, Rois>{Rois(problem)});
  with_plan<A, 1>(problem, [&](const auto& plan) { gather<T>(problem, source, plan); });
}

}  // namespace roidl::cuda
