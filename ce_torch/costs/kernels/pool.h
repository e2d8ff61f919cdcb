// Threads of our own, for none of which the caller waits if it has not begun.
//
// At the end of a parallel region of OpenMP every thread waits for every other. Where other processes use the cores too,
// a thread may wait for a core for longer than the region takes. Here the caller takes one part of the work after the
// other, and the other threads help if they come in time. In the end the caller waits only for parts that have begun.

#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "work.h"

namespace {

// A thread that has finished its work looks for more during this time before it sleeps. To wake it takes about as long,
// and a backward pass often comes so soon.
constexpr std::chrono::microseconds patience{100};

// Threads that sleep until there is work. Nobody joins them, since the process may end, or fork, at any time.
class Pool {
  std::mutex mutex;
  std::condition_variable has_work, has_finished;
  Work* work = nullptr;
  int open_places = 0;        // the number of threads that may still join
  int helpers = 0;            // the number of threads that have joined and not left
  std::atomic<int> count{0};  // of all work so far
  int size = 0;

 public:
  void run(Work& shared) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      grow(shared.helpers);
      work = &shared;
      open_places = shared.helpers;
      count++;
    }
    has_work.notify_all();
    shared.take_parts();
    std::unique_lock<std::mutex> lock(mutex);
    open_places = 0;
    has_finished.wait(lock, [&] { return helpers == 0; });
  }

 private:
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
      has_work.wait(lock, [this] { return open_places > 0; });
      open_places--, helpers++;
      lock.unlock();
      work->take_parts();
      lock.lock();
      if (--helpers == 0) has_finished.notify_all();
    }
  }
};

}  // namespace
