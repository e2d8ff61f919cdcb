#include "columns.h"

namespace {

enum class Type { float32, bfloat16, float16 };

// The desired outputs of a tile: a row for each example, beyond the last of which they are 0, and of each class, or none.
struct Targets {
  const void* outputs;
  Type type;
  int64_t examples, step;  // from one example to the next
  const float* off_value;

  bool are_none() const { return !outputs && !off_value; }
};

// The desired outputs of a vector of examples, from a class on that is a multiple of as many.
class Outputs {
  const Targets& targets;
  const int64_t column, end;
  Floats block[lanes];

  template <class Number> inlined void read(const Number* from, int64_t count) {
    for (int64_t i = 0; i < lanes; i++)
      block[i] = column + i >= targets.examples ? Floats{}
                 : count == lanes               ? load(from + i * targets.step, lanes)
                                                : load(from + i * targets.step, count);
    transpose<float>(block);
  }

 public:
  Outputs(const Targets& targets, int64_t column, int64_t end) : targets(targets), column(column), end(end) {}

  inlined Floats at(int64_t row) {
    if (!targets.outputs) return Floats{} + (targets.off_value ? targets.off_value[row] : 0);
    if (row % lanes == 0) {
      int64_t place = column * targets.step + row, count = std::min(lanes, end - row);
      if (targets.type == Type::float32) read((const float*)targets.outputs + place, count);
      if (targets.type == Type::bfloat16) read((const Bfloat16*)targets.outputs + place, count);
      if (targets.type == Type::float16) read((const Float16*)targets.outputs + place, count);
    }
    return block[row % lanes];
  }
};

inlined inline Floats product(Floats factor, Floats value) { return factor == 0 ? 0 : factor * value; }

inlined inline Capped capped(Floats z, float softcap) { return softcap == 0 ? Capped{z, Floats{} + 1} : cap(z, softcap); }

inlined inline Floats exponent(Floats phi, Floats m, float c) {
  Floats finite = m == -std::numeric_limits<float>::infinity() ? 0 : m;
  return c * (phi == finite ? 0 : phi - finite);
}

// PyTorch takes nan to be the largest.
void find_nan(const float* z, int64_t column, int64_t start_class, int64_t rows, int64_t columns, int64_t* predictions) {
  for (int64_t row = rows; row-- > 0;)
    if (z[row * columns + column] != z[row * columns + column]) predictions[column] = start_class + row;
}

}  // namespace

// What a column's classes so far add up to, with x = c (φ(z) − φ(m)) for the largest z so far, m: how many x are 0, the sum
// of exp x of the others, and Σ x exp x, Σ t x and Σ t; φ(m), and φ(z) of class y.
enum Row { row_m, row_ones, row_others, row_ex, row_tx, row_T, row_phi, row_phi_y };
constexpr int added_rows = row_T;

// Adds classes, rows of z from the class `start` on, to the sums of each column, of which m holds the largest of these
// rows; `step` is from one sum to the next. Predictions are the first class that holds m. There are a multiple of 16
// columns. κ is 0 for no softcap.
extern "C" void layer_numbers(const float* z, const float* m, const int64_t* y, const void* outputs, Type type,
                              int64_t examples, int64_t output_step, const float* off_value, float c, float softcap, float* sums,
                              int64_t* predictions, int64_t step, int64_t start_class, int64_t rows, int64_t columns,
                              int threads) {
  c = std::max(c, std::numeric_limits<float>::min());
  Targets targets{outputs, type, examples, output_step, off_value};
  for (int64_t column = 0; column < columns; column += lanes) {
    auto sum = [&](Row which) { return sums + which * step + column; };
    Floats before = load(sum(row_m), lanes), here = load(m + column, lanes), largest = here > before ? here : before;
    Floats fall = exponent(capped(before, softcap).value, capped(largest, softcap).value, c);
    Floats ones = load(sum(row_ones), lanes), others = load(sum(row_others), lanes), shrink = exp_of_negative<float>(fall);
    Floats ex = product(shrink, load(sum(row_ex), lanes) + product(ones + others, fall));
    store(ex, sum(row_ex), lanes);
    store(load(sum(row_tx), lanes) + product(load(sum(row_T), lanes), fall), sum(row_tx), lanes);
    store(here > before ? (ones + others) * shrink : others, sum(row_others), lanes);
    store(here > before ? 0 : ones, sum(row_ones), lanes);
    store(largest, sum(row_m), lanes);
    store(capped(largest, softcap).value, sum(row_phi), lanes);
    for (int lane = 0; lane < lanes; lane++) {
      if (here[lane] > before[lane] && others[lane] == others[lane]) predictions[column + lane] = -1;
      int64_t row = y[column + lane] - start_class;
      if (row >= 0 && row < rows)
        sum(row_phi_y)[lane] = capped(Floats{} + z[row * columns + column + lane], softcap).value[0];
    }
  }
  const int64_t parts = (rows + sum_rows - 1) / sum_rows;
  std::vector<float> found(parts * added_rows * columns);
  std::vector<int32_t> first(parts * columns);
  using Indices = typename Wide<float>::Signed;
  for_each_part(rows, columns, threads, [&](int64_t part, int64_t column, int64_t start, int64_t end) {
    Floats maximum = load(sums + row_m * step + column, lanes), most = capped(maximum, softcap).value;
    Floats ones = {}, others = {}, ex = {}, tx = {}, T = {};
    Outputs desired(targets, column, end);
    Indices best = Indices{} + int32_t(rows);
    for (int64_t row = start; row < end; row++) {
      Floats number = load(z + row * columns + column, lanes);
      Floats x = exponent(capped(number, softcap).value, most, c), e = exp_of_negative<float>(x);
      ones = x == 0 ? ones + 1 : ones;
      others = x == 0 ? others : others + e;
      ex += product(e, x);
      best = number == maximum && best == int32_t(rows) ? Indices{} + int32_t(row) : best;
      if (targets.are_none()) continue;
      Floats t = desired.at(row);
      tx += product(t, x);
      T += t;
    }
    float* sum = &found[part * added_rows * columns + column];
    for (Floats each : {ones, others, ex, tx, T}) store(each, sum, lanes), sum += columns;
    for (int lane = 0; lane < lanes; lane++) first[part * columns + column + lane] = best[lane];
  });
  for (int64_t column = 0; column < columns; column++) {
    const float* others = sums + row_others * step + column;
    bool had_nan = *others != *others;
    for (int which = row_ones; which <= row_T; which++) {
      double total = sums[which * step + column];
      for (int64_t part = 0; part < parts; part++) total += found[(part * added_rows + which - 1) * columns + column];
      sums[which * step + column] = float(total);
    }
    int32_t best = int32_t(rows);
    for (int64_t part = 0; part < parts; part++) best = std::min(best, first[part * columns + column]);
    if (predictions[column] < 0 && best < rows) predictions[column] = start_class + best;
    if (*others != *others && !had_nan) find_nan(z, column, start_class, rows, columns, predictions);
  }
}

// Writes c φ′ [g_C (T a − t) + g_ℓ a − g_H a (ln a + H)] to z, rows from the class `start` on. The numbers of each column
// are on_value, φ(m), r, T, H, g_C, g_ℓ and g_H; t is on_value at its class y, beside what else it is. Writes the same in
// bfloat16 to `narrowed`, and pairs of rows 2 i and 2 i + 1 to `pairs`, where the last row may have no other.
extern "C" void layer_gradient(float* z, Bfloat16* narrowed, uint32_t* pairs, const int64_t* y, const float* numbers,
                               const void* outputs, Type type, int64_t examples, int64_t output_step,
                               const float* off_value, float c, float softcap, int64_t step, int64_t start_class, int64_t rows, int64_t columns,
                               int threads) {
  float normal = std::max(c, std::numeric_limits<float>::min());
  Targets targets{outputs, type, examples, output_step, off_value};
  for_each_part(rows, columns, threads, [&](int64_t, int64_t column, int64_t start, int64_t end) {
    auto number = [&](int i) { return load(numbers + i * step + column, lanes); };
    Floats on_value = number(0), m = number(1), r = number(2), T = number(3), H = number(4);
    Floats g_C = number(5), g_l = number(6), g_H = number(7), ln = log1p(r), inverse = 1 / (1 + r);
    auto classes = load_classes(y + column, start_class);
    // Where there are no other desired outputs, nor a gradient of H, only rows that are a class y need the whole formula.
    bool has_class[sum_rows], is_general = !targets.are_none();
    std::fill(has_class, has_class + sum_rows, false);
    for (int lane = 0; lane < lanes; lane++) {
      is_general = is_general || g_H[lane] != 0;
      if (classes[lane] >= start && classes[lane] < end) has_class[classes[lane] - start] = true;
    }
    Floats e_factor = (product(g_C, T) + g_l) * inverse;
    Outputs desired(targets, column, end);
    auto write_gradient = [&](int64_t row) inlined {
      float* target = z + row * columns + column;
      Capped phi = capped(load(target, lanes), softcap);
      Floats x = exponent(phi.value, m, normal), e = exp_of_negative<float>(x), score_gradient;
      if (is_general || has_class[row - start]) {
        Floats a = e * inverse, t = desired.at(row);
        t = classes == int32_t(row) ? t + on_value : t;
        score_gradient = product(g_C, (e * (T - t) - t * (r + (1 - e))) * inverse) + product(g_l, a);
        score_gradient -= product(g_H, product(a, x + (H - ln)));
      } else {
        score_gradient = product(e_factor, e);
      }
      Floats z_gradient = product(score_gradient, c * phi.slope);
      store(z_gradient, target, lanes);
      return z_gradient;
    };
    if (!pairs) {
      for (int64_t row = start; row < end; row++) write_gradient(row);
      return;
    }
    for (int64_t row = start; row < end; row += 2) {
      Words pair = {};
      for (int64_t i = 0; i < 2 && row + i < end; i++) {
        Halves half = narrow(write_gradient(row + i), Bfloat16());
        std::memcpy(narrowed + (row + i) * columns + column, &half, sizeof half);
        pair |= __builtin_convertvector(half, Words) << (16 * i);
      }
      std::memcpy(pairs + row / 2 * columns + column, &pair, sizeof pair);
    }
  });
}
