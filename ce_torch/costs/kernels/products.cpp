// Products of a matrix of many rows with one of few columns, 16, 32 or 48 at a time, and what a softmax layer makes of one.
//
// A tile of out, 8 rows by up to 48 columns, is kept in registers while the numbers of a are read one by one, and those
// of b, which are few enough to stay in a cache, 16 at a time. Nothing is copied to another layout first, as libraries
// do: with so few columns that takes a third of the time. Each function is one parallel region: where the cores are
// shared, threads wait for one another at the end of each. `products.py` calls the functions at the end.

#include <algorithm>
#include <cstdint>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

// Of threads.cpp.
void share_out(int64_t parts, int threads, void (*f)(void*, int64_t), void* context);

namespace {

template <class Function> void share_out(int64_t parts, int threads, Function f) {
  ::share_out(parts, threads, [](void* f, int64_t part) { (*(Function*)f)(part); }, &f);
}


constexpr int64_t lanes = 16;
using Floats __attribute__((vector_size(lanes * sizeof(float)))) = float;

constexpr int tile_rows = 8;
// Sums over more than this many numbers are made apart, and rounded less.
constexpr int64_t inner_of_sum = 512;
// What a thread takes at once: little, so that one which has to wait for its core holds up the others little.
constexpr int64_t rows_of_part = 128;
// How far ahead a is asked for where its rows are side by side, and the next number is far away in memory.
constexpr int64_t ahead = 48;

struct Matrix {
  float* at;
  int64_t row, column;  // from one to the next

  Matrix from(int64_t i, int64_t j) const { return {at + i * row + j * column, row, column}; }
};

template <int rows, int vectors>
void tile(Matrix a, Matrix b, Matrix out, int64_t inner, bool add) {
  Floats sums[rows][vectors] = {};
  for (int64_t i = 0; i < inner; i++) {
    if (a.row == 1) __builtin_prefetch(a.at + (i + ahead) * a.column);
    Floats right[vectors];
    for (int v = 0; v < vectors; v++) std::memcpy(&right[v], b.at + i * b.row + v * lanes, sizeof(Floats));
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      Floats left = Floats{} + a.at[r * a.row + i * a.column];
#pragma GCC unroll 3
      for (int v = 0; v < vectors; v++) sums[r][v] += left * right[v];
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int v = 0; v < vectors; v++) {
      float* to = out.at + r * out.row + v * lanes;
      Floats before = {};
      if (add) std::memcpy(&before, to, sizeof(Floats));
      before += sums[r][v];
      std::memcpy(to, &before, sizeof(Floats));
    }
  }
}

template <int rows>
void tiles(Matrix a, Matrix b, Matrix out, int64_t columns, int64_t inner, bool add) {
  int64_t column = 0, left = columns;
  for (int64_t width; left > 0; column += width, left -= width) {
    // Wide tiles are faster: of 64 columns two of 32, not 48 and 16.
    width = left >= 48 && left != 64 ? 48 : left >= 32 ? 32 : 16;
    Matrix of_b = b.from(0, column), of_out = out.from(0, column);
    if (width == 48) tile<rows, 3>(a, of_b, of_out, inner, add);
    if (width == 32) tile<rows, 2>(a, of_b, of_out, inner, add);
    if (width == 16) tile<rows, 1>(a, of_b, of_out, inner, add);
  }
}

// Rows from `start` on, as many as a tile has or are left: out = a b, or out + a b.
void product_of_rows(Matrix a, Matrix b, Matrix out, int64_t start, int64_t rows, int64_t columns, int64_t inner,
                     bool add) {
  for (int64_t i = 0; i < inner; i += inner_of_sum) {
    int64_t count = std::min(inner_of_sum, inner - i);
    bool added = add || i > 0;
    if (start + tile_rows <= rows) {
      tiles<tile_rows>(a.from(start, i), b.from(i, 0), out.from(start, 0), columns, count, added);
    } else {
      for (int64_t row = start; row < rows; row++)
        tiles<1>(a.from(row, i), b.from(i, 0), out.from(row, 0), columns, count, added);
    }
  }
}

Floats load(const float* from) {
  Floats vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}
void store(Floats x, float* to) { std::memcpy(to, &x, sizeof x); }

}  // namespace

extern "C" void product(const Matrix& a, const Matrix& b, const Matrix& out, int64_t rows, int64_t columns,
                        int64_t inner, bool add, int threads) {
  share_out((rows + rows_of_part - 1) / rows_of_part, threads, [&](int64_t part) {
    for (int64_t start = part * rows_of_part; start < std::min((part + 1) * rows_of_part, rows); start += tile_rows)
      product_of_rows(a, b, out, start, rows, columns, inner, add);
  });
}

// z = weight x + bias, a row for each class, and the largest of each column.
extern "C" void weighted_inputs(const Matrix& weight, const Matrix& x, const float* bias, const Matrix& z, float* m,
                                int64_t rows, int64_t columns, int64_t inner, int threads) {
  int64_t parts = (rows + rows_of_part - 1) / rows_of_part;
  std::vector<float> of_parts(parts * columns, -std::numeric_limits<float>::infinity());
  share_out(parts, threads, [&](int64_t part) {
    float* largest = &of_parts[part * columns];
    for (int64_t start = part * rows_of_part; start < std::min((part + 1) * rows_of_part, rows); start += tile_rows) {
      product_of_rows(weight, x, z, start, rows, columns, inner, false);
      for (int64_t row = start; row < std::min(start + tile_rows, rows); row++) {
        float* of_row = z.from(row, 0).at;
        for (int64_t column = 0; column < columns; column += lanes) {
          Floats here = load(of_row + column) + (bias ? bias[row] : 0), most = load(largest + column);
          store(here, of_row + column);
          // Also where one is nan.
          store(here > most || here != here ? here : most, largest + column);
        }
      }
    }
  });
  std::copy(of_parts.begin(), of_parts.begin() + columns, m);
  for (int64_t i = columns; i < parts * columns; i++) {
    float* most = m + i % columns;
    if (of_parts[i] > *most || of_parts[i] != of_parts[i]) *most = of_parts[i];
  }
}
