// A softmax layer in bfloat16 and the gradients of its cost, with products that are summed in float32.
//
// With eⱼ = exp(c (zⱼ − m)), s = Σⱼ eⱼ and z = W x + b, two functions go over z, which neither rounds nor keeps it:
//
//     half_sums      m, Σ e without class y, z_y, and the gradient's part Σⱼ eⱼ Wⱼ, for a stripe of examples
//     half_gradient  δⱼ = scale eⱼ − off_valueⱼ off_factor, δ_y apart, and δᵀ x, Σ δ, for a part of the classes
//
// What a thread adds to belongs to it alone, so that the sums are the same however threads share the work. half_sums
// raises m as it goes, and shrinks its sums each time. The numbers of a product come in pairs along the sum, which
// vdpbf16ps multiplies and adds at once. Other processors convert a pair to float32. `half_products.py` calls this file.

#include "numbers.h"
#include "threads.h"
#if defined(__AVX512BF16__) && !defined(CE_TORCH_PORTABLE)
#include <immintrin.h>
#define HAS_PAIRS
#endif

namespace {

// Sums of 3 vectors and so many rows stay in registers: there are 32, or 16.
constexpr int64_t lanes = Wide<float>::lanes, tile_rows = vector_bytes == 64 ? 8 : 4;
// The sizes of parts, which stay in a cache.
constexpr int64_t stripe = 96, stripe_classes = 128, part_classes = 64, part_examples = 480;
using Bits = uint16_t;

#ifdef HAS_PAIRS
using Pairs = Words;
Pairs columns_of(Words pairs) { return pairs; }
Floats add_pairs(Floats sum, Words left, Pairs right) {
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
}
#else
struct Pairs {
  Floats first, second;
};
Pairs columns_of(Words pairs) { return {(Floats)(pairs << 16), (Floats)(pairs & 0xffff0000)}; }
Floats add_pairs(Floats sum, Words left, Pairs right) {
  Pairs factor = columns_of(left);
  return sum + factor.first * right.first + factor.second * right.second;
}
#endif

// Pairs of a matrix: at data[i * pair + row * this->row], numbers 2 i and 2 i + 1 of a row.
struct Left {
  const Bits* data;
  int64_t row, pair;  // in numbers
};
Words broadcast(const Bits* pair) {
  uint32_t word;
  std::memcpy(&word, pair, sizeof word);
  return Words{} + word;
}

// Sums of pairs · left · right. right has `right_width` columns of pairs.
template <int rows, int vectors>
inlined inline void sum_tile(Floats (&sums)[rows][vectors], Left left, const uint32_t* right, int64_t right_width,
                             int64_t pairs) {
  for (int64_t i = 0; i < pairs; i++) {
    Pairs columns[vectors];
    for (int v = 0; v < vectors; v++) {
      Words words;
      std::memcpy(&words, right + i * right_width + v * lanes, sizeof words);
      columns[v] = columns_of(words);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      Words factor = broadcast(left.data + r * left.row + i * left.pair);
#pragma GCC unroll 3
      for (int v = 0; v < vectors; v++) sums[r][v] = add_pairs(sums[r][v], factor, columns[v]);
    }
  }
}

// Adds left · right to out for a tile.
template <int rows, int vectors>
void add_tile(Left left, const uint32_t* right, int64_t right_width, int64_t pairs, float* out, int64_t out_row) {
  Floats sums[rows][vectors] = {};
  sum_tile<rows, vectors>(sums, left, right, right_width, pairs);
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++) {
      float* target = out + r * out_row + v * lanes;
      store(load(target, lanes) + sums[r][v], target, lanes);
    }
}

// Calls f(vectors, column) for tiles of 3, 2 or 1 vectors of columns.
template <class Function> void for_each_width(int64_t columns, Function f) {
  for (int64_t column = 0, left = columns / lanes, width; left > 0; column += width * lanes, left -= width) {
    width = left >= 3 && left != 4 ? 3 : left >= 2 ? 2 : 1;
    if (width == 3) f(std::integral_constant<int, 3>(), column);
    if (width == 2) f(std::integral_constant<int, 2>(), column);
    if (width == 1) f(std::integral_constant<int, 1>(), column);
  }
}

// out += left · right, by panels of right that stay in a cache.
void add_product(Left left, const uint32_t* right, int64_t right_width, int64_t rows, int64_t columns, int64_t pairs,
                 float* out) {
  for_each_width(columns, [&](auto vectors, int64_t column) {
    int64_t row = 0;
    for (; row + tile_rows <= rows; row += tile_rows)
      add_tile<tile_rows, vectors>({left.data + row * left.row, left.row, left.pair}, right + column, right_width,
                                   pairs, out + row * columns + column, columns);
    for (; row < rows; row++)
      add_tile<1, vectors>({left.data + row * left.row, left.row, left.pair}, right + column, right_width, pairs,
                           out + row * columns + column, columns);
  });
}

// The distance of rows: with a power of 2 the numbers of a column would share a few places of a cache.
int64_t padded(int64_t width) { return width + lanes; }

// Pairs of two rows of numbers: number j of the first row, then of the second.
void interleave(const Bits* first, const Bits* second, int64_t count, uint32_t* out) {
  for (int64_t j = 0; j < count; j++) out[j] = first[j] | uint32_t(second ? second[j] : 0) << 16;
}
// The pairs of `rows` rows, in rows of the distance `padded(width)`.
void interleave_rows(const Bits* data, int64_t rows, int64_t width, uint32_t* out) {
  for (int64_t row = 0; row < rows; row += 2)
    interleave(data + row * width, row + 1 < rows ? data + (row + 1) * width : nullptr, width,
               out + row / 2 * padded(width));
}
// The pairs of each example of x as a column; the columns of examples that x lacks are 0.
void transpose_pairs(const Bits* x, int64_t examples, int64_t columns, int64_t D, uint32_t* out) {
  for (int64_t n = 0; n < columns; n++)
    for (int64_t d = 0; d < D; d += 2) {
      uint32_t pair = 0;
      if (n < examples) std::memcpy(&pair, x + n * D + d, sizeof pair);
      out[d / 2 * columns + n] = pair;
    }
}

float number(Bits bits) {
  uint32_t word = uint32_t(bits) << 16;
  float x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

struct HalfLayer {
  const Bits *x, *weight, *bias;
  const int64_t* y;
  int64_t N, D, K;
  float c;
};

// Writes `rows` rows of z, from class `start` on, for the columns of a transposed x.
void write_z(const HalfLayer& layer, const uint32_t* x, int64_t columns, int64_t start, int64_t rows, float* z) {
  for (int64_t row = 0; row < rows; row++) {
    Floats value = Floats{} + (layer.bias ? number(layer.bias[start + row]) : 0.0f);
    for (int64_t n = 0; n < columns; n += lanes) store(value, z + row * columns + n, lanes);
  }
  add_product({layer.weight + start * layer.D, layer.D, 2}, x, columns, rows, columns, layer.D / 2, z);
}

typename Wide<float>::Signed load_classes(const int64_t* y, int64_t count, int64_t start) {
  typename Wide<float>::Signed classes = {};
  for (int lane = 0; lane < lanes; lane++) classes[lane] = lane < count ? int32_t(y[lane] - start) : -1;
  return classes;
}

int64_t round_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

}  // namespace

// Writes m, Σ e without class y, and z_y of each example, and the gradient of Σ factor · C by x if it has a place.
extern "C" void half_sums(const Bits* x, const Bits* weight, const Bits* bias, const int64_t* y, int64_t N, int64_t D,
                          int64_t K, float c, const float* factor, const float* on_value, float off_total,
                          const float* off_weight, float* m_out, float* others_out, float* z_y_out, Bits* x_gradient,
                          int threads) {
  HalfLayer layer{x, weight, bias, y, N, D, K, c};
  parallel_for((N + stripe - 1) / stripe, threads, [&](int64_t part) {
    int64_t first = part * stripe, examples = std::min(stripe, N - first), columns = round_up(examples, lanes);
    std::vector<uint32_t> x_pairs(D / 2 * columns), weight_pairs(x_gradient ? stripe_classes / 2 * padded(D) : 0);
    std::vector<uint32_t> e_pairs(stripe_classes / 2 * columns);
    std::vector<float> z(stripe_classes * columns), sums(x_gradient ? columns * D : 0);
    std::vector<float> m(columns, -std::numeric_limits<float>::infinity()), z_y(columns);
    std::vector<double> others(columns);
    transpose_pairs(x + first * D, examples, columns, D, x_pairs.data());
    for (int64_t start = 0; start < K; start += stripe_classes) {
      int64_t rows = std::min(stripe_classes, K - start);
      write_z(layer, x_pairs.data(), columns, start, rows, z.data());
      for (int64_t n = 0; n < columns; n += lanes) {
        auto classes = load_classes(y + first + n, examples - n, start);
        Floats old = load(&m[n], lanes), maximum = old, sum = {}, target = load(&z_y[n], lanes);
        for (int64_t row = 0; row < rows; row++) {
          Floats value = load(&z[row * columns + n], lanes);
          maximum = value > maximum || value != value ? value : maximum;
          target = classes == int32_t(row) ? value : target;
        }
        Floats shift = maximum == -std::numeric_limits<float>::infinity() ? 0 : maximum;
        for (int64_t row = 0; row < rows; row += 2) {
          Words bits[2] = {};
          for (int64_t i = 0; i < 2 && row + i < rows; i++) {
            Floats value = load(&z[(row + i) * columns + n], lanes);
            Floats e = exp_of_negative<float>(c * (value == shift ? 0 : value - shift));
            e = classes == int32_t(row + i) ? 0 : e;
            sum += e;
            bits[i] = __builtin_convertvector(narrow(e, Bfloat16()), Words);
          }
          Words pairs = bits[0] | bits[1] << 16;
          std::memcpy(&e_pairs[row / 2 * columns + n], &pairs, sizeof pairs);
        }
        store(maximum, &m[n], lanes), store(target, &z_y[n], lanes);
        Floats fall = exp_of_negative<float>(c * (old == maximum ? 0 : old - maximum));
        for (int lane = 0; lane < lanes; lane++) {
          others[n + lane] = others[n + lane] * fall[lane] + sum[lane];
          if (!x_gradient || fall[lane] == 1) continue;
          float* sums_row = &sums[(n + lane) * D];
          for (int64_t d = 0; d < D; d++) sums_row[d] *= fall[lane];
        }
      }
      if (!x_gradient) continue;
      interleave_rows(weight + start * D, rows, D, weight_pairs.data());
      add_product({(const Bits*)e_pairs.data(), 2, 2 * columns}, weight_pairs.data(), padded(D), columns, D, (rows + 1) / 2,
                  sums.data());
    }
    for (int64_t n = 0; n < examples; n++) {
      int64_t example = first + n;
      m_out[example] = m[n], others_out[example] = float(others[n]), z_y_out[example] = z_y[n];
      if (!x_gradient) continue;
      // δⱼ = c factor (T eⱼ / s − off_valueⱼ) and, at y, c factor ((T − on_value) e_y − on_value Σ e of others) / s.
      float x_y = z_y[n] == m[n] ? 0 : c * (z_y[n] - m[n]), e_y = std::exp(x_y), s = float(others[n]) + e_y;
      float on = on_value[example], T = on + off_total, g = c * factor[example];
      float scale = product(g, T / s), delta_y = product(g, (off_total * e_y - on * float(others[n])) / s);
      const Bits* weight_y = weight + y[example] * D;
      for (int64_t d = 0; d < D; d += lanes) {
        Floats value = scale * load(&sums[n * D + d], lanes) + delta_y * load((const Bfloat16*)weight_y + d, lanes);
        if (off_weight) value -= g * load(off_weight + d, lanes);
        if (g == 0) value = Floats{};
        store(value, (Bfloat16*)x_gradient + example * D + d, lanes);
      }
    }
  });
}

// Writes the gradients by weight and bias. δⱼ = scale exp(c (zⱼ − m)) − off_valueⱼ g; at y, δ_y − off_value_y g.
extern "C" void half_gradient(const Bits* x, const Bits* weight, const Bits* bias, const int64_t* y, int64_t N,
                              int64_t D, int64_t K, float c, const float* m, const float* scale, const float* delta_y,
                              const float* g, const float* off_value, Bits* weight_gradient, Bits* bias_gradient,
                              int threads) {
  HalfLayer layer{x, weight, bias, y, N, D, K, c};
  int64_t chunks = (N + part_examples - 1) / part_examples;
  // Both layouts of x, of all chunks one after the other.
  std::vector<uint32_t> x_columns(D / 2 * round_up(N, lanes)), x_rows(round_up(N, 2) / 2 * padded(D));
  parallel_for(chunks, threads, [&](int64_t chunk) {
    int64_t first = chunk * part_examples, examples = std::min(part_examples, N - first);
    transpose_pairs(x + first * D, examples, round_up(examples, lanes), D, &x_columns[first * D / 2]);
    interleave_rows(x + first * D, examples, D, &x_rows[first / 2 * padded(D)]);
  });
  parallel_for((K + part_classes - 1) / part_classes, threads, [&](int64_t part) {
    int64_t start = part * part_classes, rows = std::min(part_classes, K - start);
    std::vector<float> z(rows * part_examples), sums(rows * D), bias_sums(rows);
    std::vector<Bits> delta(rows * part_examples);
    for (int64_t first = 0; first < N; first += part_examples) {
      int64_t examples = std::min(part_examples, N - first), columns = round_up(examples, lanes);
      write_z(layer, &x_columns[first * D / 2], columns, start, rows, z.data());
      for (int64_t n = 0; n < columns; n += lanes) {
        int64_t i = first + n, count = std::min(lanes, examples - n);
        auto classes = load_classes(y + i, count, start);
        Floats maximum = load(m + i, count), factor = load(scale + i, count), at_y = load(delta_y + i, count);
        Floats off_factor = off_value ? load(g + i, count) : Floats{};
        for (int64_t row = 0; row < rows; row++) {
          Floats value = load(&z[row * columns + n], lanes);
          Floats e = exp_of_negative<float>(c * (value == maximum ? 0 : value - maximum));
          Floats d = classes == int32_t(row) ? at_y : factor == 0 ? 0 : factor * e;
          if (off_value && off_value[start + row] != 0) d -= off_value[start + row] * off_factor;
          d = ::first<float>(count, d, 0.0f);
          store(d, (Bfloat16*)&delta[row * columns + n], lanes);
          if (bias_gradient) bias_sums[row] += sum<float>(d);
        }
      }
      if (weight_gradient)
        add_product({delta.data(), columns, 2}, &x_rows[first / 2 * padded(D)], padded(D), rows, D, (examples + 1) / 2, sums.data());
    }
    for (int64_t row = 0; row < rows; row++) {
      if (bias_gradient) store(Floats{} + bias_sums[row], (Bfloat16*)bias_gradient + start + row, 1);
      for (int64_t d = 0; weight_gradient && d < D; d += lanes)
        store(load(&sums[row * D + d], lanes), (Bfloat16*)weight_gradient + (start + row) * D + d, lanes);
    }
  });
}
