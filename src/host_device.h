// ROIDL_HOST_DEVICE: marks what a CUDA kernel calls, too; to a C++ compiler it is nothing.
#pragma once

#ifdef __CUDACC__
#define ROIDL_HOST_DEVICE __host__ __device__
#else
#define ROIDL_HOST_DEVICE
#endif
