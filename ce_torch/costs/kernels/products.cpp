// Products of a matrix a of many rows with a matrix b of few columns, and the weighted inputs of a softmax layer.
//
// A tile of out, some rows by 2 or 3 vectors, stays in registers. Meanwhile the numbers of a are read one by one, and
// those of b, few enough to stay in a cache, by vectors. Libraries first copy both to another layout; with so few columns
// that takes long, so rows of a are read where they are. Each function is a single parallel region, since threads wait for
// one another at the end of each where processes share the cores. `products.py` calls the functions at the end of this file.
//
// In bfloat16 two numbers that follow one another in a sum are a pair, and matrices are those of pairs. vdpbf16ps
// multiplies and adds both at once, in float32. Other processors convert a pair to float32.

#include "products.h"

#include "threads.h"
#include "transpose.h"
#if defined(__AVX512BF16__) && !defined(CE_TORCH_PORTABLE)
#include <immintrin.h>
#define HAS_PAIRS
#endif

namespace {

constexpr int64_t lanes = Wide<float>::lanes;
// The sums of a tile stay in registers, of which there are 32, or 16.
constexpr int tile_rows = vector_bytes == 64 ? 8 : 6, tile_vectors = vector_bytes == 64 ? 3 : 2;
// A longer sum is computed in parts of this length, which rounds less.
constexpr int64_t sum_length = vector_bytes == 64 ? 512 : 256;
// The most rows that a thread takes at once: few, so that a thread that waits for its core delays the others little.
constexpr int64_t most_part_rows = 128 / tile_rows * tile_rows;
// Numbers of a are fetched this early if the next one is far away in memory.
constexpr int64_t prefetch_distance = 48;

// Rows in parts, at least two for each thread where there are enough.
struct Parts {
  const int64_t rows, most, count;

  Parts(int64_t rows, int threads)
      : rows(rows),
        most(std::clamp<int64_t>(rows / (2 * std::max(threads, 1)) / tile_rows * tile_rows, tile_rows, most_part_rows)),
        count((rows + most - 1) / most) {}

  // Calls f(part, its first row, its rows).
  template <class Function> void each(int threads, Function f) const {
    parallel_for(count, threads, [&](int64_t part) { f(part, part * most, std::min(most, rows - part * most)); });
  }
};

// A number in all lanes.
inlined inline Floats broadcast(float x) { return x - Floats{}; }  // + would make 0 of −0, in an operation more
inlined inline Words broadcast(Pair x) { return x + Words{}; }
inlined inline Floats load_vector(const float* from) { return load(from, lanes); }
inlined inline Words load_vector(const Pair* from) { return (Words)load((const float*)from, lanes); }

inlined inline Floats add_product(Floats sum, Floats left, Floats right) { return sum + left * right; }
inlined inline Floats add_product(Floats sum, Words left, Words right) {
#ifdef HAS_PAIRS
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
#else
  sum += (Floats)(left << 16) * (Floats)(right << 16);
  return sum + (Floats)(left & 0xffff0000) * (Floats)(right & 0xffff0000);
#endif
}

// In vectors of 32 bytes a panel of b is copied to where a cache has room for all its rows, as float32: a pair becomes two
// rows. In vectors of 64 it is read where it is.
constexpr bool packs = vector_bytes < 64;
template <class Number> using Packed = std::conditional_t<packs, float, Number>;
template <class Number> constexpr int rows_of = packs && std::is_same_v<Number, Pair> ? 2 : 1;

// With 16 registers, a compiler keeps the wrong vectors in them: it would read those of b for each row of a tile, and keep
// those of a for both halves of a pair.
template <class Vec> inlined inline Vec in_register(Vec x) {
#if defined(__SSE2__) && !defined(__AVX512F__)
  asm("" : "+x"(x));
#endif
  return x;
}
inlined inline void forget_memory() {
#if defined(__SSE2__) && !defined(__AVX512F__)
  asm volatile("" ::: "memory");
#endif
}

inlined inline Floats half(Pair x, int which) {
  Words words = in_register(broadcast(x));
  return (Floats)(which == 0 ? words << 16 : words & 0xffff0000);
}

template <int rows, int vectors, class Number>
void tile(Matrix<Number> a, Matrix<Packed<Number>> b, Result out, int64_t inner, bool add) {
  constexpr int terms = rows_of<Number>;
  Floats sums[rows][vectors] = {};
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++) __builtin_prefetch(out.data + r * out.row + v * lanes, 1);
  for (int64_t i = 0; i < inner; i++) {
    if (a.row == 1) __builtin_prefetch(a.data + (i + prefetch_distance) * a.column);
#pragma GCC unroll 2
    for (int term = 0; term < terms; term++) {
      if constexpr (terms == 2) forget_memory();
      Vector<Packed<Number>, lanes> right[vectors];
#pragma GCC unroll 3
      for (int v = 0; v < vectors; v++) {
        right[v] = in_register(load_vector(b.data + (i * terms + term) * b.row + v * lanes));
      }
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) {
        Number number = a.data[r * a.row + i * a.column];
        Vector<Packed<Number>, lanes> left;
        if constexpr (terms == 2) left = half(number, term);
        else left = broadcast(number);
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) sums[r][v] = add_product(sums[r][v], left, right[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) {
      float* target = out.data + r * out.row + v * lanes;
      store(add ? load(target, lanes) + sums[r][v] : sums[r][v], target, lanes);
    }
  }
}

// Copies some columns of b to where its rows follow one another, in float32.
template <int vectors, class Number> Matrix<float> pack_columns(Matrix<Number> b, int64_t count, float* packed) {
  constexpr int64_t width = vectors * lanes;
  for (int64_t i = 0; i < count; i++)
    for (int64_t column = 0; column < width; column += lanes) {
      const Vector<Number, lanes> numbers = load_vector(b.data + i * b.row + column);
      float* target = packed + i * rows_of<Number> * width + column;
      if constexpr (std::is_same_v<Number, float>) {
        store(numbers, target, lanes);
      } else {
        store((Floats)(numbers << 16), target, lanes);
        store((Floats)(numbers & 0xffff0000), target + width, lanes);
      }
    }
  return {packed, width, 1};
}

// Copies the columns of a, whose numbers follow one another, so that those that a tile multiplies by a row of b do, too.
template <class Number> void pack_rows(Matrix<Number> a, int64_t rows, int64_t count, Number* packed) {
  for (int64_t row = 0; row < rows; row += tile_rows)
    for (int64_t i = 0; i < count; i++, packed += tile_rows) {
      const Number* from = a.data + row + i * a.column;
      if (row + tile_rows <= rows) std::memcpy(packed, from, tile_rows * sizeof(Number));
      else std::memcpy(packed, from, (rows - row) * sizeof(Number));
    }
}

// Some columns of a as tiles take them: where they are, or packed.
template <class Number> struct Rows {
  Matrix<Number> a;
  bool is_packed;
  int64_t count;

  Matrix<Number> from(int64_t row) const {
    if (!is_packed) return a.slice(row, 0);
    return {a.data + row / tile_rows * tile_rows * count + row % tile_rows, 1, tile_rows};
  }
};

// Writes a b to out, or adds it, for vectors of columns that stay in a cache while the rows of a pass by.
template <int vectors, class Number>
void panel(const Rows<Number>& a, Matrix<Number> b, Result out, int64_t rows, bool add) {
  alignas(64) float packed[packs ? sum_length * vectors * lanes : 1];
  Matrix<Packed<Number>> right;
  if constexpr (packs) right = pack_columns<vectors>(b, a.count, packed);
  else right = b;
  int64_t row = 0;
  for (; row + tile_rows <= rows; row += tile_rows) tile<tile_rows, vectors>(a.from(row), right, out.slice(row, 0), a.count, add);
  for (; row + 2 <= rows; row += 2) tile<2, vectors>(a.from(row), right, out.slice(row, 0), a.count, add);
  for (; row < rows; row++) tile<1, vectors>(a.from(row), right, out.slice(row, 0), a.count, add);
}

// Writes a b to out, or adds it.
template <class Number>
void write_part(Matrix<Number> a, Matrix<Number> b, Result out, int64_t rows, int64_t columns, int64_t inner, bool add) {
  constexpr int64_t most = sum_length / rows_of<Number>;
  // Too much for the stacks of some threads.
  static thread_local std::vector<Number> packed;
  for (int64_t i = 0; i < inner; i += most) {
    Rows<Number> left{a.slice(0, i), packs && a.row == 1, std::min(most, inner - i)};
    if (left.is_packed) {
      packed.resize(most * most_part_rows);
      pack_rows(left.a, rows, left.count, packed.data());
      left.a.data = packed.data();
    }
    int64_t column = 0, vectors = columns / lanes;
    for (int64_t width; vectors > 0; column += width * lanes, vectors -= width) {
      // Wide tiles are faster: 4 vectors make two tiles of 2, not one of 3 and one of 1.
      width = std::min<int64_t>(vectors == 4 ? 2 : vectors, tile_vectors);
      Matrix<Number> right = b.slice(i, column);
      Result target = out.slice(0, column);
      if (width == 3) panel<tile_vectors>(left, right, target, rows, add || i > 0);
      if (width == 2) panel<2>(left, right, target, rows, add || i > 0);
      if (width == 1) panel<1>(left, right, target, rows, add || i > 0);
    }
  }
}

}  // namespace

template <class Number>
void write_product(Matrix<Number> a, Matrix<Number> b, Result out, int64_t rows, int64_t columns, int64_t inner,
                   bool add, int threads) {
  Parts(rows, threads).each(threads, [&](int64_t, int64_t start, int64_t count) {
    write_part(a.slice(start, 0), b, out.slice(start, 0), count, columns, inner, add);
  });
}

template <class Number>
void write_inputs(Matrix<Number> weight, Matrix<Number> x, const float* bias, Result z, float* m, int64_t rows,
                  int64_t columns, int64_t inner, int threads) {
  const Parts parts(rows, threads);
  std::vector<float> maxima(parts.count * columns, -std::numeric_limits<float>::infinity());
  // A nan in a column becomes its maximum.
  auto raise = [](Floats maximum, Floats z) inlined { return z > maximum || z != z ? z : maximum; };
  parts.each(threads, [&](int64_t part, int64_t start, int64_t count) {
    float* part_maxima = &maxima[part * columns];
    write_part(weight.slice(start, 0), x, z.slice(start, 0), count, columns, inner, false);
    if (!bias && !m) return;
    for (int64_t row = start; row < start + count; row++) {
      float* z_row = z.slice(row, 0).data;
      for (int64_t column = 0; column < columns; column += lanes) {
        Floats values = load(z_row + column, lanes) + (bias ? bias[row] : 0), maximum = load(part_maxima + column, lanes);
        if (bias) store(values, z_row + column, lanes);
        store(raise(maximum, values), part_maxima + column, lanes);
      }
    }
  });
  if (!m) return;
  for (int64_t column = 0; column < columns; column += lanes) {
    Floats maximum = load(&maxima[column], lanes);
    for (int64_t part = 1; part < parts.count; part++)
      maximum = raise(maximum, load(&maxima[part * columns + column], lanes));
    store(maximum, m + column, lanes);
  }
}

template void write_product(Matrix<float>, Matrix<float>, Result, int64_t, int64_t, int64_t, bool, int);
template void write_product(Matrix<Pair>, Matrix<Pair>, Result, int64_t, int64_t, int64_t, bool, int);
template void write_inputs(Matrix<float>, Matrix<float>, const float*, Result, float*, int64_t, int64_t, int64_t, int);
template void write_inputs(Matrix<Pair>, Matrix<Pair>, const float*, Result, float*, int64_t, int64_t, int64_t, int);

void pair_rows(const uint16_t* rows, int64_t step, int64_t count, int64_t length, Pair* out, int64_t out_rows,
               int64_t out_columns, int threads) {
  auto load_words = [&](int64_t row, int64_t column) inlined {
    int64_t width = std::max<int64_t>(std::min(lanes, length - column), 0);
    const Bfloat16* from = (const Bfloat16*)rows + row * step + column;
    if (row >= count) return Words{};
    return __builtin_convertvector(width == lanes ? load_bits(from, lanes) : load_bits(from, width), Words);
  };
  Parts(out_rows, threads).each(threads, [&](int64_t, int64_t start, int64_t count) {
    for (int64_t row = start; row < start + count; row++)
      for (int64_t column = 0; column < out_columns; column += lanes) {
        Words pair = load_words(2 * row, column) | load_words(2 * row + 1, column) << 16;
        store((Floats)pair, (float*)out + row * out_columns + column, std::min(lanes, out_columns - column));
      }
  });
}

extern "C" {

void float_product(const Matrix<float>& a, const Matrix<float>& b, const Result& out, int64_t rows, int64_t columns,
                   int64_t inner, bool add, int threads) {
  write_product(a, b, out, rows, columns, inner, add, threads);
}

void weighted_inputs(const Matrix<float>& weight, const Matrix<float>& x, const float* bias, const Result& z, float* m,
                     int64_t rows, int64_t columns, int64_t inner, int threads) {
  write_inputs(weight, x, bias, z, m, rows, columns, inner, threads);
}

// Writes the rows to the columns of out. Its columns beyond the last row are 0.
void transpose_rows(const float* rows, int64_t step, int64_t count, int64_t length, float* out, int64_t out_step,
                    int64_t columns, int threads) {
  parallel_for((length + lanes - 1) / lanes, threads, [&](int64_t part) {
    int64_t first = part * lanes, width = std::min(lanes, length - first);
    float* target = out + first * out_step;
    transpose(rows + first, step, count, width, target, out_step);
    for (int64_t i = 0; i < width; i++) std::fill(target + i * out_step + count, target + i * out_step + columns, 0.0f);
  });
}

}
