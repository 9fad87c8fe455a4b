// What the library says of its devices, and the copy to the host for those who want values checked.
#include "backend.h"
#include "launch.cuh"

namespace roidl::cuda {

const char* why_unusable() {
  static const char* const reason = find_device();  // asked at every call
  return reason;
}

int32_t device_of_stream(const Problem& problem) {
  int device = 0;
  check(problem, cudaStreamGetDevice(stream_of(problem), &device));
  return device;
}

void read(const Problem& problem, void* to, const void* from, size_t bytes) {
  const DeviceGuard guard(problem);
  copy_to_host(problem, to, from, bytes);
}

}  // namespace roidl::cuda
