// What the parts of the machine know of each other: options, faults, memory, threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

#include "cuda_runtime.h"

namespace machine {

// A GPU's limits, as CUDA's programming guide gives them.
struct Model {
  const char* name;
  int multiprocessors;
  size_t shared_of_block, shared_of_multiprocessor, shared_reserved;
  bool copies_later;  // has cp.async
};

// ROIDL_CUDA_ON_HOST=device=A100,multiprocessors=8,races=1,schedule=3,report=/tmp/report
struct Options {
  Model model{};
  bool races = false;
  unsigned schedule = 0;  // 0 ascending, 1 descending; others: the seed of random orders
  bool goes_on = false;   // prints races and reads of what nobody wrote, and does not end a launch
  std::string report;     // a file to which every process appends what it has found
};
const Options& options();

// Everything is done by one host thread at a time.
std::recursive_mutex& one_at_a_time();

// Whether this host thread executes a kernel's code, whose accesses count.
extern thread_local bool in_kernel __attribute__((tls_model("initial-exec")));

// While the machine itself is at work in the place of a kernel's thread.
class Outside {
 public:
  Outside() : was_(in_kernel) { in_kernel = false; }
  ~Outside() { in_kernel = was_; }
  Outside(const Outside&) = delete;
  Outside& operator=(const Outside&) = delete;

 private:
  bool was_;
};

// Faults (faults.cpp)
// ------------------------------------------------------------------------------

// Ends the launch: it reports the first fault as CUDA reports an illegal access. `code` is where.
[[noreturn]] void fault(const std::string& what, const void* code);
[[noreturn]] void fault_of_access(const char* what, const void* at, size_t bytes, const void* code);
// The same, or, where the option says so, a line on stderr for every new place.
void complain_of_access(const char* what, const void* at, size_t bytes, const void* code);
// The same from outside of a thread: the launch's caller ends it.
void note_fault(const std::string& what, const void* code);
bool has_fault();
std::string take_fault();
const std::string& last_fault();

// Memory (memory.cpp)
// ------------------------------------------------------------------------------

enum State : uint8_t { kNone = 0, kUnwritten = 1, kWritten = 2, kInFlight = 3 };

inline constexpr size_t kSharedRoom = 256 << 10;
char* shared_memory();
void check_access(const void* at, size_t bytes, bool writes, const void* code);
bool is_global(const void* pointer);
bool is_shared(const void* pointer);
// A block begins, with so much of shared memory, of which nothing is written.
void clear_shared(size_t bytes);
void begin_copy(const void* shared, size_t bytes, const void* code);
void end_copy(const void* shared, size_t bytes, const void* code);
void* allocate(size_t bytes, State state);
bool release(void* memory);
uint8_t* states(const void* memory);
std::string describe(const void* at);

// Of memory that is neither the device's nor the thread's stack (hooks.cpp).
void check_host_access(const void* at, size_t bytes, bool writes, const void* code);

// Threads (threads.cpp)
// ----------------------------------------------------------------------------

inline constexpr int kLanes = 32, kWarps = 8, kThreads = kLanes * kWarps;

// Who is at work, and since which barriers.
struct Now {
  unsigned thread = 0, block = 0;
  uint32_t launch = 0;            // number of it
  uint32_t first_run = 1;         // of this launch
  uint32_t run = 0;               // number of the block's execution, of all launches
  uint32_t phase = 0;             // barriers of the block so far
  uint32_t warp_phase[kWarps]{};  // barriers of each warp
  const char* stack = nullptr;    // of the thread
  const Launch* launched = nullptr;
};
extern Now now;
inline constexpr size_t kStackBytes = 256 << 10;

// Executes all blocks; false: there was a fault.
bool run(const Launch& launch);
[[noreturn]] void abandon();  // the thread at work, with its launch

}  // namespace machine
