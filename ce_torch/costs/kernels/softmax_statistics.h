// The numbers of a softmax layer: log-probability, logsumexp, entropy and prediction, and δ of their gradients.

#pragma once

#include "softmax.h"

namespace {

// φ(z) = κ tanh(z / κ), or z without a softcap κ. With u = exp(−2 |z| / κ) tanh |z / κ| = (1 − u) / (1 + u).
template <class Real> struct Softcap {
  using Vec = Reals<Real>;
  const Real softcap;  // 0 for none

  static Vec exponent(Vec z, Real softcap) { return (z < 0 ? z : -z) * (2 / softcap); }

  // Of a vector, or of one number.
  template <class Number> inlined Number operator()(Number z) const {
    if constexpr (std::is_same_v<Number, Real>) return number_capped(z);
    else return capped(z);
  }
  template <class Number> inlined Number slope(Number z) const {
    if constexpr (std::is_same_v<Number, Real>) return number_slope(z);
    else return slopes(z);
  }

  outlined Real number_capped(Real z) const { return capped(Vec{} + z)[0]; }
  outlined Real number_slope(Real z) const { return slopes(Vec{} + z)[0]; }

  inlined Vec capped(Vec z) const {
    if (softcap == 0) return z;
    constexpr int terms = Wide<Real>::terms_of_exp;
    Vec y = exponent(z, softcap), u = exp_of_vector<Real>(y), series = Vec{} + Real(inverse_factorials[terms - 1]);
    // Where u is near 1, the series of 1 − exp y keeps its digits.
#pragma GCC unroll 16
    for (int i = terms - 2; i >= 1; i--) series = Real(inverse_factorials[i]) + y * series;
    Vec fall = y > Real(-0.34) ? -y * series : 1 - u, size = softcap * (fall / (1 + u));
    return z < 0 ? -size : size;
  }

  // φ′(z) = 1 / cosh²(z / κ), with all its digits where tanh is near 1.
  inlined Vec slopes(Vec z) const {
    if (softcap == 0) return Vec{} + 1;
    Vec u = exp_of_vector<Real>(exponent(z, softcap)), inverse = 1 / (1 + u);
    return 4 * u * (inverse * inverse);
  }
};

// What there is of each example, in the order of the examples: p, ℓ and H, what δ takes of the pass over z, and the
// gradients of p, ℓ and H.
enum Row { row_log_prob, row_logsumexp, row_entropy, row_m, row_r, row_H, row_g_p, row_g_l, row_g_H };

template <class Real, bool tiled> struct SoftmaxStatistics : Softmax<Real, tiled> {
  using Base = Softmax<Real, tiled>;
  using typename Base::Classes;
  using typename Base::Inputs;
  using typename Base::Label;
  using typename Base::Memory;
  using typename Base::Place;
  using typename Base::Stat;
  using typename Base::Vec;
  using Base::c;
  using Base::adds_class;
  using Base::infinity;
  using Base::is_class;
  using Base::is_dense;
  using Base::lanes;
  using Base::sets_class;
  using Base::task;
  using Base::x;
  using Indices = typename Wide<Real>::Signed;
  using Index = std::conditional_t<std::is_same_v<Real, float>, int32_t, int64_t>;

  const Softcap<Real> cap;
  const bool has_entropy;

  explicit SoftmaxStatistics(const Task& task)
      : Base(task), cap{Real(task.numbers[2])}, has_entropy(task.numbers[3] != 0) {}

  Real* row(Row which, int64_t index) const { return (Real*)task.data[of_row] + which * task.examples + index; }
  outlined Stat load_row(Row which, const Stripe& stripe, int64_t vector) const {
    Stat stat = {};
    this->each_row(stripe, vector, [&](int64_t lane, int64_t r) {
      this->at(stat, lane) = *row(which, this->start(stripe, r, of_row));
    });
    return stat;
  }
  outlined void store_row(Row which, const Stripe& stripe, int64_t vector, Stat stat) const {
    this->each_row(stripe, vector, [&](int64_t lane, int64_t r) {
      *row(which, this->start(stripe, r, of_row)) = this->at(stat, lane);
    });
  }

  // Beside the sums of φ: that of exp(x) x, and the largest z with the first column that has it.
  struct Sums : Base::Sums {
    Vec ex = {};
    Stat most = Stat{} - infinity;
    Indices best = {};
  };

  void add(Sums& sums, const Inputs& inputs, const Label& label, const Block& block, int64_t vector) const {
    auto line = this->label_line(label, block);
    move(sums, Vec{} + cap(find_most(sums, inputs, block, vector)));
    const Vec u = sums.u;
    Vec m = sums.m, others = {}, tx = {}, T = {}, ex = {};
    this->each_vector_in_turn(block, vector, [&](const Place& place) inlined {
      inputs.z.fetch(place);
      Vec z = first<Real>(place.count, cap(inputs.z.at(place)), -infinity), x_here = x(smaller(m, z), u);
      Vec e = exponential(x_here);
      m = larger(m, z);
      others += e;
      if (has_entropy) ex += product<Vec>(e, x_here);
      if (is_dense) {
        Vec t_here = this->t(inputs, label, line, place);
        tx += product(t_here, x(z, u));
        T += t_here;
      }
    });
    sums.m = m;
    sums.others += others;
    if (has_entropy) sums.ex += ex;
    if (is_dense) sums.tx += tx, sums.T += T;
  }

  // Returns the largest z so far, after those of a block.
  Stat find_most(Sums& sums, const Inputs& inputs, const Block& block, int64_t vector) const {
    Vec most = Vec{} - infinity;
    if constexpr (tiled) {
      most = sums.most;
      this->each_vector_in_turn(block, vector, [&](const Place& place) inlined {
        Vec z = inputs.z.at(place);
        sums.best = z > most ? Indices{} + Index(block.column + place.line) : sums.best;
        most = z > most ? z : most;
      });
      return sums.most = most;
    } else {
      this->each_vector_in_turn(block, vector, [&](const Place& place) inlined {
        Vec z = first<Real>(place.count, inputs.z.at(place), -infinity);
        most = z > most ? z : most;
      });
      Real largest_here = largest<Real>(most);
      if (largest_here > sums.most) {
        sums.most = largest_here;
        sums.best[0] = block.column + find(inputs, block, [&](Real z) { return z == largest_here; });
      }
      return sums.most;
    }
  }

  // Returns the first place in a block of a row where f(z) is true.
  template <class Function> static int64_t find(const Inputs& inputs, const Block& block, Function f) {
    for (int64_t i = 0; i < block.numbers; i++)
      if (f(inputs.z.at({0, i / lanes, std::min(lanes, block.numbers - i / lanes * lanes)})[i % lanes])) return i;
    return 0;
  }

  void move(Sums& sums, Vec m) const {
    Vec rise = m > sums.u ? c * (m - sums.u) : 0, fall = exponential(-rise);
    sums.ex = sums.others == 0 || fall == 0 ? 0 : fall * (sums.ex - rise * sums.others);
    Base::move(sums, m);
  }

  // What the sums of exp(x) x of a row's lanes, or of a row in each lane, come to.
  Stat total_ex(Sums sums, Stat m) const {
    move(sums, Vec{} + m);
    if constexpr (tiled) {
      return sums.ex;
    } else {
      Vec x_here = x(sums.m, this->finite(m));
      return sum<Real>(sums.ex + product<Vec>(exponential(x_here), x_here));
    }
  }

  outlined void add_all(Sums* sums, const Label* labels, const Stripe& stripe, Memory& memory) const {
    this->each_block(stripe, this->block_columns(stripe), [&](const Block& block) {
      Inputs inputs = this->read_all(block, memory);
      for (int64_t vector = 0; vector < this->width(stripe); vector++)
        add(sums[vector], inputs, labels[vector], block, vector);
    });
  }

  void cost() const {
    this->each_part(task.columns, [&](const Stripe& stripe, int64_t, int64_t) { find_numbers(stripe); });
  }

  void find_numbers(const Stripe& stripe) const {
    typename Base::template OfVectors<Sums> all(this->width(stripe));
    Memory memory;
    typename Base::template OfVectors<Label> labels(this->width(stripe));
    Classes classes = this->classes(stripe);
    this->set_labels(labels, stripe, classes);
    if (!classes.are_all_ignored) add_all(all, labels, stripe, memory);
    for (int64_t vector = 0; vector < this->width(stripe); vector++) {
      const Label& y = labels[vector];
      Sums& sums = all[vector];
      auto put = [&](Row which, Stat number) {
        this->store_row(which, stripe, vector, y.is_ignored != 0 ? Stat{} : number);
      };
      auto of = this->totals(sums);
      Stat ln = log1p(of.r), p = of.tx;
      if (adds_class) {
        Stat z = this->at_classes(of_z, stripe, vector, classes);
        p += product(y.on_value, x(cap(z), this->finite(of.m)));
      }
      put(row_log_prob, p - product(this->T(of, y), ln));
      put(row_logsumexp, c * of.m + ln);
      Stat H = ln - (has_entropy ? total_ex(sums, of.m) : Stat{}) / (1 + of.r);
      put(row_entropy, H);
      put(row_H, H);
      put(row_m, of.m);
      put(row_r, of.r);
      store_prediction(stripe, vector, sums, of.r, classes);
    }
  }

  void store_prediction(const Stripe& stripe, int64_t vector, const Sums& sums, Stat r, const Classes& classes) const {
    this->each_row(stripe, vector, [&](int64_t lane, int64_t of_stripe) {
      int64_t best = sums.best[lane];
      if (is_class && classes.y[of_stripe] == Base::none) best = task.ignore_index;
      else if (this->at(r, lane) != this->at(r, lane)) best = first_nan(stripe, of_stripe, best);
      ((int64_t*)task.data[of_grad])[this->start(stripe, of_stripe, of_grad)] = best;
    });
  }
  // PyTorch takes nan to be the largest.
  int64_t first_nan(const Stripe& stripe, int64_t of_stripe, int64_t otherwise) const {
    int64_t start = this->start(stripe, of_stripe, of_z);
    for (int64_t column = 0; column < task.columns; column++) {
      Real z = Real(this->number(of_z, start + column * task.column.of[of_z]));
      if (z != z) return column;
    }
    return otherwise;
  }

  struct Factors {
    Stat m, r, H, T, ln, inverse, g_p, g_l, g_H, is_zero;
  };

  void delta() const {
    task.use_large_pages();
    this->each_part(task.columns, [&](const Stripe& stripe, int64_t, int64_t) { delta(stripe); });
  }

  void delta(const Stripe& stripe) const {
    Memory memory;
    Vec numbers[block_vectors];
    typename Base::template OfVectors<Factors> all(this->width(stripe));
    typename Base::template OfVectors<Label> labels(this->width(stripe));
    Classes classes = this->classes(stripe);
    this->set_labels(labels, stripe, classes);
    typename Base::template OfVectors<Stat> T(this->width(stripe));
    if (!is_class) add_T(T, stripe, memory);
    for (int64_t vector = 0; vector < this->width(stripe); vector++) {
      auto load = [&](Row which) { return load_row(which, stripe, vector); };
      Factors& of = all[vector];
      of.m = this->finite(load(row_m)), of.r = load(row_r), of.H = load(row_H);
      of.T = is_class ? labels[vector].on_value : T[vector];
      of.g_p = load(row_g_p), of.g_l = load(row_g_l), of.g_H = load(row_g_H);
      of.ln = log1p(of.r), of.inverse = 1 / (1 + of.r);
      of.is_zero = (of.g_p == 0) & (of.g_l == 0) & (of.g_H == 0) ? Stat{} + 1 : Stat{};
      of.is_zero = labels[vector].is_ignored != 0 ? Stat{} + 1 : of.is_zero;
    }
    this->each_block(stripe, this->block_columns(stripe), [&](const Block& block) {
      bool is_zero = !tiled && this->at(all[0].is_zero, 0) != 0;
      Inputs inputs;
      if (!is_zero) inputs = this->read_all(block, memory);
      auto result = this->result(block, numbers);
      for (int64_t vector = 0; vector < this->width(stripe); vector++)
        delta(all[vector], labels[vector], inputs, block, vector, is_zero, result);
      this->finish(result, block);
      if (sets_class && !is_zero) {
        this->each_class(classes, stripe, block, [&](int64_t vector, int64_t lane, int64_t line, int64_t number) {
          const Factors& of = all[vector];
          Stat delta = delta_at<Stat>(of, Stat{} + inputs.z.number(line, number), labels[vector].t);
          delta = of.is_zero != 0 ? Stat{} : delta;
          result.set(line, number, this->at(delta, lane));
        });
      }
      this->write(result, block);
    });
  }

  void add_T(Stat* T, const Stripe& stripe, Memory& memory) const {
    this->each_block(stripe, this->block_columns(stripe), [&](const Block& block) {
      Inputs inputs = this->read_all(block, memory);
      for (int64_t vector = 0; vector < this->width(stripe); vector++) {
        Vec sum = {};
        this->each_vector_in_turn(block, vector, [&](const Place& place) inlined {
          sum += this->t(inputs, Label{}, typename Base::Columns{} - 1, place);
        });
        T[vector] += this->sum_columns(sum);
      }
    });
  }

  // δ of the desired output t, before what is known to be 0.
  template <class Number> inlined Number delta_at(const Factors& of, Number z, Number t) const {
    Number x_here = x(cap(z), of.m), e = exponential(x_here), a = e * of.inverse;
    Number by_s = product<Number>(Number{} + of.g_p, (t * (of.r + (1 - e)) - e * (of.T - t)) * of.inverse);
    by_s += product<Number>(Number{} + of.g_l, a);
    if (has_entropy) by_s -= product<Number>(Number{} + of.g_H, product<Number>(a, x_here - of.ln + of.H));
    return c * (by_s * cap.slope(z));
  }

  void delta(const Factors& of, const Label& label, const Inputs& inputs, const Block& block, int64_t vector,
             bool is_zero, typename Base::Result& result) const {
    if (is_zero) {
      this->each_vector(block, vector, [&](const Place& place) inlined { result.set(place, Vec{}); });
      return;
    }
    auto line = this->label_line(label, block);
    this->each_vector_in_turn(block, vector, [&](const Place& place) inlined {
      inputs.z.fetch(place);
      Vec t = is_dense || !sets_class ? this->t(inputs, label, line, place) : Vec{};
      Vec delta = delta_at<Vec>(of, inputs.z.at(place), t);
      if constexpr (tiled) delta = of.is_zero != 0 ? 0 : delta;
      result.set(place, delta);
    });
  }
};

}  // namespace
