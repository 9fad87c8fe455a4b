// Memory of the device and shared memory, with a state for every byte and, where races are looked
// for, its last accesses; the check of an access.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "races.h"

// By this name kernels declare it, whatever they use it for.
namespace roidl::cuda {
alignas(1024) char shared[machine::kSharedRoom];
}

namespace machine {

namespace {

using Address = uintptr_t;
constexpr int kGranule = 2;  // bytes of an Accesses
// Of address space: only what is touched becomes memory.
constexpr size_t kRoom = size_t{64} << 30;
constexpr size_t kGap = 256;                       // between arrays: nobody's
constexpr size_t kFilled = size_t{64} << 20;       // larger arrays get their states when touched
constexpr unsigned char kJunk = 0xff, kPage = 64;  // junk: NaN, or -1

char* reserve(size_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("cuda_on_host: no address space");
    std::abort();
  }
  return static_cast<char*>(memory);
}

// A stretch of addresses and what is known of its bytes.
struct Area {
  char* begin;
  size_t room;
  uint8_t* states;
  Accesses* accesses;

  Area(char* memory, size_t bytes)
      : begin(memory),
        room(bytes),
        states(reinterpret_cast<uint8_t*>(reserve(bytes))),
        accesses(reinterpret_cast<Accesses*>(reserve(bytes / kGranule * sizeof(Accesses)))) {}
  bool has(const void* at) const {
    return reinterpret_cast<Address>(at) - reinterpret_cast<Address>(begin) < room;
  }
  size_t offset(const void* at) const {
    return static_cast<size_t>(static_cast<const char*>(at) - begin);
  }
};

const Area device(reserve(kRoom), kRoom), shared_area(roidl::cuda::shared, kSharedRoom);

struct Array {
  size_t bytes, taken;
  State fresh;
};
std::map<char*, Array> arrays;
std::multimap<size_t, char*> free_by_size;
size_t next_free = kGap;

// The array around an address.
std::map<char*, Array>::const_iterator find_array(const void* at) {
  char* const address = static_cast<char*>(const_cast<void*>(at));
  auto next = arrays.upper_bound(address);
  if (next == arrays.begin()) return arrays.end();
  --next;
  return address < next->first + next->second.bytes ? next : arrays.end();
}

template <class Word>
Word every_byte(uint8_t value) {
  Word word;
  std::memset(&word, value, sizeof word);
  return word;
}

struct Access {
  const void* at;
  size_t bytes;
  bool writes;
  const void* code;
};

// Whoever copies a whole structure reads what fills it up, which nobody wrote: less than 8 bytes.
bool is_padding(const Area& area, size_t at, const Access& access) {
  constexpr size_t kWidest = 8;
  if (access.bytes <= 2 * kWidest) return false;
  const size_t begin = area.offset(access.at), end = begin + access.bytes;
  size_t first = at, stop = at + 1;
  while (first > begin && area.states[first - 1] == kUnwritten) --first;
  while (stop < end && area.states[stop] == kUnwritten) ++stop;
  return stop - first < kWidest;
}

void check_state(const Area& area, bool shared, size_t at, const Access& access) {
  const auto [whole, bytes, writes, code] = access;
  uint8_t& state = area.states[at];
  if (state == kNone && !shared) {
    const auto array = find_array(area.begin + at);
    if (array != arrays.end()) state = array->second.fresh;
  }
  if (state == kNone)
    fault_of_access(writes ? "write out of bounds" : "read out of bounds", whole, bytes, code);
  if (state == kInFlight)
    fault_of_access(
        writes ? "write to where a copy is under way" : "read of a copy that is not waited for",
        whole, bytes, code);
  if (!writes && state == kUnwritten && !is_padding(area, at, access))
    complain_of_access("read of what nobody wrote", whole, bytes, code);
  if (writes) state = kWritten;
}

// Most accesses are of one state throughout.
template <class Word>
bool is_plain(uint8_t* states, bool writes) {
  Word word;
  std::memcpy(&word, states, sizeof word);
  if (word == every_byte<Word>(kWritten)) return true;
  if (!writes || word != every_byte<Word>(kUnwritten)) return false;
  std::memset(states, kWritten, sizeof word);
  return true;
}
bool is_plain(uint8_t* states, size_t bytes, bool writes) {
  switch (bytes) {
    case 2:
      return is_plain<uint16_t>(states, writes);
    case 4:
      return is_plain<uint32_t>(states, writes);
    case 8:
      return is_plain<uint64_t>(states, writes);
    case 16:
      return is_plain<unsigned __int128>(states, writes);
    default:
      return false;
  }
}

void check_area(const Area& area, bool shared, const Access& access) {
  const auto [at, bytes, writes, code] = access;
  const size_t first = area.offset(at);
  if (!is_plain(area.states + first, bytes, writes))
    for (size_t i = first; i < first + bytes; ++i) check_state(area, shared, i, access);
  if (!options().races || bytes == 0) return;
  for (size_t i = first / kGranule; i <= (first + bytes - 1) / kGranule; ++i) {
    Accesses& accesses = area.accesses[i];
    if (const char* wrong = writes ? accesses.write(!shared) : accesses.read(!shared))
      complain_of_access(wrong, at, bytes, code);
  }
}

}  // namespace

char* shared_memory() { return shared_area.begin; }
bool is_global(const void* pointer) { return device.has(pointer); }
bool is_shared(const void* pointer) { return shared_area.has(pointer); }

void check_access(const void* at, size_t bytes, bool writes, const void* code) {
  const Address on_stack = reinterpret_cast<Address>(at) - reinterpret_cast<Address>(now.stack);
  if (on_stack < kStackBytes && on_stack + bytes <= kStackBytes) return;
  if (shared_area.has(at)) return check_area(shared_area, true, {at, bytes, writes, code});
  if (device.has(at)) return check_area(device, false, {at, bytes, writes, code});
  check_host_access(at, bytes, writes, code);
}

void clear_shared(size_t bytes) {
  const Area& area = shared_area;
  static size_t before = kSharedRoom;
  std::memset(area.states, kNone, before);
  std::memset(area.states, kUnwritten, bytes);
  std::memset(area.begin, kJunk, bytes);
  before = bytes;
}

void begin_copy(const void* shared, size_t bytes, const void* code) {
  check_access(shared, bytes, true, code);
  const Area& area = shared_area;
  std::memset(area.states + area.offset(shared), kInFlight, bytes);
}

void end_copy(const void* shared, size_t bytes, const void* code) {
  const Area& area = shared_area;
  std::memset(area.states + area.offset(shared), kUnwritten, bytes);
  check_access(shared, bytes, true, code);
}

void* allocate(size_t bytes, State fresh) {
  const Area& area = device;
  const bool filled = bytes <= kFilled;
  const size_t step = filled ? kGap : kGap * kPage;
  const size_t taken = (bytes + step - 1) / step * step + kGap;
  char* begin = nullptr;
  if (const auto found = free_by_size.find(taken); found != free_by_size.end()) {
    begin = found->second;
    free_by_size.erase(found);
  } else {
    if (next_free + taken + step > area.room) return nullptr;
    next_free = (next_free + step - 1) / step * step;
    begin = area.begin + next_free;
    next_free += taken;
  }
  if (filled) {
    std::memset(area.states + area.offset(begin), fresh, bytes);
    std::memset(begin, kJunk, bytes);
  }
  arrays[begin] = {bytes, taken, fresh};
  return begin;
}

bool release(void* memory) {
  const auto found = arrays.find(static_cast<char*>(memory));
  if (found == arrays.end()) return false;
  const Area& area = device;
  const Array array = found->second;
  uint8_t* const states = area.states + area.offset(memory);
  if (array.bytes <= kFilled) {
    std::memset(states, kNone, array.bytes);
  } else {  // pages that are given back are zeros
    const size_t pages = array.bytes / 4096 * 4096;
    madvise(memory, pages, MADV_DONTNEED);
    madvise(states, pages, MADV_DONTNEED);
    std::memset(states + pages, kNone, array.bytes - pages);
  }
  free_by_size.emplace(array.taken, found->first);
  arrays.erase(found);
  return true;
}

std::string describe(const void* at) {
  char text[200];
  if (is_shared(at)) {
    std::snprintf(text, sizeof text, "byte %zu of shared memory", shared_area.offset(at));
  } else if (is_global(at)) {
    const auto array = find_array(at);
    if (array != arrays.end())
      std::snprintf(text, sizeof text, "byte %td of an array of %zu",
                    static_cast<const char*>(at) - array->first, array->second.bytes);
    else
      std::snprintf(text, sizeof text, "device memory outside of any array");
  } else {
    std::snprintf(text, sizeof text, "%p, which is no memory of the device", at);
  }
  return text;
}

uint8_t* states(const void* memory) { return device.states + device.offset(memory); }

}  // namespace machine
