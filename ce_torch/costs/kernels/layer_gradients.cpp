// The gradients of the numbers of a layer's examples.

#include "layer.h"

namespace {

// The gradients by x, a column for each example, and by the layer's weight and bias, of which each may be none; and what
// they come from: the numbers of each example, a row for each example, and memory.
struct Gradients {
  float *x, *weight, *bias;
  const float* numbers;
  const void* rows;     // of numbers of x: `width`, or in bfloat16 `inputs`
  Bfloat16* narrowed;   // δᵀ of a tile in bfloat16
  Pair *pairs, *weight_pairs;  // of its rows, and of those of the weight
  int64_t inputs, width, examples;       // the width is that of the gradient by weight, and of pairs
  int32_t has_weight;  // true if those by weight and bias are there to be added to
};

// Writes rows of δᵀ of a vector of examples, which f(row) finds: to z, or in bfloat16 to `narrowed`, and pairs of rows 2 i
// and 2 i + 1 to `pairs`, where the last row may have no other.
template <class Function>
inlined void write_rows(const Layer& layer, const Gradients& gradients, const Tile& tile, int64_t column, int64_t start,
                        int64_t end, Function f) {
  const int64_t columns = tile.columns;
  const bool keeps_floats = !layer.has_pairs || gradients.bias;
  auto write = [&](int64_t row) inlined {
    Floats delta = f(row);
    if (keeps_floats) store(delta, tile.z + row * columns + column, lanes);
    return delta;
  };
  if (!layer.has_pairs) {
    for (int64_t row = start; row < end; row++) write(row);
    return;
  }
  for (int64_t row = start; row < end; row += 2) {
    Words pair = {};
    for (int64_t i = 0; i < 2 && row + i < end; i++) {
      Halves half = narrow(write(row + i), Bfloat16());
      std::memcpy(gradients.narrowed + (row + i) * columns + column, &half, sizeof half);
      pair |= __builtin_convertvector(half, Words) << (16 * i);
    }
    std::memcpy(gradients.pairs + row / 2 * columns + column, &pair, sizeof pair);
  }
}

// exp x, x itself, and φ′.
struct Exponential {
  Floats value, x, slope;
};

// Writes δᵀ of a tile, c φ′ [g_C (T a − t) + g_ℓ a − g_H a (ln a + H)], in the place of z. The numbers of each example are
// on_value, φ(m), r, T, H, g_C, g_ℓ and g_H; t is on_value at its class y, beside what else it is. Exponentials are kept
// for costs that take no more than them: their x, and φ′, are not known. A φ in 16 bits is exact where it is φ(m).
void write_delta(const Layer& layer, const Gradients& gradients, const Tile& tile) {
  const Targets targets = layer.targets.from(tile.start);
  const int64_t *y = layer.y + tile.start, step = layer.examples, start_class = layer.first_class, columns = tile.columns;
  float c = layer.c, softcap = layer.softcap, normal = std::max(c, std::numeric_limits<float>::min());
  const float* numbers = gradients.numbers + tile.start;
  for_each_part(layer.classes, columns, layer.threads, [&](int64_t, int64_t column, int64_t start, int64_t end) {
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
    const bool has_exponentials = tile.packed && layer.kept_kind == Kept::exponentials;
    Floats shrink = {}, largest = unpack_part(pack_part(m / softcap));
    if (has_exponentials) shrink = exp_of_vector<float>(exponent(load(layer.kept_phi + tile.start + column, lanes), m, normal));
    auto exponential = [&](int64_t row) inlined {
      int64_t place = row * columns + column;
      if (has_exponentials) return Exponential{shrink * unpack(load_bits(tile.packed + place, lanes)), Floats{}, Floats{} + 1};
      Capped phi;
      if (tile.packed) {
        Floats part = unpack_part(load_bits(tile.packed + place, lanes));
        phi = {part == largest ? m : softcap * part, 1 - part * part};
      } else {
        phi = capped(load(tile.z + place, lanes), softcap);
      }
      Floats x = exponent(phi.value, m, normal);
      return Exponential{exp_of_vector<float>(x), x, phi.slope};
    };
    write_rows(layer, gradients, tile, column, start, end, [&](int64_t row) inlined {
      auto [e, x, slope] = exponential(row);
      Floats score_gradient;
      if (is_general || has_class[row - start]) {
        Floats a = e * inverse, t = desired.at(row);
        t = classes == int32_t(row) ? t + on_value : t;
        score_gradient = product(g_C, (e * (T - t) - t * (r + (1 - e))) * inverse) + product(g_l, a);
        score_gradient -= product(g_H, product(a, x + (H - ln)));
      } else {
        score_gradient = product(e_factor, e);
      }
      return product(score_gradient, c * slope);
    });
  });
}

// Writes δᵀ of a tile from rows of δ, one for each example, that lie `step` apart.
void read_delta(const Layer& layer, const Gradients& gradients, const Tile& tile, const float* delta, int64_t step) {
  const int64_t columns = tile.columns, examples = std::min(columns, gradients.examples - tile.start);
  transpose_rows(delta + tile.start * step + layer.first_class, step, examples, layer.classes, tile.z, columns, columns,
                 layer.threads);
  if (!layer.has_pairs) return;
  for_each_part(layer.classes, columns, layer.threads, [&](int64_t, int64_t column, int64_t start, int64_t end) {
    write_rows(layer, gradients, tile, column, start, end,
               [&](int64_t row) inlined { return load(tile.z + row * columns + column, lanes); });
  });
}

// The factors of a tile's products Wᵀ δᵀ and δᵀ x. In pairs those of the first are of classes, of the second of examples.
template <class Number> struct Factors {
  Matrix<Number> weight, delta, delta_rows, x;
};
Factors<float> factors(const Layer& layer, const Gradients& gradients, const Tile& tile) {
  Matrix<float> delta{tile.z, tile.columns, 1};
  float *weight = (float*)layer.weight, *x = (float*)gradients.rows + tile.start * gradients.width;
  return {{weight, 1, gradients.inputs}, delta, delta, {x, gradients.width, 1}};
}
Factors<Pair> pair_factors(const Layer& layer, const Gradients& gradients, const Tile& tile) {
  const int64_t columns = tile.columns, inputs = gradients.inputs, width = gradients.width;
  Pair* x_pairs = (Pair*)layer.z;  // nobody needs z any more
  const uint16_t* rows = (const uint16_t*)gradients.rows + tile.start * inputs;
  if (gradients.weight)
    pair_rows(rows, inputs, std::min(columns, gradients.examples - tile.start), inputs, x_pairs, columns / 2, width,
              layer.threads);
  return {{gradients.weight_pairs, 1, width}, {gradients.pairs, columns, 1},
          {(Pair*)gradients.narrowed, columns / 2, 1}, {x_pairs, width, 1}};
}

// Adds the products of a tile to the gradients by x and weight, or begins that by weight with them.
template <class Number>
void add_products(const Layer& layer, const Gradients& gradients, const Tile& tile, const Factors<Number>& factors, bool begins) {
  constexpr int64_t numbers = std::is_same_v<Number, Pair> ? 2 : 1;
  const int64_t classes = layer.classes, columns = tile.columns, width = gradients.width;
  if (gradients.x) {
    Result x{gradients.x + tile.start, layer.examples, 1};
    write_product(factors.weight, factors.delta, x, gradients.inputs, columns, (classes + numbers - 1) / numbers, true,
                  layer.threads);
  }
  if (gradients.weight) {
    Result weight{gradients.weight, width, 1};
    write_product(factors.delta_rows, factors.x, weight, classes, width, columns / numbers, !begins, layer.threads);
  }
}
void add_products(const Layer& layer, const Gradients& gradients, const Tile& tile, bool begins) {
  if (layer.has_pairs) add_products(layer, gradients, tile, pair_factors(layer, gradients, tile), begins);
  else add_products(layer, gradients, tile, factors(layer, gradients, tile), begins);
}

// Writes pairs of the rows of the weight, where they are needed.
void pair_weight(const Layer& layer, const Gradients& gradients) {
  if (layer.has_pairs && gradients.x)
    pair_rows((uint16_t*)layer.weight, gradients.inputs, layer.classes, gradients.inputs, gradients.weight_pairs,
              (layer.classes + 1) / 2, gradients.width, layer.threads);
}

// Adds the sum of each row of a tile of δᵀ to the gradient by the bias.
void add_row_sums(const Layer& layer, const Tile& tile, float* sums, bool begins) {
  parallel_for((layer.classes + sum_rows - 1) / sum_rows, layer.threads, [&](int64_t part) {
    for (int64_t row = part * sum_rows; row < std::min((part + 1) * sum_rows, layer.classes); row++) {
      Floats terms = {};
      for (int64_t i = 0; i < tile.columns; i += lanes) terms += load(tile.z + row * tile.columns + i, lanes);
      sums[row] = (begins ? 0 : sums[row]) + sum<float>(terms);
    }
  });
}

}  // namespace

// Adds what the layer's classes contribute to the gradient by x, and writes, or adds to, those by their weight and bias.
extern "C" void layer_gradients(const Layer& layer, const Gradients& gradients) {
  pair_weight(layer, gradients);
  for_each_tile(layer, [&](const Tile& tile) {
    write_z(layer, tile);
    write_delta(layer, gradients, tile);
    const bool begins = tile.start == 0 && !gradients.has_weight;
    if (gradients.bias) add_row_sums(layer, tile, gradients.bias, begins);
    add_products(layer, gradients, tile, begins);
  });
}

// The same by x and their weight, from rows of δ that lie `step` apart.
extern "C" void layer_products(const Layer& layer, const Gradients& gradients, const float* delta, int64_t step) {
  pair_weight(layer, gradients);
  for_each_tile(layer, [&](const Tile& tile) {
    read_delta(layer, gradients, tile, delta, step);
    add_products(layer, gradients, tile, tile.start == 0 && !gradients.has_weight);
  });
}
