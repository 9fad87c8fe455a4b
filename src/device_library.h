// DeviceLibrary: the interface of a library of kernels for another device, loaded at first use.
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
  const char* (*why_unusable)();  // NULL if there is a usable device
  // Copies to the host on the problem's stream and waits for the copy.
  void (*read)(const Problem&, void* to, const void* from, size_t bytes);
  int32_t (*current_device)(const Problem&);
  // Waits for all work of the problem's device, on all streams.
  void (*wait)(const Problem&);
  // Allocates in the order of the problem's stream, without waiting.
  char* (*allocate)(const Problem&, int64_t bytes);
  void (*release)(const Problem&, char* memory);
};

// Returns the library for CUDA devices: the file that the environment variable ROIDL_CUDA_LIBRARY
// names, else libroidl_cuda.so in the folder of this library; NULL if it was not built. The first
// call loads it; as long as there is none, every call looks for it again.
const DeviceLibrary* cuda_library();

// Returns the current CUDA device of the calling thread, or throws an Error that says why there is
// none. (To ask a stream for its device fails on some drivers while the stream is captured.)
abi::DLDevice current_cuda_device(const char* op);

// Whether CUDA calls copy the boxes to the host and check their values, which makes the host wait
// for the device. The initial value is that of the environment variable ROIDL_CHECK_BOXES.
bool get_check_boxes();
void set_check_boxes(bool check);

// Whether the values of this problem are to be checked like that.
bool checks_on_device(const Problem& problem);

// Like check_box_values and check_level_values, for arrays in device memory.
void check_device_values(const Problem& problem, const DeviceLibrary& library);
// Returns the first argmax in device memory that is neither -1 nor a cell of its map, else -1.
int64_t find_wrong_cell(const Problem& problem, const DeviceLibrary& library);

}  // namespace roidl
