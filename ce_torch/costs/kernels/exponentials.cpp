#include "columns.h"

// Writes exp x, x = c (z − m), to z. Each column of z has an m and a class y. There are a multiple of 16 columns. Writes
// the sum of each column without its row y to sums and, if each row has an off_value, Σ off_value x to off_value_x.
extern "C" void exponentials(float* z, const float* m, const int64_t* y, float c, const float* off_value, float* sums,
                             float* off_value_x, int64_t rows, int64_t columns, int threads) {
  c = std::max(c, std::numeric_limits<float>::min());
  Sums e_sums(rows, columns), x_sums(off_value ? rows : 0, columns);
  for_each_part(rows, columns, threads, [&](int64_t part, int64_t column, int64_t start, int64_t end) {
    Floats maximum = load(m + column, lanes), sum = {}, off_value_sum = {};
    auto classes = load_classes(y + column);
    for (int64_t row = start; row < end; row++) {
      float* target = z + row * columns + column;
      Floats source = load(target, lanes), x = c * (source == maximum ? 0 : source - maximum);
      Floats e = exp_of_vector<float>(x);
      store(e, target, lanes);
      sum = classes == int32_t(row) ? sum : sum + e;
      if (off_value && off_value[row] != 0) off_value_sum += off_value[row] * x;
    }
    e_sums.set(part, column, sum);
    if (off_value) x_sums.set(part, column, off_value_sum);
  });
  e_sums.write(sums);
  if (off_value) x_sums.write(off_value_x);
}

// The same with x = c (φ(z) − φ(m)), φ(z) = κ tanh(z / κ), and writes φ′(z) (exp x − off_value s / T) to z, where s is the
// sum of a column with its row y. Only the second pass over z knows s; without off_value there is none.
extern "C" void softcap_exponentials(float* z, const float* m, const int64_t* y, float c, float softcap,
                                     const float* off_value, const float* T, float* sums, float* off_value_x,
                                     int64_t rows, int64_t columns, int threads) {
  c = std::max(c, std::numeric_limits<float>::min());
  Sums e_sums(rows, columns), x_sums(off_value ? rows : 0, columns);
  std::vector<float> e_y(columns);
  for_each_part(rows, columns, threads, [&](int64_t part, int64_t column, int64_t start, int64_t end) {
    Floats maximum = cap(load(m + column, lanes), softcap).value, sum = {}, off_value_sum = {};
    auto classes = load_classes(y + column);
    for (int64_t row = start; row < end; row++) {
      float* target = z + row * columns + column;
      Capped phi = cap(load(target, lanes), softcap);
      Floats x = c * (phi.value - maximum), e = exp_of_vector<float>(x);
      sum = classes == int32_t(row) ? sum : sum + e;
      if (!off_value) {
        store(e * phi.slope, target, lanes);
        continue;
      }
      if (off_value[row] != 0) off_value_sum += off_value[row] * x;
      for (int lane = 0; lane < lanes; lane++)
        if (classes[lane] == int32_t(row)) e_y[column + lane] = e[lane];
    }
    e_sums.set(part, column, sum);
    if (off_value) x_sums.set(part, column, off_value_sum);
  });
  e_sums.write(sums);
  if (!off_value) return;
  x_sums.write(off_value_x);
  for_each_part(rows, columns, threads, [&](int64_t, int64_t column, int64_t start, int64_t end) {
    Floats maximum = cap(load(m + column, lanes), softcap).value;
    Floats s_by_T = (load(sums + column, lanes) + load(&e_y[column], lanes)) / load(T + column, lanes);
    for (int64_t row = start; row < end; row++) {
      float* target = z + row * columns + column;
      Capped phi = cap(load(target, lanes), softcap);
      Floats e = exp_of_vector<float>(c * (phi.value - maximum));
      store((e - off_value[row] * s_by_T) * phi.slope, target, lanes);
    }
  });
}
