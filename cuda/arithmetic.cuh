// Division by multiplication: a GPU has no instruction for division.
#pragma once
#include <cstdint>

#include "intrinsics.cuh"

namespace roidl::cuda {

// Divides numbers below 2^31 by one that is constant during a launch: by a multiplication and a
// shift, while a 64-bit division is a call of a hundred instructions. An empty problem may have the
// divisor 0, which is replaced by 1, as nothing is divided then.
class Divider {
 public:
  explicit Divider(int64_t divisor = 1)
      : divisor_(static_cast<uint32_t>(divisor > 0 ? divisor : 1)) {
    while (shift_ < 31 && (uint64_t{1} << shift_) < divisor_) ++shift_;
    const uint64_t power = uint64_t{1} << (31 + shift_);
    multiplier_ = static_cast<uint32_t>((power + divisor_ - 1) / divisor_);
  }
  ROIDL_DEVICE int32_t quotient(int32_t number) const {
    return static_cast<int32_t>(uint64_t{static_cast<uint32_t>(number)} * multiplier_ >>
                                (31 + shift_));
  }
  // Returns the quotient and leaves the remainder in `number`.
  ROIDL_DEVICE int32_t split(int32_t& number) const {
    const int32_t whole = quotient(number);
    number -= whole * static_cast<int32_t>(divisor_);
    return whole;
  }

 private:
  uint32_t divisor_, multiplier_ = 0, shift_ = 0;
};

// Divides numbers up to 128 by a divisor up to 128 that a kernel computes.
class Reciprocal {
 public:
  // The multiplier is between 2^16 / divisor and 1.01 more, however the reciprocal is rounded,
  // which is exact for such numbers.
  ROIDL_DEVICE explicit Reciprocal(int32_t divisor)
      : multiplier_(static_cast<uint32_t>(65536 * reciprocal(static_cast<float>(divisor))) + 1) {}
  ROIDL_DEVICE int32_t quotient(int32_t number) const {
    return static_cast<int32_t>(static_cast<uint32_t>(number) * multiplier_ >> 16);
  }

 private:
  uint32_t multiplier_;
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace roidl::cuda
