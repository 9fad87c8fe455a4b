// Gradients that go to single cells: where a maximum was found, as a source for the gather.
#pragma once
#include "gather.cuh"

namespace roidl::cuda {

// Each bin of each channel gives to at most `kCells` cells. `Finder` says which:
// find(known, tile, channel, place, give) calls give(row, column, share) for them, where `known` is
// what it has learnt of the RoI by know(k).
template <class T, class Finder>
struct Entries {
  using A = accumulator<T>;
  using Known = typename Finder::Known;
  static constexpr int kCells = Finder::kCells;
  static constexpr int kWeights = 1;
  static constexpr int kChannels = 8;
  static constexpr int kChannelStride = kChannels + 1;
  static constexpr int kMostBins = 8;
  static constexpr int kResident = Finder::kResident;

  struct Staged {
    A* value;         // [bin][channel][kCells]
    int32_t* thread;  // of the cell; -1: not in this tile
    Known* known;     // [RoI]
  };

  Finder finder;

  static int64_t staged_bytes(int64_t bins) {
    return Shared::bytes_of<A>(bins * kChannelStride * kCells) +
           Shared::bytes_of<int32_t>(bins * kChannelStride * kCells) +
           Shared::bytes_of<Known>(kMostAtOnce);
  }
  ROIDL_DEVICE Staged place(Shared& shared, int64_t bins) const {
    Staged staged;
    staged.value = shared.take<A>(bins * kChannelStride * kCells);
    staged.thread = shared.take<int32_t>(bins * kChannelStride * kCells);
    staged.known = shared.take<Known>(kMostAtOnce);
    return staged;
  }

  ROIDL_DEVICE void know(const Staged& staged, int roi, int64_t k) const {
    staged.known[roi] = finder.know(k);
  }
  ROIDL_DEVICE void stage_none(const Staged& staged, int64_t at) const {
    for (int i = 0; i < kCells; ++i) staged.thread[at * kCells + i] = -1;
  }
  ROIDL_DEVICE void stage(const Staged& staged, const Tile& tile, const Place& place,
                          A gradient) const {
    stage_none(staged, place.at);
    int64_t next = place.at * kCells;
    finder.find(staged.known[place.roi], tile, tile.channel + place.c, place,
                [&](int64_t row, int64_t column, A share) {
                  const int32_t thread = tile.thread_of(row, column);
                  if (thread < 0) return;
                  staged.value[next] = share * gradient;
                  staged.thread[next++] = thread;
                });
  }

  template <class Sum>
  ROIDL_DEVICE void add(const Staged& staged, int64_t at, const A*, const A*, int32_t, int32_t,
                        int thread, Sum& sum) const {
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      for (int i = 0; i < kCells; ++i) {
        const int64_t entry = (at + c) * kCells + i;
        if (staged.thread[entry] == thread) sum.at[c] += staged.value[entry];
      }
  }
};

}  // namespace roidl::cuda
