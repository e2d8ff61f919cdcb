// What the gradients of a layer are made of, tile by tile: the gradient by the scores s of an example, and the products of
// δᵀ that add up to those by x, weight and bias. They serve the gradients, and how these change.

#pragma once

#include "layer.h"

namespace {

// What reaches C, ℓ and H of a vector of examples.
struct Upstream {
  Floats C, l, H;
};
inlined inline Upstream read_upstream(const float* rows, int64_t step) {
  return {load(rows, lanes), load(rows + step, lanes), load(rows + 2 * step, lanes)};
}

// The numbers of a vector of examples, of the rows on_value, φ(m), r, T and H, `step` apart.
struct Examples {
  Floats on_value, m, r, T, H, inverse, ln;

  Examples(const float* numbers, int64_t step)
      : on_value(load(numbers, lanes)),
        m(load(numbers + step, lanes)),
        r(load(numbers + 2 * step, lanes)),
        T(load(numbers + 3 * step, lanes)),
        H(load(numbers + 4 * step, lanes)),
        inverse(1 / (1 + r)),
        ln(log1p(r)) {}

  // G = g_C (T a − t) + g_ℓ a − g_H a (ln a + H), of e = exp x, with a = e / (1 + r) and ln a = x − ln(1 + r).
  inlined Floats score_gradient(const Upstream& g, Floats e, Floats x, Floats t) const {
    Floats a = e * inverse, G = product(g.C, (e * (T - t) - t * (r + (1 - e))) * inverse) + product(g.l, a);
    return G - product(g.H, product(a, x + (H - ln)));
  }

  // What G is of e where t and g_H are 0.
  inlined Floats score_factor(const Upstream& g) const { return (product(g.C, T) + g.l) * inverse; }
};

// The rows of a part that need the whole formula of a vector of examples: all of them, where there are desired outputs
// beside classes, or a gradient of H; else those that are a class y.
class GeneralRows {
  bool has_class[sum_rows] = {}, all;
  const int64_t start;

 public:
  template <class Classes>
  GeneralRows(bool all, Floats g_H, Classes classes, int64_t start, int64_t end) : all(all), start(start) {
    for (int lane = 0; lane < lanes; lane++) {
      this->all = this->all || g_H[lane] != 0;
      if (classes[lane] >= start && classes[lane] < end) has_class[classes[lane] - start] = true;
    }
  }
  inlined bool has(int64_t row) const { return all || has_class[row - start]; }
};

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
inlined inline void write_rows(const Layer& layer, const Gradients& gradients, const Tile& tile, int64_t column, int64_t start,
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

// Writes what the rows of a tile's z are in bfloat16.
inline void narrow_rows(const Layer& layer, const Gradients& gradients, const Tile& tile) {
  if (!layer.has_pairs) return;
  const int64_t columns = tile.columns;
  for_each_part(layer.classes, columns, layer.threads, [&](int64_t, int64_t column, int64_t start, int64_t end) {
    write_rows(layer, gradients, tile, column, start, end,
               [&](int64_t row) inlined { return load(tile.z + row * columns + column, lanes); });
  });
}

// The factors of a tile's products Wᵀ δᵀ and δᵀ x. In pairs those of the first are of classes, of the second of examples.
template <class Number> struct Factors {
  Matrix<Number> weight, delta, delta_rows, x;
};
inline Factors<float> factors(const Layer& layer, const Gradients& gradients, const Tile& tile) {
  Matrix<float> delta{tile.z, tile.columns, 1};
  float *weight = (float*)layer.weight, *x = (float*)gradients.rows + tile.start * gradients.width;
  return {{weight, 1, gradients.inputs}, delta, delta, {x, gradients.width, 1}};
}
inline Factors<Pair> pair_factors(const Layer& layer, const Gradients& gradients, const Tile& tile) {
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
inline void add_products(const Layer& layer, const Gradients& gradients, const Tile& tile, bool begins) {
  if (layer.has_pairs) add_products(layer, gradients, tile, pair_factors(layer, gradients, tile), begins);
  else add_products(layer, gradients, tile, factors(layer, gradients, tile), begins);
}

// Writes pairs of the rows of the weight, where they are needed.
inline void pair_weight(const Layer& layer, const Gradients& gradients) {
  if (layer.has_pairs && gradients.x)
    pair_rows((uint16_t*)layer.weight, gradients.inputs, layer.classes, gradients.inputs, gradients.weight_pairs,
              (layer.classes + 1) / 2, gradients.width, layer.threads);
}

// Adds the sum of each row of a tile of δᵀ to the gradient by the bias.
inline void add_row_sums(const Layer& layer, const Tile& tile, float* sums, bool begins) {
  parallel_for((layer.classes + sum_rows - 1) / sum_rows, layer.threads, [&](int64_t part) {
    for (int64_t row = part * sum_rows; row < std::min((part + 1) * sum_rows, layer.classes); row++) {
      Floats terms = {};
      for (int64_t i = 0; i < tile.columns; i += lanes) terms += load(tile.z + row * tile.columns + i, lanes);
      sums[row] = (begins ? 0 : sums[row]) + sum<float>(terms);
    }
  });
}

}  // namespace
