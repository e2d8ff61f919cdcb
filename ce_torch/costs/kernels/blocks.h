// Blocks of a tensor's numbers, read into vectors and written from them, whatever their dtype and steps.

#pragma once

#include "layout.h"
#include "transpose.h"

namespace {

// The most vectors of a block: little enough for several blocks to stay near the processor.
constexpr int64_t block_vectors = 16384 / vector_bytes;
// The most numbers of a row in one lane of a block, which are added one after the other: more would round more.
constexpr int64_t block_terms = 64;

// Lines of fewer bytes go by way of the caches: too many of a cache's lines would be written in parts, each by itself.
constexpr int64_t far_bytes = 512;

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

// Copies the numbers of a block, which lie anywhere, to memory, where so many are from one line to the next.
template <class Number> void collect(const Number* from, const BlockSteps& steps, Number* to, int64_t line) {
  if constexpr (!std::is_same_v<Number, Bool>) {
    if (steps.line == 1) return transpose(from, steps.number, steps.numbers, steps.lines, to, line, steps.ahead);
  }
  steps.each([&](int64_t i, int64_t j) { to[i * line + j] = from[i * steps.line + j * steps.number]; });
}
// The other way round; past the caches if `is_far`.
template <class Number>
void spread(const Number* from, int64_t line, Number* to, const BlockSteps& steps, bool is_far) {
  if (steps.line == 1) return transpose(from, line, steps.lines, steps.numbers, to, steps.number, 0, is_far);
  steps.each([&](int64_t i, int64_t j) { to[i * steps.line + j * steps.number] = from[i * line + j]; });
}

// Every second number.
template <class Real, class Number> Reals<Real> load_even(const Number* from, int64_t count) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  if (count == lanes) {
    // The second vector begins one number early, so that nothing behind the last number is read.
    auto lane = lane_numbers<Real>(0), index = lane < lanes / 2 ? 2 * lane : 2 * lane + 1;
    return shuffle(load_as<Real>(from, lanes), load_as<Real>(from + lanes - 1, lanes), index);
  }
  Number numbers[lanes] = {};
  for (int64_t lane = 0; lane < count; lane++) numbers[lane] = from[2 * lane];
  return load_as<Real>(numbers, lanes);
}

// Reads the numbers of a block that lie anywhere, and are collected first.
template <class Real, class Number> void read_collected(const Number* from, const BlockSteps& steps, Reals<Real>* out) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  const int64_t width = steps.width<Real>(), line = width * lanes;
  if constexpr (std::is_same_v<Number, Real>) {
    // What is behind the last number must be finite.
    for (int64_t i = 1; steps.numbers % lanes && i <= steps.lines; i++) out[i * width - 1] = Reals<Real>{};
    return collect(from, steps, (Real*)out, line);
  }
  Number numbers[block_vectors * lanes];
  if (steps.numbers % lanes) std::memset(numbers, 0, steps.lines * line * sizeof(Number));
  collect(from, steps, numbers, line);
  // Read as vectors when all are in memory.
  for (int64_t i = 0; i < steps.lines * width; i++) out[i] = load_as<Real>(numbers + i * lanes, lanes);
}

template <class Real, class Number> void read_block(const Number* from, const BlockSteps& steps, Reals<Real>* out);

// Reads a block that lies across, and is made numbers to compute with before it is transposed.
template <class Real, class Number> void read_across(const Number* from, const BlockSteps& steps, Reals<Real>* out) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  const int64_t width = steps.width<Real>();
  BlockSteps across{steps.numbers, steps.lines, steps.number, steps.line, steps.ahead};
  Reals<Real> rows[2 * block_vectors];
  read_block<Real>(from, across, rows);
  // What is behind the last number must be finite.
  for (int64_t i = 1; steps.numbers % lanes && i <= steps.lines; i++) out[i * width - 1] = Reals<Real>{};
  transpose((const Real*)rows, across.width<Real>() * lanes, across.lines, across.numbers, (Real*)out, width * lanes);
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
  if constexpr (!std::is_same_v<typename Computed<Number>::Real, Real>) return read_collected<Real>(from, steps, out);
  if (steps.number == 0) {
    for (int64_t line = 0; line < steps.lines; line++, out += width)
      std::fill(out, out + width, Reals<Real>{} + load_as<Real>(from + line * steps.line, 1)[0]);
    return;
  }
  if constexpr (std::is_same_v<Number, Bool>) {
    if (steps.line == 1 && steps.lines >= lanes) return read_across<Real>(from, steps, out);
  }
  if (steps.line == 2 && steps.lines >= lanes) return read_across<Real>(from, steps, out);
  if (steps.number == 2 && steps.line != 1) {
    for (int64_t line = 0; line < steps.lines; line++, from += steps.line)
      for (int64_t i = 0; i < steps.numbers; i += lanes)
        *out++ = load_even<Real>(from + 2 * i, std::min(lanes, steps.numbers - i));
    return;
  }
  read_collected<Real>(from, steps, out);
}

// Writes vectors as the numbers of a block; `is_large` tells that the tensor is too large for a cache.
template <class Real, class Number>
void write_block(const Reals<Real>* from, Number* to, const BlockSteps& steps, bool is_large) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  int64_t width = steps.width<Real>(), rest = steps.numbers % lanes;
  const bool are_short = steps.number == 1 && steps.numbers * int64_t(sizeof(Number)) < far_bytes;
  const bool is_far = is_large && steps.lines > 1 && !are_short;
  if (steps.number == 1) {
    for (int64_t line = 0; line < steps.lines; line++, to += steps.line) {
      for (int64_t i = 0; i < steps.numbers / lanes; i++) {
        if constexpr (std::is_same_v<Number, Real>) store_line(*from++, to + i * lanes, is_far);
        else store(*from++, to + i * lanes, lanes);
      }
      if (rest) store(*from++, to + steps.numbers - rest, rest);
    }
    end_lines(is_far);
  } else if constexpr (std::is_same_v<Number, Real>) {
    spread((const Number*)from, width * lanes, to, steps, is_far);
  } else {
    Number numbers[block_vectors * lanes];
    for (int64_t i = 0; i < steps.lines * width; i++) store(from[i], numbers + i * lanes, lanes);
    spread(numbers, width * lanes, to, steps, is_far);
  }
}

}  // namespace
