// A layer as its kernels take it, by tiles of zᵀ: some classes of some examples, a row for each class. A tile stays in the
// processor's cache between the product that makes it and what takes it. `layer_numbers.py` has the same structs.

#pragma once

#include "columns.h"
#include "products.h"
#include "transpose.h"

namespace {

enum class Type { float32, bfloat16, float16, float64 };
// What waits of a tile for the backward pass: z, or in 16 bits exp(c (φ(z) − φ(m))), or φ(z).
enum class Kept : int32_t { z, exponentials, capped };

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
    Floats examples[lanes];
    for (int64_t i = 0; i < lanes; i++) {
      examples[i] = Floats{};
      if (column + i >= targets.examples) continue;
      const Number* from = (const Number*)targets.outputs + (column + i) * targets.example_step + row * targets.class_step;
      if (targets.class_step != 1)
        for (int64_t k = 0; k < count; k++) examples[i][k] = load_as<float>(from + k * targets.class_step, 1)[0];
      else examples[i] = count == lanes ? load_as<float>(from, lanes) : load_as<float>(from, count);
    }
    transpose((const float*)examples, lanes, lanes, lanes, (float*)block, lanes);
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

// Some classes of a layer, and all its examples, of which there are a multiple of 16; the last may be zeros. What is of
// classes begins with the first of these.
struct Layer {
  const void *weight, *x;  // a row for each class; the examples of each tile without z as columns, one tile after the other
  const float* bias;       // or none
  const int64_t* y;
  Targets targets;
  float *z, *m;  // memory for a tile, or for pairs of its rows of x, and for the largest numbers of its columns, or none
  void* kept;    // memory for what is kept of the first tiles, one after the other, which may be there already
  float* kept_phi;  // φ(m) of the exponentials of each example, or none
  int64_t inner, first_class, classes, examples, tile_examples;  // `inner` numbers, or pairs, in a row of the weight
  int64_t kept_tiles;
  float c, softcap;  // κ is 0 for no softcap
  int32_t has_pairs, has_kept, threads;
  Kept kept_kind;
};

// A number from 0 to 1 in 16 bits, 6 for its exponent and 10 for its fraction, and 0 for what is less than 2⁻⁶².
inlined inline Halves pack(Floats x) {
  Words word = (Words)x, packed = (word - (64 << 23) + 0xfff + (word >> 13 & 1)) >> 13;
  return __builtin_convertvector(word < (65 << 23) ? 0 : packed, Halves);
}
inlined inline Floats unpack(Halves x) { return (Floats)(__builtin_convertvector(x, Words) << 13) * 0x1p64f; }

// A number from −1 to 1 in 16 bits, as a part of 2¹⁵ − 1.
constexpr float most_parts = 32767;
inlined inline Halves pack_part(Floats x) {
  return __builtin_convertvector((Words)(x * most_parts + Wide<float>::round), Halves);
}
inlined inline Floats unpack_part(Halves x) {
  auto number = (typename Wide<float>::Signed)(__builtin_convertvector(x, Words) << 16) >> 16;
  return __builtin_convertvector(number, Floats) * (1 / most_parts);
}

// Some examples, from `start` on, a column for each, and the memory of their z or of what is packed, which may be there.
struct Tile {
  int64_t start, columns;
  float* z;
  uint16_t* packed;
  bool is_there;
};

// Calls f(tile) for every tile.
template <class Function> void for_each_tile(const Layer& layer, Function f) {
  for (int64_t start = 0; start < layer.examples; start += layer.tile_examples) {
    const bool is_kept = start / layer.tile_examples < layer.kept_tiles;
    const int64_t columns = std::min(layer.tile_examples, layer.examples - start), place = start * layer.classes;
    Tile tile{start, columns, layer.z, nullptr, is_kept && layer.has_kept};
    if (is_kept && layer.kept_kind == Kept::z) tile.z = (float*)layer.kept + place;
    else if (is_kept) tile.packed = (uint16_t*)layer.kept + place;
    f(tile);
  }
}

template <class Number> void write_inputs(const Layer& layer, const Tile& tile) {
  const int64_t inner = layer.inner, columns = tile.columns;
  const int64_t known = layer.has_kept ? layer.kept_tiles * layer.tile_examples : 0;
  Matrix<Number> weight{(Number*)layer.weight, inner, 1}, x{(Number*)layer.x + (tile.start - known) * inner, columns, 1};
  write_inputs(weight, x, layer.bias, {tile.z, columns, 1}, layer.m, layer.classes, columns, inner, layer.threads);
}
// Writes z of a tile of which nothing is there.
inline void write_z(const Layer& layer, const Tile& tile) {
  if (tile.is_there) return;
  layer.has_pairs ? write_inputs<Pair>(layer, tile) : write_inputs<float>(layer, tile);
}

}  // namespace
