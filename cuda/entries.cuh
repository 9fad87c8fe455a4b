// Gradients that go to single cells: where a maximum was found, as a source for the gather.
#pragma once
#include "gather.cuh"

namespace roidl::cuda {

// Each bin of each channel gives to at most `kCells` cells. `Finder` says which: it knows of a RoI
// what know(k) says, of a bin of it what bin_of(known, place) says, loads more(bin, c) beside a
// gradient, and calls give(row, column, share) for the cells in find(bin, c, more, give), on the
// channel that is c behind the bin's first. counts(): whether 32 bits count what it loads.
//
// The sums are in shared memory, where a lane finds any cell; a lane has a bank.
template <class T, class Finder>
struct Entries {
  using A = accumulator<T>;
  using Patch = Patches<sizeof(A) == 8 ? 1 : 2, 16, 16>;
  using Wide = void;
  using Known = typename Finder::Known;
  static constexpr int kCells = Finder::kCells;
  static constexpr int kWeights = 0;
  static constexpr int kMostBins = kCells > 1 ? 4 : 7;
  static constexpr int kResident = Finder::kResident;
  static constexpr int kStaged = Finder::kStaged;
  static constexpr bool kIsShort = false;

  struct Own {
    A* sum;  // [cell of the tile][channel]
  };
  static int64_t own_bytes() { return Shared::bytes_of<A>(Patch::kTileCells * kLanes); }
  ROIDL_DEVICE static Own place_own(Shared& shared) {
    return {shared.take<A>(Patch::kTileCells * kLanes)};
  }
  // A thread's part: its warp's cells, on its lane's channel.
  ROIDL_DEVICE static A* sums_of(const Own& own, int warp, int lane) {
    return own.sum + warp * Patch::kCells * kLanes + lane;
  }
  ROIDL_DEVICE void begin(const Own& own, int thread) const {
    A* const sums = sums_of(own, thread / kLanes, thread % kLanes);
#pragma unroll
    for (int i = 0; i < Patch::kCells; ++i) sums[i * kLanes] = A(0);
  }
  template <class Sum>
  ROIDL_DEVICE void end(const Own& own, int thread, Sum& sum) const {
    const A* const sums = sums_of(own, thread / kLanes, thread % kLanes);
#pragma unroll
    for (int i = 0; i < Patch::kCells; ++i) sum.at[i] = sums[i * kLanes];
  }

  struct Staged {
    A* value;       // [kCells][place]
    int16_t* cell;  // of the tile; -1: none of it
    Known* known;   // [chunk]
    int64_t places;
  };
  Finder finder;

  static int64_t staged_bytes(int64_t places, int64_t chunks) {
    return Shared::bytes_of<A>(places * kCells) + Shared::bytes_of<int16_t>(places * kCells) +
           Shared::bytes_of<Known>(chunks);
  }
  ROIDL_DEVICE static Staged place(Shared& shared, int64_t places, int64_t chunks) {
    Staged staged;
    staged.value = shared.take<A>(places * kCells);
    staged.cell = shared.take<int16_t>(places * kCells);
    staged.known = shared.take<Known>(chunks);
    staged.places = places;
    return staged;
  }

  ROIDL_DEVICE void know(const Staged& staged, int slot, int64_t k) const {
    staged.known[slot] = finder.know(k);
  }
  struct Bin {
    Place place;
    typename Finder::Bin found;
  };
  ROIDL_DEVICE Bin bin_of(const Staged& staged, const Place& place) const {
    return {place, finder.bin_of(staged.known[place.slot], place)};
  }
  struct Loaded {
    A gradient;
    typename Finder::More more;
  };
  bool counts() const { return finder.counts(); }
  ROIDL_DEVICE Loaded load(const Bin& bin, int32_t c, const T* gradient) const {
    return {widen(*gradient), finder.more(bin.found, c)};
  }
  ROIDL_DEVICE void put(const Staged& staged, const Bin& bin, int32_t c,
                        const Loaded& loaded) const {
    int64_t next = bin.place.at + c;
    int given = 0;
    finder.find(bin.found, c, loaded.more, [&](int32_t row, int32_t column, A share) {
      staged.value[next] = share * loaded.gradient;
      staged.cell[next] = static_cast<int16_t>(bin.place.template cell_of<Patch>(row, column));
      next += staged.places;
      ++given;
    });
    for (; given < kCells; ++given, next += staged.places) staged.cell[next] = -1;
  }

  template <class Rows, class Columns, class Sum>
  ROIDL_DEVICE void add(const Own& own, const Staged& staged, int32_t at, int32_t stride,
                        int32_t row_stride, const Rows&, const Columns&, int, const Range& rows,
                        const Range& columns, int warp, int lane, Sum&) const {
    A* const sums = own.sum + lane;
    for (int32_t row = rows.first; row < rows.stop; ++row, at += row_stride) {
      int32_t next = at;
      for (int32_t column = columns.first; column < columns.stop; ++column, next += stride)
#pragma unroll
        for (int i = 0; i < kCells; ++i) {
          const int32_t cell = staged.cell[i * staged.places + next];
          const bool mine = static_cast<uint32_t>(cell - warp * Patch::kCells) < Patch::kCells;
          if (mine) sums[cell * kLanes] += staged.value[i * staged.places + next];
        }
    }
  }
};

}  // namespace roidl::cuda
