// Shares work among threads, none of which waits for a thread that has not begun.
//
// At the end of a parallel region of OpenMP every thread waits for every other. Where other processes use the cores too,
// a thread may wait for a core for longer than the region takes. Here the caller takes one part of the work after the
// other, and the other threads help if they come in time. In the end the caller waits only for parts that have begun.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace {

// A call of f(context, part) for every part from 0 to `parts` − 1.
struct Work {
  void (*f)(void*, int64_t);
  void* context;
  int64_t parts;
  int open_places;               // the number of helpers that may still join
  std::atomic<int64_t> next{0};  // the next part to take
  int helpers = 0;               // the number of helpers that have joined and not left

  void take_parts() {
    for (int64_t part; (part = next.fetch_add(1)) < parts;) f(context, part);
  }
};

// A thread that has finished its work looks for more during this time before it sleeps. To wake it takes about as long,
// and a backward pass often comes so soon.
constexpr std::chrono::microseconds patience{100};

// Threads that sleep until there is work. Nobody joins them, since the process may end, or fork, at any time.
struct Pool {
  std::mutex mutex;
  std::condition_variable has_work, has_finished;
  Work* work = nullptr;
  std::atomic<int> count{0};  // of all work so far
  int size = 0;

  void grow(int threads) {
    try {
      for (; size < threads; size++) std::thread([this] { help(); }).detach();
    } catch (const std::system_error&) {
      // The system has no more threads. The existing ones do the work.
    }
  }

  void help() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      lock.unlock();
      int seen = count;
      auto until = std::chrono::steady_clock::now() + patience;
      while (count == seen && std::chrono::steady_clock::now() < until) continue;
      lock.lock();
      has_work.wait(lock, [this] { return work && work->open_places > 0; });
      Work* joined = work;
      joined->open_places--, joined->helpers++;
      lock.unlock();
      joined->take_parts();
      lock.lock();
      if (--joined->helpers == 0) has_finished.notify_all();
    }
  }
};

// Never destroyed, since its threads never end.
Pool* pool = new Pool;
// True while the pool works for a thread of Python.
std::atomic<bool> is_busy{false};

#if defined(__unix__) || defined(__APPLE__)
// A forked process has none of the threads, and finds the pool in any state.
const int forked = pthread_atfork(nullptr, nullptr, [] {
  pool = new Pool;
  is_busy = false;
});
#endif

}  // namespace

// Calls f(context, part) for every part from 0 to `parts` − 1, in `threads` threads at most.
void parallel_for(int64_t parts, int threads, void (*f)(void*, int64_t), void* context) {
  Work work{f, context, parts, int(std::min<int64_t>(threads, parts)) - 1};
  if (work.open_places <= 0 || is_busy.exchange(true)) {
    work.take_parts();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(pool->mutex);
    pool->grow(work.open_places);
    pool->work = &work;
    pool->count++;
  }
  pool->has_work.notify_all();
  work.take_parts();
  {
    std::unique_lock<std::mutex> lock(pool->mutex);
    pool->work = nullptr;
    pool->has_finished.wait(lock, [&] { return work.helpers == 0; });
  }
  is_busy = false;
}
