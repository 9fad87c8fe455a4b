// What a thread's caller has to say, and when it is asked.
#include "interrupt.h"

namespace roidl {

namespace {

constexpr std::chrono::milliseconds kInterval{50};
thread_local Interruptible* asked = nullptr;

}  // namespace

Interruptible::Interruptible(StopAsked stop_asked, void* context)
    : stop_asked_(stop_asked), context_(context), before_(asked) {
  asked = this;
}

Interruptible::~Interruptible() { asked = before_; }

void check_interrupt() {
  Interruptible* const caller = asked;
  if (caller == nullptr) return;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point now = Clock::now();
  if (caller->next_ == Clock::time_point{}) caller->next_ = now + kInterval;
  if (now < caller->next_) return;
  if (caller->stop_asked_(caller->context_)) throw Interrupted();
  caller->next_ = Clock::now() + kInterval;
}

}  // namespace roidl
