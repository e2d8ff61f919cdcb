#include "columns.h"

namespace {

// The desired outputs of a block of examples: of each example and class, and at lane ∈ N × K, of each class, or none.
struct Targets {
  const float* outputs;
  int64_t example_step, class_step;
  const float* off_value;

  bool are_none() const { return !outputs && !off_value; }
  Floats at(int64_t row, int64_t column) const {
    if (!outputs) return Floats{} + (off_value ? off_value[row] : 0);
    Floats t;
    const float* first = outputs + column * example_step + row * class_step;
    for (int lane = 0; lane < lanes; lane++) t[lane] = first[lane * example_step];
    return t;
  }
};

inlined inline Floats product(Floats factor, Floats value) { return factor == 0 ? 0 : factor * value; }

inlined inline Capped capped(Floats z, float softcap) { return softcap == 0 ? Capped{z, Floats{} + 1} : cap(z, softcap); }

inlined inline Floats exponent(Floats phi, Floats m, float c) {
  return c * (phi == m ? 0 : phi - (m == -std::numeric_limits<float>::infinity() ? 0 : m));
}

}  // namespace

// Writes to sums, for each column of z with its largest number m and x = c (φ(z) − φ(m)): how many x are 0, the sum of
// exp x of the others, and Σ x exp x, Σ t x and Σ t; and to predictions the first row that holds m. There are a multiple
// of 16 columns. κ is 0 for no softcap.
extern "C" void layer_numbers(const float* z, const float* m, const float* outputs, int64_t example_step,
                              int64_t class_step, const float* off_value, float c, float softcap, float* sums,
                              int64_t* predictions, int64_t rows, int64_t columns, int threads) {
  c = std::max(c, std::numeric_limits<float>::min());
  Targets targets{outputs, example_step, class_step, off_value};
  Sums ones_sums(rows, columns), others_sums(rows, columns), ex_sums(rows, columns), tx_sums(rows, columns),
      T_sums(rows, columns);
  std::vector<int32_t> first((rows + sum_rows - 1) / sum_rows * columns);
  using Indices = typename Wide<float>::Signed;
  for_each_part(rows, columns, threads, [&](int64_t part, int64_t column, int64_t start, int64_t end) {
    Floats maximum = load(m + column, lanes), most = capped(maximum, softcap).value;
    Floats ones = {}, others = {}, ex = {}, tx = {}, T = {};
    Indices best = Indices{} + int32_t(rows);
    for (int64_t row = start; row < end; row++) {
      Floats number = load(z + row * columns + column, lanes);
      Floats x = exponent(capped(number, softcap).value, most, c), e = exp_of_negative<float>(x);
      ones = x == 0 ? ones + 1 : ones;
      others = x == 0 ? others : others + e;
      ex += product(e, x);
      best = number == maximum && best == int32_t(rows) ? Indices{} + int32_t(row) : best;
      if (targets.are_none()) continue;
      Floats t = targets.at(row, column);
      tx += product(t, x);
      T += t;
    }
    ones_sums.set(part, column, ones);
    others_sums.set(part, column, others);
    ex_sums.set(part, column, ex);
    tx_sums.set(part, column, tx);
    T_sums.set(part, column, T);
    for (int lane = 0; lane < lanes; lane++) first[part * columns + column + lane] = best[lane];
  });
  for (Sums* each : {&ones_sums, &others_sums, &ex_sums, &tx_sums, &T_sums}) {
    each->write(sums);
    sums += columns;
  }
  for (int64_t column = 0; column < columns; column++) {
    int32_t best = int32_t(rows);
    for (size_t i = column; i < first.size(); i += columns) best = std::min(best, first[i]);
    predictions[column] = best;
  }
}

// Writes c φ′ [g_C (T a − t) + g_ℓ a − g_H a (ln a + H)] to z. The numbers of each column are its class y, on_value, φ(m),
// r, T, H, g_C, g_ℓ and g_H; t is on_value at y, beside what else it is.
extern "C" void layer_gradient(float* z, const int64_t* y, const float* numbers, const float* outputs,
                               int64_t example_step, int64_t class_step, const float* off_value, float c, float softcap,
                               int64_t rows, int64_t columns, int threads) {
  float normal = std::max(c, std::numeric_limits<float>::min());
  Targets targets{outputs, example_step, class_step, off_value};
  for_each_part(rows, columns, threads, [&](int64_t, int64_t column, int64_t start, int64_t end) {
    auto number = [&](int i) { return load(numbers + i * columns + column, lanes); };
    Floats on_value = number(0), m = number(1), r = number(2), T = number(3), H = number(4);
    Floats g_C = number(5), g_l = number(6), g_H = number(7), ln = log1p(r), inverse = 1 / (1 + r);
    auto classes = load_classes(y + column);
    for (int64_t row = start; row < end; row++) {
      float* target = z + row * columns + column;
      Capped phi = capped(load(target, lanes), softcap);
      Floats x = exponent(phi.value, m, normal), e = exp_of_negative<float>(x), a = e * inverse;
      Floats t = targets.at(row, column);
      t = classes == int32_t(row) ? t + on_value : t;
      Floats by_s = product(g_C, (e * (T - t) - t * (r + (1 - e))) * inverse) + product(g_l, a);
      by_s -= product(g_H, product(a, x + (H - ln)));
      store(product(by_s, c * phi.slope), target, lanes);
    }
  });
}
