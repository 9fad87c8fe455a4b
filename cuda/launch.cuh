// How kernels are started: the device's limits, launches, scratch memory.
#pragma once
#include <cstddef>
#include <cstdint>

#include "block.cuh"
#include "device_guard.cuh"

namespace roidl::cuda {

// `Kernel` is plain data. It has
//   kMinBlocks                  blocks that share a multiprocessor: 4 leave 64 registers to a
//                               thread, 3 leave 80, 2 leave 128; the most that spills none
//   operator()(block, shared)   what one block does, in phases that end with a barrier
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

// What a block may use of shared memory where `min_blocks` are to share a multiprocessor; but never
// less than what any device gives, with which they may be fewer.
inline int64_t shared_bytes_of_block(const Problem& problem, int min_blocks) {
  if (has_no_device(problem)) return kSharedBytes;
  const int64_t max = max_shared_bytes(problem);
  const int64_t whole = attribute(problem, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  int64_t share = whole / min_blocks - attribute(problem, cudaDevAttrReservedSharedMemoryPerBlock);
  share -= share % 128;  // what it is allotted in
  if (share < kSharedBytes) return kSharedBytes;
  return share < max ? share : max;
}

inline constexpr int64_t kMaxBlocks = INT32_MAX;  // of a grid

// Starts a kernel, or only loads it.
template <class Kernel>
void launch(const Problem& problem, const Kernel& kernel, int64_t blocks, int64_t shared_bytes) {
  if (blocks <= 0) return;
  if (blocks > kMaxBlocks)
    fail(ErrorKind::runtime, problem.op, "the problem is too large: it needs ", blocks,
         " blocks of threads, and CUDA has ", kMaxBlocks, " in a launch");
  if (problem.pass == Pass::load) {
    cudaFuncAttributes attributes;  // to ask for them loads it
    check(problem, cudaFuncGetAttributes(&attributes, run_kernel<Kernel>));
  } else if (problem.pass != Pass::run) {
    return;
  }
  // More than a device gives without being asked. It is asked for the most that it has, always the
  // same: other threads start the same kernel with other sizes.
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

// A part of what the call is lent; null while that is measured.
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

// Blocks beyond which a device is busy: what to aim for when a RoI can be cut into pieces.
inline int64_t enough_blocks(const Problem& problem) { return 4 * multiprocessors(problem); }

}  // namespace roidl::cuda
