// Work shared among threads: see `threads.cpp`.

#pragma once

#include <cstdint>

void parallel_for(int64_t parts, int threads, void (*f)(void*, int64_t), void* context);

namespace {

// Calls f(part) for every part, in several threads.
template <class Function> void parallel_for(int64_t parts, int threads, Function f) {
  ::parallel_for(parts, threads, [](void* f, int64_t part) { (*(Function*)f)(part); }, &f);
}

}  // namespace
