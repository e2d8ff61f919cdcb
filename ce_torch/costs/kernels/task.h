// What a kernel is asked for.

#pragma once

#include "arguments.h"
#include "numbers.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

// What a thread takes at once: enough to be worth it, little enough that none has to wait long for another.
constexpr int64_t part_elements = 32768;
// What is done once a row takes long where columns are few. Rows of no more columns are computed side by side.
constexpr int64_t short_columns = 128;
// Rows of a softmax layer are, of no more bytes.
constexpr int64_t short_softmax_bytes = 1024;
// Of rows side by side with no more columns each column is compared with the class.
constexpr int64_t compared_columns = 64;
// Of longer rows no cache keeps what is read of the next while one is computed.
constexpr int64_t kept_columns = 262144;
// The most vectors of exp x of rows that are computed together.
constexpr int64_t most_powers = 160 * 1024 / vector_bytes;
// Fewer rows than these leave more lanes empty than it costs to collect what lies apart.
constexpr int64_t few_rows = 4;

enum class Type { float32, float64, bfloat16, float16, int64, boolean };
inline bool is_half(Type type) { return type == Type::bfloat16 || type == Type::float16; }
// A change of what Python and the kernels give one another changes this number, here and in `compiler.py`.
constexpr int abi_version = 8;

// Calls f with a null pointer of the numbers that a type stands for.
template <class Function> inlined inline auto with_numbers(Type type, Function&& f) {
  switch (type) {
    case Type::float64: return f((double*)nullptr);
    case Type::bfloat16: return f((Bfloat16*)nullptr);
    case Type::float16: return f((Float16*)nullptr);
    default: return f((float*)nullptr);
  }
}

struct Task : Constants {
  char* data[operands] = {};  // null for a weight of 1; that of the rows is C
  Type type[operands] = {};
  Layout layout;  // of the rows
  int64_t columns;
  Steps column;  // from one to the next
  int64_t examples;
  int threads;
  void* statistics;  // of a softmax layer; null where δ is made without
  int64_t most_side_by_side = INT64_MAX;  // vectors

  bool has_classes() const { return type[of_y] == Type::int64; }
  bool is_float64() const { return type[of_z] == Type::float64; }
  int64_t elements() const { return layout.size() * columns; }
  int64_t class_at(int64_t index) const { return ((const int64_t*)data[of_y])[index]; }
  // As many classes as a vector holds, and ignore_index behind the last of `count`.
  inlined Longs classes(int64_t start, int64_t count, int64_t step) const {
    Longs y = Longs{} + ignore_index;
    if (step == 1 && count >= long_lanes) {
      std::memcpy(&y, (const int64_t*)data[of_y] + start, sizeof y);
    } else {
      for (int64_t lane = 0; lane < std::min(count, long_lanes); lane++) y[lane] = class_at(start + lane * step);
    }
    return y;
  }
  // Calls f(y) for the classes of all rows, several at a time.
  template <class Function> inlined void each_class(Function&& f) const {
    layout.each_run(of_y, [&](int64_t start, int64_t count, int64_t step) inlined {
      for (; count > 0; count -= long_lanes, start += long_lanes * step) f(classes(start, count, step));
    });
  }
  outlined bool all_are_classes() const {
    Longs others = {};
    each_class([&](Longs y) inlined { others |= ((y < 0) | (y >= columns)) & (y != ignore_index); });
    return !any(others);
  }

  int64_t number_bytes(Operand tensor) const {
    return is_half(type[tensor]) ? 2 : type[tensor] == Type::float64 ? 8 : 4;
  }
  int64_t delta_bytes() const { return elements() * number_bytes(of_delta); }
  // Returns true if δ is too large for a cache.
  bool is_large() const { return delta_bytes() >= 8 << 20; }

  // What is written for the first time gets its pages, by 2 MB several times as fast as by 4 kB. A small δ has too few
  // of them to matter.
  outlined void use_large_pages() const {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t page = 2 << 20;
    int64_t bytes = delta_bytes();
    if (bytes < 4 << 20) return;
    auto memory = uintptr_t(data[of_delta]);
    uintptr_t start = (memory + page - 1) / page * page, end = (memory + bytes) / page * page;
    madvise((void*)start, end - start, MADV_HUGEPAGE);
#endif
  }
};

}  // namespace
