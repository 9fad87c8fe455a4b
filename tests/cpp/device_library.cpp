// A library for CUDA devices whose operators compute nothing: they say in a line of JSON what they
// were given. Tests put it in the place of libroidl_cuda.so.
#include "device_library.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "backend.h"

namespace roidl {

namespace {

constexpr int64_t kFirst = 608, kSecond = 400;  // bytes that an operator would like for each box
constexpr int32_t kCurrentDevice = 7;

// The first answer is as if a driver had not come up yet, where a test asks for that.
const char* why_unusable() {
  static bool is_late = std::getenv("ROIDL_STAND_IN_IS_LATE") != nullptr;
  const char* const reason = is_late ? "not yet" : nullptr;
  is_late = false;
  return reason;
}

void read(const Problem&, void*, const void*, size_t) {}
int32_t current_device(const Problem&) { return kCurrentDevice; }

long long number(const void* address) {
  return static_cast<long long>(reinterpret_cast<intptr_t>(address));
}

void wait(const Problem& problem) {
  std::printf("{\"waited\": %d}\n", problem.device.device_id);
  std::fflush(stdout);
}

char* allocate(const Problem& problem, int64_t bytes) {
  char* const memory = static_cast<char*>(std::malloc(static_cast<size_t>(bytes)));
  std::printf("{\"allocated\": %lld, \"stream\": %lld}\n", number(memory), number(problem.stream));
  std::fflush(stdout);
  return memory;
}

void release(const Problem&, char* memory) {
  std::printf("{\"released\": %lld}\n", number(memory));
  std::fflush(stdout);
  std::free(memory);
}

void say(const Problem& problem) {
  const char* const lent = problem.workspace->take(kFirst * problem.rois);
  const char* const more = problem.workspace->take(kSecond * problem.rois);
  if (problem.pass == Pass::estimate || problem.pass == Pass::measure) return;
  const auto print = [](const char* name, const void* address) {
    std::printf("\"%s\": %lld, ", name, number(address));
  };
  std::printf("{\"op\": \"%s\", \"pass\": \"%s\", \"device\": %d, ", problem.op,
              problem.pass == Pass::load ? "load" : "run", problem.device.device_id);
  print("stream", problem.stream);
  print("workspace", lent);
  print("workspace_end", more == nullptr ? nullptr : more + kSecond * problem.rois);
  print("input", problem.maps[0].features.data);
  print("gradient", problem.maps[0].gradient.data);
  print("pooled", problem.pooled.data);
  print("boxes", problem.boxes.data);
  print("argmax", problem.argmax.data);
  std::printf("\"may_wait\": %s}\n", problem.may_wait ? "true" : "false");
  std::fflush(stdout);
}

Backend make_backend() {
  Backend backend{};
  backend.name = "cuda";
  for (const Op op : {Op::roi_align, Op::roi_align_backward, Op::roi_align_backward_boxes,
                      Op::roi_pool, Op::roi_pool_backward})
    backend[op] = say;
  return backend;
}

const Backend backend = make_backend();
const DeviceLibrary library = {kDeviceLibraryLayout, &backend, "none",   why_unusable, read,
                               current_device,       wait,     allocate, release};

}  // namespace

}  // namespace roidl

extern "C" const roidl::DeviceLibrary* roidl_device_library() { return &roidl::library; }
