// exp x, ln x and ln(1 + u) of vectors, with all their digits.

#pragma once

#include "numbers.h"

namespace {

constexpr double inverse_factorials[] = {
    1.0,          1.0,           1.0 / 2,         1.0 / 6,          1.0 / 24,          1.0 / 120,
    1.0 / 720,    1.0 / 5040,    1.0 / 40320,     1.0 / 362880,     1.0 / 3628800,     1.0 / 39916800,
    1.0 / 479001600, 1.0 / 6227020800, 1.0 / 87178291200};

// 2ⁿ, and 0 of the lowest n: the last bits of `shifted` are n, and belong where a number has its exponent.
template <class Real> inlined inline Reals<Real> power_of_2(Reals<Real> shifted) {
  using Bits = typename Wide<Real>::Bits;
  return (Reals<Real>)(((Bits)shifted << Wide<Real>::fraction_bits) + (Bits)(Reals<Real>{} + 1));
}

#ifdef __AVX512F__
constexpr long double exp_of_fraction(long double x) {
  long double sum = 1, term = 1;
  for (int i = 1; i < 30; i++) sum += term *= x / i;
  return sum;
}
// Of each lane i of a vector 2^(i / lanes), and what is lost by its rounding, in parts of it.
template <class Real> struct Roots {
  Real of_2[Wide<Real>::lanes] = {}, lost[Wide<Real>::lanes] = {};
  constexpr Roots() {
    for (int i = 0; i < Wide<Real>::lanes; i++) {
      long double root = exp_of_fraction(0x1.62e42fefa39ef35793cp-1L * i / Wide<Real>::lanes);
      of_2[i] = Real(root);
      lost[i] = Real((root - of_2[i]) / of_2[i]);
    }
  }
};
template <class Real> constexpr Roots<Real> roots;

Reals<float> root_at(const float* roots, Wide<float>::Bits place) {
  return (Reals<float>)_mm512_permutexvar_ps((__m512i)place, _mm512_loadu_ps(roots));
}
Reals<double> root_at(const double* roots, Wide<double>::Bits place) {
  return (Reals<double>)_mm512_permutexvar_pd((__m512i)place, _mm512_loadu_pd(roots));
}

// x · 2ⁿ, where n is rounded down.
inlined inline Reals<float> scale_by_power_of_2(Reals<float> x, Reals<float> n) { return _mm512_scalef_ps(x, n); }
inlined inline Reals<double> scale_by_power_of_2(Reals<double> x, Reals<double> n) { return _mm512_scalef_pd(x, n); }

// exp(x) for x not far above 0, as 2ⁿ root (1 + change). With n = x / ln 2, rounded to one of as many parts of 1 as there
// are lanes, a vector has all roots of 2 that there are, and what is left of x is so small that a few terms of the series
// do.
template <class Real> inlined inline Reals<Real> exp_of_vector(Reals<Real> x) {
  using W = Wide<Real>;
  using Bits = typename W::Bits;
  constexpr Real round = W::round / W::lanes;
  x = larger(x, Reals<Real>{} + 2 * W::lowest_exponent);
  Reals<Real> shifted = x * Real(0x1.71547652b82fep0) + round, n = shifted - round;
  Reals<Real> r = (x - n * W::ln2_high) - n * W::ln2_low;
  Reals<Real> series = Reals<Real>{} + Real(inverse_factorials[W::terms_of_short_exp - 1]);
#pragma GCC unroll 16
  for (int i = W::terms_of_short_exp - 2; i > 0; i--) series = Real(inverse_factorials[i]) + r * series;
  Reals<Real> root = root_at(roots<Real>.of_2, (Bits)shifted);
  Reals<Real> change = r * series + root_at(roots<Real>.lost, (Bits)shifted);
  return scale_by_power_of_2(root + root * change, n);
}
#else
// exp(x) for x not far above 0, and 0 where that is far below the normal numbers. With n = x / ln 2, rounded, and
// |r| ≤ ½ ln 2 it is 2ⁿ exp(r), for which a few terms of the series do.
template <class Real> inlined inline Reals<Real> exp_of_vector(Reals<Real> x) {
  using W = Wide<Real>;
  x = larger(x, Reals<Real>{} + W::lowest_exponent);
  Reals<Real> shifted = x * Real(0x1.71547652b82fep0) + W::round, n = shifted - W::round;
  Reals<Real> r = (x - n * W::ln2_high) - n * W::ln2_low;
  Reals<Real> series = Reals<Real>{} + Real(inverse_factorials[W::terms_of_exp - 1]);
#pragma GCC unroll 16
  for (int i = W::terms_of_exp - 2; i >= 0; i--) series = Real(inverse_factorials[i]) + r * series;
  return series * power_of_2<Real>(shifted);
}
#endif

// exp(x) = power + change, for −80 ≤ x ≤ 80. The power is 2ⁿ, so that power − 1 is exact, and change is 2ⁿ (exp(r) − 1):
// exp(x) − 1 keeps all its digits.
struct ExpTerms {
  Floats power, change;

  explicit inlined ExpTerms(Floats x) {
    using W = Wide<float>;
    Floats shifted = x * 0x1.715476p0f + W::round, n = shifted - W::round;
    Floats r = (x - n * W::ln2_high) - n * W::ln2_low, series = {};
#pragma GCC unroll 16
    for (int i = W::terms_of_exp - 1; i > 0; i--) series = float(inverse_factorials[i]) + r * series;
    power = power_of_2<float>(shifted);
    change = power * (r * series);
  }
};

// ln(x) for x > 0, −∞ for 0, and nan for nan. With x = 2ᵏ f, √½ ≤ f < √2, it is k ln 2 + 2 artanh(q), q = (f − 1) / (f + 1).
template <class Real> Reals<Real> log_of_positive(Reals<Real> x) {
  using W = Wide<Real>;
  using Bits = typename W::Bits;
  using Signed = typename W::Signed;
  Bits difference = (Bits)x - (Bits)(Reals<Real>{} + Real(0x1.6a09e6p-1));
  Signed k = (Signed)difference >> W::fraction_bits;
  Reals<Real> f = (Reals<Real>)((Bits)x - ((Bits)k << W::fraction_bits)), q = (f - 1) / (f + 1), q2 = q * q, series = {};
#pragma GCC unroll 20
  for (int i = W::terms_of_log - 1; i >= 0; i--) series = Real(2) / Real(2 * i + 1) + q2 * series;
  Reals<Real> n = __builtin_convertvector(k, Reals<Real>);
  Reals<Real> log = n * W::ln2_high + (n * W::ln2_low + q * series);
  return x == 0 ? -std::numeric_limits<Real>::infinity() : x == x ? log : x;
}

// ln(1 + u) for 0 ≤ u ≤ 1, as 2 artanh(q) with q = u / (2 + u) ≤ ⅓: no digit of a small u is lost.
template <class Real> Reals<Real> log1p_of_fraction(Reals<Real> u) {
  Reals<Real> q = u / (2 + u), q2 = q * q, series = {};
#pragma GCC unroll 20
  for (int i = Wide<Real>::terms_of_log - 1; i >= 0; i--) series = Real(2) / Real(2 * i + 1) + q2 * series;
  return q * series;
}

// ln(1 + r) for any r.
template <class Real> Reals<Real> log1p_of_any(Reals<Real> r) {
  return r >= 0 && r <= 1 ? log1p_of_fraction<Real>(r) : log_of_positive<Real>(1 + r);
}

// Of one number as of several: the same formulas are those of a row, and of rows side by side.
inlined inline Reals<float> exponential(Reals<float> x) { return exp_of_vector<float>(x); }
inlined inline Reals<double> exponential(Reals<double> x) { return exp_of_vector<double>(x); }
inline float exponential(float x) { return exponential(Reals<float>{} + x)[0]; }
inline double exponential(double x) { return exponential(Reals<double>{} + x)[0]; }
outlined inline Reals<float> log1p(Reals<float> r) { return log1p_of_any<float>(r); }
outlined inline Reals<double> log1p(Reals<double> r) { return log1p_of_any<double>(r); }
using std::log1p;

// Σ ln(1 + u) of at most `most` numbers from 0 to 1, with one logarithm. 1 + `product` is Π (1 + u): without the 1 no digit
// of a small u is lost. Π (1 + u) is at most 2⁶⁴, and finite.
template <class Real> struct Logarithms {
  static constexpr int most = 64;

  Reals<Real> product = {};

  inlined void add(Reals<Real> u) { product = product * u + (product + u); }
  Reals<Real> sum() const { return log1p(product); }
};

}  // namespace
