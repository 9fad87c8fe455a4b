// A library for CUDA devices whose operators compute nothing: they say in a line of JSON what they
// were given. tests/test_xla_handlers.py puts it in the place of libroidl_cuda.so.
#include "device_library.h"

#include <cstdint>
#include <cstdio>

#include "backend.h"

namespace roidl {

namespace {

constexpr int64_t kWorkspace = 1000;  // that an operator on one box would like

const char* nothing_is_wrong() { return nullptr; }

void read(const Problem&, void*, const void*, size_t) {}
void wait(const Problem&) {}

int32_t device_of_stream(const Problem& problem) {
  return static_cast<int32_t>(reinterpret_cast<intptr_t>(problem.stream) >> 8);
}

template <class P>
const void* argmax_of(const P&) {
  return nullptr;
}
template <>
const void* argmax_of(const RoiPoolProblem& problem) {
  return problem.argmax.data;
}

template <class P>
void say(const P& problem) {
  const char* lent = problem.workspace->take(kWorkspace * problem.rois);
  if (only_measures(problem)) return;
  const auto print = [](const char* name, const void* address) {
    std::printf("\"%s\": %lld, ", name,
                static_cast<long long>(reinterpret_cast<intptr_t>(address)));
  };
  std::printf("{\"op\": \"%s\", \"device\": %d, ", problem.op, problem.device.device_id);
  print("stream", problem.stream);
  print("workspace", lent);
  print("input", problem.maps[0].features.data);
  print("gradient", problem.maps[0].gradient.data);
  print("pooled", problem.pooled.data);
  print("boxes", problem.boxes.data);
  print("argmax", argmax_of(problem));
  std::printf("\"may_wait\": %s}\n", problem.may_wait ? "true" : "false");
  std::fflush(stdout);
}

Backend make_backend() {
  Backend backend{};
  backend.name = "cuda";
  backend.roi_align_forward = say<RoiAlignProblem>;
  backend.roi_align_backward = say<RoiAlignProblem>;
  backend.roi_pool_forward = say<RoiPoolProblem>;
  backend.roi_pool_backward = say<RoiPoolProblem>;
  return backend;
}

const Backend backend = make_backend();
const DeviceLibrary library = {kDeviceLibraryLayout, &backend, "none", nothing_is_wrong, read,
                               device_of_stream,     wait};

}  // namespace

}  // namespace roidl

extern "C" const roidl::DeviceLibrary* roidl_device_library() { return &roidl::library; }
