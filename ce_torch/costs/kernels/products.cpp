// Products of a matrix a of many rows with a matrix b of few columns, and the weighted inputs of a softmax layer.
//
// A tile of out, some rows by up to 3 vectors, stays in registers. Meanwhile the numbers of a are read one by one, and
// those of b, few enough to stay in a cache, by vectors. Libraries first copy a to another layout; with so few columns
// that would take a third of the time. Each function is a single parallel region, since threads wait for one another at
// the end of each where processes share the cores. `products.py` calls the functions at the end of this file.

#include "numbers.h"
#include "threads.h"

namespace {

constexpr int64_t lanes = Wide<float>::lanes;
// The sums of a tile of 3 vectors stay in registers, of which there are 32, or 16.
constexpr int tile_rows = vector_bytes == 64 ? 8 : 4;
// A longer sum is computed in parts of this length, which rounds less.
constexpr int64_t sum_length = 512;
// A thread takes this many rows at once: few, so that a thread that waits for its core delays the others little.
constexpr int64_t part_rows = 128;
// Numbers of a are fetched this early if the next one is far away in memory.
constexpr int64_t prefetch_distance = 48;

struct Matrix {
  float* data;
  int64_t row, column;  // distances from one row, and from one column, to the next

  // The same matrix without its first rows and columns.
  Matrix slice(int64_t i, int64_t j) const { return {data + i * row + j * column, row, column}; }
};

template <int rows, int vectors>
void tile(Matrix a, Matrix b, Matrix out, int64_t inner, bool add) {
  Floats sums[rows][vectors] = {};
  for (int64_t i = 0; i < inner; i++) {
    if (a.row == 1) __builtin_prefetch(a.data + (i + prefetch_distance) * a.column);
    Floats right[vectors];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) right[v] = load(b.data + i * b.row + v * lanes, lanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      Floats left = a.data[r * a.row + i * a.column] - Floats{};  // + would make 0 of −0, in an operation more
#pragma GCC unroll 3
      for (int v = 0; v < vectors; v++) sums[r][v] += left * right[v];
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int v = 0; v < vectors; v++) {
      float* target = out.data + r * out.row + v * lanes;
      store(add ? load(target, lanes) + sums[r][v] : sums[r][v], target, lanes);
    }
  }
}

template <int rows>
void tiles(Matrix a, Matrix b, Matrix out, int64_t columns, int64_t inner, bool add) {
  int64_t column = 0, left = columns / lanes;
  for (int64_t width; left > 0; column += width * lanes, left -= width) {
    // Wide tiles are faster: 4 vectors make two tiles of 2, not one of 3 and one of 1.
    width = left >= 3 && left != 4 ? 3 : left >= 2 ? 2 : 1;
    Matrix b_part = b.slice(0, column), out_part = out.slice(0, column);
    if (width == 3) tile<rows, 3>(a, b_part, out_part, inner, add);
    if (width == 2) tile<rows, 2>(a, b_part, out_part, inner, add);
    if (width == 1) tile<rows, 1>(a, b_part, out_part, inner, add);
  }
}

// Writes a b to the rows of out from `start` on, one tile's rows at most, or adds it to them.
void row_product(Matrix a, Matrix b, Matrix out, int64_t start, int64_t rows, int64_t columns, int64_t inner,
                 bool add) {
  for (int64_t i = 0; i < inner; i += sum_length) {
    int64_t count = std::min(sum_length, inner - i);
    bool added = add || i > 0;
    if (start + tile_rows <= rows) {
      tiles<tile_rows>(a.slice(start, i), b.slice(i, 0), out.slice(start, 0), columns, count, added);
    } else {
      for (int64_t row = start; row < rows; row++)
        tiles<1>(a.slice(row, i), b.slice(i, 0), out.slice(row, 0), columns, count, added);
    }
  }
}

}  // namespace

extern "C" void product(const Matrix& a, const Matrix& b, const Matrix& out, int64_t rows, int64_t columns,
                        int64_t inner, bool add, int threads) {
  parallel_for((rows + part_rows - 1) / part_rows, threads, [&](int64_t part) {
    for (int64_t start = part * part_rows; start < std::min((part + 1) * part_rows, rows); start += tile_rows)
      row_product(a, b, out, start, rows, columns, inner, add);
  });
}

// Writes weight x + bias to z, a row for each class, and the maximum of each column to m.
extern "C" void weighted_inputs(const Matrix& weight, const Matrix& x, const float* bias, const Matrix& z, float* m,
                                int64_t rows, int64_t columns, int64_t inner, int threads) {
  int64_t parts = (rows + part_rows - 1) / part_rows;
  std::vector<float> maxima(parts * columns, -std::numeric_limits<float>::infinity());
  parallel_for(parts, threads, [&](int64_t part) {
    float* part_maxima = &maxima[part * columns];
    for (int64_t start = part * part_rows; start < std::min((part + 1) * part_rows, rows); start += tile_rows) {
      row_product(weight, x, z, start, rows, columns, inner, false);
      for (int64_t row = start; row < std::min(start + tile_rows, rows); row++) {
        float* z_row = z.slice(row, 0).data;
        for (int64_t column = 0; column < columns; column += lanes) {
          Floats values = load(z_row + column, lanes) + (bias ? bias[row] : 0), maximum = load(part_maxima + column, lanes);
          store(values, z_row + column, lanes);
          // A nan in a column becomes its maximum.
          store(values > maximum || values != values ? values : maximum, part_maxima + column, lanes);
        }
      }
    }
  });
  std::copy(maxima.begin(), maxima.begin() + columns, m);
  for (int64_t i = columns; i < parts * columns; i++) {
    float* maximum = m + i % columns;
    if (maxima[i] > *maximum || maxima[i] != maxima[i]) *maximum = maxima[i];
  }
}
