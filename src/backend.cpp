// The choice of backend, and the sentence for a device that has none.
#include "backend.h"

#include <atomic>

#include "device_library.h"

namespace roidl {

namespace {

static_assert(sizeof(Backend) == sizeof(const char*) + kBackendEntries * sizeof(void (*)()),
              "a library of another number of entries must not be loaded");

[[noreturn]] void fail_without_backend(const Problem& problem) {
  fail(ErrorKind::unsupported, problem.op, "not implemented on device ", problem.device);
}

const DeviceLibrary& usable_cuda_library(const Problem& problem) {
  const DeviceLibrary* library = cuda_library();
  if (library == nullptr) fail_without_backend(problem);
  if (problem.pass == Pass::estimate) return *library;
  static std::atomic<bool> usable{false};  // asked again as long as it is not
  if (usable) return *library;
  const char* const reason = library->why_unusable();
  if (reason != nullptr) fail(ErrorKind::runtime, problem.op, "CUDA cannot be used here: ", reason);
  usable = true;
  return *library;
}

}  // namespace

const Backend& backend_of(const Problem& problem) {
  switch (problem.device.device_type) {
    case abi::kDLCPU:
    case abi::kDLCUDAHost:
      return cpu_backend;
    case abi::kDLCUDA:
    case abi::kDLCUDAManaged:
      return *usable_cuda_library(problem).backend;
    default:
      fail_without_backend(problem);
  }
}

abi::DLDevice current_cuda_device(const char* op) {
  Problem problem;
  problem.op = op;
  problem.device = {abi::kDLCUDA, 0};
  problem.device.device_id = usable_cuda_library(problem).current_device(problem);
  return problem.device;
}

}  // namespace roidl
