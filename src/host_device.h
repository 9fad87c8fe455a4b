// ROIDL_HOST_DEVICE marks functions that CUDA kernels call, too; a C++ compiler does not see it.
// With _CALL, for long functions that are called from many places outside of inner loops, nvcc does
// not inline them.
#pragma once

#ifdef __CUDACC__
#define ROIDL_HOST_DEVICE __host__ __device__
#define ROIDL_HOST_DEVICE_CALL __host__ __device__ __noinline__
#else
#define ROIDL_HOST_DEVICE
#define ROIDL_HOST_DEVICE_CALL
#endif
