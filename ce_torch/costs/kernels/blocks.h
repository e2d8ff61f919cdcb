// Blocks of a tensor's numbers, read into vectors and written from them, whatever their dtype and steps.

#pragma once

#include "layout.h"
#include "numbers.h"

namespace {

// The most vectors of a block: little enough for several blocks to stay in the nearest cache.
constexpr int64_t block_vectors = 8192 / vector_bytes;
// The most numbers of a row in one lane of a block, which are added one after the other: more would round more.
constexpr int64_t block_terms = block_vectors / 2;

// From one number of a block to the next, in one tensor.
struct BlockSteps {
  int64_t lines, numbers, line, number;
  int64_t ahead = 0;  // to what is read next, if the processor does not foresee it

  // The vectors of a line.
  template <class Real> int64_t width() const { return (numbers + Wide<Real>::lanes - 1) / Wide<Real>::lanes; }

  // Calls f(line, number) for every number, in the order in which they lie in memory.
  template <class Function> void each(Function f) const {
    if (std::abs(line) < std::abs(number))
      for (int64_t j = 0; j < numbers; j++)
        for (int64_t i = 0; i < lines; i++) f(i, j);
    else
      for (int64_t i = 0; i < lines; i++)
        for (int64_t j = 0; j < numbers; j++) f(i, j);
  }
};

// Some numbers of a tensor: `lines` of so many `numbers`, from `start` on, where `column` is the first.
struct Block {
  int64_t column, lines, numbers;
  const Steps &line, &number;
  Steps start;

  BlockSteps steps(Operand tensor) const { return {lines, numbers, line.of[tensor], number.of[tensor]}; }
};

// The numbers of a tensor that lie side by side in memory and are transposed as one: as many as have the bits of a Real.
template <class Real, class Number> constexpr int64_t together = is_half<Number> ? sizeof(Real) / sizeof(Number) : 1;

// Returns true if lines, not numbers, lie side by side in memory, and make whole squares.
template <class Real, class Number> bool are_squares(const BlockSteps& steps) {
  return steps.line == 1 && steps.lines % (Wide<Real>::lanes * together<Real, Number>) == 0;
}

// Calls f(line, vector, numbers) for the squares of a block: with this line it begins, and has so many numbers of each.
template <class Real, class Number, class Function> inlined inline void each_square(const BlockSteps& steps, Function f) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  for (int64_t vector = 0; vector < steps.width<Real>(); vector++)
    for (int64_t line = 0; line < steps.lines; line += lanes * together<Real, Number>)
      f(line, vector, std::min(lanes, steps.numbers - vector * lanes));
}

template <class Real, class Number> void read_squares(const Number* from, const BlockSteps& steps, Reals<Real>* out) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  const int64_t width = steps.width<Real>();
  each_square<Real, Number>(steps, [&](int64_t line, int64_t vector, int64_t numbers) inlined {
    const Number* row = from + line + vector * lanes * steps.number;
    // Apart: unrolled, the addresses would not fit into registers.
    const Number* next = row + steps.ahead;
    for (int64_t i = 0; i < lanes; i++, next += steps.number) __builtin_prefetch(next, 0, 2);
    Reals<Real> square[lanes];
#pragma GCC unroll 16
    for (int64_t i = 0; i < lanes; i++) {
      if constexpr (together<Real, Number> == 2) square[i] = load((const Real*)row, lanes);
      else square[i] = load_as<Real>(row, lanes);
      row += i < numbers - 1 ? steps.number : 0;
    }
    transpose<Real>(square);
    Reals<Real>* to = out + line * width + vector;
#pragma GCC unroll 16
    for (int64_t i = 0; i < lanes; i++) {
      if constexpr (together<Real, Number> == 2) {
        to[0] = first_half((Words)square[i], Number());
        to[width] = second_half((Words)square[i], Number());
        to += 2 * width;
      } else {
        *to = square[i];
        to += width;
      }
    }
  });
}

// Stores a vector, past the caches if `is_far`: lines that lie far apart would be read before they are written.
template <class Real, class Number> inlined inline void store_line(Reals<Real> x, Number* to, bool is_far) {
#ifdef __AVX512F__
  if constexpr (sizeof(Number) == sizeof(Real)) {
    if (is_far && uintptr_t(to) % sizeof x == 0) return _mm512_stream_si512((__m512i*)to, (__m512i)x);
  }
#endif
  store(x, to, Wide<Real>::lanes);
}

template <class Real, class Number>
void write_squares(const Reals<Real>* from, Number* to, const BlockSteps& steps, bool is_far) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  const int64_t width = steps.width<Real>();
  each_square<Real, Number>(steps, [&](int64_t line, int64_t vector, int64_t numbers) inlined {
    Reals<Real> square[lanes];
    const Reals<Real>* lines = from + line * width + vector;
#pragma GCC unroll 16
    for (int64_t i = 0; i < lanes; i++) {
      if constexpr (together<Real, Number> == 2) {
        square[i] = (Reals<Real>)pair(lines[0], lines[width], Number());
        lines += 2 * width;
      } else {
        square[i] = *lines;
        lines += width;
      }
    }
    transpose<Real>(square);
    Number* row = to + line + vector * lanes * steps.number;
#pragma GCC unroll 16
    for (int64_t i = 0; i < lanes; i++) {
      if (i == numbers) break;
      if constexpr (together<Real, Number> == 2) store_line<Real>(square[i], (Real*)row, is_far);
      else store_line<Real>(square[i], row, is_far);
      row += steps.number;
    }
  });
}

// Every second number.
template <class Real, class Number> Reals<Real> load_even(const Number* from, int64_t count) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  if (count == lanes) {
    // The second vector begins one number early, so that nothing behind the last number is read.
    auto lane = lane_numbers<Real>(0), index = lane < lanes / 2 ? 2 * lane : 2 * lane + 1;
    return shuffle<Real>(load_as<Real>(from, lanes), load_as<Real>(from + lanes - 1, lanes), index);
  }
  Number numbers[lanes] = {};
  for (int64_t lane = 0; lane < count; lane++) numbers[lane] = from[2 * lane];
  return load_as<Real>(numbers, lanes);
}

// Reads the numbers of a block that lie anywhere, and are collected one by one first.
template <class Real, class Number> void read_scattered(const Number* from, const BlockSteps& steps, Reals<Real>* out) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  int64_t width = steps.width<Real>();
  Number numbers[block_vectors * lanes];
  if (steps.numbers % lanes) std::memset(numbers, 0, steps.lines * width * lanes * sizeof(Number));
  steps.each([&](int64_t i, int64_t j) { numbers[i * width * lanes + j] = from[i * steps.line + j * steps.number]; });
  // Read as vectors when all are in memory.
  for (int64_t i = 0; i < steps.lines * width; i++) out[i] = load_as<Real>(numbers + i * lanes, lanes);
}

// Reads the numbers of a block into vectors, line by line; behind the last number of a line may be anything finite.
template <class Real, class Number> void read_block(const Number* from, const BlockSteps& steps, Reals<Real>* out) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  int64_t width = steps.width<Real>(), rest = steps.numbers % lanes;
  if (steps.number == 1) {
    for (int64_t line = 0; line < steps.lines; line++, from += steps.line) {
      for (int64_t i = 0; i < steps.numbers / lanes; i++) {
        __builtin_prefetch(from + i * lanes + steps.ahead, 0, 2);
        *out++ = load_as<Real>(from + i * lanes, lanes);
      }
      if (rest) *out++ = load_as<Real>(from + steps.numbers - rest, rest);
    }
    return;
  }
  // Other numbers than those to compute with are rare.
  if constexpr (!std::is_same_v<typename Computed<Number>::Real, Real>) return read_scattered<Real>(from, steps, out);
  if (steps.number == 0) {
    for (int64_t line = 0; line < steps.lines; line++, out += width)
      std::fill(out, out + width, Reals<Real>{} + load_as<Real>(from + line * steps.line, 1)[0]);
    return;
  }
  if (are_squares<Real, Number>(steps)) return read_squares<Real>(from, steps, out);
  if (steps.number == 2) {
    for (int64_t line = 0; line < steps.lines; line++, from += steps.line)
      for (int64_t i = 0; i < steps.numbers; i += lanes)
        *out++ = load_even<Real>(from + 2 * i, std::min(lanes, steps.numbers - i));
    return;
  }
  read_scattered<Real>(from, steps, out);
}

// Writes vectors as the numbers of a block; `is_large` tells that the tensor is too large for a cache.
template <class Real, class Number>
void write_block(const Reals<Real>* from, Number* to, const BlockSteps& steps, bool is_large) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  int64_t width = steps.width<Real>(), rest = steps.numbers % lanes;
  const bool is_far = is_large && steps.lines > 1;
  if (steps.number == 1) {
    for (int64_t line = 0; line < steps.lines; line++, to += steps.line) {
      for (int64_t i = 0; i < steps.numbers / lanes; i++) store_line<Real>(*from++, to + i * lanes, is_far);
      if (rest) store(*from++, to + steps.numbers - rest, rest);
    }
  } else if (are_squares<Real, Number>(steps)) {
    write_squares<Real>(from, to, steps, is_far);
  } else {
    Number numbers[block_vectors * lanes];
    for (int64_t i = 0; i < steps.lines * width; i++) store(from[i], numbers + i * lanes, lanes);
    steps.each([&](int64_t i, int64_t j) { to[i * steps.line + j * steps.number] = numbers[i * width * lanes + j]; });
  }
#ifdef __AVX512F__
  if (is_far) _mm_sfence();  // for threads that read what was written
#endif
}

}  // namespace
