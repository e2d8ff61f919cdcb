// How the numbers of a layer's examples, and their gradients, change along a tangent of the layer.

#include "layer_gradients.h"

namespace {

// Writes ẋ Wᵀ + x Ẇᵀ of a tile, of the terms that there are. A tangent has ẋ, Ẇ and ḃ where a layer has x, weight and bias, or
// none, and memory for v = ẋ Wᵀ + x Ẇᵀ + ḃ where that has z.
template <class Number> void write_products(const Layer& layer, const Layer& tangent, const Tile& tile) {
  const int64_t inner = layer.inner, columns = tile.columns;
  Result v{tangent.z, columns, 1};
  auto write = [&](const void* weight, const void* x, bool add) {
    Matrix<Number> left{(Number*)weight, inner, 1}, right{(Number*)x + tile.start * inner, columns, 1};
    write_product(left, right, v, layer.classes, columns, inner, add, layer.threads);
  };
  if (tangent.x) write(layer.weight, tangent.x, false);
  if (tangent.weight) write(tangent.weight, layer.x, tangent.x);
  if (!tangent.x && !tangent.weight) std::fill(v.data, v.data + layer.classes * columns, 0.0f);
}
void write_v(const Layer& layer, const Layer& tangent, const Tile& tile) {
  layer.has_pairs ? write_products<Pair>(layer, tangent, tile) : write_products<float>(layer, tangent, tile);
}

// One number of each of a vector of examples: e = exp x of x = ln a + ln(1 + r), φ, the desired output t, and s and its
// change ṡ = c φ′ v.
struct Changing {
  Floats e, x, phi, slope, t, v, s_change;
};

// Calls f(part, column, examples, rows, number), number(row) a `Changing`, for each part of a tile and vector of examples.
template <class Function>
void for_each_change(const Layer& layer, const Layer& tangent, const Tile& tile, const float* numbers, Function f) {
  const Targets targets = layer.targets.from(tile.start);
  const int64_t *y = layer.y + tile.start, step = layer.examples, columns = tile.columns;
  const float c = layer.c, softcap = layer.softcap, normal = std::max(c, std::numeric_limits<float>::min());
  for_each_part(layer.classes, columns, layer.threads, [&](int64_t part, int64_t column, int64_t start, int64_t end) {
    const Examples examples(numbers + tile.start + column, step);
    const auto classes = load_classes(y + column, layer.first_class);
    Outputs desired(targets, column, end);
    auto number = [&](int64_t row) inlined {
      const int64_t place = row * columns + column;
      Capped phi = capped(load(tile.z + place, lanes), softcap);
      Floats x = exponent(phi.value, examples.m, normal), t = desired.at(row);
      Floats v = load(tangent.z + place, lanes) + (tangent.bias ? tangent.bias[row] : 0);
      t = classes == int32_t(row) ? t + examples.on_value : t;
      return Changing{exp_of_vector<float>(x), x, phi.value, phi.slope, t, v, c * phi.slope * v};
    };
    f(part, column, examples, start, end, number);
  });
}

// Adds to the sums Σ (T a − t) ṡ, Σ a ṡ and −Σ a (ln a + H) ṡ of each example what a tile adds to them: how C, ℓ and H change.
void add_changes(const Layer& layer, const Layer& tangent, const Tile& tile, const float* numbers, float* sums) {
  constexpr int kinds = 3;
  const int64_t columns = tile.columns, parts = (layer.classes + sum_rows - 1) / sum_rows;
  std::vector<float> found(parts * kinds * columns);
  for_each_change(layer, tangent, tile, numbers,
                  [&](int64_t part, int64_t column, const Examples& examples, int64_t start, int64_t end, auto number) inlined {
    const Floats one = Floats{} + 1;
    Floats C = {}, l = {}, H = {};
    for (int64_t row = start; row < end; row++) {
      Changing of = number(row);
      Floats a = of.e * examples.inverse;
      C += examples.score_gradient({one, Floats{}, Floats{}}, of.e, of.x, of.t) * of.s_change;
      l += a * of.s_change;
      H -= product(a, of.x + (examples.H - examples.ln)) * of.s_change;
    }
    float* sum = &found[part * kinds * columns + column];
    for (Floats each : {C, l, H}) store(each, sum, lanes), sum += columns;
  });
  for (int64_t kind = 0; kind < kinds; kind++)
    for (int64_t column = 0; column < columns; column++) {
      float& sum = sums[kind * layer.examples + tile.start + column];
      double total = sum;
      for (int64_t part = 0; part < parts; part++) total += found[(part * kinds + kind) * columns + column];
      sum = float(total);
    }
}

// Writes c φ′ G of a tile in the place of v. Writes how it changes in the place of z. The numbers of each example are those
// of `Examples`, g, ℓ̇, Ḣ, and ġ. With d = (ln a)˙ = ṡ − ℓ̇
//   Ġ = (g_C T + g_ℓ) a d − g_H a [d (ln a + H) + d + Ḣ] + ġ_C (T a − t) + ġ_ℓ a − ġ_H a (ln a + H)
//   (c φ′ G)˙ = c φ′ Ġ + c φ″ v G,  φ″ = −2 φ φ′ / κ²
void write_changes(const Layer& layer, const Layer& tangent, const Tile& tile, const float* numbers) {
  const int64_t step = layer.examples, columns = tile.columns;
  const float c = layer.c, bend = layer.softcap == 0 ? 0 : -2 / (layer.softcap * layer.softcap);
  for_each_change(layer, tangent, tile, numbers,
                  [&](int64_t, int64_t column, const Examples& examples, int64_t start, int64_t end, auto number) inlined {
    const float* more = numbers + tile.start + column + 5 * step;
    const Upstream g = read_upstream(more, step), g_change = read_upstream(more + 5 * step, step);
    const Floats l_change = load(more + 3 * step, lanes), H_change = load(more + 4 * step, lanes), factor = product(g.C, examples.T) + g.l;
    for (int64_t row = start; row < end; row++) {
      Changing of = number(row);
      Floats a = of.e * examples.inverse, d = of.s_change - l_change, a_change = product(a, d);
      Floats G = examples.score_gradient(g, of.e, of.x, of.t);
      Floats G_change = product(factor, a_change) + examples.score_gradient(g_change, of.e, of.x, of.t);
      G_change -= product(g.H, product(a_change, of.x + (examples.H - examples.ln)) + product(a, d + H_change));
      Floats of_slope = bend == 0 ? Floats{} : product(G, bend * of.phi * of.slope * of.v);
      const int64_t place = row * columns + column;
      store(c * (product(G_change, of.slope) + of_slope), tile.z + place, lanes);
      store(product(G, c * of.slope), tangent.z + place, lanes);
    }
  });
}

// Adds the products of what a tile's z holds, if they belong to a gradient.
void add_rows(const Layer& layer, const Gradients& gradients, const Tile& tile, bool begins) {
  if (!gradients.x && !gradients.weight) return;
  narrow_rows(layer, gradients, tile);
  add_products(layer, gradients, tile, begins);
}

}  // namespace

// Adds how C, ℓ and H of each example change, as far as the layer's classes tell, to the sums, a row of examples for each.
extern "C" void layer_changes(const Layer& layer, const Layer& tangent, const float* numbers, float* sums) {
  for_each_tile(layer, [&](const Tile& tile) {
    write_z(layer, tile);
    write_v(layer, tangent, tile);
    add_changes(layer, tangent, tile, numbers, sums);
  });
}

// Does for changes of the gradients what `layer_gradients` does for gradients. Products with ẋ and Ẇ are added to `crossed`,
// which are the same gradients, or none.
extern "C" void layer_gradient_changes(const Layer& layer, const Layer& tangent, const Gradients& gradients,
                                       const Gradients& crossed) {
  pair_weight(layer, gradients);
  pair_weight(tangent, crossed);
  for_each_tile(layer, [&](const Tile& tile) {
    write_z(layer, tile);
    write_v(layer, tangent, tile);
    write_changes(layer, tangent, tile, gradients.numbers);
    const bool begins = tile.start == 0 && !gradients.has_weight;
    if (gradients.bias) add_row_sums(layer, tile, gradients.bias, begins);
    add_rows(layer, gradients, tile, begins);
    add_rows(tangent, crossed, {tile.start, tile.columns, tangent.z, nullptr, false}, false);
  });
}
