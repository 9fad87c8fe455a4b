// ROIDL_HOST_DEVICE: marks what a CUDA kernel calls, too; to a C++ compiler it is nothing. With
// _CALL what is long, and called from many places that are not hot.
#pragma once

#ifdef __CUDACC__
#define ROIDL_HOST_DEVICE __host__ __device__
#define ROIDL_HOST_DEVICE_CALL __host__ __device__ __noinline__
#else
#define ROIDL_HOST_DEVICE
#define ROIDL_HOST_DEVICE_CALL
#endif
