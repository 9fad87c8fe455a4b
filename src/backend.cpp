// Chooses the backend of a problem, and fails for devices that have none.
#include "backend.h"

#include <atomic>

#include "device_library.h"
#include "floating_point.h"
#include "workspace.h"

namespace roidl {

namespace {

[[noreturn]] void fail_without_backend(const Problem& problem) {
  fail(ErrorKind::unsupported, problem.op, "not implemented on device ", problem.device);
}

const DeviceLibrary& usable_cuda_library(const Problem& problem) {
  const DeviceLibrary* library = cuda_library();
  if (library == nullptr) fail_without_backend(problem);
  if (problem.pass == Pass::estimate) return *library;
  static std::atomic<bool> usable{false};  // asked again until it is
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

Entry entry_of(const Operator& op, const Problem& problem) {
  const Backend& backend = backend_of(problem);
  const Entry entry = backend.entries[index_of(op)];
  if (entry == nullptr)
    fail(ErrorKind::unsupported, problem.op, "not implemented on ", backend.name);
  return entry;
}

void run_entry(const Operator& op, Problem& problem) {
  const FloatingPoint mode;
  const Entry entry = entry_of(op, problem);
  if (entry == cpu_backend.entries[index_of(op)]) return entry(problem);
  run_on_device(problem, entry);
}

abi::DLDevice current_cuda_device(const char* op) {
  Problem problem;
  problem.op = op;
  problem.device = {abi::kDLCUDA, 0};
  problem.device.device_id = usable_cuda_library(problem).current_device(problem);
  return problem.device;
}

}  // namespace roidl
