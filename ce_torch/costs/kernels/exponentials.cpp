#include "numbers.h"
#include "threads.h"

// Writes exp x, x = c (z − m), to z. Each column of z has an m and a class y. There are a multiple of 16 columns. Writes
// the sum of each column without its row y to sums and, if each row has an off_value, Σ off_value x to off_value_x.
extern "C" void exponentials(float* z, const float* m, const int64_t* y, float c, const float* off_value, float* sums,
                             float* off_value_x, int64_t rows, int64_t columns, int threads) {
  constexpr int64_t sum_rows = 256;  // a sum of more rows is computed in parts, which rounds less
  constexpr int64_t lanes = Wide<float>::lanes;
  c = std::max(c, std::numeric_limits<float>::min());
  int64_t parts = (rows + sum_rows - 1) / sum_rows;
  std::vector<float> sum_parts(parts * columns), off_value_x_parts(off_value ? parts * columns : 0);
  parallel_for(parts, threads, [&](int64_t part) {
    for (int64_t column = 0; column < columns; column += lanes) {
      Floats maximum = load(m + column, lanes), sum = {}, off_value_sum = {};
      typename Wide<float>::Signed classes;
      for (int lane = 0; lane < lanes; lane++) classes[lane] = int32_t(y[column + lane]);
      for (int64_t row = part * sum_rows; row < std::min((part + 1) * sum_rows, rows); row++) {
        float* target = z + row * columns + column;
        Floats source = load(target, lanes), x = c * (source == maximum ? 0 : source - maximum);
        Floats e = exp_of_negative<float>(x);
        store(e, target, lanes);
        sum = classes == int32_t(row) ? sum : sum + e;
        if (off_value && off_value[row] != 0) off_value_sum += off_value[row] * x;
      }
      store(sum, &sum_parts[part * columns + column], lanes);
      if (off_value) store(off_value_sum, &off_value_x_parts[part * columns + column], lanes);
    }
  });
  auto add_up = [&](const std::vector<float>& parts_sums, float* out) {
    for (int64_t column = 0; column < columns; column++) {
      double total = 0;
      for (int64_t part = 0; part < parts; part++) total += parts_sums[part * columns + column];
      out[column] = float(total);
    }
  };
  add_up(sum_parts, sums);
  if (off_value) add_up(off_value_x_parts, off_value_x);
}
