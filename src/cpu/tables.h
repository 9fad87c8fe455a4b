// The tables that the kernels read: for each RoI its taps, samples or bins along both axes.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "../ps_roi_pool.h"
#include "../roi_align.h"
#include "../roi_pool.h"
#include "kernels.h"

namespace roidl::cpu {

// Memory that is freed all at once; blocks never move.
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
  int64_t taken() const { return static_cast<int64_t>(taken_); }
  void clear();

 private:
  char* take_bytes(size_t bytes);

  std::vector<std::unique_ptr<char[]>> blocks_;
  size_t first_bytes_ = 0;
  char* next_ = nullptr;
  size_t left_ = 0, taken_ = 0;
};

template <class T>
void set_place(Roi& roi, int64_t k, const PlacedBox<T>& placed) {
  roi.row = k;
  roi.image = placed.box.image;
  roi.map = placed.map;
}

inline constexpr Area kWholeMap{0, INT64_MAX, 0, INT64_MAX};

// Makes the tables of RoIs one by one; each thread has its own object.
class Tables {
 public:
  virtual ~Tables() = default;
  virtual std::unique_ptr<Tables> another() const = 0;
  // Makes the tables of row k in the arena, of the type that the kernel expects. Taps are those of
  // `area` only, at a cost that its size bounds; samples and bins are complete.
  virtual const Roi* make(int64_t k, const Area& area, Arena& arena) = 0;
  // The most cells along an axis for which the kernel keeps sums.
  virtual int64_t sums(const Roi& roi) const = 0;
};

// The purpose of taps, which determines their tables.
enum class TapsFor { forward, backward, boxes, jvp_boxes, jvp_boxes_backward };

template <class A>
std::unique_ptr<Tables> make_taps(const RoiAlignProblem& problem, TapsFor use);
// RoIPool's average is also a sum over taps, with other weights.
template <class A>
std::unique_ptr<Tables> make_taps(const RoiPoolProblem& problem, TapsFor use);
template <class A>
std::unique_ptr<Tables> make_taps(const PsRoiPoolProblem& problem, TapsFor use);
template <class A>
std::unique_ptr<Tables> make_samples(const RoiAlignProblem& problem);
std::unique_ptr<Tables> make_bins(const RoiPoolProblem& problem);
std::unique_ptr<Tables> make_bins(const PsRoiPoolProblem& problem);
// Only the windows of RoIPool's bins.
std::unique_ptr<Tables> make_pool_windows(const RoiPoolProblem& problem);

}  // namespace roidl::cpu
