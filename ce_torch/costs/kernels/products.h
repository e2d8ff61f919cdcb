// Products of matrices, and the weighted inputs of a layer: see `products.cpp`.

#pragma once

#include <cstdint>

// Two numbers in bfloat16 that follow one another in a sum.
using Pair = uint32_t;

template <class Number> struct Matrix {
  Number* data;
  int64_t row, column;  // distances from one row, and from one column, to the next

  // The same matrix without its first rows and columns.
  Matrix slice(int64_t i, int64_t j) const { return {data + i * row + j * column, row, column}; }
};
using Result = Matrix<float>;

// Writes a b to out, or adds it, for a multiple of 16 columns.
template <class Number>
void write_product(Matrix<Number> a, Matrix<Number> b, Result out, int64_t rows, int64_t columns, int64_t inner,
                   bool add, int threads);

// Writes weight x + bias to z, a row for each class, and the maximum of each column to m, if there is one.
template <class Number>
void write_inputs(Matrix<Number> weight, Matrix<Number> x, const float* bias, Result z, float* m, int64_t rows,
                  int64_t columns, int64_t inner, int threads);

// Writes the rows to the columns of out. Its columns beyond the last row are 0.
extern "C" void transpose_rows(const float* rows, int64_t step, int64_t count, int64_t length, float* out, int64_t out_step,
                               int64_t columns, int threads);

// Writes the pairs of rows 2 i and 2 i + 1 to row i of out. What out has beyond the last row or column is 0.
void pair_rows(const uint16_t* rows, int64_t step, int64_t count, int64_t length, Pair* out, int64_t out_rows,
               int64_t out_columns, int threads);
