// The device and the stream of a call, as the host chooses them.
#pragma once
#include <cuda_runtime.h>

#include "problem.h"

namespace roidl::cuda {

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

}  // namespace roidl::cuda
