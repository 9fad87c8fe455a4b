// What kernels are made of beside their team, and how they are started: elements, shared memory,
// launches, scratch memory.
//
// kernel.kResident blocks share a multiprocessor: 4 leave 64 registers to a thread, 3 leave 80, 2
// leave 128. It is the most that spills none of them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "dtype.h"
#include "problem.h"
#include "team.cuh"

namespace roidl::cuda {

// One instruction, where float16's own conversion is arithmetic on its bits.
ROIDL_DEVICE float widen(float16 value) { return half_to_float(value.bits); }
ROIDL_DEVICE void narrow(float value, float16& result) { result.bits = float_to_half(value); }

ROIDL_DEVICE float widen(bfloat16 value) { return value; }
ROIDL_DEVICE float widen(float value) { return value; }
ROIDL_DEVICE double widen(double value) { return value; }
ROIDL_DEVICE void narrow(float value, bfloat16& result) { result = bfloat16(value); }
ROIDL_DEVICE void narrow(float value, float& result) { result = value; }
ROIDL_DEVICE void narrow(double value, double& result) { result = value; }

template <class Together>
ROIDL_DEVICE void store_together(void* target, const Together& value) {
  if constexpr (sizeof(Together) == 16)
    store_16_bytes(target, value);
  else
    *static_cast<Together*>(target) = value;
}

// `count` neighbours that are read and written at once, or 16 bytes at a time.
template <class T, int count>
struct alignas(sizeof(T) * count < 16 ? sizeof(T) * count : 16) Vec {
  T at[count];
};

// Whether `count` neighbouring channels can be moved at once.
inline bool moves_together(const void* data, std::initializer_list<int64_t> strides, int64_t c,
                           int64_t channels, int count, int item_bytes) {
  if (c != 1 || channels % count != 0) return false;
  if (reinterpret_cast<uintptr_t>(data) % (count * item_bytes) != 0) return false;
  for (const int64_t stride : strides)
    if (stride % count != 0) return false;
  return true;
}

// What a block may use of shared memory without asking (all devices), and how it is cut up.
inline constexpr int kSharedBytes = 48 << 10;
inline constexpr int kSharedAlignment = 16;

struct Shared {
  char* next;

  template <class T>
  ROIDL_HOST_DEVICE T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(next);
    next += bytes_of<T>(count);
    return taken;
  }
  template <class T>
  ROIDL_HOST_DEVICE static int64_t bytes_of(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + kSharedAlignment - 1) / kSharedAlignment *
           kSharedAlignment;
  }
};

// Divides numbers below 2^31 by one that is the same for a whole launch: a multiplication and a
// shift, where a division of 64 bits is a call of a hundred instructions. Of what an empty problem
// has nothing of, there is nothing to divide: 0 is taken for 1.
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
  // The remainder goes to `number`.
  ROIDL_DEVICE int32_t split(int32_t& number) const {
    const int32_t whole = quotient(number);
    number -= whole * static_cast<int32_t>(divisor_);
    return whole;
  }

 private:
  uint32_t divisor_, multiplier_ = 0, shift_ = 0;
};

// Divides numbers up to 128 by one up to 128 that a kernel has found.
class Reciprocal {
 public:
  // Between 2^16 / divisor and 1.01 more, however a reciprocal is rounded: exact for such numbers.
  ROIDL_DEVICE explicit Reciprocal(int32_t divisor)
      : multiplier_(static_cast<uint32_t>(65536 * reciprocal(static_cast<float>(divisor))) + 1) {}
  ROIDL_DEVICE int32_t quotient(int32_t number) const {
    return static_cast<int32_t>(static_cast<uint32_t>(number) * multiplier_ >> 16);
  }

 private:
  uint32_t multiplier_;
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Throws what CUDA says; a pending error of somebody else is not ours to report.
inline void check(const Problem& problem, cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // it has been reported: the next call starts anew
  fail(ErrorKind::runtime, problem.op, "CUDA: ", cudaGetErrorString(status));
}

// Whether nobody has named a device: a call is gone through to estimate its memory.
inline bool has_no_device(const Problem& problem) { return problem.pass == Pass::estimate; }

// The context that is current in a thread, or none. The driver tells it, whereas cudaSetDevice
// makes one for a device that has none, which costs hundreds of megabytes.
class Contexts {
 public:
  explicit Contexts(const Problem& problem) {
    find(problem, "cuCtxGetCurrent", get_);
    find(problem, "cuCtxSetCurrent", set_);
  }
  void* current() const {
    void* context = nullptr;
    get_(&context);
    return context;
  }
  void set_current(void* context) const { set_(context); }

 private:
  template <class Function>
  static void find(const Problem& problem, const char* name, Function& function) {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
    check(problem, cudaGetDriverEntryPointByVersion(name, &address, 12000, 0, &found));
#else
    check(problem, cudaGetDriverEntryPoint(name, &address, 0, &found));
#endif
    if (address == nullptr) fail(ErrorKind::runtime, problem.op, "CUDA's driver has no ", name);
    function = reinterpret_cast<Function>(address);
  }

  int (*get_)(void**) = nullptr;
  int (*set_)(void*) = nullptr;
};

// Makes the problem's device the current one for as long as it lives; every entry has one. Kernels
// may be loaded meanwhile, even if a stream is captured and this is their first call.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Problem& problem) {
    if (has_no_device(problem)) return;
    int current = 0;
    check(problem, cudaGetDevice(&current));
    if (current != problem.device.device_id) {
      static const Contexts found(problem);
      contexts_ = &found;
      context_ = found.current();
      check(problem, cudaSetDevice(problem.device.device_id));
    }
    check(problem, cudaThreadExchangeStreamCaptureMode(&mode_));
    relaxes_ = true;
  }
  ~DeviceGuard() {
    if (relaxes_) cudaThreadExchangeStreamCaptureMode(&mode_);
    if (contexts_ != nullptr) contexts_->set_current(context_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  const Contexts* contexts_ = nullptr;  // null: the device was the current one
  void* context_ = nullptr;
  bool relaxes_ = false;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

inline cudaStream_t stream_of(const Problem& problem) {
  return static_cast<cudaStream_t>(problem.stream);
}

template <class Kernel>
__global__ void __launch_bounds__(kThreads, Kernel::kResident)
    run_kernel(const __grid_constant__ Kernel kernel) {
  extern __shared__ __align__(kSharedAlignment) char shared[];
  kernel(Team{blockIdx.x}, Shared{shared});
}

inline int attribute(const Problem& problem, cudaDeviceAttr name) {
  int value = 0;
  check(problem, cudaDeviceGetAttribute(&value, name, problem.device.device_id));
  return value;
}

inline int64_t most_shared_bytes(const Problem& problem) {
  return attribute(problem, cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

// What a block may use of shared memory where so many are to share a multiprocessor; but never less
// than what any device gives, with which they may be fewer.
inline int64_t shared_bytes_of_block(const Problem& problem, int resident) {
  if (has_no_device(problem)) return kSharedBytes;
  const int64_t most = most_shared_bytes(problem);
  const int64_t whole = attribute(problem, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  int64_t share = whole / resident - attribute(problem, cudaDevAttrReservedSharedMemoryPerBlock);
  share -= share % 128;  // what it is allotted in
  if (share < kSharedBytes) return kSharedBytes;
  return share < most ? share : most;
}

inline constexpr int64_t kMostBlocks = INT32_MAX;  // of a grid

// Starts a kernel, or only loads it.
template <class Kernel>
void launch(const Problem& problem, const Kernel& kernel, int64_t blocks, int64_t shared_bytes) {
  if (blocks <= 0) return;
  if (blocks > kMostBlocks)
    fail(ErrorKind::runtime, problem.op, "the problem is too large: it needs ", blocks,
         " blocks of threads, and CUDA has ", kMostBlocks, " in a launch");
  if (problem.pass == Pass::load) {
    cudaFuncAttributes attributes;  // to ask for them loads it
    check(problem, cudaFuncGetAttributes(&attributes, run_kernel<Kernel>));
  } else if (problem.pass != Pass::run) {
    return;
  }
  // More than a device gives without being asked. It is asked for the most that it has, always the
  // same: other threads start the same kernel with other sizes.
  if (shared_bytes > kSharedBytes)
    check(problem,
          cudaFuncSetAttribute(run_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(most_shared_bytes(problem))));
  if (problem.pass != Pass::run) return;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream_of(problem);
  check(problem, cudaLaunchKernelEx(&config, run_kernel<Kernel>, kernel));
}

// A part of what the call is lent; null while that is measured.
template <class T>
T* take_scratch(const Problem& problem, int64_t count) {
  if (count == 0) return nullptr;
  char* const memory = problem.workspace->take(Shared::bytes_of<T>(count));
  if (memory == nullptr && problem.pass == Pass::run)
    fail(ErrorKind::runtime, problem.op, "kernels want more memory than was measured");
  return reinterpret_cast<T*>(memory);
}

inline int64_t multiprocessors(const Problem& problem) {
  return has_no_device(problem) ? 1 : attribute(problem, cudaDevAttrMultiProcessorCount);
}

// Blocks beyond which a device is busy: what to aim for when a RoI can be cut into pieces.
inline int64_t enough_blocks(const Problem& problem) { return 4 * multiprocessors(problem); }

inline void copy_to_host(const Problem& problem, void* to, const void* from, size_t bytes) {
  check(problem, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_of(problem)));
  check(problem, cudaStreamSynchronize(stream_of(problem)));
}

}  // namespace roidl::cuda
