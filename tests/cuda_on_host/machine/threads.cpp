// The threads of a block, each a fibre with a stack of its own, their barriers, and the order in
// which they run.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "machine.h"

// Saves the stack pointer of who calls, and goes on where another has left.
extern "C" void machine_switch(void** saved, void* other);
asm(R"(
.text
.type machine_switch, @function
machine_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size machine_switch, .-machine_switch
)");

namespace machine {

Now now;
thread_local bool in_kernel = false;

namespace {

enum class Waits { no, for_warp, for_block, is_done };
enum class Meeting { sync, ballot, shuffle };

struct Copy {
  void* shared;
  const void* global;
  int bytes;
};

struct Thread {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  Waits waits = Waits::no;
  const void* code = nullptr;  // where it waits
  Meeting meeting = Meeting::sync;
  uint32_t value = 0, answer = 0;
  int from_lane = 0;
  std::vector<Copy> copies;  // under way
};

Thread threads[kThreads];
void* scheduler = nullptr;
char* stacks = nullptr;

Thread& me() { return threads[now.thread]; }

void leave() {
  in_kernel = false;
  machine_switch(&me().stack_pointer, scheduler);
  in_kernel = true;
}

void thread_main() {
  in_kernel = true;
  now.launched->body(now.launched->function, now.launched->parameters);
  in_kernel = false;
  if (!me().copies.empty()) fault("a thread ends while its copies are under way", nullptr);
  me().waits = Waits::is_done;
  leave();
  __builtin_unreachable();
}

void begin_thread(Thread& thread) {
  if (stacks == nullptr)
    stacks = static_cast<char*>(mmap(nullptr, kThreads * kStackBytes, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  thread.stack = stacks + (&thread - threads) * kStackBytes;
  void** top = reinterpret_cast<void**>(thread.stack + kStackBytes - 64);
  *--top = nullptr;  // nobody is returned to
  *--top = reinterpret_cast<void*>(thread_main);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  thread.stack_pointer = top;
  thread.waits = Waits::no;
  thread.copies.clear();
}

void go_on(unsigned number) {
  now.thread = number;
  now.stack = threads[number].stack;
  machine_switch(&scheduler, threads[number].stack_pointer);
}

// Orders that a schedule asks for.
class Orders {
 public:
  Orders() : random_(options().schedule) {
    for (auto& order : lanes_) {
      for (int i = 0; i < kLanes; ++i) order[i] = static_cast<uint8_t>(i);
      arrange(order, order + kLanes);
    }
  }
  template <class Iterator>
  void arrange(Iterator begin, Iterator end) {
    if (options().schedule == 1) std::reverse(begin, end);
    if (options().schedule > 1) std::shuffle(begin, end, random_);
  }
  const uint8_t* lanes() { return lanes_[options().schedule > 1 ? random_() % kKept : 0]; }
  // One of the warps that are set in `ready`.
  int warp(uint32_t ready) {
    if (options().schedule == 0) return __builtin_ctz(ready);
    if (options().schedule == 1) return 31 - __builtin_clz(ready);
    for (;;)
      if (const unsigned warp = random_() % kWarps; (ready >> warp & 1) != 0)
        return static_cast<int>(warp);
  }

 private:
  static constexpr int kKept = 16;
  uint8_t lanes_[kKept][kLanes];
  std::mt19937 random_;
};

Orders& orders() {
  static Orders made;
  return made;
}

// All lanes of a warp are there.
bool meet(int warp) {
  Thread* const lanes = threads + warp * kLanes;
  uint32_t ballot = 0;
  for (int i = 0; i < kLanes; ++i) {
    if (lanes[i].meeting != lanes[0].meeting || lanes[i].code != lanes[0].code) {
      now.thread = static_cast<unsigned>(warp * kLanes + i);
      return note_fault("lanes of a warp meet at different places", lanes[i].code), false;
    }
    ballot |= (lanes[i].value != 0 ? 1u : 0u) << i;
  }
  for (int i = 0; i < kLanes; ++i)
    lanes[i].answer =
        lanes[0].meeting == Meeting::ballot ? ballot : lanes[lanes[i].from_lane & 31].value;
  for (int i = 0; i < kLanes; ++i) lanes[i].waits = Waits::no;
  if (lanes[0].meeting == Meeting::sync) ++now.warp_phase[warp];  // nothing else orders memory
  return true;
}

enum class After { ready, waits, failed };

// Every lane goes on to its next barrier, or to its end.
After run_warp(int warp) {
  Thread* const lanes = threads + warp * kLanes;
  const uint8_t* const order = orders().lanes();
  for (int i = 0; i < kLanes; ++i) {
    if (lanes[order[i]].waits == Waits::no) go_on(static_cast<unsigned>(warp * kLanes + order[i]));
    if (has_fault()) return After::failed;
  }
  const auto number = std::count_if(
      lanes, lanes + kLanes, [](const Thread& lane) { return lane.waits == Waits::for_warp; });
  if (number == 0) return After::waits;
  if (number == kLanes) return meet(warp) ? After::ready : After::failed;
  for (int i = 0; i < kLanes; ++i)
    if (lanes[i].waits != Waits::for_warp) {
      now.thread = static_cast<unsigned>(warp * kLanes + i);
      note_fault("a lane does not come where others of its warp wait for it", lanes[i].code);
      return After::failed;
    }
  return After::failed;
}

enum class Block { goes_on, is_done, failed };

// No warp can go on: all threads are at the block's barrier, or all are done.
Block meet_block() {
  for (const Thread& thread : threads)
    if (thread.waits != threads[0].waits ||
        (thread.waits != Waits::is_done && thread.code != threads[0].code)) {
      now.thread = static_cast<unsigned>(&thread - threads);
      const bool ends = (thread.waits == Waits::is_done) != (threads[0].waits == Waits::is_done);
      note_fault(ends ? "a thread ends while others wait for it at a barrier"
                      : "threads of a block meet at different barriers",
                 thread.code);
      return Block::failed;
    }
  if (threads[0].waits == Waits::is_done) return Block::is_done;
  for (Thread& thread : threads) thread.waits = Waits::no;
  ++now.phase;
  return Block::goes_on;
}

bool run_block(const Launch& launch) {
  ++now.run;
  now.phase = 0;
  for (uint32_t& phase : now.warp_phase) phase = 0;
  clear_shared(launch.config.dynamicSmemBytes);
  for (Thread& thread : threads) begin_thread(thread);
  constexpr uint32_t kAll = (1u << kWarps) - 1;
  for (uint32_t ready = kAll;;) {
    if (ready == 0) {
      const Block block = meet_block();
      if (block != Block::goes_on) return block == Block::is_done;
      ready = kAll;
    }
    const int warp = orders().warp(ready);
    const After after = run_warp(warp);
    if (after == After::failed) return false;
    if (after == After::waits) ready &= ~(1u << warp);
  }
}

uint32_t meet_at(Meeting meeting, uint32_t value, int from_lane, const void* code) {
  Thread& thread = me();
  thread.waits = Waits::for_warp;
  thread.meeting = meeting;
  thread.value = value;
  thread.from_lane = from_lane;
  thread.code = code;
  leave();
  return thread.answer;
}

}  // namespace

bool run(const Launch& launch) {
  now.launched = &launch;
  now.first_run = now.run + 1;
  ++now.launch;
  std::vector<unsigned> blocks(launch.config.gridDim.x);
  for (unsigned i = 0; i < blocks.size(); ++i) blocks[i] = i;
  orders().arrange(blocks.begin(), blocks.end());
  for (const unsigned block : blocks) {
    now.block = block;
    if (!run_block(launch)) return false;
  }
  return true;
}

void abandon() {
  in_kernel = false;
  machine_switch(&me().stack_pointer, scheduler);
  __builtin_unreachable();
}

// What kernels call -------------------------------------------------------------------------------

#define HERE __builtin_return_address(0)

__attribute__((noinline)) unsigned thread_index() { return now.thread; }
__attribute__((noinline)) dim3 block_index() { return dim3(now.block, 0, 0); }

__attribute__((noinline)) void sync_block() {
  me().waits = Waits::for_block;
  me().code = HERE;
  leave();
}
__attribute__((noinline)) void sync_warp() { meet_at(Meeting::sync, 0, 0, HERE); }
__attribute__((noinline)) uint32_t ballot(bool says) {
  return meet_at(Meeting::ballot, says, 0, HERE);
}
__attribute__((noinline)) uint32_t shuffle(uint32_t value, int from_lane) {
  return meet_at(Meeting::shuffle, value, from_lane, HERE);
}
__attribute__((noinline)) uint32_t shuffle_up(uint32_t value, int lanes) {
  const int lane = static_cast<int>(now.thread % kLanes);
  return meet_at(Meeting::shuffle, value, lane < lanes ? lane : lane - lanes, HERE);
}

__attribute__((noinline)) void copy_later(void* shared, const void* global, int bytes) {
  const Outside outside;
  const size_t size = static_cast<size_t>(bytes);
  if (!is_shared(shared) || !is_global(global)) fault("a copy is not from global to shared", HERE);
  if (reinterpret_cast<uintptr_t>(shared) % size != 0 ||
      reinterpret_cast<uintptr_t>(global) % size != 0)
    fault("a copy is not aligned to its bytes", HERE);
  check_access(global, size, false, HERE);
  if (options().model.copies_later) {
    begin_copy(shared, size, HERE);
    me().copies.push_back({shared, global, bytes});
  } else {
    check_access(shared, size, true, HERE);
    std::memcpy(shared, global, size);
  }
}
__attribute__((noinline)) void wait_for_copies() {
  const Outside outside;
  for (const Copy& copy : me().copies) {
    end_copy(copy.shared, static_cast<size_t>(copy.bytes), HERE);
    std::memcpy(copy.shared, copy.global, static_cast<size_t>(copy.bytes));
  }
  me().copies.clear();
}

__attribute__((noinline)) void expect_global(const void* pointer) {
  if (!is_global(pointer)) fault("a pointer that is said to be global is not", HERE);
}
__attribute__((noinline)) void expect_shared(const void* pointer) {
  if (!is_shared(pointer)) fault("a pointer that is said to be shared is not", HERE);
}

// Up to two ulps off, now this way and now that.
__attribute__((noinline)) float some_reciprocal(float value) {
  static uint32_t state = 12345;
  state = state * 1664525u + 1013904223u;
  const float exact = 1.0f / value;
  int32_t bits;
  std::memcpy(&bits, &exact, sizeof bits);
  bits += static_cast<int32_t>((state >> 16) % 5) - 2;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

}  // namespace machine
