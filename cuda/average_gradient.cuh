// The gradient of the averages, as a Source of the gather: a bin adds to a cell its gradient times
// a product of weights, or, along a direction of the boxes (two weights for each tap), its gradient
// times a sum of two products.
#pragma once
#include <type_traits>

#include "gather.cuh"

namespace roidl::cuda {

// A weight is a product of a weight of y and one of x: a row of bins is first summed across, for
// each column of the patch, then down into the rows of the patch. A weight of zero must not
// multiply: the gradient may be NaN.
//
// Wide tiles need a third less work, as long as there are enough of them.
template <class T, int kTapWeights, bool kIsWide = false>
struct AverageGradient {
  using A = accumulator<T>;
  using Patch = Patches<kIsWide ? 16 : 32 / ROIDL_TUNE_GATHER_COLUMNS,
                        kIsWide ? 4 : ROIDL_TUNE_GATHER_COLUMNS, kIsWide ? 32 : 16>;
  using Wide = std::conditional_t<ROIDL_TUNE_WIDE_TILES == 0 || kIsWide || kTapWeights == 2 ||
                                      sizeof(A) == 8,
                                  void, AverageGradient<T, 1, true>>;
  static constexpr int kWeights = kTapWeights;
  static constexpr int kMaxBins = sizeof(A) == 8 ? 8 : 14;  // bins along an axis, at a time
  static constexpr int kMinBlocks = sizeof(A) == 8 || kWeights == 2 || kIsWide ? 2
                                    : sizeof(T) == 4 ? ROIDL_TUNE_GATHER_MIN_BLOCKS
                                                     : ROIDL_TUNE_GATHER_HALF_MIN_BLOCKS;
  static constexpr int kLoads = ROIDL_TUNE_GATHER_LOADS;
  static constexpr bool kIsShort = true;  // put() is short: a test for each gradient would cost
  static constexpr int kDown = 4;         // rows whose weights are loaded at once

  struct SharedSums {};  // empty: the sums are in registers
  static int64_t sums_bytes() { return 0; }
  ROIDL_DEVICE static SharedSums place_sums(Shared&) { return {}; }
  ROIDL_DEVICE void begin(const SharedSums&, int) const {}
  template <class Sum>
  ROIDL_DEVICE void end(const SharedSums&, int, Sum&) const {}

  struct Gradients {
    A* gradient;
  };
  static int64_t gradient_bytes(int64_t places, int64_t) { return Shared::bytes_of<A>(places); }
  ROIDL_DEVICE static Gradients place(Shared& shared, int64_t places, int64_t) {
    return {shared.take<A>(places)};
  }
  ROIDL_DEVICE void load_roi(const Gradients&, int, int64_t) const {}
  ROIDL_DEVICE A* bin_of(const Gradients& gradients, const BinPlace& place) const {
    return gradients.gradient + place.at;
  }
  bool counts() const { return true; }

  // Gradients that need no conversion are copied to shared memory without passing through
  // registers.
  static constexpr bool kIsCopy = std::is_same_v<T, A>;
  struct Copied {};
  using Loaded = std::conditional_t<kIsCopy, Copied, A>;
  ROIDL_DEVICE Loaded load(A* bin, int32_t c, const T* gradient) const {
    if constexpr (kIsCopy) {
      copy_async(bin + c, gradient);
      return {};
    } else {
      return widen(*gradient);
    }
  }
  ROIDL_DEVICE void put(const Gradients&, A* bin, int32_t c, const Loaded& gradient) const {
    if constexpr (!kIsCopy) bin[c] = gradient;
  }

  // Adds the bins `rows` and `columns` of a chunk. Their gradients begin at `at`; bins are `stride`
  // apart, rows of bins `row_stride`.
  template <class Rows, class Columns, class Sum>
  ROIDL_DEVICE void add(const SharedSums&, const Gradients& gradients, int32_t at, int32_t stride,
                        int32_t row_stride, const Rows& y, const Columns& x, int slot,
                        const Range& rows, const Range& columns, int warp, int, Sum& sum) const {
    using Across = Vec<A, Patch::kColumns>;
    using Down = Vec<A, kDown>;
    const A* from = gradients.gradient + at;
    const A* const x_weight = x.row(slot, columns.first) + Patch::column_of(warp);
    const A* y_weight = y.row(slot, rows.first) + Patch::row_of(warp);
    for (int32_t row = rows.first; row < rows.stop; ++row) {
      A across[kWeights][Patch::kColumns] = {};
      [[maybe_unused]] uint32_t touched = 0;  // columns in which a bin has a tap
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
          // The derivative of a product: the derivative of one axis times the average of the other.
          const Down weights = *reinterpret_cast<const Down*>(y_weight + w * y.second + i);
#pragma unroll
          for (int r = 0; r < kDown; ++r)
#pragma unroll
            for (int j = 0; j < Patch::kColumns; ++j) {
              A& cell = sum.at[(i + r) * Patch::kColumns + j];
              // A derivative may be infinite, and must not multiply a sum without terms, which is
              // zero.
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
