// The choice of backend, and the sentence for a device that has none.
#include "backend.h"

namespace roidl {

const Backend& backend_of(const Problem& problem) {
  switch (problem.device.device_type) {
    case abi::kDLCPU:
    case abi::kDLCUDAHost:
      return cpu_backend;
    default:
      fail(ErrorKind::unsupported, problem.op, "not implemented on device ", problem.device);
  }
}

}  // namespace roidl
