// A stand-in for CUDA's runtime and the keywords of its compiler: as much of them as cuda/ uses.
#pragma once
#include <cstddef>
#include <cstdint>

#define __device__
#define __host__
#define __global__
#define __shared__  // extern, within a function: the machine defines it (machine/threads.cpp)
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define blockIdx (machine::block_index())

struct alignas(16) int4 {
  int x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define CUDART_VERSION 13000
using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorLaunchFailure = 719,
};
enum cudaMemcpyKind { cudaMemcpyDeviceToHost = 2 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeRelaxed = 2 };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0 };
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrReservedSharedMemoryPerBlock = 111,
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};

cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result);
cudaError_t cudaDeviceSynchronize();

namespace machine {

dim3 block_index();

// A kernel of the library that is executed: one for every instantiation that it could start.
struct KernelType {
  const char* name;
  long launches = 0;
  bool is_loaded = false;
  size_t allowed_shared_bytes = 48 << 10;
  explicit KernelType(const char* name);
};
template <class Kernel>
const char* name_of_kernel() {
  return __PRETTY_FUNCTION__;
}
template <class Kernel>
inline KernelType kernel_type{name_of_kernel<Kernel>()};

// body(function, parameters) is what every thread does.
struct Launch {
  KernelType* type;
  void (*body)(void (*function)(), const void* parameters);
  void (*function)();
  const void* parameters;
  size_t parameter_bytes;
  cudaLaunchConfig_t config;
};
cudaError_t launch(const Launch& launch);
cudaError_t load(KernelType& type);
cudaError_t allow_shared_bytes(KernelType& type, int bytes);

template <class Kernel>
void call_kernel(void (*function)(), const void* parameters) {
  reinterpret_cast<void (*)(Kernel)>(function)(*static_cast<const Kernel*>(parameters));
}

}  // namespace machine

template <class Kernel>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*function)(Kernel),
                               const Kernel& kernel) {
  return machine::launch({&machine::kernel_type<Kernel>, machine::call_kernel<Kernel>,
                          reinterpret_cast<void (*)()>(function), &kernel, sizeof kernel, *config});
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*)(Kernel)) {
  return machine::load(machine::kernel_type<Kernel>);
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(void (*)(Kernel), cudaFuncAttribute, int value) {
  return machine::allow_shared_bytes(machine::kernel_type<Kernel>, value);
}
