// The choice of backend, and the sentence for a device that has none.
#include "backend.h"

#include "device_library.h"

namespace roidl {

namespace {

static_assert(sizeof(Backend) == sizeof(const char*) + kBackendEntries * sizeof(void (*)()),
              "a library of another number of entries must not be loaded");

const Backend* cuda_backend(const Problem& problem) {
  const DeviceLibrary* library = cuda_library();
  if (library == nullptr) return nullptr;
  if (const char* reason = library->why_unusable())
    fail(ErrorKind::runtime, problem.op, "CUDA cannot be used here: ", reason);
  return library->backend;
}

}  // namespace

const Backend& backend_of(const Problem& problem) {
  const Backend* backend = nullptr;
  switch (problem.device.device_type) {
    case abi::kDLCPU:
    case abi::kDLCUDAHost:
      return cpu_backend;
    case abi::kDLCUDA:
    case abi::kDLCUDAManaged:
      backend = cuda_backend(problem);
      break;
    default:
      break;
  }
  if (backend == nullptr)
    fail(ErrorKind::unsupported, problem.op, "not implemented on device ", problem.device);
  return *backend;
}

}  // namespace roidl
