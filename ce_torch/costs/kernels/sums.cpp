// Sums in 24 bits, 16 of which are the sum in bfloat16, rounded to nearest, and 8 what is to be added to these.

#include "numbers.h"
#include "threads.h"

namespace {

constexpr int64_t lanes = Wide<float>::lanes;
using Signed = typename Wide<float>::Signed;
using Rest = Vector<int8_t, lanes>;
constexpr int64_t part_rows = 32;

#ifdef __AVX512F__
// The compiler would convert one number after the other.
inlined inline Signed to_words(Rest x) { return (Signed)_mm512_cvtepi8_epi32((__m128i)x); }
inlined inline Signed to_words(Halves x) { return (Signed)_mm512_cvtepu16_epi32((__m256i)x); }
inlined inline Rest to_rest(Words x) { return (Rest)_mm512_cvtepi32_epi8((__m512i)x); }
inlined inline Halves to_halves(Words x) { return (Halves)_mm512_cvtepi32_epi16((__m512i)x); }
#else
inlined inline Signed to_words(Rest x) { return __builtin_convertvector(x, Signed); }
inlined inline Signed to_words(Halves x) { return __builtin_convertvector(x, Signed); }
inlined inline Rest to_rest(Words x) { return __builtin_convertvector(x, Rest); }
inlined inline Halves to_halves(Words x) { return __builtin_convertvector(x, Halves); }
#endif

// The compiler knows `count` where it is that of all lanes: then a copy takes one instruction.
inlined inline void add_vector(const float* terms, Bfloat16* rounded, int8_t* rest, int64_t count) {
  Rest low = {};
  std::memcpy(&low, rest, count);
  Signed before = (to_words(load_bits(rounded, count)) << 8) + to_words(low);
  Words sum = ((Words)((Floats)(before << 8) + load(terms, lanes)) + 0x80) >> 8, high = (sum + 0x80) >> 8;
  store_bits(to_halves(high), rounded, count);
  low = to_rest(sum - (high << 8));
  std::memcpy(rest, &low, count);
}

}  // namespace

// Adds terms to sums. Rows of terms lie `step` apart, a multiple of the lanes, and are at least as long as those of sums.
extern "C" void add_to_sums(const float* terms, int64_t step, Bfloat16* rounded, int8_t* rest, int64_t rows,
                            int64_t columns, int threads) {
  parallel_for((rows + part_rows - 1) / part_rows, threads, [&](int64_t part) {
    for (int64_t row = part * part_rows; row < std::min((part + 1) * part_rows, rows); row++) {
      const int64_t place = row * columns, whole = columns - columns % lanes;
      for (int64_t i = 0; i < whole; i += lanes) add_vector(terms + row * step + i, rounded + place + i, rest + place + i, lanes);
      if (whole < columns) add_vector(terms + row * step + whole, rounded + place + whole, rest + place + whole, columns - whole);
    }
  });
}
