// Costs of a softmax layer.

#pragma once

#include "softmax_target.h"

namespace {

// The log-likelihood of a softmax layer. With m = maxⱼ zⱼ, xⱼ = c (zⱼ − m) and r = Σⱼ exp xⱼ − 1, to which the largest z
// adds nothing, C = T ln(1 + r) − Σⱼ tⱼ xⱼ and δ = c (exp x (T − t) − t (r + (1 − exp x))) / (1 + r).
template <class Real, bool tiled> struct Softmax : SoftmaxTarget<Real, tiled> {
  using Base = SoftmaxTarget<Real, tiled>;
  using typename Base::Classes;
  using typename Base::Inputs;
  template <class OfZ, class OfY = OfZ> using InputsOf = typename Base::template InputsOf<OfZ, OfY>;
  using typename Base::Label;
  using typename Base::Memory;
  using typename Base::Place;
  using typename Base::Stat;
  using typename Base::Targets;
  using typename Base::Vec;
  using Base::has_t;
  using Base::is_apart;
  using Base::is_class;
  using Base::lanes;
  using Base::task;
  static constexpr Real infinity = std::numeric_limits<Real>::infinity();
  static constexpr Real lowest = std::numeric_limits<Real>::lowest();

  const Real c;

  explicit Softmax(const Task& task)
      : Base(task), c(Real(std::max(task.numbers[0], double(std::numeric_limits<Real>::min())))) {}

  template <class Number> static Number finite(Number m) { return m == -infinity ? lowest : m; }

  // c (z − m), 0 where both are ∞. m is finite(m), with which it is −∞ where both are −∞.
  template <class Number> inlined Number x(Number z, Stat m) const {
    Number difference = z - m;
    if constexpr (tiled) {
      difference = z == infinity ? 0 : difference;
    } else {
      if (m == infinity) difference = z == infinity ? 0 : difference;
    }
    return c * difference;
  }

  // Calls f(targets, x), where x(z, m) is z − m if no row of a vector needs more. Dense targets take longer anyway.
  template <class OfY = Real, class Function> inlined void with_targets_and_x(Stat m, Function&& f) const {
    bool is_finite;
    if constexpr (tiled) is_finite = bits<Real>(m == infinity) == 0;
    else is_finite = m != infinity;
    this->template with_targets<OfY>([&](auto targets) inlined {
      if constexpr (targets != Targets::dense) {
        if (c == 1 && is_finite) return f(targets, [](Vec z, Stat m) inlined { return z - m; });
      }
      f(targets, [this](Vec z, Stat m) inlined { return x(z, m); });
    });
  }

  // The sums over the columns of each row so far: of exp x, of how many are 1 and of the others; of t x and of t.
  struct Sums {
    Stat m = Stat{} - infinity, ones = {}, others = {}, tx = {}, T = {};
    Stat r() const { return others + (ones - 1); }
  };

  // z is read twice, so that of half precision it is made numbers to compute with first.
  template <class OfY>
  void add(Sums& sums, const InputsOf<Real, OfY>& inputs, const Label& label, const Block& block, int64_t vector) const {
    auto line = this->label_line(label, block);
    auto z_at = [&](const Place& place) inlined { return first<Real>(place.count, inputs.z.at(place), -infinity); };
    Vec most = Vec{} - infinity;
    this->each_vector(block, vector, [&](const Place& place) inlined {
      most = z_at(place) > most ? z_at(place) : most;
    });
    Stat m;
    if constexpr (tiled) m = most;
    else m = largest<Real>(most);
    rescale(sums, m > sums.m ? m : sums.m);
    const Stat finite_m = finite(sums.m);
    Vec ones = {}, others = {}, tx = {}, T = {};
    with_targets_and_x<OfY>(sums.m, [&](auto targets, auto x_of) inlined {
      this->each_vector(block, vector, [&](const Place& place) inlined {
        inputs.z.fetch(place);
        Vec x_here = x_of(z_at(place), finite_m), e = exponential(x_here);
        auto is_one = x_here == 0;
        ones = is_one ? ones + 1 : ones;
        others = is_one ? others : others + e;
        if constexpr (targets == Targets::of_classes) {
          auto is_y = line == int32_t(place.line);
          tx = is_y ? product<Vec>(Vec{} + label.t, x_here) : tx;
          T = is_y ? label.t : T;
        } else if constexpr (targets == Targets::dense) {
          Vec t_here = this->t(inputs, label, line, place);
          tx += product(t_here, x_here);
          T += t_here;
        }
      });
    });
    sums.ones += this->sum_columns(ones);
    sums.others += this->sum_columns(others);
    if (has_t) sums.tx += this->sum_columns(tx), sums.T += this->sum_columns(T);
  }

  // Makes the sums those for a larger m.
  void rescale(Sums& sums, Stat m) const {
    Stat fall = c * (m - finite(sums.m)), all = sums.ones + sums.others;
    Stat others = all == 0 ? 0 : all * exponential(-fall);
    sums.others = m > sums.m ? others : sums.others;
    sums.ones = m > sums.m ? 0 : sums.ones;
    sums.tx = m > sums.m ? sums.tx - product(sums.T, fall) : sums.tx;
    sums.m = m;
  }

  // Calls f(block) for the blocks of a stripe.
  template <class Function> void each_block(const Stripe& stripe, Function f) const {
    for (int64_t start = 0; start < task.columns; start += this->block_columns(stripe))
      f(this->block(stripe, start, std::min(start + this->block_columns(stripe), task.columns)));
  }

  // The sums of a stripe's rows.
  void add_all(Sums* sums, const Label* labels, const Stripe& stripe, Memory& memory) const {
    each_block(stripe, [&](const Block& block) {
      this->with_vectors({of_y}, block, [&](auto* null) inlined {
        using OfY = std::remove_pointer_t<decltype(null)>;
        auto inputs = this->template read_all<Real, OfY>(block, memory);
        for (int64_t vector = 0; vector < this->width(stripe); vector++)
          add(sums[vector], inputs, labels[vector], block, vector);
      });
    });
  }
  Stat T(const Sums& sums, const Label& label) const {
    return is_class ? label.on_value + this->off_value * this->total_weight : sums.T;
  }

  void cost() const {
    double counted = this->count();
    if (task.statistics) *(double*)task.statistics = counted;
    this->reduced(task.columns, counted, [&](const Stripe& stripe, int64_t, int64_t) { return cost(stripe); });
  }

  // Stores the costs of a stripe's rows, or returns their sum.
  double cost(const Stripe& stripe) const {
    typename Base::template OfVectors<Sums> all(this->width(stripe));
    Memory memory;
    typename Base::template OfVectors<Label> labels(this->width(stripe));
    Classes classes = this->classes(stripe);
    this->set_labels(labels, stripe, classes);
    if (!classes.are_all_ignored) add_all(all, labels, stripe, memory);
    double total = 0;
    for (int64_t vector = 0; vector < this->width(stripe); vector++) {
      const Label& y = labels[vector];
      Sums& sums = all[vector];
      Stat r = sums.r(), C = -sums.tx;
      sums.T = T(sums, y);
      if (is_apart) {
        // Read after the pass, which has brought it into a cache.
        Stat z = this->at_classes(of_z, stripe, vector, classes);
        C -= product(y.on_value, x(z, finite(sums.m)));
      }
      C += product(sums.T, log1p(r));
      total += this->take_cost(stripe, vector, y.is_ignored != 0 ? 0 : C);
      if (!task.statistics || classes.are_all_ignored) continue;
      this->store_statistic(0, stripe, vector, sums.m);
      this->store_statistic(1, stripe, vector, r);
      if (!is_class) this->store_statistic(2, stripe, vector, sums.T);
    }
    return total;
  }

  // What is known of each row, m as finite(m); `is_zero` is 1 for a row that has no gradient.
  struct Known {
    Stat m, r, T, is_zero;
  };
  // What δ takes of each row.
  struct Factors : Known {
    using Known::m, Known::r, Known::T;
    Stat by_s;

    template <class Number> inlined Number delta(Number e, Number t) const {
      return by_s * (e * (T - t) - t * (r + (1 - e)));
    }
  };

  void delta() const {
    task.use_large_pages();
    double counted = task.statistics ? *(double*)task.statistics : this->count();
    int64_t part_columns = task.statistics ? std::max<int64_t>(part_elements / this->stripe_rows, 1) : task.columns;
    this->each_part(part_columns, [&](const Stripe& stripe, int64_t start, int64_t end) {
      delta(stripe, start, end, counted);
    });
  }

  void delta(const Stripe& stripe, int64_t start, int64_t end, double counted) const {
    Memory memory;
    typename Base::template OfVectors<Factors> all(this->width(stripe));
    typename Base::template OfVectors<Label> labels(this->width(stripe));
    Classes classes = this->classes(stripe);
    this->set_labels(labels, stripe, classes);
    set_factors(all, labels, stripe, classes, counted, memory);
    for (int64_t next; start < end; start = next) {
      next = std::min(start + this->block_columns(stripe), end);
      Block block = this->block(stripe, start, next);
      this->with_vectors({of_z, is_class ? of_z : of_y, of_delta}, block, [&](auto* null) inlined {
        delta<std::remove_pointer_t<decltype(null)>>(all, labels, classes, stripe, block, memory);
      });
    }
  }

  template <class Number>
  void delta(Factors* all, const Label* labels, const Classes& classes, const Stripe& stripe, const Block& block,
             Memory& memory) const {
    auto result = this->template result<Number>(block, memory.delta);
    bool is_zero = !tiled && this->at(all[0].is_zero, 0) != 0;
    InputsOf<Number> inputs;
    if (!is_zero) inputs = this->template read_all<Number>(block, memory);
    for (int64_t vector = 0; vector < this->width(stripe); vector++)
      delta(all[vector], labels[vector], inputs, block, vector, is_zero, result);
    this->finish(result, block);
    if (is_apart && !is_zero) {
      this->each_class(classes, stripe, block, [&](int64_t vector, int64_t lane, int64_t line, int64_t number) {
        const Factors& of = all[vector];
        Stat e = exponential(x(Stat{} + inputs.z.number(line, number), of.m));
        Stat delta = of.is_zero != 0 ? 0 : of.delta(e, labels[vector].t);
        result.set(line, number, this->at(delta, lane));
      });
    }
    this->write(result, block);
  }

  outlined void set_known(Known* rows, const Label* labels, const Stripe& stripe, const Classes& classes, Memory& memory) const {
    typename Base::template OfVectors<Sums> sums(this->width(stripe));
    if (!task.statistics && !classes.are_all_ignored) add_all(sums, labels, stripe, memory);
    for (int64_t vector = 0; vector < this->width(stripe); vector++) {
      const Label& y = labels[vector];
      Known& row = rows[vector];
      bool known = task.statistics;
      row.m = known ? this->load_statistic(0, stripe, vector) : sums[vector].m;
      row.r = known ? this->load_statistic(1, stripe, vector) : sums[vector].r();
      row.T = known && !is_class ? this->load_statistic(2, stripe, vector) : T(sums[vector], y);
      auto is_empty = (row.T == 0) & ((row.m == -infinity) | (row.r != row.r));
      row.is_zero = (y.is_ignored != 0) | is_empty ? Stat{} + 1 : Stat{};
      row.m = finite(row.m);
    }
  }

  void set_factors(Factors* all, const Label* labels, const Stripe& stripe, const Classes& classes, double counted,
                   Memory& memory) const {
    typename Base::template OfVectors<Known> known(this->width(stripe));
    set_known(known, labels, stripe, classes, memory);
    for (int64_t vector = 0; vector < this->width(stripe); vector++) {
      const Label& y = labels[vector];
      Factors& of = all[vector];
      static_cast<Known&>(of) = known[vector];
      Stat g = this->grad(stripe, vector, counted);
      of.is_zero = g == 0 ? 1 : of.is_zero;
      of.by_s = c * g / (1 + of.r);
    }
  }

  template <class Number>
  void delta(const Factors& of, const Label& label, const InputsOf<Number>& inputs, const Block& block, int64_t vector,
             bool is_zero, typename Base::template ResultOf<Number>& result) const {
    if (is_zero) {
      this->each_vector(block, vector, [&](const Place& place) inlined { result.set(place, Vec{}); });
      return;
    }
    Stat factor = of.by_s * of.T, by_y = of.by_s * label.t;
    auto line = this->label_line(label, block);
    with_targets_and_x(of.m, [&](auto targets, auto x_of) inlined {
      this->each_vector(block, vector, [&](const Place& place) inlined {
        inputs.z.fetch(place);
        Vec e = exponential(x_of(inputs.z.at(place), of.m)), delta = factor * e;
        if constexpr (targets == Targets::of_classes) {
          delta = line == int32_t(place.line) ? Vec{} - by_y * (of.r + (1 - e)) : delta;
        } else if constexpr (targets == Targets::dense) {
          delta = of.delta(e, this->t(inputs, label, line, place));
        }
        if constexpr (tiled) delta = of.is_zero != 0 ? 0 : delta;
        result.set(place, delta);
      });
    });
  }
};

}  // namespace
