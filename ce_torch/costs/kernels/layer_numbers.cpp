// The numbers of a layer's examples and their gradients, by tiles of zᵀ: some classes of some examples, a row for each
// class. A tile stays in the processor's cache between the product that makes it and those that take it.

#include "columns.h"
#include "products.h"

namespace {

enum class Type { float32, bfloat16, float16, float64 };

// Desired outputs: a row for each example, beyond the last of which they are 0, and of each class, or none.
struct Targets {
  const void* outputs;
  const float* off_value;
  int64_t examples, example_step, class_step;  // steps from one to the next
  Type type;

  bool are_none() const { return !outputs && !off_value; }

  // The same from an example on.
  Targets from(int64_t example) const {
    int64_t size = type == Type::float64 ? 8 : type == Type::float32 ? 4 : 2;
    const char* first = outputs ? (const char*)outputs + example * example_step * size : nullptr;
    return {first, off_value, examples - example, example_step, class_step, type};
  }
};

// The desired outputs of a vector of examples, from a class on that is a multiple of as many.
class Outputs {
  const Targets& targets;
  const int64_t column, end;
  Floats block[lanes];

  template <class Number> inlined void read(int64_t row) {
    int64_t count = std::min(lanes, end - row);
    for (int64_t i = 0; i < lanes; i++) {
      block[i] = Floats{};
      if (column + i >= targets.examples) continue;
      const Number* from = (const Number*)targets.outputs + (column + i) * targets.example_step + row * targets.class_step;
      if (targets.class_step != 1)
        for (int64_t k = 0; k < count; k++) block[i][k] = load_as<float>(from + k * targets.class_step, 1)[0];
      else block[i] = count == lanes ? load_as<float>(from, lanes) : load_as<float>(from, count);
    }
    transpose<float>(block);
  }

 public:
  Outputs(const Targets& targets, int64_t column, int64_t end) : targets(targets), column(column), end(end) {}

  inlined Floats at(int64_t row) {
    if (!targets.outputs) return Floats{} + (targets.off_value ? targets.off_value[row] : 0);
    if (row % lanes == 0) {
      if (targets.type == Type::float32) read<float>(row);
      if (targets.type == Type::bfloat16) read<Bfloat16>(row);
      if (targets.type == Type::float16) read<Float16>(row);
      if (targets.type == Type::float64) read<double>(row);
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

// Some classes of a layer, and all its examples, of which there are a multiple of 16; the last may be zeros. What is of
// classes begins with the first of these. `layer_numbers.py` has the same struct.
struct Layer {
  const void *weight, *x;  // a row for each class; the examples of each tile as columns, one tile after the other
  const float* bias;       // or none
  const int64_t* y;
  Targets targets;
  float *z, *m;  // memory for a tile, and for the largest numbers of its columns
  int64_t inner, first_class, classes, examples, tile_examples;  // `inner` numbers, or pairs, in a row of the weight
  float c, softcap;                                              // κ is 0 for no softcap
  int32_t has_pairs, threads;
};

// Some examples, from `start` on, a column for each.
struct Tile {
  int64_t start, columns;
  const int64_t* y;
  Targets targets;
};

// Calls f(tile) for every tile, when its z is there.
template <class Number, class Function> void for_each_tile(const Layer& layer, Function f) {
  for (int64_t start = 0; start < layer.examples; start += layer.tile_examples) {
    int64_t columns = std::min(layer.tile_examples, layer.examples - start), inner = layer.inner;
    Matrix<Number> weight{(Number*)layer.weight, inner, 1}, x{(Number*)layer.x + start * inner, columns, 1};
    Result z{layer.z, columns, 1};
    write_inputs(weight, x, layer.bias, z, layer.m, layer.classes, columns, inner, layer.threads);
    f(Tile{start, columns, layer.y + start, layer.targets.from(start)});
  }
}
template <class Function> void for_each_tile(const Layer& layer, Function f) {
  layer.has_pairs ? for_each_tile<Pair>(layer, f) : for_each_tile<float>(layer, f);
}

// What a column's classes so far add up to, with x = c (φ(z) − φ(m)) for the largest z so far, m: how many x are 0, the sum
// of exp x of the others, and Σ x exp x, Σ t x and Σ t; φ(m), and φ(z) of class y.
enum Row { row_m, row_ones, row_others, row_ex, row_tx, row_T, row_phi, row_phi_y };
constexpr int added_rows = row_T;

// Adds the classes of a tile to the sums of each of its examples, whose predictions are the first class that holds m.
void add_numbers(const Layer& layer, const Tile& tile, float* sums, int64_t* predictions) {
  const Targets& targets = tile.targets;
  const int64_t *y = tile.y, step = layer.examples, start_class = layer.first_class, rows = layer.classes, columns = tile.columns;
  const float *z = layer.z, *m = layer.m, softcap = layer.softcap, c = std::max(layer.c, std::numeric_limits<float>::min());
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
  for_each_part(rows, columns, layer.threads, [&](int64_t part, int64_t column, int64_t start, int64_t end) {
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

// Writes c φ′ [g_C (T a − t) + g_ℓ a − g_H a (ln a + H)] to z. The numbers of each example are on_value, φ(m), r, T, H,
// g_C, g_ℓ and g_H; t is on_value at its class y, beside what else it is. Writes the same in bfloat16 to `narrowed`, and
// pairs of rows 2 i and 2 i + 1 to `pairs`, where the last row may have no other.
void write_delta(const Layer& layer, const Tile& tile, const float* numbers, Bfloat16* narrowed, Pair* pairs) {
  const Targets& targets = tile.targets;
  const int64_t *y = tile.y, step = layer.examples, start_class = layer.first_class, rows = layer.classes, columns = tile.columns;
  float *z = layer.z, c = layer.c, softcap = layer.softcap, normal = std::max(c, std::numeric_limits<float>::min());
  for_each_part(rows, columns, layer.threads, [&](int64_t, int64_t column, int64_t start, int64_t end) {
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

// The gradients by x, a column for each example, and by the layer's weight and bias, of which each may be none; and what
// they come from: the numbers of each example, a row for each example, and memory.
struct Gradients {
  float *x, *weight, *bias;
  const float* numbers;
  const void* rows;     // of numbers of x: `width`, or in bfloat16 `inputs`
  Bfloat16* narrowed;   // δᵀ of a tile in bfloat16
  Pair *pairs, *x_pairs, *weight_pairs;  // of its rows, of the rows of x that belong to it, and of those of the weight
  int64_t inputs, width, examples;       // the width is that of the gradient by weight, and of pairs
};

// The factors of a tile's products Wᵀ δᵀ and δᵀ x. In pairs those of the first are of classes, of the second of examples.
template <class Number> struct Factors {
  Matrix<Number> weight, delta, delta_rows, x;
};
Factors<float> factors(const Layer& layer, const Gradients& gradients, const Tile& tile) {
  Matrix<float> delta{layer.z, tile.columns, 1};
  float *weight = (float*)layer.weight, *x = (float*)gradients.rows + tile.start * gradients.width;
  return {{weight, 1, gradients.inputs}, delta, delta, {x, gradients.width, 1}};
}
Factors<Pair> pair_factors(const Layer& layer, const Gradients& gradients, const Tile& tile) {
  const int64_t columns = tile.columns, inputs = gradients.inputs, width = gradients.width;
  const uint16_t* rows = (const uint16_t*)gradients.rows + tile.start * inputs;
  if (gradients.weight)
    pair_rows(rows, inputs, std::min(columns, gradients.examples - tile.start), inputs, gradients.x_pairs, columns / 2, width,
              layer.threads);
  return {{gradients.weight_pairs, 1, width}, {gradients.pairs, columns, 1},
          {(Pair*)gradients.narrowed, columns / 2, 1}, {gradients.x_pairs, width, 1}};
}

// Adds the products of a tile to the gradients by x and weight.
template <class Number>
void add_products(const Layer& layer, const Gradients& gradients, const Tile& tile, const Factors<Number>& factors) {
  constexpr int64_t numbers = std::is_same_v<Number, Pair> ? 2 : 1;
  const int64_t classes = layer.classes, columns = tile.columns, width = gradients.width;
  if (gradients.x) {
    Result x{gradients.x + tile.start, layer.examples, 1};
    write_product(factors.weight, factors.delta, x, gradients.inputs, columns, (classes + numbers - 1) / numbers, true,
                  layer.threads);
  }
  if (gradients.weight) {
    Result weight{gradients.weight, width, 1};
    write_product(factors.delta_rows, factors.x, weight, classes, width, columns / numbers, tile.start > 0, layer.threads);
  }
}

// Adds the sum of each row of a tile of δᵀ to the gradient by the bias.
void add_row_sums(const Layer& layer, const Tile& tile, float* sums) {
  parallel_for((layer.classes + sum_rows - 1) / sum_rows, layer.threads, [&](int64_t part) {
    for (int64_t row = part * sum_rows; row < std::min((part + 1) * sum_rows, layer.classes); row++) {
      Floats terms = {};
      for (int64_t i = 0; i < tile.columns; i += lanes) terms += load(layer.z + row * tile.columns + i, lanes);
      sums[row] = (tile.start > 0 ? sums[row] : 0) + sum<float>(terms);
    }
  });
}

}  // namespace

// Adds the layer's classes to the sums, a row of examples for each, and to the predictions.
extern "C" void layer_numbers(const Layer& layer, float* sums, int64_t* predictions) {
  for_each_tile(layer, [&](const Tile& tile) { add_numbers(layer, tile, sums + tile.start, predictions + tile.start); });
}

// Adds what the layer's classes contribute to the gradient by x, and writes those by their weight and bias.
extern "C" void layer_gradients(const Layer& layer, const Gradients& gradients) {
  if (layer.has_pairs && gradients.x)
    pair_rows((uint16_t*)layer.weight, gradients.inputs, layer.classes, gradients.inputs, gradients.weight_pairs,
              (layer.classes + 1) / 2, gradients.width, layer.threads);
  for_each_tile(layer, [&](const Tile& tile) {
    write_delta(layer, tile, gradients.numbers + tile.start, gradients.narrowed, gradients.pairs);
    if (layer.has_pairs) add_products(layer, gradients, tile, pair_factors(layer, gradients, tile));
    else add_products(layer, gradients, tile, factors(layer, gradients, tile));
    if (gradients.bias) add_row_sums(layer, tile, gradients.bias);
  });
}
