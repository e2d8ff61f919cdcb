// Work shared out among threads of which none waits for one that has not begun.
//
// At the end of a parallel region of OpenMP every thread waits for every other. Where cores are shared with other
// processes a thread may have to wait for a core, for longer than the region takes. Here who calls takes part after
// part of the work, and the others help if they come in time: in the end only parts that are under way are waited for.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#ifdef __unix__
#include <pthread.h>
#endif

namespace {

// Some work: f(context, part) for every part from 0 on.
struct Work {
  void (*f)(void*, int64_t);
  void* context;
  int64_t parts;
  int helpers;                   // how many may still join
  std::atomic<int64_t> next{0};  // the part to take
  int at_it = 0;                 // helpers that have joined and not left

  void take_parts() {
    for (int64_t part; (part = next.fetch_add(1)) < parts;) f(context, part);
  }
};

// For how long a thread that has had work looks for more before it sleeps: to be woken takes about as long, and a
// backward pass often comes so soon.
constexpr std::chrono::microseconds patience{100};

// Threads that sleep until there is work. They are never joined: the process may end, or fork, at any time.
struct Pool {
  std::mutex mutex;
  std::condition_variable has_work, is_left;
  Work* work = nullptr;
  std::atomic<int> works{0};  // that there have been
  int size = 0;

  void grow(int threads) {
    try {
      for (; size < threads; size++) std::thread([this] { help(); }).detach();
    } catch (const std::system_error&) {
      // The system has no more threads: those that there are do the work.
    }
  }

  void help() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      lock.unlock();
      int seen = works;
      auto until = std::chrono::steady_clock::now() + patience;
      while (works == seen && std::chrono::steady_clock::now() < until) continue;
      lock.lock();
      has_work.wait(lock, [this] { return work && work->helpers > 0; });
      Work* mine = work;
      mine->helpers--, mine->at_it++;
      lock.unlock();
      mine->take_parts();
      lock.lock();
      if (--mine->at_it == 0) is_left.notify_all();
    }
  }
};

// Never destroyed, since its threads are never ended.
Pool* pool = new Pool;
// Whether the pool has work already, of another thread of Python's.
std::atomic<bool> is_taken{false};

#ifdef __unix__
// A process that is forked has none of the threads, and whatever the pool was at.
const int forked = pthread_atfork(nullptr, nullptr, [] {
  pool = new Pool;
  is_taken = false;
});
#endif

}  // namespace

// Calls f(context, part) for every part from 0 on, in so many threads at most.
void parallel_for(int64_t parts, int threads, void (*f)(void*, int64_t), void* context) {
  Work work{f, context, parts, int(std::min<int64_t>(threads, parts)) - 1};
  if (work.helpers <= 0 || is_taken.exchange(true)) {
    work.take_parts();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(pool->mutex);
    pool->grow(work.helpers);
    pool->work = &work;
    pool->works++;
  }
  pool->has_work.notify_all();
  work.take_parts();
  {
    std::unique_lock<std::mutex> lock(pool->mutex);
    pool->work = nullptr;
    pool->is_left.wait(lock, [&] { return work.at_it == 0; });
  }
  is_taken = false;
}
