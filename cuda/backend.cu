// CUDA's backend table and the symbol by which libroidl finds it; the rest of the library's
// interface: its devices, allocation, the copy to the host for checks of values; and the kernel
// that assigns levels.
#include <string>

#include "arithmetic.cuh"
#include "backend.h"
#include "device_library.h"
#include "launch.cuh"
#include "operators.h"
#include "rois.cuh"

namespace roidl::cuda {

namespace {

// Each thread computes one box.
template <class C>
struct AssignLevels {
  static constexpr int kMinBlocks = 2;
  Boxes boxes;
  Levels rule;
  int32_t maps;
  int64_t count;
  int32_t* levels;

  ROIDL_DEVICE void operator()(const Block& block, Shared) const {
    const int64_t first = block.index * kThreads;
    block.each(count - first < kThreads ? count - first : kThreads, [&](int64_t i) {
      const Box<C> box = load_box<C>(boxes, first + i);
      levels[first + i] = static_cast<int32_t>(level_by_size(rule, maps, box));
    });
  }
};

template <class C>
void assign(const Problem& problem, int32_t* levels) {
  const AssignLevels<C> kernel{problem.boxes, problem.levels, problem.num_maps, problem.rois,
                               levels};
  launch(problem, kernel, divide_up(problem.rois, kThreads), 0);
}

void assign_levels(const Problem& problem, int32_t* levels) {
  const DeviceGuard guard(problem);
  problem.double_coordinates ? assign<double>(problem, levels) : assign<float>(problem, levels);
}

const char* name_of_driver() { return CUDART_VERSION >= 13000 ? "R580" : "R525"; }

// CUDA reports an insufficient driver even if the machine has no driver at all.
const char* describe(cudaError_t status) {
  if (status != cudaErrorInsufficientDriver) return cudaGetErrorString(status);
  thread_local std::string sentence;
  int driver = 0;
  cudaDriverGetVersion(&driver);
  const auto version = [](int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  sentence = driver == 0 ? "there is no driver" : "the driver is for CUDA " + version(driver);
  sentence += ", but CUDA " + version(CUDART_VERSION) + ", which roidl is built with, needs ";
  sentence += name_of_driver() + std::string(" or newer");
  return sentence.c_str();
}

// Returns null if there is a device to run on, else CUDA's reason.
const char* why_unusable() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaSuccess && devices > 0) return nullptr;
  cudaGetLastError();  // clears the error, which is reported
  return status == cudaSuccess ? "no CUDA-capable device is detected" : describe(status);
}

int32_t current_device(const Problem& problem) {
  int device = 0;
  check(problem, cudaGetDevice(&device));
  return device;
}

// Allocates memory of the problem's device in the order of its stream.
char* allocate(const Problem& problem, int64_t bytes) {
  const DeviceGuard guard(problem);
  void* memory = nullptr;
  check(problem, cudaMallocAsync(&memory, static_cast<size_t>(bytes), stream_of(problem)));
  return static_cast<char*>(memory);
}

void release(const Problem& problem, char* memory) {
  const DeviceGuard guard(problem);
  cudaFreeAsync(memory, stream_of(problem));
}

// Waits for all work of the problem's device, on all streams.
void wait(const Problem& problem) {
  const DeviceGuard guard(problem);
  check(problem, cudaDeviceSynchronize());
}

// Copies memory of the problem's device to the host, and waits for the copy.
void read(const Problem& problem, void* to, const void* from, size_t bytes) {
  const DeviceGuard guard(problem);
  check(problem, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_of(problem)));
  check(problem, cudaStreamSynchronize(stream_of(problem)));
}

constexpr Backend make_backend() {
  Backend backend{};
  backend.name = "cuda";
  ROIDL_FILL_ENTRIES(backend)
  backend.assign_levels = assign_levels;
  return backend;
}

constexpr Backend backend = make_backend();

const DeviceLibrary library = {kDeviceLibraryLayout,
                               &backend,
                               ROIDL_CUDA_ARCHITECTURES,
                               why_unusable,
                               read,
                               current_device,
                               wait,
                               allocate,
                               release};

}  // namespace

}  // namespace roidl::cuda

extern "C" __attribute__((visibility("default"))) const roidl::DeviceLibrary*
roidl_device_library() {
  return &roidl::cuda::library;
}
