#include "task.h"

// exp x, x = c (z − m), in the place of z, which has an m and a row y for each of its columns, a multiple of 16; the sum
// of each column but for its row y, and Σ base x, if there is a base for each row.
extern "C" void exponentials(float* z, const float* m, const int64_t* y, float c, const float* base, float* sums,
                             float* base_x, int64_t rows, int64_t columns, int threads) {
  constexpr int64_t rows_of_sum = 256;  // sums of more are made apart, and rounded less
  constexpr int64_t lanes = Wide<float>::lanes;
  c = std::max(c, std::numeric_limits<float>::min());
  int64_t parts = (rows + rows_of_sum - 1) / rows_of_sum;
  std::vector<float> sums_of_parts(parts * columns), base_x_of_parts(base ? parts * columns : 0);
  share_out(parts, threads, [&](int64_t part) {
    for (int64_t column = 0; column < columns; column += lanes) {
      Floats most = load(m + column, lanes), sum = {}, sum_of_base = {};
      typename Wide<float>::Signed y_here;
      for (int lane = 0; lane < lanes; lane++) y_here[lane] = int32_t(y[column + lane]);
      for (int64_t row = part * rows_of_sum; row < std::min((part + 1) * rows_of_sum, rows); row++) {
        float* here = z + row * columns + column;
        Floats z_here = load(here, lanes), x = c * (z_here == most ? 0 : z_here - most);
        Floats e = exp_of_negative<float>(x);
        store(e, here, lanes);
        sum = y_here == int32_t(row) ? sum : sum + e;
        if (base && base[row] != 0) sum_of_base += base[row] * x;
      }
      store(sum, &sums_of_parts[part * columns + column], lanes);
      if (base) store(sum_of_base, &base_x_of_parts[part * columns + column], lanes);
    }
  });
  auto add_up = [&](const std::vector<float>& of_parts, float* out) {
    for (int64_t column = 0; column < columns; column++) {
      double total = 0;
      for (int64_t part = 0; part < parts; part++) total += of_parts[part * columns + column];
      out[column] = float(total);
    }
  };
  add_up(sums_of_parts, sums);
  if (base) add_up(base_x_of_parts, base_x);
}
