// Blocks of a tensor's numbers, read into vectors and written from them, whatever their dtype and steps.

#pragma once

#include "layout.h"
#include "numbers.h"

namespace {

// The vectors of a block: little enough for several blocks to stay in the nearest cache.
constexpr int64_t block_vectors = 64;

// From one number of a block to the next, in one tensor.
struct BlockSteps {
  int64_t lines, numbers, line, number;

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
  Steps line, number, start;

  BlockSteps steps(Operand tensor) const { return {lines, numbers, line.of[tensor], number.of[tensor]}; }
};

// Reads the numbers of a block into vectors, line by line; behind the last number of a line may be anything finite.
template <class Real, class Number> void read_block(const Number* from, const BlockSteps& steps, Reals<Real>* out) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  int64_t width = steps.width<Real>(), rest = steps.numbers % lanes;
  if (steps.number == 1) {
    for (int64_t line = 0; line < steps.lines; line++, from += steps.line) {
      for (int64_t i = 0; i < steps.numbers / lanes; i++) *out++ = load_as<Real>(from + i * lanes, lanes);
      if (rest) *out++ = load_as<Real>(from + steps.numbers - rest, rest);
    }
    return;
  }
  if (steps.number == 0) {
    for (int64_t line = 0; line < steps.lines; line++, out += width)
      std::fill(out, out + width, Reals<Real>{} + load_as<Real>(from + line * steps.line, 1)[0]);
    return;
  }
  // Collected one by one first, and read as vectors later, when all are in memory.
  Number numbers[block_vectors * lanes];
  if (rest) std::memset(numbers, 0, steps.lines * width * lanes * sizeof(Number));
  steps.each([&](int64_t i, int64_t j) { numbers[i * width * lanes + j] = from[i * steps.line + j * steps.number]; });
  for (int64_t i = 0; i < steps.lines * width; i++) out[i] = load_as<Real>(numbers + i * lanes, lanes);
}

// Writes vectors as the numbers of a block.
template <class Real, class Number> void write_block(const Reals<Real>* from, Number* to, const BlockSteps& steps) {
  constexpr int64_t lanes = Wide<Real>::lanes;
  int64_t width = steps.width<Real>(), rest = steps.numbers % lanes;
  if (steps.number == 1) {
    for (int64_t line = 0; line < steps.lines; line++, to += steps.line) {
      for (int64_t i = 0; i < steps.numbers / lanes; i++) store(*from++, to + i * lanes, lanes);
      if (rest) store(*from++, to + steps.numbers - rest, rest);
    }
    return;
  }
  Number numbers[block_vectors * lanes];
  for (int64_t i = 0; i < steps.lines * width; i++) store(from[i], numbers + i * lanes, lanes);
  steps.each([&](int64_t i, int64_t j) { to[i * steps.line + j * steps.number] = numbers[i * width * lanes + j]; });
}

}  // namespace
