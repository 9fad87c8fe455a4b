// CUDA's backend table, and the one symbol by which libroidl finds it.
#include "../src/backend.h"

#include "../src/device_library.h"
#include "backend.h"

namespace roidl {

namespace {

const Backend backend = {"cuda",
                         cuda::roi_align_forward,
                         cuda::roi_align_backward,
                         cuda::roi_align_backward_boxes,
                         cuda::roi_align_jvp,
                         cuda::roi_align_jvp_boxes,
                         cuda::roi_align_jvp_boxes_backward,
                         cuda::roi_pool_forward,
                         cuda::roi_pool_backward,
                         cuda::roi_pool_jvp,
                         cuda::assign_levels};

const DeviceLibrary library = {kDeviceLibraryLayout, &backend,       ROIDL_CUDA_ARCHITECTURES,
                               cuda::why_unusable,   cuda::read,     cuda::current_device,
                               cuda::wait,           cuda::allocate, cuda::release};

}  // namespace

}  // namespace roidl

extern "C" __attribute__((visibility("default"))) const roidl::DeviceLibrary*
roidl_device_library() {
  return &roidl::library;
}
