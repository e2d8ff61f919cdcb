// Numbers transposed in registers: what lies side by side in each row of a block is made to lie in columns.
//
// A processor moves numbers within pieces of 16 bytes, or whole pieces, in one step. Of several rows a piece each is
// loaded, a vector of them at a time, and numbers change their places within the pieces.

#pragma once

#include "numbers.h"

namespace {

constexpr int64_t line_bytes = 64;  // what a cache reads at once

// Numbers are moved as bits. Those of one byte, which are rare, are none of these: they would take more code than all others.
template <int bytes> struct BitsOf;
template <> struct BitsOf<2> { using Type = uint16_t; };
template <> struct BitsOf<4> { using Type = uint32_t; };
template <> struct BitsOf<8> { using Type = uint64_t; };

// A strip has a piece of each of so many rows that a column makes a vector.
template <class Bits> struct Strip {
  static constexpr int rows = vector_bytes / sizeof(Bits), columns = 16 / sizeof(Bits);
  using Vec = Vector<Bits, rows>;

  // From each piece of two vectors the first or the second half of its numbers, in turns.
  template <bool second> static inlined Vec interleave(Vec left, Vec right) {
    Vec place;
#pragma GCC unroll 64
    for (int i = 0; i < rows; i++)
      place[i] = i / columns * columns + i % columns / 2 + (second ? columns / 2 : 0) + i % 2 * rows;
    return shuffle(left, right, place);
  }

  // A piece from each of several rows, so many bytes apart.
  static inlined Vec load_pieces(const char* from, int64_t step) {
#if defined(__AVX512F__)
    auto piece = [&](int64_t i) inlined { return _mm_loadu_si128((const __m128i*)(from + i * step)); };
    __m512i x = _mm512_inserti32x4(_mm512_castsi128_si512(piece(0)), piece(1), 1);
    return (Vec)_mm512_inserti32x4(_mm512_inserti32x4(x, piece(2), 2), piece(3), 3);
#elif defined(__AVX2__)
    auto piece = [&](int64_t i) inlined { return _mm_loadu_si128((const __m128i*)(from + i * step)); };
    return (Vec)_mm256_inserti128_si256(_mm256_castsi128_si256(piece(0)), piece(1), 1);
#else
    Vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
#endif
  }

  static inlined void transpose(const Bits* from, int64_t from_step, Bits* to, int64_t to_step, bool is_far) {
    Vec strip[columns], next[columns];
#pragma GCC unroll 16
    for (int i = 0; i < columns; i++)
      strip[i] = load_pieces((const char*)(from + i * from_step), columns * from_step * sizeof(Bits));
#pragma GCC unroll 4
    for (int done = 1; done < columns; done *= 2) {
#pragma GCC unroll 16
      for (int i = 0; i < columns / 2; i++) {
        next[2 * i] = interleave<false>(strip[i], strip[i + columns / 2]);
        next[2 * i + 1] = interleave<true>(strip[i], strip[i + columns / 2]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < columns; i++) strip[i] = next[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < columns; i++) store_line(strip[i], to + i * to_step, is_far);
  }

  // The same for a part of a strip.
  static outlined void transpose_part(const Bits* from, int64_t from_step, int64_t from_rows, int64_t from_columns, Bits* to,
                                      int64_t to_step) {
    Bits part[rows * columns] = {}, transposed[rows * columns];
    for (int64_t i = 0; i < from_rows; i++) std::memcpy(part + i * columns, from + i * from_step, from_columns * sizeof(Bits));
    transpose(part, columns, transposed, rows, false);
    for (int64_t i = 0; i < from_columns; i++) std::memcpy(to + i * to_step, transposed + i * rows, from_rows * sizeof(Bits));
  }
};

// Makes the columns of some rows the rows of others. `ahead` is how far what is read next is, or 0; `is_far` tells that
// what is written goes past the caches, by whole lines alone: of parts each would be written to memory by itself.
template <class Bits>
outlined void transpose_bits(const Bits* from, int64_t from_step, int64_t rows, int64_t columns, Bits* to, int64_t to_step,
                             int64_t ahead, bool is_far) {
  using Strip = ::Strip<Bits>;
  constexpr int64_t line = line_bytes / sizeof(Bits);
  const bool is_along_rows = std::abs(from_step) > std::abs(to_step);
  const bool passes_caches = is_far && (!is_along_rows || vector_bytes == line_bytes);
  auto move = [&](int64_t row, int64_t column) inlined {
    int64_t strip_rows = std::min<int64_t>(Strip::rows, rows - row);
    int64_t strip_columns = std::min<int64_t>(Strip::columns, columns - column);
    const Bits* start = from + row * from_step + column;
    if (ahead && column % line == 0)
      for (int64_t i = 0; i < strip_rows; i++) __builtin_prefetch(start + ahead + line - 1 + i * from_step, 0, 2);
    Bits* target = to + column * to_step + row;
    const bool is_whole = strip_rows == Strip::rows && strip_columns == Strip::columns;
    if (is_whole) Strip::transpose(start, from_step, target, to_step, passes_caches);
    else Strip::transpose_part(start, from_step, strip_rows, strip_columns, target, to_step);
  };
  // Along the lines that lie farther apart.
  if (is_along_rows) {
    for (int64_t row = 0; row < rows; row += Strip::rows)
      for (int64_t column = 0; column < columns; column += Strip::columns) move(row, column);
  } else {
    for (int64_t column = 0; column < columns; column += Strip::columns)
      for (int64_t row = 0; row < rows; row += Strip::rows) move(row, column);
  }
  end_lines(passes_caches);
}
template <class Number>
void transpose(const Number* from, int64_t from_step, int64_t rows, int64_t columns, Number* to, int64_t to_step,
               int64_t ahead = 0, bool is_far = false) {
  using Bits = typename BitsOf<sizeof(Number)>::Type;
  transpose_bits((const Bits*)from, from_step, rows, columns, (Bits*)to, to_step, ahead, is_far);
}

}  // namespace
