// FloatingPoint: the one mode in which every thread of ours computes, whatever the caller's is.
#pragma once
#include <cstdint>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <cfenv>
#endif

namespace roidl {

// While it lives, this thread rounds to nearest even, flushes nothing, and traps nothing; then the
// caller's mode is back. Frameworks flush denormals on threads of theirs, and halves below 6.1e-5
// are denormal on their way to float.
//
// A compiler knows nothing of the mode: it may move arithmetic over a change of it. It may not move
// what reads or writes memory over these statements, which clobber all of it. So a function that
// has a FloatingPoint takes and returns floating-point numbers in memory (by reference, in arrays),
// never by value; and kernels, which inline much, are called through a pointer.
class FloatingPoint {
 public:
  FloatingPoint(const FloatingPoint&) = delete;
  FloatingPoint& operator=(const FloatingPoint&) = delete;

#if defined(__x86_64__)
  // To write either register costs more than to read both: it is done only where the mode differs.
  // The C library prints numbers as the x87's control word rounds, though nothing else uses it.
  FloatingPoint() {
    asm volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(sse_), "=m"(x87_) : : "memory");
    differs_ = (sse_ & ~kRaised) != kSse || (x87_ & kX87Mode) != (kX87 & kX87Mode);
    if (differs_) asm volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(kSse), "m"(kX87) : "memory");
    asm volatile("" : : : "memory");
  }
  ~FloatingPoint() {
    asm volatile("" : : : "memory");
    if (differs_) asm volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(sse_), "m"(x87_) : "memory");
  }

 private:
  // Of MXCSR and of the x87's control word after a reset; the first six bits of MXCSR say what
  // happened, not what shall. (Of the control word six mask, two are precision, two rounding.)
  static constexpr uint32_t kSse = 0x1f80, kRaised = 0x3f;
  static constexpr uint16_t kX87 = 0x037f, kX87Mode = 0x0f3f;
  uint32_t sse_;
  uint16_t x87_;
  bool differs_;

#elif defined(__aarch64__)
  FloatingPoint() {
    asm volatile("mrs %0, fpcr" : "=r"(control_) : : "memory");
    if (control_ != 0) asm volatile("msr fpcr, xzr" : : : "memory");
  }
  ~FloatingPoint() {
    asm volatile("" : : : "memory");
    if (control_ != 0) asm volatile("msr fpcr, %0" : : "r"(control_) : "memory");
  }

 private:
  uint64_t control_;

#else
  FloatingPoint() {
    std::fegetenv(&environment_);
    std::fesetenv(FE_DFL_ENV);
    asm volatile("" : : : "memory");
  }
  ~FloatingPoint() {
    asm volatile("" : : : "memory");
    std::fesetenv(&environment_);
  }

 private:
  std::fenv_t environment_;
#endif
};

}  // namespace roidl
