// PyTorch's own threads of OpenMP, which work for the kernels too.
//
// After an operation of PyTorch's its threads look for more work for milliseconds, and keep their cores busy with that.
// Threads of ours would share those cores with them, and two took about the time of one. But OpenMP's threads begin and
// end together: the caller waits for one that still sleeps or has no core. Where it waits for longer than two parts of the
// work take, as it does beside other busy processes, the team rests: for 20 times as long, and twice as long as before if it
// soon waits again. Where the system refuses a thread OpenMP ends the process, as it does in PyTorch's own operations.

#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#if defined(__linux__)
#include <dlfcn.h>
#endif

#include "work.h"

namespace {

using Clock = std::chrono::steady_clock;

// Calls f(context) in every thread of the team, as compilers translate `#pragma omp parallel`.
using Parallel = void (*)(void (*f)(void*), void* context, unsigned threads, unsigned flags);

#if defined(__linux__)
// True unless this process is known to have begun with a program of its own. A forked one has lost PyTorch's threads.
inline bool may_be_forked() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  // Behind the program's name in brackets the seventh field has the flags, among them the kernel's PF_FORKNOEXEC.
  unsigned flags = 0;
  bool is_known = std::sscanf(line.c_str() + line.rfind(')') + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) == 1;
  return !is_known || flags & 0x40;
}

// The one that PyTorch calls, or null.
inline Parallel find_parallel() {
  void* torch = may_be_forked() ? nullptr : dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  return torch ? Parallel(dlsym(torch, "GOMP_parallel")) : nullptr;
}
#else
inline Parallel find_parallel() { return nullptr; }
#endif

// A wait this short is no sign of busy cores: to wake a thread takes as long.
constexpr std::chrono::microseconds prompt{50};
constexpr std::chrono::seconds longest_rest{2};

// One thread uses it at a time.
class Team {
  Parallel parallel = find_parallel();
  Clock::duration rest{0};
  Clock::time_point rest_end;

  // A work, and what its caller did of it.
  struct Round {
    Work& work;
    std::thread::id caller;
    std::atomic<int> open_places;
    int64_t parts = 0;
    Clock::time_point start, end;

    void join() {
      if (std::this_thread::get_id() == caller) {
        start = Clock::now();
        parts = work.take_parts();
        end = Clock::now();
      } else if (open_places-- > 0) {
        work.take_parts();
      }
    }
  };

 public:
  // Never uses the team again, in a process that is forked from now on.
  void leave() { parallel = nullptr; }

  bool is_ready() const { return parallel && Clock::now() >= rest_end; }

  void run(Work& work) {
    Round round{work, std::this_thread::get_id(), {work.helpers}};
    // 0 stands for the usual number of threads. With a smaller one OpenMP would end those left over.
    parallel([](void* round) { ((Round*)round)->join(); }, &round, 0, 0);
    auto wait = Clock::now() - round.end, part = (round.end - round.start) / std::max<int64_t>(round.parts, 1);
    if (wait > 2 * part + prompt) take_rest(wait, round.start - rest_end);
  }

 private:
  void take_rest(Clock::duration wait, Clock::duration worked) {
    rest = std::min<Clock::duration>(std::max(20 * wait, worked < rest ? 2 * rest : rest.zero()), longest_rest);
    rest_end = Clock::now() + rest;
  }
};

}  // namespace
