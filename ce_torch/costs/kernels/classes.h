// Rows with a class each, which stands for a desired output of 1 in its column.

#pragma once

#include "row_numbers.h"

namespace {

// The numbers at these indices.
#ifdef __AVX512F__
inlined inline Floats gather(const float* from, Wide<float>::Signed index) {
  return (Floats)_mm512_i32gather_ps((__m512i)index, from, sizeof(float));
}
inlined inline Reals<double> gather(const double* from, Longs index) {
  return (Reals<double>)_mm512_i64gather_pd((__m512i)index, from, sizeof(double));
}
inlined inline Reals<double> gather(const float* from, Longs index) {
  return (Reals<double>)_mm512_cvtps_pd(_mm512_i64gather_ps((__m512i)index, from, sizeof(float)));
}
#endif
template <class Real, class Number, class Index> inlined inline auto gather(const Number* from, Index index) {
#ifdef __AVX512F__
  if constexpr (std::is_same_v<Number, Real>) return gather(from, index);
#endif
  using Gathered = std::conditional_t<std::is_same_v<Index, Longs>, double, Real>;
  Reals<Gathered> numbers;
  for (int lane = 0; lane < Wide<Gathered>::lanes; lane++) numbers[lane] = load_as<Real>(from + index[lane], 1)[0];
  return numbers;
}

template <class Real, bool tiled> struct ClassRows : RowNumbers<Real, tiled> {
  using Base = RowNumbers<Real, tiled>;
  using Base::lanes;
  using Base::task;

  // A column for a row, and for each row of a vector.
  using Column = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;
  using Columns = std::conditional_t<tiled, typename Wide<Real>::Signed, Column>;
  static constexpr Column none = -1;

  const int64_t ignored;  // a class that is none

  explicit ClassRows(const Task& task, int64_t ignored = none) : Base(task), ignored(ignored) {}

  // The class of each row of a stripe; none if y are outputs, or the row is ignored.
  struct Classes {
    Column y[Base::most_vectors * lanes];
    bool are_all_ignored;
  };
  outlined Classes classes(const Stripe& stripe) const {
    Classes classes;
    Longs counted = {};
    int64_t step = task.layout.inner().steps.of[of_y], rows = tiled ? this->width(stripe) * lanes : 1;
    for (int64_t row = 0; row < rows; row += long_lanes) {
      Longs y = Longs{} + none;
      if (task.has_classes()) y = task.classes(this->start(stripe, row, of_y), stripe.rows - row, step);
      y = y == ignored ? none : y;
      counted |= y != none;
      auto columns = __builtin_convertvector(y, Vector<Column, long_lanes>);
      std::memcpy(classes.y + row, &columns, sizeof columns);
    }
    classes.are_all_ignored = task.has_classes() && !any(counted);
    return classes;
  }

  // The columns of a vector's rows.
  static Columns columns(const Classes& classes, int64_t vector) {
    Columns columns;
    std::memcpy(&columns, classes.y + vector * lanes, sizeof columns);
    return columns;
  }

  // Calls f(vector, lane, line, number) for the rows whose class is among the columns of a block, at this place.
  template <class Function>
  void each_class(const Classes& classes, const Stripe& stripe, const Block& block, Function f) const {
    if constexpr (!tiled) {
      int64_t place = classes.y[0] - block.column;
      if (0 <= place && place < block.numbers) f(0, 0, 0, place);
    } else {
      for (int64_t vector = 0; vector < this->width(stripe); vector++) {
        Columns line = columns(classes, vector) - int32_t(block.column);
        uint64_t rows = bits<Real>((line >= 0) & (line < int32_t(block.lines)));
        for (; rows; rows &= rows - 1) {
          int lane = __builtin_ctzll(rows);
          f(vector, lane, line[lane], vector * lanes + lane);
        }
      }
    }
  }
};

}  // namespace
