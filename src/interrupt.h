// Interruption: between tasks, a long call asks its caller whether to stop.
#pragma once
#include <chrono>

#include "error.h"

namespace roidl {

class __attribute__((visibility("default"))) Interrupted final : public Error {
 public:
  Interrupted() : Error(ErrorKind::runtime, "interrupted") {}
};

// While an object lives, calls from its thread ask every 50 ms whether to stop. They ask on this
// thread only, and while they hold no lock.
class Interruptible {
 public:
  using StopAsked = bool (*)(void* context);
  Interruptible(StopAsked stop_asked, void* context);
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  friend void check_interrupt();
  StopAsked stop_asked_;
  void* context_;
  std::chrono::steady_clock::time_point next_;  // when to ask next
  Interruptible* before_;
};

// Throws Interrupted if this thread's caller asks for it; costs one reading of the clock. Loops
// over rows call it once every kRowsPerInterrupt rows.
void check_interrupt();
inline constexpr long kRowsPerInterrupt = 1024;  // a power of two

}  // namespace roidl
