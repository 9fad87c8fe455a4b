// Asks the caller of a thread whether to stop, every 50 ms.
#include "interrupt.h"

namespace roidl {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kInterval{50};
thread_local Interruptible* asked = nullptr;

}  // namespace

Interruptible::Interruptible(StopAsked stop_asked, void* context)
    : stop_asked_(stop_asked), context_(context), next_(Clock::now() + kInterval), before_(asked) {
  asked = this;
}

Interruptible::~Interruptible() { asked = before_; }

void check_interrupt() {
  Interruptible* const caller = asked;
  if (caller == nullptr) return;
  if (Clock::now() < caller->next_) return;
  if (caller->stop_asked_(caller->context_)) throw Interrupted();
  caller->next_ = Clock::now() + kInterval;
}

}  // namespace roidl
