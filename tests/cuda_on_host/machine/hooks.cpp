// What g++ calls: -fsanitize=thread before every access to memory, other sanitizers where something
// is undefined; and what copies memory, by names that build.py gives it.
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "machine.h"

namespace machine {

namespace {

struct Segment {
  uintptr_t begin, end;
};

// Of the loaded libraries, what nobody can write: constants.
std::vector<Segment> constants() {
  std::vector<Segment> found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* all) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& part = info->dlpi_phdr[i];
          const uintptr_t begin = info->dlpi_addr + part.p_vaddr;
          if (part.p_type == PT_LOAD && (part.p_flags & PF_W) == 0)
            static_cast<std::vector<Segment>*>(all)->push_back({begin, begin + part.p_memsz});
        }
        return 0;
      },
      &found);
  return found;
}

}  // namespace

void check_host_access(const void* at, size_t bytes, bool writes, const void* code) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(at), end = begin + bytes;
  const auto within = [&](uintptr_t first, uintptr_t stop) {
    return begin >= first && end <= stop;
  };
  const uintptr_t parameters = reinterpret_cast<uintptr_t>(now.launched->parameters);
  if (!writes && within(parameters, parameters + now.launched->parameter_bytes)) return;
  static const std::vector<Segment> known = constants();
  if (!writes)
    for (const Segment& segment : known)
      if (within(segment.begin, segment.end)) return;
  fault_of_access(writes ? "write to the host's memory" : "read of the host's memory", at, bytes,
                  code);
}

namespace {

inline void access(const void* at, size_t bytes, bool writes, const void* code) {
  if (in_kernel) check_access(at, bytes, writes, code);
}
// Of this many bytes at once: the address is a multiple of them.
inline void aligned_access(const void* at, size_t bytes, bool writes, const void* code) {
  if (!in_kernel) return;
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0)
    fault_of_access("access that is not aligned", at, bytes, code);
  check_access(at, bytes, writes, code);
}

// Every sanitizer's data begins with where in the source it is.
struct Source {
  const char* file;
  uint32_t line, column;
};
void undefined(const char* what, const void* data, const void* code) {
  const Source& source = *static_cast<const Source*>(data);
  const std::string text =
      std::string(what) + " in " + source.file + ":" + std::to_string(source.line);
  if (in_kernel) fault(text, code);
  std::fprintf(stderr, "cuda_on_host: %s, on the host\n", text.c_str());
  std::abort();
}

}  // namespace

}  // namespace machine

using machine::access;
using machine::aligned_access;
using machine::undefined;

#define HERE __builtin_return_address(0)

extern "C" {

#define ROIDL_HOOKS(bytes)                                                        \
  void __tsan_read##bytes(void* at) { aligned_access(at, bytes, false, HERE); }   \
  void __tsan_write##bytes(void* at) { aligned_access(at, bytes, true, HERE); }   \
  void __tsan_unaligned_read##bytes(void* at) { access(at, bytes, false, HERE); } \
  void __tsan_unaligned_write##bytes(void* at) { access(at, bytes, true, HERE); }
ROIDL_HOOKS(1)
ROIDL_HOOKS(2)
ROIDL_HOOKS(4)
ROIDL_HOOKS(8)
ROIDL_HOOKS(16)
#undef ROIDL_HOOKS
void __tsan_read_range(void* at, size_t bytes) { access(at, bytes, false, HERE); }
void __tsan_write_range(void* at, size_t bytes) { access(at, bytes, true, HERE); }
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
uint8_t __tsan_atomic8_load(const volatile uint8_t* at, int) {
  return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}

void* machine_memcpy(void* to, const void* from, size_t bytes) {
  access(from, bytes, false, HERE);
  access(to, bytes, true, HERE);
  return std::memcpy(to, from, bytes);
}
void* machine_memmove(void* to, const void* from, size_t bytes) {
  access(from, bytes, false, HERE);
  access(to, bytes, true, HERE);
  return std::memmove(to, from, bytes);
}
void* machine_memset(void* to, int value, size_t bytes) {
  access(to, bytes, true, HERE);
  return std::memset(to, value, bytes);
}

#define ROIDL_UNDEFINED(name, words, ...) \
  void __ubsan_handle_##name(void* data, ##__VA_ARGS__) { undefined(words, data, HERE); }
ROIDL_UNDEFINED(type_mismatch_v1, "an object that is not aligned", void*)
ROIDL_UNDEFINED(shift_out_of_bounds, "a shift out of range", void*, void*)
ROIDL_UNDEFINED(add_overflow, "a sum that overflows", void*, void*)
ROIDL_UNDEFINED(sub_overflow, "a difference that overflows", void*, void*)
ROIDL_UNDEFINED(mul_overflow, "a product that overflows", void*, void*)
ROIDL_UNDEFINED(negate_overflow, "a negation that overflows", void*)
ROIDL_UNDEFINED(divrem_overflow, "a division by zero", void*, void*)
ROIDL_UNDEFINED(out_of_bounds, "an index out of bounds", void*)
ROIDL_UNDEFINED(float_cast_overflow, "a float that no integer of its type is", void*)
ROIDL_UNDEFINED(builtin_unreachable, "a place that is not to be reached")
#undef ROIDL_UNDEFINED

}  // extern "C"
