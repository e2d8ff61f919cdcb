// Shares work among PyTorch's threads or, where those would keep the caller waiting, among threads of our own.

#include <algorithm>
#include <atomic>
#include <cstdint>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "pool.h"
#include "team.h"

namespace {

// Never destroyed, since its threads never end.
Pool* pool = new Pool;
Team team;
// True while either works for a thread of Python.
std::atomic<bool> is_busy{false};

#if defined(__unix__) || defined(__APPLE__)
// A forked process has none of the threads, and finds the pool in any state.
const int forked = pthread_atfork(nullptr, nullptr, [] {
  pool = new Pool;
  team.leave();
  is_busy = false;
});
#endif

}  // namespace

// Calls f(context, part) for every part from 0 to `parts` − 1, in `threads` threads at most.
void parallel_for(int64_t parts, int threads, void (*f)(void*, int64_t), void* context) {
  Work work{f, context, parts, int(std::min<int64_t>(threads, parts)) - 1};
  if (work.helpers <= 0 || is_busy.exchange(true)) {
    work.take_parts();
    return;
  }
  if (team.is_ready())
    team.run(work);
  else
    pool->run(work);
  is_busy = false;
}
