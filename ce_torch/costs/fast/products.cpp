// Products of a matrix of many rows with one of few columns, 16, 32 or 48 at a time: out = a b, or out + a b.
//
// A tile of out, 8 rows by up to 48 columns, is kept in registers while the numbers of a are read one by one, and those
// of b, which are few enough to stay in a cache, 16 at a time. Nothing is copied to another layout first, as libraries
// do: with so few columns that takes a third of the time. `products.py` calls the function at the end.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t lanes = 16;
using Floats __attribute__((vector_size(lanes * sizeof(float)))) = float;

constexpr int tile_rows = 8;
// Sums over more than this many numbers are made apart, and rounded less.
constexpr int64_t inner_of_sum = 512;
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

}  // namespace

extern "C" void product(const Matrix& a, const Matrix& b, const Matrix& out, int64_t rows, int64_t columns,
                        int64_t inner, bool add, int threads) {
  for (int64_t start = 0; start < inner; start += inner_of_sum) {
    int64_t count = std::min(inner_of_sum, inner - start);
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row += tile_rows) {
      if (row + tile_rows <= rows) {
        tiles<tile_rows>(a.from(row, start), b.from(start, 0), out.from(row, 0), columns, count, add || start > 0);
      } else {
        for (int64_t i = row; i < rows; i++)
          tiles<1>(a.from(i, start), b.from(start, 0), out.from(i, 0), columns, count, add || start > 0);
      }
    }
  }
}
