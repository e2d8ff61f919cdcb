// The gradients of the numbers of a layer's examples.

#include "layer_gradients.h"

namespace {

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
    const Examples examples(numbers + column, step);
    const Upstream g = read_upstream(numbers + 5 * step + column, step);
    auto classes = load_classes(y + column, start_class);
    const GeneralRows general(!targets.are_none(), g.H, classes, start, end);
    Floats m = examples.m, e_factor = examples.score_factor(g);
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
      Floats G;
      if (general.has(row)) {
        Floats t = desired.at(row);
        G = examples.score_gradient(g, e, x, classes == int32_t(row) ? t + examples.on_value : t);
      } else {
        G = product(e_factor, e);
      }
      return product(G, c * slope);
    });
  });
}

// Writes δᵀ of a tile from rows of δ, one for each example, that lie `step` apart.
void read_delta(const Layer& layer, const Gradients& gradients, const Tile& tile, const float* delta, int64_t step) {
  const int64_t columns = tile.columns, examples = std::min(columns, gradients.examples - tile.start);
  transpose_rows(delta + tile.start * step + layer.first_class, step, examples, layer.classes, tile.z, columns, columns,
                 layer.threads);
  narrow_rows(layer, gradients, tile);
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
