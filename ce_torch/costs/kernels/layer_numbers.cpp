// The numbers of a layer's examples.

#include "layer.h"

namespace {

// PyTorch takes nan to be the largest.
void find_nan(const float* z, int64_t column, int64_t start_class, int64_t rows, int64_t columns, int64_t* predictions) {
  for (int64_t row = rows; row-- > 0;)
    if (z[row * columns + column] != z[row * columns + column]) predictions[column] = start_class + row;
}

// What a column's classes so far add up to, with x = c (φ(z) − φ(m)) for the largest z so far, m: how many x are 0, the sum
// of exp x of the others, and Σ x exp x, Σ t x and Σ t; φ(m), and φ(z) of class y.
enum Row { row_m, row_ones, row_others, row_ex, row_tx, row_T, row_phi, row_phi_y };
constexpr int added_rows = row_T;

// Adds the classes of a tile to the sums of each of its examples, whose predictions are the first class that holds m.
void add_numbers(const Layer& layer, const Tile& tile, float* sums, int64_t* predictions) {
  const Targets targets = layer.targets.from(tile.start);
  const int64_t *y = layer.y + tile.start, step = layer.examples, start_class = layer.first_class, rows = layer.classes, columns = tile.columns;
  const float *z = tile.z, *m = layer.m, softcap = layer.softcap, c = std::max(layer.c, std::numeric_limits<float>::min());
  for (int64_t column = 0; column < columns; column += lanes) {
    auto sum = [&](Row which) { return sums + which * step + column; };
    Floats before = load(sum(row_m), lanes), here = load(m + column, lanes), largest = here > before ? here : before;
    Floats fall = exponent(capped(before, softcap).value, capped(largest, softcap).value, c);
    Floats ones = load(sum(row_ones), lanes), others = load(sum(row_others), lanes), shrink = exp_of_vector<float>(fall);
    Floats ex = product(shrink, load(sum(row_ex), lanes) + product(ones + others, fall));
    store(ex, sum(row_ex), lanes);
    store(load(sum(row_tx), lanes) + product(load(sum(row_T), lanes), fall), sum(row_tx), lanes);
    store(here > before ? (ones + others) * shrink : others, sum(row_others), lanes);
    store(here > before ? 0 : ones, sum(row_ones), lanes);
    store(largest, sum(row_m), lanes);
    store(capped(largest, softcap).value, sum(row_phi), lanes);
    if (tile.packed && layer.kept_phi) store(capped(largest, softcap).value, layer.kept_phi + tile.start + column, lanes);
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
      Floats phi = capped(number, softcap).value, x = exponent(phi, most, c), e = exp_of_vector<float>(x);
      ones = x == 0 ? ones + 1 : ones;
      others = x == 0 ? others : others + e;
      ex += product(e, x);
      best = number == maximum && best == int32_t(rows) ? Indices{} + int32_t(row) : best;
      if (tile.packed) {
        Halves packed = layer.kept_kind == Kept::exponentials ? pack(e) : pack_part(phi * (1 / softcap));
        store_bits(packed, tile.packed + row * columns + column, lanes);
      }
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

}  // namespace

// Adds the layer's classes to the sums, a row of examples for each, and to the predictions.
extern "C" void layer_numbers(const Layer& layer, float* sums, int64_t* predictions) {
  for_each_tile(layer, [&](const Tile& tile) {
    write_z(layer, tile);
    add_numbers(layer, tile, sums + tile.start, predictions + tile.start);
  });
}

// Writes z of the layer's classes to rows, one for each example, that lie `step` apart.
extern "C" void layer_rows(const Layer& layer, float* rows, int64_t step, int64_t examples) {
  for_each_tile(layer, [&](const Tile& tile) {
    write_z(layer, tile);
    transpose_rows(tile.z, tile.columns, layer.classes, std::min(tile.columns, examples - tile.start),
                   rows + tile.start * step + layer.first_class, step, layer.classes, layer.threads);
  });
}
