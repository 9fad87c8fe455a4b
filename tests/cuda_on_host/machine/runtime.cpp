// CUDA's runtime: a device with one stream, on which everything is done at once; the limits of a
// launch; contexts, of a second device too, which is the first by another number; and what the
// stand-in for CuPy asks the machine for.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "machine.h"

namespace machine {

namespace {

constexpr size_t kKilo = 1 << 10;
constexpr Model kModels[] = {
    {"H200", 132, 227 * kKilo, 228 * kKilo, kKilo, true},
    {"A100", 108, 163 * kKilo, 164 * kKilo, kKilo, true},
    {"T4", 40, 64 * kKilo, 64 * kKilo, 0, false},  // Turing
};
// Few, so that the calls of tests are large ones, too: those fill a device.
constexpr int kFewMultiprocessors = 8;
constexpr size_t kMostParameterBytes = 4096;  // of CUDA 12.0 and of all devices
constexpr unsigned kMostBlocks = 2147483647;

[[noreturn]] void refuse(const std::string& option) {
  std::fprintf(stderr, "cuda_on_host: ROIDL_CUDA_ON_HOST has no option %s\n", option.c_str());
  std::abort();
}

Options read_options() {
  Options read;
  read.model = kModels[0];
  read.model.multiprocessors = kFewMultiprocessors;
  const char* const variable = std::getenv("ROIDL_CUDA_ON_HOST");
  std::string rest = variable == nullptr ? "" : variable;
  while (!rest.empty()) {
    const size_t end = rest.find(',');
    const std::string option = rest.substr(0, end);
    rest = end == std::string::npos ? "" : rest.substr(end + 1);
    const size_t equals = option.find('=');
    if (equals == std::string::npos) refuse(option);
    const std::string name = option.substr(0, equals), value = option.substr(equals + 1);
    if (name == "device") {
      const Model* found = nullptr;
      for (const Model& model : kModels)
        if (value == model.name) found = &model;
      if (found == nullptr) refuse(option);
      const int few = read.model.multiprocessors;
      read.model = *found;
      read.model.multiprocessors = few;
    } else if (name == "multiprocessors") {
      read.model.multiprocessors = std::atoi(value.c_str());
    } else if (name == "races") {
      read.races = value != "0";
    } else if (name == "goes_on") {
      read.goes_on = value != "0";
    } else if (name == "schedule") {
      read.schedule = static_cast<unsigned>(std::atoi(value.c_str()));
    } else if (name == "report") {
      read.report = value;
    } else {
      refuse(option);
    }
  }
  return read;
}

std::string said;  // by the last error

// Of a thread.
thread_local bool is_capturing = false;
thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
thread_local int context = -1;  // of which device; -1: none

std::atomic<long> own_allocations{0};
std::atomic<unsigned> contexts{0};  // a bit for each device that has one

int get_context(void** current) {
  *current = reinterpret_cast<void*>(intptr_t{context} + 1);
  return 0;
}
int set_context(void* current) {
  context = static_cast<int>(reinterpret_cast<intptr_t>(current)) - 1;
  return 0;
}

cudaError_t fail_launch(const std::string& why) {
  said = why;
  return cudaErrorInvalidValue;
}

// What a launch asks for that no device, or not this one, has.
const char* beyond_limits(const Launch& launch) {
  const cudaLaunchConfig_t& config = launch.config;
  const size_t shared = config.dynamicSmemBytes;
  if (config.gridDim.x == 0 || config.gridDim.x > kMostBlocks) return "blocks";
  if (config.gridDim.y != 1 || config.gridDim.z != 1) return "blocks in other directions";
  if (config.blockDim.x != kThreads || config.blockDim.y != 1 || config.blockDim.z != 1)
    return "threads of a block, which the machine has 256 of";
  if (shared > launch.type->allowed_shared_bytes) return "shared memory that nobody has allowed";
  if (shared > options().model.shared_of_block) return "shared memory";
  if (launch.parameter_bytes > kMostParameterBytes) return "bytes of parameters";
  return nullptr;
}

}  // namespace

const Options& options() {
  static const Options read = read_options();
  return read;
}

std::recursive_mutex& one_at_a_time() {
  static std::recursive_mutex mutex;
  return mutex;
}

cudaError_t launch(const Launch& launch) {
  const std::lock_guard<std::recursive_mutex> lock(one_at_a_time());
  if (const cudaError_t status = load(*launch.type)) return status;
  ++launch.type->launches;
  if (const char* what = beyond_limits(launch)) {
    now.launched = &launch;
    note_fault(std::string("a launch asks for too many ") + what, nullptr);
  } else {
    run(launch);
  }
  now.launched = nullptr;
  if (!has_fault()) return cudaSuccess;
  said = take_fault();
  return cudaErrorLaunchFailure;
}

cudaError_t load(KernelType& type) {
  const std::lock_guard<std::recursive_mutex> lock(one_at_a_time());
  if (!type.is_loaded && is_capturing && mode != cudaStreamCaptureModeRelaxed)
    return fail_launch("a kernel is loaded while a stream is captured");
  type.is_loaded = true;
  return cudaSuccess;
}

cudaError_t allow_shared_bytes(KernelType& type, int bytes) {
  const std::lock_guard<std::recursive_mutex> lock(one_at_a_time());
  if (const cudaError_t status = load(type)) return status;
  if (bytes < 0 || static_cast<size_t>(bytes) > options().model.shared_of_block)
    return fail_launch("more shared memory than a block has");
  type.allowed_shared_bytes = static_cast<size_t>(bytes);
  return cudaSuccess;
}

}  // namespace machine

using machine::one_at_a_time;
using machine::options;
using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t cudaGetDevice(int* device) {
  *device = machine::context < 0 ? 0 : machine::context;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device > 1) return cudaErrorInvalidValue;
  machine::context = device;
  machine::contexts |= 1u << device;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, machine::mode);
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                             unsigned long long, cudaDriverEntryPointQueryResult*) {
  const std::string asked = name;
  *function = asked == "cuCtxGetCurrent"   ? reinterpret_cast<void*>(machine::get_context)
              : asked == "cuCtxSetCurrent" ? reinterpret_cast<void*>(machine::set_context)
                                           : nullptr;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) {
  const Lock lock(one_at_a_time());
  static std::string kept;
  kept = machine::said.empty() ? "error " + std::to_string(error) : machine::said;
  return kept.c_str();
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const machine::Model& model = options().model;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = model.multiprocessors;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(model.shared_of_multiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(model.shared_of_block);
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = static_cast<int>(model.shared_reserved);
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t) {
  const Lock lock(one_at_a_time());
  ++machine::own_allocations;
  *memory = machine::allocate(bytes, machine::kUnwritten);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  const Lock lock(one_at_a_time());
  return machine::release(memory) ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  const Lock lock(one_at_a_time());
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

// For Python
// ---------------------------------------------------------------------------------------

#define ROIDL_FOR_PYTHON extern "C" __attribute__((visibility("default")))

ROIDL_FOR_PYTHON void* machine_allocate(size_t bytes, int state) {
  const Lock lock(one_at_a_time());
  return machine::allocate(bytes, static_cast<machine::State>(state));
}
// Memory that the library has taken from CUDA, not from who calls it.
ROIDL_FOR_PYTHON long machine_own_allocations() { return machine::own_allocations; }
// The device of this thread's context, or -1; and a bit for each device that has a context.
ROIDL_FOR_PYTHON int machine_context() { return machine::context; }
ROIDL_FOR_PYTHON unsigned machine_contexts() { return machine::contexts; }
// This thread begins or ends to capture a stream: what is launched is executed all the same.
ROIDL_FOR_PYTHON void machine_capture(int captures) { machine::is_capturing = captures != 0; }
ROIDL_FOR_PYTHON int machine_release(void* memory) {
  const Lock lock(one_at_a_time());
  return machine::release(memory) ? 1 : 0;
}
// The state of a byte of the device and, behind it, those of its neighbours; null of another byte.
ROIDL_FOR_PYTHON uint8_t* machine_states(const void* byte) {
  return machine::is_global(byte) ? machine::states(byte) : nullptr;
}
