// What goes over the columns of zᵀ, each an example, a vector of columns at a time, by parts of the rows, its classes.

#pragma once

#include "exponential.h"
#include "threads.h"

namespace {

constexpr int64_t sum_rows = 256;  // a sum of more rows is computed in parts, which rounds less
constexpr int64_t lanes = Wide<float>::lanes;

// φ(z) = κ tanh(z / κ) and φ′(z) = 1 − (φ / κ)². With q = exp(−2 |z| / κ) they are κ (1 − q) / (1 + q), with z's sign,
// and 4 q / (1 + q)².
struct Capped {
  Floats value, slope;
};
inlined inline Capped cap(Floats z, float softcap) {
  Floats size = z < 0 ? -z : z, x = size * (-2 / softcap);
  ExpTerms terms(x < -80 ? -80 : x);
  Floats q = terms.power + terms.change, inverse = 1 / (1 + q);
  Floats value = softcap * ((1 - terms.power) - terms.change) * inverse;
  return {z < 0 ? -value : value, 4 * q * inverse * inverse};
}

// Calls f(part, column, first row, end) for every vector of columns of every part of the rows.
template <class Function> void for_each_part(int64_t rows, int64_t columns, int threads, Function f) {
  parallel_for((rows + sum_rows - 1) / sum_rows, threads, [&](int64_t part) {
    for (int64_t column = 0; column < columns; column += lanes)
      f(part, column, part * sum_rows, std::min((part + 1) * sum_rows, rows));
  });
}

typename Wide<float>::Signed load_classes(const int64_t* y, int64_t first = 0) {
  typename Wide<float>::Signed classes;
  for (int lane = 0; lane < lanes; lane++) classes[lane] = int32_t(y[lane] - first);
  return classes;
}

// Sums of each column, in parts.
struct Sums {
  int64_t columns;
  std::vector<float> parts;
  Sums(int64_t rows, int64_t columns) : columns(columns), parts((rows + sum_rows - 1) / sum_rows * columns) {}
  void set(int64_t part, int64_t column, Floats sum) { store(sum, &parts[part * columns + column], lanes); }
  void write(float* out) const {
    for (int64_t column = 0; column < columns; column++) {
      double total = 0;
      for (size_t i = column; i < parts.size(); i += columns) total += parts[i];
      out[column] = float(total);
    }
  }
};

}  // namespace
