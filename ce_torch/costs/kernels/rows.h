// A task row by row, or tile by tile of rows that are computed side by side.

#pragma once

#include "blocks.h"
#include "stripes.h"

#include <new>

namespace {

// The vectors of rows that are computed side by side: more of what is next to each other in memory is read together.
constexpr int64_t tile_vectors = 1024 / vector_bytes;
// Of what no cache holds more, since it comes from farther away.
constexpr int64_t large_tile_vectors = 2048 / vector_bytes, large_elements = 2 << 20;
// Of what lies across fewer, so that more is read together of each row.
constexpr int64_t across_vectors = 512 / vector_bytes;

// Something for each vector of a stripe, made for as many as it has.
template <class T, int64_t most> struct OfVectors {
  alignas(T) char memory[most * sizeof(T)];

  explicit OfVectors(int64_t width) {
    for (int64_t i = 0; i < width; i++) new (memory + i * sizeof(T)) T();
  }
  operator T*() { return (T*)memory; }
};

constexpr Steps no_steps;

// A number of one row, or of each of the rows of a vector.
template <class Real, bool tiled> struct OfRows {
  using Stat = Real;
};
template <class Real> struct OfRows<Real, true> {
  using Stat = Reals<Real>;
};

// A task computed in numbers of type Real, row by row or tile by tile.
template <class Real, bool tiled> struct Rows : Stripes {
  using Vec = Reals<Real>;
  // Something of a row, such as its maximum.
  using Stat = typename OfRows<Real, tiled>::Stat;
  static constexpr int64_t lanes = Wide<Real>::lanes;
  static constexpr int64_t most_vectors = tiled ? large_tile_vectors : 1;
  template <class T> using OfVectors = ::OfVectors<T, most_vectors>;

  outlined explicit Rows(const Task& task)
      : Stripes{task, tiled, tiled ? lanes * vectors(task) : 1} {}

  static int64_t vectors(const Task& task) { return std::min(fast_vectors(task), task.most_side_by_side); }
  static int64_t fast_vectors(const Task& task) {
    for (Operand tensor : {of_z, of_y, of_v, of_delta})
      if (std::abs(task.layout.inner().steps.of[tensor]) > 1) return across_vectors;
    return task.elements() >= large_elements ? large_tile_vectors : tile_vectors;
  }

  // The vectors of a line.
  static int64_t width(const Stripe& stripe) { return tiled ? (stripe.rows + lanes - 1) / lanes : 1; }
  // How many rows of the stripe a vector of a line has.
  static int64_t rows_of(const Stripe& stripe, int64_t vector) {
    return tiled ? std::min(lanes, stripe.rows - vector * lanes) : 1;
  }
  // The columns of a block: of a tile twice as many in half precision, which fill the same lines of memory.
  int64_t block_columns(const Stripe& stripe) const {
    int64_t vectors = is_half(task.type[of_z]) ? block_vectors : block_vectors / 2;
    return tiled ? std::min(vectors / width(stripe), block_terms) : block_terms * lanes;
  }

  // Where a row of a stripe begins in a tensor.
  int64_t start(const Stripe& stripe, int64_t row, Operand tensor) const {
    return stripe.start.of[tensor] + (tiled ? row * task.layout.inner().steps.of[tensor] : 0);
  }

  // Calls f with a tensor's numbers.
  template <class Function> inlined auto with_numbers_of(Operand tensor, Function&& f) const {
    return with_numbers(task.type[tensor], [&](auto* null) inlined { return f((decltype(null))task.data[tensor]); });
  }

  // A vector of a block: of a row the one with this number, of a tile the one with this number in a line.
  struct Place {
    int64_t line, vector, count;
  };

  inlined Block block(const Stripe& stripe, int64_t start, int64_t end) const {
    Steps here = stripe.start + task.column * start;
    if constexpr (tiled) return {start, end - start, stripe.rows, task.column, task.layout.inner().steps, here};
    return {start, 1, end - start, no_steps, task.column, here};
  }

  // Calls f(place) for the vectors of a block that hold columns of the same rows.
  template <class Function> static inlined inline void each_vector(const Block& block, int64_t vector, Function&& f) {
    if constexpr (tiled) {
      for (int64_t line = 0; line < block.lines; line++) f(Place{line, vector, lanes});
    } else {
      int64_t whole = block.numbers / lanes;
      for (int64_t i = 0; i < whole; i++) f(Place{0, i, lanes});
      if (whole * lanes < block.numbers) f(Place{0, whole, block.numbers - whole * lanes});
    }
  }

  // Calls f(vector, place) for vectors of a block, the first of a line to the last, line by line, as they lie in memory.
  template <class Function>
  static inlined inline void each_place(const Block& block, int64_t first, int64_t end, Function&& f) {
    if constexpr (tiled) {
      for (int64_t line = 0; line < block.lines; line++)
        for (int64_t vector = first; vector < end; vector++) f(vector, Place{line, vector, lanes});
    } else {
      each_vector(block, 0, [&](const Place& place) inlined { f(0, place); });
    }
  }

  // The same with one copy of f, for a long one: that the last vector of a row has fewer columns is little beside it.
  template <class Function> static inlined inline void each_vector_in_turn(const Block& block, int64_t vector, Function&& f) {
    if constexpr (tiled) return each_vector(block, vector, f);
    for (int64_t i = 0; i * lanes < block.numbers; i++) f(Place{0, i, std::min(lanes, block.numbers - i * lanes)});
  }

  // What the columns that a vector holds add up to.
  static Stat sum_columns(Vec x) {
    if constexpr (tiled) return x;
    else return sum<Real>(x);
  }

  // Calls f(lane, row of the stripe) for the rows of a vector.
  template <class Function> static inlined inline void each_row(const Stripe& stripe, int64_t vector, Function&& f) {
    for (int64_t lane = 0; lane < rows_of(stripe, vector); lane++) f(lane, vector * lanes + lane);
  }
  // The number of a row among those of a vector's.
  static Real& at(Stat& stat, int64_t lane) { return ((Real*)&stat)[lane]; }
};

}  // namespace
