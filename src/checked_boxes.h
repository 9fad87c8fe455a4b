// CheckedBoxes: the last step before the kernels, in which all that is said of a problem's boxes is
// copied to where no other thread can change it, and checked.
#pragma once
#include <cstddef>
#include <memory>

#include "problem.h"

namespace roidl {

// Has to live as long as the call: on CPU the problem's boxes, batch indices, counts, levels and
// directions are then its own. What the kernels read is what was checked, whatever another thread
// writes to the caller's arrays meanwhile. On another device nothing is copied; its kernels trust
// no value, and values are looked at if the user wants it.
class CheckedBoxes {
 public:
  // `tangent`: the directions of the boxes, where the operator has them.
  explicit CheckedBoxes(Problem& problem, Boxes* tangent = nullptr);
  CheckedBoxes(const CheckedBoxes&) = delete;
  CheckedBoxes& operator=(const CheckedBoxes&) = delete;

 private:
  void copy(Problem& problem, Boxes* tangent);

  static constexpr size_t kSmall = 2048;  // about a hundred boxes
  std::unique_ptr<char[]> large_;
  char small_[kSmall];
};

}  // namespace roidl
