// CheckedBoxes: the last step before the kernels. It copies the boxes and the arrays that go with
// them to memory that no other thread can change, and checks the copy.
#pragma once
#include <cstddef>
#include <memory>

#include "problem.h"

namespace roidl {

// It must live as long as the call. On CPU it owns the boxes, batch indices, counts, levels and
// directions that the kernels read, so they read what was checked, even if another thread writes to
// the caller's arrays. On another device nothing is copied: its kernels trust no value, and values
// are checked only if the user asks for it.
class CheckedBoxes {
 public:
  // `tangent`: the directions of the boxes, if the operator reads them.
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
