// What the averages give to cells, as a source for the gather: the gradient times a product of
// weights, or, along a direction of the boxes (two weights a tap), times a sum of two products.
#pragma once
#include <type_traits>

#include "gather.cuh"

namespace roidl::cuda {

// Weights come apart: a row of bins is summed across for each column of the patch first, then down
// into its rows. A weight of zero must not multiply: there may be a NaN.
//
// In tiles that are wide the same is less work, by a third, as long as there are enough of them.
template <class T, int kTapWeights, bool kIsWide = false>
struct Products {
  using A = accumulator<T>;
  using Patch = Patches<kIsWide ? 16 : 32 / ROIDL_TUNE_GATHER_COLUMNS,
                        kIsWide ? 4 : ROIDL_TUNE_GATHER_COLUMNS, kIsWide ? 32 : 16>;
  using Wide =
      std::conditional_t<kIsWide || kTapWeights == 2 || sizeof(A) == 8, void, Products<T, 1, true>>;
  static constexpr int kWeights = kTapWeights;
  static constexpr int kMostBins = sizeof(A) == 8 ? 8 : 14;  // along an axis, at a time
  static constexpr int kResident = sizeof(A) == 8 || kWeights == 2 || kIsWide ? 2
                                   : sizeof(T) == 4 ? ROIDL_TUNE_GATHER_RESIDENT
                                                    : ROIDL_TUNE_GATHER_HALF_RESIDENT;
  static constexpr int kStaged = ROIDL_TUNE_GATHER_STAGED;
  static constexpr bool kIsShort = true;  // put(): to ask for every gradient would count
  static constexpr int kDown = 4;         // rows whose weights are read together

  struct Own {};  // nothing: the sums are the registers'
  static int64_t own_bytes() { return 0; }
  ROIDL_DEVICE static Own place_own(Shared&) { return {}; }
  ROIDL_DEVICE void begin(const Own&, int) const {}
  template <class Sum>
  ROIDL_DEVICE void end(const Own&, int, Sum&) const {}

  struct Staged {
    A* gradient;
  };
  static int64_t staged_bytes(int64_t places, int64_t) { return Shared::bytes_of<A>(places); }
  ROIDL_DEVICE static Staged place(Shared& shared, int64_t places, int64_t) {
    return {shared.take<A>(places)};
  }
  ROIDL_DEVICE void know(const Staged&, int, int64_t) const {}
  ROIDL_DEVICE A* bin_of(const Staged& staged, const Place& place) const {
    return staged.gradient + place.at;
  }
  bool counts() const { return true; }

  // What needs no conversion goes to shared memory without passing through registers.
  static constexpr bool kIsCopy = std::is_same_v<T, A>;
  struct Copied {};
  using Loaded = std::conditional_t<kIsCopy, Copied, A>;
  ROIDL_DEVICE Loaded load(A* bin, int32_t c, const T* gradient) const {
    if constexpr (kIsCopy) {
      copy_later(bin + c, gradient);
      return {};
    } else {
      return widen(*gradient);
    }
  }
  ROIDL_DEVICE void put(const Staged&, A* bin, int32_t c, const Loaded& gradient) const {
    if constexpr (!kIsCopy) bin[c] = gradient;
  }

  // The bins `rows` and `columns` of a chunk; their gradients lie from `at` on, a bin
  // `stride` behind the other, a row of bins `row_stride`.
  template <class Rows, class Columns, class Sum>
  ROIDL_DEVICE void add(const Own&, const Staged& staged, int32_t at, int32_t stride,
                        int32_t row_stride, const Rows& y, const Columns& x, int slot,
                        const Range& rows, const Range& columns, int warp, int, Sum& sum) const {
    using Across = Vec<A, Patch::kColumns>;
    using Down = Vec<A, kDown>;
    const A* from = staged.gradient + at;
    const A* const x_weight = x.row(slot, columns.first) + Patch::column_of(warp);
    const A* y_weight = y.row(slot, rows.first) + Patch::row_of(warp);
    for (int32_t row = rows.first; row < rows.stop; ++row) {
      A across[kWeights][Patch::kColumns] = {};
      [[maybe_unused]] uint32_t touched = 0;  // columns that any of the bins gives to
      const A* weight = x_weight;
      const A* gradients = from;
#pragma unroll 2
      for (int32_t column = columns.first; column < columns.stop; ++column) {
        const A gradient = *gradients;
        if constexpr (kWeights == 2) touched |= x.gives_of(slot, column);
#pragma unroll
        for (int w = 0; w < kWeights; ++w) {
          const Across weights = *reinterpret_cast<const Across*>(weight + w * x.second);
#pragma unroll
          for (int j = 0; j < Patch::kColumns; ++j)
            if (weights.at[j] != A(0)) across[w][j] = fused(weights.at[j], gradient, across[w][j]);
        }
        weight += Columns::kStride;
        gradients += stride;
      }
      const uint32_t gives = y.gives_of(slot, row) >> Patch::row_of(warp);
#pragma unroll
      for (int i = 0; i < Patch::kRows; i += kDown) {
        if ((gives >> i & ((1 << kDown) - 1)) == 0) continue;
#pragma unroll
        for (int w = 0; w < kWeights; ++w) {
          // The derivative of a product: each weight's own, times the other axis' average.
          const Down weights = *reinterpret_cast<const Down*>(y_weight + w * y.second + i);
#pragma unroll
          for (int r = 0; r < kDown; ++r)
#pragma unroll
            for (int j = 0; j < Patch::kColumns; ++j) {
              A& cell = sum.at[(i + r) * Patch::kColumns + j];
              // A derivative may be infinite, and nothing across is zero.
              if (kWeights == 2 && (touched >> (Patch::column_of(warp) + j) & 1) == 0) continue;
              if (weights.at[r] != A(0))
                cell = fused(weights.at[r], across[kWeights - 1 - w][j], cell);
            }
        }
      }
      from += row_stride;
      y_weight += Rows::kStride;
    }
  }
};

}  // namespace roidl::cuda
