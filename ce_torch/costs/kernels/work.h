// Work in parts, which threads take one after the other.

#pragma once

#include <atomic>
#include <cstdint>

namespace {

// A call of f(context, part) for every part from 0 to `parts` − 1.
struct Work {
  void (*f)(void*, int64_t);
  void* context;
  int64_t parts;
  int helpers;                   // the most threads beside the caller's
  std::atomic<int64_t> next{0};  // the next part to take

  // Returns how many it took.
  int64_t take_parts() {
    int64_t taken = 0;
    for (int64_t part; (part = next.fetch_add(1)) < parts; taken++) f(context, part);
    return taken;
  }
};

}  // namespace
