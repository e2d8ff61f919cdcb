// Costs of a softmax layer.

#pragma once

#include "softmax_powers.h"

namespace {

// The log-likelihood of a softmax layer. With m = maxⱼ zⱼ, xⱼ = c (zⱼ − m) and r = Σⱼ exp xⱼ − 1,
// C = T ln(1 + r) − Σⱼ tⱼ xⱼ and δ = c (exp x (T − t) − t (r + (1 − exp x))) / (1 + r).
template <class Real, bool tiled> struct Softmax : SoftmaxPowers<Real, tiled> {
  using Base = SoftmaxPowers<Real, tiled>;
  using typename Base::Classes;
  using typename Base::Columns;
  template <class OfZ, class OfY = OfZ> using InputsOf = typename Base::template InputsOf<OfZ, OfY>;
  using typename Base::Label;
  using typename Base::Memory;
  using typename Base::Place;
  using typename Base::Powers;
  using typename Base::Stat;
  using typename Base::Sums;
  using typename Base::Totals;
  using typename Base::Vec;
  using Base::adds_class;
  using Base::c;
  using Base::finite;
  using Base::infinity;
  using Base::is_class;
  using Base::is_dense;
  using Base::sets_class;
  using Base::task;
  using Base::with_x;
  using Base::x;

  using Base::Base;

  void cost() const {
    double counted = this->count();
    if (task.statistics) this->set_counted(counted, is_class ? 2 : 3);
    this->reduced(task.columns, counted, [&](const Stripe& stripe, int64_t, int64_t) { return cost(stripe); });
  }

  // Stores the costs of a stripe's rows, or returns their sum.
  double cost(const Stripe& stripe) const {
    typename Base::template OfVectors<Sums> all(this->width(stripe));
    Memory memory;
    typename Base::template OfVectors<Label> labels(this->width(stripe));
    Classes classes = this->classes(stripe);
    this->set_labels(labels, stripe, classes);
    if (!classes.are_all_ignored) this->add_all(all, labels, stripe, memory);
    double total = 0;
    for (int64_t vector = 0; vector < this->width(stripe); vector++) {
      const Label& y = labels[vector];
      Totals of = this->totals(all[vector]);
      of.T = this->T(of, y);
      Stat C = -of.tx;
      if (adds_class) {
        C -= product(y.on_value, x(this->z_at_class(all[vector], stripe, vector, classes), finite(of.m)));
      }
      C += product(of.T, log1p(of.r));
      C = y.is_ignored != 0 ? 0 : C;
      total += this->take_cost(stripe, vector, this->share(C, stripe, vector, classes, std::nan("")));
      if (!task.statistics) continue;
      this->store_statistic(0, stripe, vector, of.m);
      this->store_statistic(1, stripe, vector, of.r);
      if (!is_class) this->store_statistic(2, stripe, vector, of.T);
    }
    return total;
  }

  // What is known of each row, m as finite(m); `is_zero` is 1 for a row that has no gradient.
  struct Known {
    Stat m, r, T, is_zero;
  };
  // What δ takes of each row; `by_e` times exp x is δ where t = 0.
  struct Factors : Known {
    using Known::m, Known::r, Known::T, Known::is_zero;
    Stat by_s, by_e;

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
    if (this->keeps_powers(stripe)) return set_delta_of_powers(all, labels, stripe, classes, counted, memory);
    set_factors(all, labels, stripe, classes, counted, memory);
    for (int64_t next; start < end; start = next) {
      next = std::min(start + this->block_columns(stripe), end);
      Block block = this->block(stripe, start, next);
      this->with_vectors({of_z, is_class ? of_z : of_y, of_delta}, block, [&](auto* null, bool) inlined {
        set_delta<std::remove_pointer_t<decltype(null)>>(all, labels, classes, stripe, block, memory);
      });
    }
  }

  template <class Number>
  void set_delta(const Factors* rows, const Label* labels, const Classes& classes, const Stripe& stripe,
                 const Block& block, Memory& memory) const {
    Vec numbers[block_vectors];
    auto result = this->template result<Number>(block, numbers);
    if (!tiled && bits<Real>(Vec{} + rows[0].is_zero != 0)) {
      this->each_vector(block, 0, [&](const Place& place) inlined { result.set(place, Vec{}); });
      this->finish(result, block);
      return this->write(result, block);
    }
    auto inputs = this->template read_all<Number>(block, memory);
    set_delta(result, rows, labels, inputs, block, this->width(stripe));
    this->finish(result, block);
    if (adds_class) {
      this->each_class(classes, stripe, block, [&](int64_t vector, int64_t lane, int64_t line, int64_t number) {
        const Factors& of = rows[vector];
        Stat e = exponential(x(Stat{} + inputs.z.number(line, number), of.m));
        Stat delta = of.is_zero != 0 ? 0 : of.delta(e, labels[vector].t);
        result.set(line, number, this->at(delta, lane));
      });
    }
    this->write(result, block);
  }

  template <class Number>
  void set_delta(typename Base::template ResultOf<Number>& result, const Factors* rows, const Label* labels,
                 const InputsOf<Number>& inputs, const Block& block, int64_t width) const {
    bool is_finite = true;
    for (int64_t vector = 0; vector < width; vector++) is_finite &= this->is_finite_maximum(rows[vector].m);
    const Factors row = rows[0];
    // Calls f(vector, place, what δ takes, exp x) for every vector.
    auto each_e = [&](auto x_of, auto f) inlined {
      this->each_place(block, 0, width, [&](int64_t vector, const Place& place) inlined {
        const Factors& of = tiled ? rows[vector] : row;
        inputs.z.fetch(place);
        Vec delta = f(vector, place, of, exponential(x_of(inputs.z.at(place), of.m)));
        if constexpr (tiled) delta = of.is_zero != 0 ? 0 : delta;
        result.set(place, delta);
      });
    };
    auto of_0 = [](int64_t, const Place&, const Factors& of, Vec e) inlined { return of.by_e * e; };
    auto of_t = [&](int64_t vector, const Place& place, const Factors& of, Vec e) inlined {
      const Label& label = labels[vector];
      return of.delta(e, this->t(inputs, label, this->label_line(label, block), place));
    };
    if (is_dense) return each_e([this](Vec z, Stat m) inlined { return x(z, m); }, of_t);
    with_x(is_finite, [&](auto x_of) inlined { each_e(x_of, of_0); });
  }

  Totals stored(const Stripe& stripe, int64_t vector) const {
    Totals of;
    of.m = this->load_statistic(0, stripe, vector);
    of.r = this->load_statistic(1, stripe, vector);
    if (!is_class) of.T = this->load_statistic(2, stripe, vector);
    return of;
  }

  Known known(const Totals& of, const Label& y) const {
    Known row;
    row.m = of.m, row.r = of.r, row.T = this->T(of, y);
    auto is_empty = (row.T == 0) & ((row.m == -infinity) | (row.r != row.r));
    row.is_zero = (y.is_ignored != 0) | is_empty ? Stat{} + 1 : Stat{};
    row.m = finite(row.m);
    return row;
  }

  outlined void set_known(Known* rows, const Label* labels, const Stripe& stripe, const Classes& classes,
                          Memory& memory) const {
    typename Base::template OfVectors<Sums> sums(this->width(stripe));
    if (!task.statistics && !classes.are_all_ignored) this->add_all(sums, labels, stripe, memory);
    for (int64_t vector = 0; vector < this->width(stripe); vector++)
      rows[vector] = known(task.statistics ? stored(stripe, vector) : this->totals(sums[vector]), labels[vector]);
  }

  Factors factors(const Known& row, const Stripe& stripe, int64_t vector, const Classes& classes, double counted) const {
    Factors of{row};
    Stat g = this->share(this->grad(stripe, vector, counted), stripe, vector, classes);
    of.is_zero = g == 0 ? 1 : of.is_zero;
    of.by_s = c * g / (1 + of.r);
    of.by_e = of.by_s * of.T;
    return of;
  }

  void set_factors(Factors* all, const Label* labels, const Stripe& stripe, const Classes& classes, double counted,
                   Memory& memory) const {
    typename Base::template OfVectors<Known> known(this->width(stripe));
    set_known(known, labels, stripe, classes, memory);
    for (int64_t vector = 0; vector < this->width(stripe); vector++)
      all[vector] = factors(known[vector], stripe, vector, classes, counted);
  }

  outlined void set_delta_of_powers(Factors* all, const Label* labels, const Stripe& stripe, const Classes& classes,
                                    double counted, Memory& memory) const {
    const int64_t width = this->width(stripe);
    Powers& powers = this->powers_of_thread();
    Vec by_e[Base::most_vectors], at_y[Base::most_vectors];
    typename Base::template OfVectors<Totals> totals(width);
    if (classes.are_all_ignored) std::fill_n(powers.of, this->lines() * width, Vec{});
    else this->set_powers(powers, totals, labels, stripe, memory);
    for (int64_t vector = 0; vector < width; vector++) {
      const Factors& of = all[vector] = factors(known(totals[vector], labels[vector]), stripe, vector, classes, counted);
      by_e[vector] = Vec{} + (of.is_zero != 0 ? 0 : of.by_e);
      // What is not finite times 0 would not be 0.
      if (bits<Real>(Vec{} + (of.r != of.r ? of.is_zero : 0) != 0)) this->clear(powers, of.is_zero, vector, width);
      if (!adds_class) continue;
      Stat e = this->powers_at_classes(powers, stripe, vector, classes), t = labels[vector].t;
      at_y[vector] = Vec{} + (of.is_zero != 0 ? 0 : of.delta(e, t));
    }
    this->each_block(stripe, this->block_columns(stripe), [&](const Block& block) {
      this->with_vectors({is_class ? of_delta : of_y, of_delta}, block, [&](auto* null, bool) inlined {
        using Number = std::remove_pointer_t<decltype(null)>;
        InputsOf<Real, Number> inputs;
        this->read_copied(inputs.z, block, this->at_block(powers, block, stripe));
        this->read_target(inputs, block, memory);
        auto result = this->template result<Number>(block, memory.z);
        if (is_dense) set_delta_of_targets(result, all, labels, inputs, block, width);
        else set_delta_of_class(result, by_e, at_y, labels, inputs.z, block, width);
        this->finish(result, block);
        if (sets_class) {
          this->each_class(classes, stripe, block, [&](int64_t vector, int64_t lane, int64_t line, int64_t number) {
            result.set(line, number, at_y[vector][lane]);
          });
        }
        this->write(result, block);
      });
    });
  }

  template <class Number>
  void set_delta_of_targets(typename Base::template ResultOf<Number>& result, const Factors* rows, const Label* labels,
                            const InputsOf<Real, Number>& inputs, const Block& block, int64_t width) const {
    this->each_place(block, 0, width, [&](int64_t vector, const Place& place) inlined {
      const Factors& of = rows[vector];
      const Label& label = labels[vector];
      Vec delta = of.delta(inputs.z.at(place), this->t(inputs, label, this->label_line(label, block), place));
      result.set(place, of.is_zero != 0 ? Vec{} : delta);
    });
  }

  template <class Number>
  void set_delta_of_class(typename Base::template ResultOf<Number>& result, const Vec* by_e, const Vec* at_y,
                          const Label* labels, const typename Base::Numbers& powers, const Block& block, int64_t width) const {
    if constexpr (tiled) {
      if (!sets_class) {
        Columns line[Base::most_vectors];
        for (int64_t vector = 0; vector < width; vector++) line[vector] = this->label_line(labels[vector], block);
        return this->each_place(block, 0, width, [&](int64_t vector, const Place& place) inlined {
          Vec delta = by_e[vector] * powers.at(place);
          result.set(place, line[vector] == int32_t(place.line) ? at_y[vector] : delta);
        });
      }
    }
    this->each_place(block, 0, width, [&](int64_t vector, const Place& place) inlined {
      result.set(place, by_e[vector] * powers.at(place));
    });
  }
};

}  // namespace
