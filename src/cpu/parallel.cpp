// The thread pool. Workers wait for a job, take tasks from it, and leave; the caller computes the
// tasks that no worker takes, so a job ends even if no worker ever comes.
#include "parallel.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "../floating_point.h"
#include "../interrupt.h"
#include "default_threads.h"
#include "tuning.h"

namespace roidl::cpu {

namespace {

struct Job final : Tasks {
  explicit Job(int64_t count, const std::function<void(Tasks&)>& body) : count(count), body(body) {}

  bool next(int64_t& task) override {
    task = claimed.fetch_add(1, std::memory_order_relaxed);
    if (task > 0 && task < count) check_interrupt();
    return task < count;
  }
  void take_part() noexcept {
    try {
      body(*this);
    } catch (...) {
      std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      claimed.store(count, std::memory_order_relaxed);
      stopped.store(true, std::memory_order_relaxed);  // the first error is kept
    }
  }

  const int64_t count;
  const std::function<void(Tasks&)>& body;
  std::atomic<int64_t> claimed{0};
  std::atomic<bool> stopped{false};  // a thread failed, or the call was interrupted
  int wanted = 0;                    // workers that may still join; guarded by the pool's mutex
  int working = 0;                   // workers inside; guarded by the pool's mutex
  std::condition_variable left;
  std::mutex error_mutex;
  std::exception_ptr error;
};

// While an object lives, its thread handles no signals; the threads that it starts never do, as
// handlers belong to the threads of the program. Faults of the thread itself are not blocked.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t set;
    sigfillset(&set);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT})
      sigdelset(&set, fault);
    pthread_sigmask(SIG_SETMASK, &set, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

class Pool {
 public:
  void run(Job& job, int helpers) {
    {
      std::lock_guard lock(mutex_);
      job.wanted = helpers;
      start(helpers);
      jobs_.push_back(&job);
    }
    for (int i = 0; i < helpers; ++i) work_.notify_one();
    job.take_part();
    std::unique_lock lock(mutex_);
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
    job.left.wait(lock, [&] { return job.working == 0; });
  }

  std::mutex& mutex() { return mutex_; }

 private:
  void start(int helpers) {
    if (threads_ >= helpers) return;
    const SignalsBlocked inherited;
    while (threads_ < helpers) {
      try {
        std::thread(&Pool::work, this).detach();
      } catch (const std::system_error&) {
        return;  // the system has no more threads: the caller computes
      }
      ++threads_;
    }
  }

  void work() {
    const FloatingPoint mode;  // a new thread inherits the mode of the thread that started it
    std::unique_lock lock(mutex_);
    for (;;) {
      Job* job = nullptr;
      work_.wait(lock, [&] {
        for (Job* candidate : jobs_)
          if (candidate->wanted > 0) return job = candidate, true;
        return false;
      });
      --job->wanted;
      ++job->working;
      lock.unlock();
      {
        const Interruptible by_others(
            [](void* of) { return static_cast<Job*>(of)->stopped.load(std::memory_order_relaxed); },
            job);
        job->take_part();
      }
      lock.lock();
      if (--job->working == 0) job->left.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<Job*> jobs_;
  int threads_ = 0;
};

// Made when the library is loaded and never destroyed: detached workers may outlive static
// destructors. After fork() the child has none of the parent's threads, so it abandons the pool (an
// intended leak) and starts a new one.
Pool* pool = [] {
  pthread_atfork([] { pool->mutex().lock(); }, [] { pool->mutex().unlock(); },
                 [] { pool = new Pool; });
  return new Pool;
}();

std::atomic<int> chosen_threads{0};
thread_local int most_threads = kMaxThreads;

}  // namespace

ThreadLimit::ThreadLimit(int most) : before_(most_threads) { most_threads = std::max(1, most); }
ThreadLimit::~ThreadLimit() { most_threads = before_; }

int get_num_threads() {
  int threads = chosen_threads.load(std::memory_order_relaxed);
  if (threads == 0) {
    // Two concurrent first callers find the same default; a set_num_threads in between wins.
    const int found = default_threads();
    chosen_threads.compare_exchange_strong(threads, found);
    threads = chosen_threads.load(std::memory_order_relaxed);
  }
  return std::min(threads, most_threads);
}

void set_num_threads(int threads) { chosen_threads = std::clamp(threads, 1, kMaxThreads); }

int64_t wanted_tasks(double nanoseconds) {
  const int64_t threads = get_num_threads();
  return std::max(threads > 1 ? threads * kTasksPerThread : 1,
                  static_cast<int64_t>(std::min(nanoseconds / kNanosecondsPerTask, 1e6)));
}

void parallel(int64_t count, double nanoseconds, const std::function<void(Tasks&)>& body) {
  if (count <= 0) return;
  const double worth = std::max(1.0, std::min(nanoseconds / kNanosecondsPerThread, 1e6));
  const int64_t threads =
      std::min({int64_t{get_num_threads()}, count, static_cast<int64_t>(worth)});
  Job job(count, body);
  if (threads <= 1)
    job.take_part();
  else
    pool->run(job, static_cast<int>(threads - 1));
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace roidl::cpu
