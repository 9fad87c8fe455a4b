// FloatingPoint: the floating-point mode of all computation, whatever the mode of the caller.
#pragma once
#include <cstdint>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <cfenv>
#endif

namespace roidl {

// While an object lives, its thread rounds to nearest even, keeps denormals and does not trap; the
// destructor restores the mode of the caller. Frameworks set their threads to flush denormals, and
// float16 numbers below 6.1e-5 are denormal on their way to float.
//
// The compiler does not know the mode: it may move arithmetic across a change of it. It may not
// move accesses to memory across these statements, which clobber all memory. So a function that has
// a FloatingPoint takes and returns floating-point numbers in memory (by reference, in arrays),
// never by value; and kernels, in which much is inlined, are called through a pointer.
class FloatingPoint {
 public:
  FloatingPoint(const FloatingPoint&) = delete;
  FloatingPoint& operator=(const FloatingPoint&) = delete;

#if defined(__x86_64__)
  // Writing a register costs more than reading both, so it happens only if the mode differs. The
  // x87 control word matters because the C library prints numbers with its rounding.
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
  // The values of MXCSR and of the x87 control word after a reset. The first six bits of MXCSR
  // report events and are not part of the mode. (kX87Mode has six bits of masks, two of precision
  // and two of rounding.)
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
