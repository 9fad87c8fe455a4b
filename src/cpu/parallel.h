// One pool of threads for all calls of the process; it survives fork().
#pragma once
#include <cstdint>
#include <functional>

namespace roidl::cpu {

// Hands out the numbers 0 .. count-1 in order, each once, to any thread that asks.
class Tasks {
 public:
  virtual bool next(int64_t& task) = 0;

 protected:
  ~Tasks() = default;
};

// Runs body on the calling thread and on up to get_num_threads() - 1 others; each takes tasks until
// none is left. The caller never waits for a thread that has not started. `nanoseconds` is the time
// of the whole work on one thread: below about 0.3 ms no other thread is used. Between tasks the
// caller may be asked whether to stop (interrupt.h).
void parallel(int64_t count, double nanoseconds, const std::function<void(Tasks&)>& body);

// Returns into how many tasks to cut work that takes this time on one thread.
int64_t wanted_tasks(double nanoseconds);

// While an object lives, calls from its thread use at most `threads` threads: a framework's own
// limit.
class ThreadLimit {
 public:
  explicit ThreadLimit(int most);
  ~ThreadLimit();
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int before_;
};

// The initial value is default_threads().
int get_num_threads();
void set_num_threads(int threads);  // at least 1

}  // namespace roidl::cpu
