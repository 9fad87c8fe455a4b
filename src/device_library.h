// DeviceLibrary: what a library of kernels for another device offers, found and loaded at first
// use.
#pragma once
#include <cstddef>
#include <cstdint>

#include "run.h"

namespace roidl {

struct Backend;

// Both libraries must have been compiled with the same problems, catalogue and table.
inline constexpr uint64_t kLibraryEntries = 9;
inline constexpr uint64_t kDeviceLibraryLayout =
    sizeof(AnyProblem) * 65536 + kLibraryEntries * 256 + kNumOperators;

struct DeviceLibrary {
  uint64_t layout;
  const Backend* backend;
  const char* architectures;      // separated by commas, as CMake names them
  const char* (*why_unusable)();  // NULL if a device can be used
  // Copies to the host on the problem's stream and waits for it.
  void (*read)(const Problem&, void* to, const void* from, size_t bytes);
  int32_t (*current_device)(const Problem&);
  // Waits for all work of the problem's device, on all streams.
  void (*wait)(const Problem&);
  // Allocates in the order of the problem's stream, without waiting.
  char* (*allocate)(const Problem&, int64_t bytes);
  void (*release)(const Problem&, char* memory);
};

// The library that computes on CUDA devices, libroidl_cuda.so beside this one or what the
// environment variable ROIDL_CUDA_LIBRARY names; NULL if it was not built. It is loaded at the
// first call, and looked for again as long as there is none.
const DeviceLibrary* cuda_library();

// The CUDA device that is the calling thread's current one, or an Error that says why there is
// none. (To ask a stream for its device is an error on some drivers while it is captured.)
abi::DLDevice current_cuda_device(const char* op);

// Whether CUDA calls read the boxes back and check their values, which makes them wait for the
// device. At first what the environment variable ROIDL_CHECK_BOXES says.
bool get_check_boxes();
void set_check_boxes(bool check);

// Whether this problem's values are to be checked so.
bool checks_on_device(const Problem& problem);

// As check_box_values and check_level_values, of arrays in the memory of a device.
void check_device_values(const Problem& problem, const DeviceLibrary& library);
// The first argmax in the memory of a device that is neither -1 nor a cell of its map, or -1.
int64_t find_wrong_cell(const Problem& problem, const DeviceLibrary& library);

}  // namespace roidl
