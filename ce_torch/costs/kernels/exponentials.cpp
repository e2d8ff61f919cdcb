#include "task.h"

// exp x, x = c (z − m), in the place of z, which has an m and a row y for each of its columns, a multiple of 16; the sum
// of each column but for its row y, and Σ off_value x, if there is an off_value for each row.
extern "C" void exponentials(float* z, const float* m, const int64_t* y, float c, const float* off_value, float* sums,
                             float* off_value_x, int64_t rows, int64_t columns, int threads) {
  constexpr int64_t sum_rows = 256;  // sums of more are made apart, and rounded less
  constexpr int64_t lanes = Wide<float>::lanes;
  c = std::max(c, std::numeric_limits<float>::min());
  int64_t parts = (rows + sum_rows - 1) / sum_rows;
  std::vector<float> sum_parts(parts * columns), off_value_x_parts(off_value ? parts * columns : 0);
  parallel_for(parts, threads, [&](int64_t part) {
    for (int64_t column = 0; column < columns; column += lanes) {
      Floats most = load(m + column, lanes), sum = {}, off_value_sum = {};
      typename Wide<float>::Signed y_here;
      for (int lane = 0; lane < lanes; lane++) y_here[lane] = int32_t(y[column + lane]);
      for (int64_t row = part * sum_rows; row < std::min((part + 1) * sum_rows, rows); row++) {
        float* here = z + row * columns + column;
        Floats z_here = load(here, lanes), x = c * (z_here == most ? 0 : z_here - most);
        Floats e = exp_of_negative<float>(x);
        store(e, here, lanes);
        sum = y_here == int32_t(row) ? sum : sum + e;
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
