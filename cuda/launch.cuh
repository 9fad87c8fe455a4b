// Launches kernels: the device's limits, the launch itself, scratch memory.
#pragma once
#include <cstddef>
#include <cstdint>

#include "block.cuh"
#include "device_guard.cuh"

namespace roidl::cuda {

// `Kernel` is plain data. Its members are
//   kMinBlocks                  blocks that share a multiprocessor: 4 leave 64 registers to a
//                               thread, 3 leave 80, 2 leave 128; the most that spills none
//   operator()(block, shared)   the work of one block, in phases that end with a barrier
template <class Kernel>
__global__ void __launch_bounds__(kThreads, Kernel::kMinBlocks)
    run_kernel(const __grid_constant__ Kernel kernel) {
  extern __shared__ __align__(kSharedAlignment) char shared[];
  kernel(Block{blockIdx.x}, Shared{shared});
}

inline int attribute(const Problem& problem, cudaDeviceAttr name) {
  int value = 0;
  check(problem, cudaDeviceGetAttribute(&value, name, problem.device.device_id));
  return value;
}

inline int64_t max_shared_bytes(const Problem& problem) {
  return attribute(problem, cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

// The shared memory that a block may use if `min_blocks` blocks are to share a multiprocessor; at
// least what every device has, even if fewer blocks then fit.
inline int64_t shared_bytes_of_block(const Problem& problem, int min_blocks) {
  if (has_no_device(problem)) return kSharedBytes;
  const int64_t max = max_shared_bytes(problem);
  const int64_t whole = attribute(problem, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  int64_t share = whole / min_blocks - attribute(problem, cudaDevAttrReservedSharedMemoryPerBlock);
  share -= share % 128;  // the unit of allocation
  if (share < kSharedBytes) return kSharedBytes;
  return share < max ? share : max;
}

inline constexpr int64_t kMaxBlocks = INT32_MAX;  // blocks of a grid

// Starts a kernel, or only loads it.
template <class Kernel>
void launch(const Problem& problem, const Kernel& kernel, int64_t blocks, int64_t shared_bytes) {
  if (blocks <= 0) return;
  if (blocks > kMaxBlocks)
    fail(ErrorKind::runtime, problem.op, "the problem is too large: it needs ", blocks,
         " blocks of threads, and CUDA has ", kMaxBlocks, " in a launch");
  if (problem.pass == Pass::load) {
    cudaFuncAttributes attributes;  // this query loads the kernel
    check(problem, cudaFuncGetAttributes(&attributes, run_kernel<Kernel>));
  } else if (problem.pass != Pass::run) {
    return;
  }
  // A block needs to opt in to more than kSharedBytes. It always opts in to the device's maximum,
  // as other threads launch the same kernel with other sizes.
  if (shared_bytes > kSharedBytes)
    check(problem,
          cudaFuncSetAttribute(run_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(max_shared_bytes(problem))));
  if (problem.pass != Pass::run) return;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream_of(problem);
  check(problem, cudaLaunchKernelEx(&config, run_kernel<Kernel>, kernel));
}

// Returns a part of the call's workspace; null while it is measured.
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

// The number of blocks that keeps a device busy: the aim when a RoI can be cut into pieces.
inline int64_t enough_blocks(const Problem& problem) { return 4 * multiprocessors(problem); }

}  // namespace roidl::cuda
