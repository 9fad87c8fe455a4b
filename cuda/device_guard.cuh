// Selects the device of a call and reports CUDA's errors, on the host.
#pragma once
#include <cuda_runtime.h>

#include "problem.h"

namespace roidl::cuda {

// Throws an Error with CUDA's message. Pending errors of other code are not reported.
inline void check(const Problem& problem, cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears the error, which is reported here
  fail(ErrorKind::runtime, problem.op, "CUDA: ", cudaGetErrorString(status));
}

// Whether the device is not known: the call only estimates its memory.
inline bool has_no_device(const Problem& problem) { return problem.pass == Pass::estimate; }

// The current context of a thread, or none. It is asked of the driver, because cudaSetDevice
// creates a context on a device that has none, which takes hundreds of megabytes.
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

// Makes the problem's device the current one while an object lives; every entry has one. Meanwhile
// kernels may be loaded, even if a stream is being captured and this is their first call.
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
  const Contexts* contexts_ = nullptr;  // null: the device was current already
  void* context_ = nullptr;
  bool relaxes_ = false;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

inline cudaStream_t stream_of(const Problem& problem) {
  return static_cast<cudaStream_t>(problem.stream);
}

}  // namespace roidl::cuda
