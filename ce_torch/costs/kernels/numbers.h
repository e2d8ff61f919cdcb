// Numbers in vectors: what tensors are made of, read and written, and what a vector is made into.
//
// A vector is a register: the compiler takes larger ones apart number by number where it compares. Nothing of PyTorch is
// included: that compiles in seconds, and serves every version.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>
#if defined(__AVX2__) || defined(__F16C__)
#include <immintrin.h>
#endif

// What is called for each vector: not inlined, it would take its count of numbers for a variable.
#define inlined __attribute__((always_inline))
// What is called once for a row or a block: a copy wherever it is called would make the kernels larger, and none faster.
#define outlined __attribute__((noinline))

namespace {

template <class Number, int lanes> using Vector __attribute__((vector_size(lanes * sizeof(Number)))) = Number;

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

// What is worked with: a vector of float or double.
template <class Real> struct Wide;
template <> struct Wide<float> {
  static constexpr int lanes = vector_bytes / sizeof(float), terms_of_exp = 8, terms_of_short_exp = 4, terms_of_log = 8, fraction_bits = 23;
  using Bits = Vector<uint32_t, lanes>;
  using Signed = Vector<int32_t, lanes>;
  static constexpr float round = 3 << 22;  // a number this large plus another has no room for a fraction
  static constexpr float lowest_exponent = -0x1.601e68p6f;  // −127 ln 2: its exp is below the normal numbers
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
};
template <> struct Wide<double> {
  static constexpr int lanes = vector_bytes / sizeof(double), terms_of_exp = 15, terms_of_short_exp = 9, terms_of_log = 18, fraction_bits = 52;
  using Bits = Vector<uint64_t, lanes>;
  using Signed = Vector<int64_t, lanes>;
  static constexpr double round = 0x1.8p52;
  static constexpr double lowest_exponent = -0x1.628b76e3a7b61p9;  // −1023 ln 2
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
};
template <class Real> using Reals = Vector<Real, Wide<Real>::lanes>;
// The same anywhere in memory.
template <class Real>
using Loose __attribute__((vector_size(vector_bytes), aligned(alignof(Real)), may_alias)) = Real;

// What tensors are made of.
struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
// True or false, as 1 or 0.
struct Bool {
  uint8_t bits;
};
template <class Number> struct Computed {
  using Real = float;
};
template <> struct Computed<double> {
  using Real = double;
};

using Floats = Reals<float>;
using Words = Vector<uint32_t, Wide<float>::lanes>;
using Halves = Vector<uint16_t, Wide<float>::lanes>;

#ifdef __AVX512F__
Floats to_floats(Halves x, Bfloat16) { return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16); }
#else
Floats to_floats(Halves x, Bfloat16) { return (Floats)(__builtin_convertvector(x, Words) << 16); }
#endif

#ifdef __AVX512F__
Floats to_floats(Halves x, Float16) { return (Floats)_mm512_cvtph_ps((__m256i)x); }
#elif defined(__AVX2__) && defined(__F16C__)
Floats to_floats(Halves x, Float16) { return (Floats)_mm256_cvtph_ps((__m128i)x); }
#else
Floats to_floats(Halves x, Float16) {
  Words word = __builtin_convertvector(x, Words), exponent = word & 0x7c00;
  // 2¹¹² is by how much the exponents of a float are larger; subnormal numbers become normal.
  Words number = (Words)((Floats)((word & 0x7fff) << 13) * 0x1p112f);
  Words special = (word & 0x7fff) << 13 | 0x7f800000;
  return (Floats)((exponent == 0x7c00 ? special : number) | (word & 0x8000) << 16);
}

#endif

// To nearest, ties to even. A nan stays one. The processor's own conversion makes what is below the normal numbers 0.
#ifdef __AVX512BF16__
Halves narrow(Floats x, Bfloat16) { return (Halves)_mm512_cvtneps_pbh((__m512)x); }
#else
Halves narrow(Floats x, Bfloat16) {
  Words word = (Words)x, rounded = ((word + 0x7fff + (word >> 16 & 1)) | (Words)(x != x)) >> 16;
#if defined(__AVX2__) && !defined(__AVX512F__)
  return (Halves)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)rounded), _mm256_extracti128_si256((__m256i)rounded, 1));
#else
  return __builtin_convertvector(rounded, Halves);
#endif
}
#endif

#ifdef __AVX512F__
Halves narrow(Floats x, Float16) { return (Halves)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__AVX2__) && defined(__F16C__)
Halves narrow(Floats x, Float16) { return (Halves)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT); }
#else
Halves narrow(Floats x, Float16) {
  Words word = (Words)x, sign = word >> 16 & 0x8000, size = word & 0x7fffffff;
  Words normal = ((size + 0xfff + (size >> 13 & 1)) >> 13) - (112 << 10);
  // Subnormal numbers are multiples of 2⁻²⁴, as are the numbers next to ½.
  Words subnormal = (Words)((Floats)size + 0.5f) - (Words)(Floats{} + 0.5f);
  Words special = size > 0x7f800000 ? Words{} + 0x7e00 : Words{} + 0x7c00;
  Words number = size < 0x38800000 ? subnormal : normal;
  return __builtin_convertvector((size >= 0x477ff000 ? special : number) | sign, Halves);
}
#endif

// Copied number by number, a vector could not be read before all of it is written: masks let go of what is not there.
#if defined(__AVX512BW__) && defined(__AVX512VL__)
inline uint32_t first_bits(int64_t count) { return (1u << count) - 1; }
inlined inline Floats load(const float* from, int64_t count) {
  return count == 16 ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(first_bits(count), from);
}
inlined inline Reals<double> load(const double* from, int64_t count) {
  return count == 8 ? _mm512_loadu_pd(from) : _mm512_maskz_loadu_pd(first_bits(count), from);
}
template <class Half> inlined inline Halves load_bits(const Half* from, int64_t count) {
  return (Halves)(count == 16 ? _mm256_loadu_epi16(from) : _mm256_maskz_loadu_epi16(first_bits(count), from));
}
inlined inline void store(Floats x, float* to, int64_t count) {
  count == 16 ? _mm512_storeu_ps(to, x) : _mm512_mask_storeu_ps(to, first_bits(count), x);
}
inlined inline void store(Reals<double> x, double* to, int64_t count) {
  count == 8 ? _mm512_storeu_pd(to, x) : _mm512_mask_storeu_pd(to, first_bits(count), x);
}
template <class Half> inlined inline void store_bits(Halves x, Half* to, int64_t count) {
  count == 16 ? _mm256_storeu_epi16(to, (__m256i)x) : _mm256_mask_storeu_epi16(to, first_bits(count), (__m256i)x);
}
#else
template <class Vec, class Number> inlined inline Vec load_some(const Number* from, int64_t count) {
  Vec vector = {};
  std::memcpy(&vector, from, count * sizeof(Number));
  return vector;
}
inlined inline Floats load(const float* from, int64_t count) { return load_some<Floats>(from, count); }
inlined inline Reals<double> load(const double* from, int64_t count) { return load_some<Reals<double>>(from, count); }
template <class Half> inlined inline Halves load_bits(const Half* from, int64_t count) { return load_some<Halves>(from, count); }
inlined inline void store(Floats x, float* to, int64_t count) { std::memcpy(to, &x, count * sizeof(float)); }
inlined inline void store(Reals<double> x, double* to, int64_t count) { std::memcpy(to, &x, count * sizeof(double)); }
template <class Half> inlined inline void store_bits(Halves x, Half* to, int64_t count) { std::memcpy(to, &x, count * sizeof(Half)); }
#endif
inlined inline Floats load(const Bfloat16* from, int64_t count) { return to_floats(load_bits(from, count), Bfloat16()); }
inlined inline Floats load(const Float16* from, int64_t count) { return to_floats(load_bits(from, count), Float16()); }
inlined inline Floats load(const Bool* from, int64_t count) {
  constexpr int lanes = Wide<float>::lanes;
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  auto vector = (Vector<uint8_t, lanes>)_mm_maskz_loadu_epi8(first_bits(count), from);
#else
  Vector<uint8_t, lanes> vector = {};
  count == lanes ? std::memcpy(&vector, from, lanes) : std::memcpy(&vector, from, count);
#endif
  // By way of words: the compiler takes a vector apart that becomes four times as large in one step.
#ifdef __AVX512F__
  Words words = (Words)_mm512_cvtepu8_epi32((__m128i)vector);
#else
  Words words = __builtin_convertvector(vector, Words);
#endif
  return words != 0 ? Floats{} + 1 : Floats{};
}
inlined inline void store(Floats x, Bfloat16* to, int64_t count) { store_bits(narrow(x, Bfloat16()), to, count); }
inlined inline void store(Floats x, Float16* to, int64_t count) { store_bits(narrow(x, Float16()), to, count); }

// Stores a vector, past the caches if `is_far`: lines that lie far apart would be read before they are written.
template <class Vec> inlined inline void store_line(const Vec& x, void* to, bool is_far) {
#ifdef __AVX512F__
  if (is_far && uintptr_t(to) % sizeof x == 0) return _mm512_stream_si512((__m512i*)to, (__m512i)x);
#elif defined(__AVX2__)
  if (is_far && uintptr_t(to) % sizeof x == 0) return _mm256_stream_si256((__m256i*)to, (__m256i)x);
#endif
  std::memcpy(to, &x, sizeof x);
}

// Follows what `store_line` stores past the caches, for threads that read it.
inline void end_lines(bool are_far) {
#ifdef __AVX2__
  if (are_far) _mm_sfence();
#endif
}

// Numbers of any type as those to compute with.
template <class Real, class Number> Reals<Real> load_as(const Number* from, int64_t count) {
  if constexpr (std::is_same_v<typename Computed<Number>::Real, Real>) {
    return load(from, count);
  } else if constexpr (std::is_same_v<Real, double>) {
    // A vector of floats has twice as many lanes.
    Floats floats = load(from, count);
    Vector<float, Wide<double>::lanes> first;
    std::memcpy(&first, &floats, sizeof first);
    return __builtin_convertvector(first, Reals<double>);
  } else {
    Reals<Real> x = {};
    for (int64_t lane = 0; lane < count; lane++) x[lane] = Real(load(from + lane, 1)[0]);
    return x;
  }
}

// The numbers of the lanes, from `start` on.
template <class Real> typename Wide<Real>::Signed lane_numbers(int64_t start) {
  typename Wide<Real>::Signed lane;
  for (int i = 0; i < Wide<Real>::lanes; i++) lane[i] = i + start;
  return lane;
}

// x in the first `count` lanes, `other` in the lanes behind the end of a row.
template <class Real> Reals<Real> first(int64_t count, Reals<Real> x, Real other) {
  return count == Wide<Real>::lanes ? x : lane_numbers<Real>(-count) < 0 ? x : other;
}

// A bit for each lane of a comparison, 1 where it is true.
template <class Real> inlined inline uint64_t bits(typename Wide<Real>::Signed is_true) {
#ifdef __AVX512DQ__
  if constexpr (sizeof(Real) == 4) return _mm512_movepi32_mask((__m512i)is_true);
  else return _mm512_movepi64_mask((__m512i)is_true);
#elif defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) return _mm256_movemask_ps((__m256)is_true);
  else return _mm256_movemask_pd((__m256d)is_true);
#else
  uint64_t bits = 0;
  for (int lane = 0; lane < Wide<Real>::lanes; lane++) bits |= uint64_t(is_true[lane] & 1) << lane;
  return bits;
#endif
}

// The numbers at these places, which the compiler knows, of two vectors one behind the other.
template <class Vec, class Places> inlined inline Vec shuffle(Vec first, Vec second, Places place) {
#ifdef __clang__
  constexpr int lanes = sizeof(Vec) / sizeof first[0];
  Vec out;
#pragma GCC unroll 64
  for (int i = 0; i < lanes; i++) out[i] = place[i] < lanes ? first[place[i]] : second[place[i] - lanes];
  return out;
#else
  return __builtin_shuffle(first, second, place);
#endif
}

// The numbers of a vector as one, by halves: combined in a row, each would wait for the one before.
template <class Real, int lanes, class Function> inlined inline Real combine(Vector<Real, lanes> x, Function f) {
  if constexpr (lanes == 2) {
    return f(x[0], x[1]);
  } else {
    Vector<Real, lanes / 2> half[2];
    std::memcpy(half, &x, sizeof x);
    return combine<Real, lanes / 2>(f(half[0], half[1]), f);
  }
}
template <class Real> Real sum(Reals<Real> x) {
  return combine<Real, Wide<Real>::lanes>(x, [](auto left, auto right) { return left + right; });
}
// The sum with double's digits.
template <class Real> double sum_in_double(Reals<Real> x) {
  if constexpr (std::is_same_v<Real, double>) {
    return sum<double>(x);
  } else {
    constexpr int half_lanes = Wide<Real>::lanes / 2;
    Vector<Real, half_lanes> half[2];
    std::memcpy(half, &x, sizeof x);
    using Doubles = Vector<double, half_lanes>;
    Doubles pairs = __builtin_convertvector(half[0], Doubles) + __builtin_convertvector(half[1], Doubles);
    return combine<double, half_lanes>(pairs, [](auto left, auto right) { return left + right; });
  }
}
// As many integers of 64 bits as a vector holds.
using Longs = typename Wide<double>::Signed;
constexpr int64_t long_lanes = Wide<double>::lanes;
// Returns true if a comparison is true in any lane.
inline bool any(Longs is_true) {
  return combine<int64_t, long_lanes>(is_true, [](auto left, auto right) { return left | right; }) != 0;
}
// The larger of m and z, m where z is nan; and the smaller, nan where z is.
#ifdef __AVX512F__
inlined inline Floats larger(Floats m, Floats z) { return _mm512_max_ps(z, m); }
inlined inline Floats smaller(Floats m, Floats z) { return _mm512_min_ps(m, z); }
inlined inline Reals<double> larger(Reals<double> m, Reals<double> z) { return _mm512_max_pd(z, m); }
inlined inline Reals<double> smaller(Reals<double> m, Reals<double> z) { return _mm512_min_pd(m, z); }
#elif defined(__AVX2__)
inlined inline Floats larger(Floats m, Floats z) { return _mm256_max_ps(z, m); }
inlined inline Floats smaller(Floats m, Floats z) { return _mm256_min_ps(m, z); }
inlined inline Reals<double> larger(Reals<double> m, Reals<double> z) { return _mm256_max_pd(z, m); }
inlined inline Reals<double> smaller(Reals<double> m, Reals<double> z) { return _mm256_min_pd(m, z); }
#else
template <class Vec> inlined inline Vec larger(Vec m, Vec z) { return z > m ? z : m; }
template <class Vec> inlined inline Vec smaller(Vec m, Vec z) { return m < z ? m : z; }
#endif
template <class Real> Real largest(Reals<Real> x) {
  return combine<Real, Wide<Real>::lanes>(x, [](auto left, auto right) { return right > left ? right : left; });
}

// −|x|
template <class Real> inlined inline Reals<Real> negative(Reals<Real> x) {
  using Bits = typename Wide<Real>::Bits;
  return (Reals<Real>)((Bits)x | (Bits)(-Reals<Real>{}));
}

// The product, 0 where the factor is 0, also of what is not finite: what does not count adds nothing.
template <class Number> Number product(Number factor, Number x) { return factor == 0 ? factor * 0 : factor * x; }

}  // namespace
