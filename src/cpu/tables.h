// The tables that the kernels work from: for each RoI its taps, samples or bins along both axes.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "../roi_align.h"
#include "../roi_pool.h"
#include "kernels.h"

namespace roidl::cpu {

// Memory that lives as long as one call; blocks never move.
class Arena {
 public:
  template <class T>
  T* take(size_t count) {
    return reinterpret_cast<T*>(take_bytes(count * sizeof(T)));
  }
  template <class T>
  const T* copy(const std::vector<T>& values) {
    T* copy = take<T>(values.size());
    if (!values.empty()) std::memcpy(copy, values.data(), values.size() * sizeof(T));
    return copy;
  }

 private:
  char* take_bytes(size_t bytes);

  std::vector<std::unique_ptr<char[]>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

template <class T>
void set_place(Roi& roi, int64_t k, const PlacedBox<T>& placed) {
  roi.row = k;
  roi.image = placed.box.image;
  roi.map = placed.map;
}

// Which tables a kernel wants of the taps.
enum class TapsFor { forward, backward, boxes, jvp_boxes };

template <class A>
std::vector<TapsRoi<A>> make_taps(const RoiAlignProblem& problem, TapsFor use, Arena& arena);
// RoIPool's average is the same sum with other weights.
template <class A>
std::vector<TapsRoi<A>> make_taps(const RoiPoolProblem& problem, TapsFor use, Arena& arena);
template <class A>
std::vector<SamplesRoi<A>> make_samples(const RoiAlignProblem& problem, Arena& arena);
std::vector<BinsRoi> make_bins(const RoiPoolProblem& problem, Arena& arena);

}  // namespace roidl::cpu
