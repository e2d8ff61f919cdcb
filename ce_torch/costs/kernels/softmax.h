// Costs of a softmax layer, row by row.

#pragma once

#include "task.h"

namespace {

// The log-likelihood of a softmax layer. With m = maxⱼ zⱼ, xⱼ = c (zⱼ − m) and r = Σⱼ exp xⱼ − 1, to which the largest z
// adds nothing, C = T ln(1 + r) − Σⱼ tⱼ xⱼ and δ = c (exp x (T − t) − t (r + (1 − exp x))) / (1 + r).
template <class Number> struct Softmax : Typed<Number> {
  using Base = Typed<Number>;
  using typename Base::Real;
  using typename Base::Vec;
  using Base::lanes;
  static constexpr Real infinity = std::numeric_limits<Real>::infinity();

  Real c, smoothing, off_value, total_weight = 0;
  bool is_class, is_dense;

  explicit Softmax(const Task& task) : Base(task) {
    c = Real(std::max(task.numbers[0], double(std::numeric_limits<Real>::min())));
    is_class = task.target == Target::classes;
    smoothing = Real(task.numbers[1]);
    off_value = Real(task.numbers[1] / double(task.columns));
    // Of a class y without label smoothing t is 0 but at j = y.
    is_dense = !is_class || smoothing != 0;
    if (is_class && is_dense)
      each_vector<lanes>(0, task.columns, [&](int64_t column, int64_t count) inlined {
        total_weight += sum<Real>(first<Real>(count, this->weights(0, column, count), 0));
      });
  }

  int64_t label(int64_t row) const { return ((const int64_t*)this->y)[row]; }

  // t of a row, but for what a class y has at j = y beyond the others.
  inlined Vec t(int64_t row, int64_t column, int64_t count) const {
    Vec outputs = is_class ? Vec{} : (1 - smoothing) * this->outputs(row, column, count);
    return first<Real>(count, this->weights(0, column, count) * (outputs + off_value), 0);
  }
  Real on_value(int64_t row) const {
    if (!is_class) return 0;
    return (1 - smoothing) * (this->weight ? ((const Real*)this->weight)[label(row)] : Real(1));
  }

  static Real finite(Real m) { return m == -infinity ? std::numeric_limits<Real>::lowest() : m; }

  inlined Vec x(Vec z, Real m) const {
    Vec difference = z - finite(m);
    if (m == infinity) difference = z == infinity ? 0 : difference;
    return c * difference;
  }
  Real x(Real z, Real m) const { return z == infinity ? 0 : c * (z - finite(m)); }

  // The sums over the columns of a row so far: of exp x, of how many are 1 and of the others; of t x and of t.
  struct Sums {
    Real m = -infinity, ones = 0, others = 0, tx = 0, T = 0;
  };

  void add(Sums& sums, const Number* z, int64_t row, int64_t start, int64_t end) const {
    auto z_at = [&](int64_t column, int64_t count) inlined {
      // Past the end of a row there is the next, which is faster to read too than to leave out.
      bool more_follows = row * this->columns + column + lanes <= this->elements();
      return first<Real>(count, load(z + column, more_follows ? lanes : count), -infinity);
    };
    Vec most = Vec{} - infinity;
    each_vector<lanes>(start, end, [&](int64_t column, int64_t count) inlined {
      most = z_at(column, count) > most ? z_at(column, count) : most;
    });
    Real m = largest<Real>(most);
    if (m > sums.m) {
      Real fall = c * (m - finite(sums.m));
      sums.others = (sums.ones + sums.others == 0) ? 0 : (sums.ones + sums.others) * std::exp(-fall);
      sums.ones = 0;
      sums.tx -= product(sums.T, fall);
      sums.m = m;
    }
    Vec ones = {}, others = {}, tx = {}, T = {};
    each_vector<lanes>(start, end, [&](int64_t column, int64_t count) inlined {
      Vec x_here = x(z_at(column, count), sums.m), e = exp_of_negative<Real>(x_here);
      ones = x_here == 0 ? ones + 1 : ones;
      others = x_here == 0 ? others : others + e;
      if (is_dense) {
        Vec t_here = t(row, column, count);
        tx += product(t_here, x_here);
        T += t_here;
      }
    });
    sums.ones += sum<Real>(ones);
    sums.others += sum<Real>(others);
    if (is_dense) sums.tx += sum<Real>(tx), sums.T += sum<Real>(T);
  }

  // Returns false, and does no more, where some y is no class.
  bool cost() const {
    if (is_class && !this->all_are_classes()) return false;
    this->each_row([&](int64_t row) { cost(row); });
    int64_t counted = 0;
    for (int64_t row = 0; row < this->rows; row++) counted += !this->is_ignored(row);
    this->counted() = double(counted);
    this->reduce();
    return true;
  }

  void cost(int64_t row) const {
    if (this->is_ignored(row)) {
      this->row_costs()[row] = 0;
      return;
    }
    const Number* z = this->z_row(row);
    Sums sums;
    for (int64_t start = 0; start < this->columns; start += chunk)
      add(sums, z, row, start, std::min(start + chunk, this->columns));
    Real r = sums.others + (sums.ones - 1), C = -sums.tx;
    if (is_class) {
      sums.T = on_value(row) + off_value * total_weight;
      C -= product(on_value(row), x(load(z + label(row), 1)[0], sums.m));
    }
    this->m()[row] = sums.m;
    this->r()[row] = r;
    this->T()[row] = sums.T;
    this->row_costs()[row] = C + product(sums.T, std::log1p(r));
  }

  void delta() const {
    this->each_row_part([&](int64_t row, int64_t start, int64_t end) { delta(row, start, end); });
  }

  void delta(int64_t row, int64_t start, int64_t end) const {
    const Number* z = this->z_row(row);
    Number* out = this->delta_row(row);
    Real g = this->row_grad(row), m = this->m()[row], r = this->r()[row], T = this->T()[row];
    if (this->is_ignored(row) || g == 0 || (T == 0 && (m == -infinity || r != r))) {
      std::memset(out + start, 0, (end - start) * sizeof(Number));
      return;
    }
    Real factor = c * g, factor_by_s = factor / (1 + r);
    auto e_at = [&](int64_t column, int64_t count) inlined {
      return exp_of_negative<Real>(x(load(z + column, count), m));
    };
    auto delta_at = [&](Vec e, Vec t) inlined { return factor_by_s * (e * (T - t) - t * (r + (1 - e))); };
    if (is_dense) {
      each_vector<lanes>(start, end, [&](int64_t column, int64_t count) inlined {
        store(delta_at(e_at(column, count), t(row, column, count)), out + column, count);
      });
    } else {
      Real factor_of_e = factor_by_s * T;
      each_vector<lanes>(start, end, [&](int64_t column, int64_t count) inlined {
        store(factor_of_e * e_at(column, count), out + column, count);
      });
    }
    if (is_class && start <= label(row) && label(row) < end) {
      int64_t y = label(row);
      Vec t_y = is_dense ? t(row, y, 1) + on_value(row) : Vec{} + on_value(row);
      store(delta_at(e_at(y, 1), t_y), out + y, 1);
    }
  }
};

}  // namespace
