// The gradient of the maxima, as a Source of the gather: it goes to the cells with the maximum.
#pragma once
#include "gather.cuh"

namespace roidl::cuda {

// `Finder` says which cells the maximum of a bin comes from: ArgmaxCells or MaxSampleCells. Its
// members are
//   kCells                         the most cells of a bin and channel
//   kMinBlocks, kLoads             as in a Source
//   RoiData, load_roi(k)           its data of a RoI
//   Bin, bin_of(roi_data, place)   its data of a bin
//   Extra, load_extra(bin, c)      what it loads besides a gradient, c channels behind the bin's
//   find(bin, c, extra, give)      calls give(row, column, share) for each of these cells
//   counts()                       whether 32-bit offsets suffice for what it loads
//
// The sums are in shared memory, because a lane may add to any cell; each lane uses its own bank.
template <class T, class Finder>
struct MaxGradient {
  using A = accumulator<T>;
  using Patch = Patches<sizeof(A) == 8 ? 1 : 2, 16, 16>;
  using Wide = void;
  using RoiData = typename Finder::RoiData;
  static constexpr int kCells = Finder::kCells;
  static constexpr int kWeights = 0;
  static constexpr int kMaxBins = kCells > 1 ? 4 : 7;
  static constexpr int kMinBlocks = Finder::kMinBlocks;
  static constexpr int kLoads = Finder::kLoads;
  static constexpr bool kIsShort = false;

  struct SharedSums {
    A* sum;  // [cell of the tile][channel]
  };
  static int64_t sums_bytes() { return Shared::bytes_of<A>(Patch::kTileCells * kLanes); }
  ROIDL_DEVICE static SharedSums place_sums(Shared& shared) {
    return {shared.take<A>(Patch::kTileCells * kLanes)};
  }
  // The sums of a thread: the cells of its warp, on the channel of its lane.
  ROIDL_DEVICE static A* sums_of(const SharedSums& shared_sums, int warp, int lane) {
    return shared_sums.sum + warp * Patch::kCells * kLanes + lane;
  }
  ROIDL_DEVICE void begin(const SharedSums& shared_sums, int thread) const {
    A* const sums = sums_of(shared_sums, thread / kLanes, thread % kLanes);
#pragma unroll
    for (int i = 0; i < Patch::kCells; ++i) sums[i * kLanes] = A(0);
  }
  template <class Sum>
  ROIDL_DEVICE void end(const SharedSums& shared_sums, int thread, Sum& sum) const {
    const A* const sums = sums_of(shared_sums, thread / kLanes, thread % kLanes);
#pragma unroll
    for (int i = 0; i < Patch::kCells; ++i) sum.at[i] = sums[i * kLanes];
  }

  struct Gradients {
    A* value;           // [kCells][place]
    int16_t* cell;      // cell of the tile; -1: outside of it
    RoiData* roi_data;  // [chunk]
    int64_t places;
  };
  Finder finder;

  static int64_t gradient_bytes(int64_t places, int64_t chunks) {
    return Shared::bytes_of<A>(places * kCells) + Shared::bytes_of<int16_t>(places * kCells) +
           Shared::bytes_of<RoiData>(chunks);
  }
  ROIDL_DEVICE static Gradients place(Shared& shared, int64_t places, int64_t chunks) {
    Gradients gradients;
    gradients.value = shared.take<A>(places * kCells);
    gradients.cell = shared.take<int16_t>(places * kCells);
    gradients.roi_data = shared.take<RoiData>(chunks);
    gradients.places = places;
    return gradients;
  }

  ROIDL_DEVICE void load_roi(const Gradients& gradients, int slot, int64_t k) const {
    gradients.roi_data[slot] = finder.load_roi(k);
  }
  struct Bin {
    BinPlace place;
    typename Finder::Bin found;
  };
  ROIDL_DEVICE Bin bin_of(const Gradients& gradients, const BinPlace& place) const {
    return {place, finder.bin_of(gradients.roi_data[place.slot], place)};
  }
  struct Loaded {
    A gradient;
    typename Finder::Extra extra;
  };
  bool counts() const { return finder.counts(); }
  ROIDL_DEVICE Loaded load(const Bin& bin, int32_t c, const T* gradient) const {
    return {widen(*gradient), finder.load_extra(bin.found, c)};
  }
  ROIDL_DEVICE void put(const Gradients& gradients, const Bin& bin, int32_t c,
                        const Loaded& loaded) const {
    int64_t next = bin.place.at + c;
    int given = 0;
    finder.find(bin.found, c, loaded.extra, [&](int32_t row, int32_t column, A share) {
      gradients.value[next] = share * loaded.gradient;
      gradients.cell[next] = static_cast<int16_t>(bin.place.template cell_of<Patch>(row, column));
      next += gradients.places;
      ++given;
    });
    for (; given < kCells; ++given, next += gradients.places) gradients.cell[next] = -1;
  }

  template <class Rows, class Columns, class Sum>
  ROIDL_DEVICE void add(const SharedSums& shared_sums, const Gradients& gradients, int32_t at,
                        int32_t stride, int32_t row_stride, const Rows&, const Columns&, int,
                        const Range& rows, const Range& columns, int warp, int lane, Sum&) const {
    A* const sums = shared_sums.sum + lane;
    for (int32_t row = rows.first; row < rows.stop; ++row, at += row_stride) {
      int32_t next = at;
      for (int32_t column = columns.first; column < columns.stop; ++column, next += stride)
#pragma unroll
        for (int i = 0; i < kCells; ++i) {
          const int32_t cell = gradients.cell[i * gradients.places + next];
          const bool mine = static_cast<uint32_t>(cell - warp * Patch::kCells) < Patch::kCells;
          if (mine) sums[cell * kLanes] += gradients.value[i * gradients.places + next];
        }
    }
  }
};

}  // namespace roidl::cuda
