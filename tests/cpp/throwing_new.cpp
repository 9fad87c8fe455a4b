// Loaded before AddressSanitizer, whose own `new` ends the process where memory is not to be had.
// One that throws is what the core is written for, and what the tests of MemoryError expect.
#include <cstddef>
#include <new>

namespace {

void* allocate(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return allocate(operator new(size, std::nothrow)); }
void* operator new[](std::size_t size) { return allocate(operator new[](size, std::nothrow)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(operator new(size, alignment, std::nothrow));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return allocate(operator new[](size, alignment, std::nothrow));
}
