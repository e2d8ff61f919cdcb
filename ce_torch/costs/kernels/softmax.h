// Costs of a softmax layer.

#pragma once

#include "task.h"

namespace {

// The log-likelihood of a softmax layer. With m = maxⱼ zⱼ, xⱼ = c (zⱼ − m) and r = Σⱼ exp xⱼ − 1, to which the largest z
// adds nothing, C = T ln(1 + r) − Σⱼ tⱼ xⱼ and δ = c (exp x (T − t) − t (r + (1 − exp x))) / (1 + r).
template <class Real, bool tiled> struct Softmax : Rows<Real, tiled> {
  using Base = Rows<Real, tiled>;
  using typename Base::Stat;
  using typename Base::Vec;
  using Base::lanes;
  using Base::task;
  static constexpr Real infinity = std::numeric_limits<Real>::infinity();
  static constexpr Real lowest = std::numeric_limits<Real>::lowest();

  const Real c, smoothing, off_value;
  const bool is_class;
  // Of a class y without label smoothing t is 0 but at j = y.
  const bool is_dense, is_weighted;
  // True if t is computed for every vector.
  const bool has_t;
  const Real total_weight;

  explicit Softmax(const Task& task)
      : Base{task},
        c(Real(std::max(task.numbers[0], double(std::numeric_limits<Real>::min())))),
        smoothing(Real(task.numbers[1])),
        off_value(Real(task.numbers[1] / double(task.columns))),
        is_class(task.has_classes()),
        is_dense(!is_class || smoothing != 0),
        is_weighted(is_dense && task.data[of_weight]),
        has_t(is_dense || tiled),
        total_weight(is_class && is_dense ? Real(sum_weights()) : 0) {}

  Real weight(int64_t column) const {
    return task.data[of_weight] ? this->number(of_weight, column * task.column.of[of_weight]) : Real(1);
  }
  double sum_weights() const {
    double total = 0;
    for (int64_t column = 0; column < task.columns; column++) total += weight(column);
    return total;
  }

  // How much counts in the mean: examples, or the weights of their classes.
  double count() const {
    if (!is_class) return double(task.examples);
    double total = 0;
    int64_t counted = 0;
    task.layout.each_start(of_y, [&](int64_t row) {
      int64_t y = task.class_at(row);
      counted += y != task.ignore_index;
      if (task.data[of_weight] && y != task.ignore_index) total += weight(y);
    });
    return task.data[of_weight] ? total : double(counted);
  }

  static constexpr int64_t none = -1;
  // The class of each row of a stripe; none if y are outputs, or the row is ignored.
  struct Classes {
    int64_t y[Base::stripe_rows];
    bool are_all_ignored;
  };
  Classes classes(const Stripe& stripe) const {
    Classes classes;
    classes.are_all_ignored = is_class;
    for (int64_t row = 0; row < stripe.rows; row++) {
      int64_t y = is_class ? task.class_at(this->start(stripe, row, of_y)) : none;
      classes.y[row] = y == task.ignore_index ? none : y;
      classes.are_all_ignored &= classes.y[row] == none;
    }
    return classes;
  }

  // The numbers of a tensor at the classes of a vector's rows.
  Stat at_classes(Operand tensor, const Stripe& stripe, int64_t vector, const Classes& classes) const {
    return this->with_numbers_of(tensor, [&](auto* from) {
      std::remove_const_t<std::remove_pointer_t<decltype(from)>> numbers[lanes] = {};
      this->each_row(stripe, vector, [&](int64_t lane, int64_t row) {
        int64_t y = classes.y[row];
        if (y != none) numbers[lane] = from[this->start(stripe, row, tensor) + y * task.column.of[tensor]];
      });
      Vec all = load_as<Real>(numbers, lanes);
      if constexpr (tiled) return all;
      else return all[0];
    });
  }

  // Of rows with a class y: what t has there, all of it and beyond the others; z there, unless rows are side by side.
  struct Label {
    Stat t = {}, on_value = {}, is_ignored = {}, z = {};
    typename Wide<Real>::Signed y = {};
  };
  Label label(const Stripe& stripe, int64_t vector, const Classes& classes) const {
    Label label;
    label.y -= 1;
    if (!is_class) return label;
    this->each_row(stripe, vector, [&](int64_t lane, int64_t row) { label.y[lane] = classes.y[row]; });
    Stat weights = {};
    if (task.data[of_weight]) weights = at_classes(of_weight, stripe, vector, classes);
    else if constexpr (tiled) weights = label.y < 0 ? weights : weights + 1;
    else weights = label.y[0] >= 0;
    if constexpr (tiled) label.is_ignored = label.y < 0 ? label.is_ignored + 1 : label.is_ignored;
    else label.is_ignored = label.y[0] < 0;
    if (!tiled) label.z = at_classes(of_z, stripe, vector, classes);
    label.on_value = (1 - smoothing) * weights;
    label.t = weights * (1 - smoothing + off_value);
    return label;
  }

  void set_labels(Label* labels, const Stripe& stripe, const Classes& classes) const {
    for (int64_t vector = 0; vector < this->width(stripe); vector++) labels[vector] = label(stripe, vector, classes);
  }

  template <class Number> static Number finite(Number m) { return m == -infinity ? lowest : m; }

  // c (z − m), 0 where both are ∞ and −∞ where both are −∞.
  template <class Number> inlined Number x(Number z, Stat m) const {
    Number difference = z - finite(m);
    if constexpr (tiled) {
      difference = z == infinity ? 0 : difference;
    } else {
      if (m == infinity) difference = z == infinity ? 0 : difference;
    }
    return c * difference;
  }

  // The blocks that a thread reads and works on.
  struct Memory {
    Vec z[block_vectors], y[block_vectors], weight[block_vectors], v[block_vectors];
  };
  struct Inputs {
    typename Base::Numbers z, y, weight;
  };

  Inputs read_all(const Block& block, Memory& memory) const {
    Inputs inputs;
    inputs.z = this->read(of_z, block, memory.z);
    if (!is_class) inputs.y = this->read(of_y, block, memory.y);
    if (is_weighted) inputs.weight = this->read(of_weight, block, memory.weight);
    return inputs;
  }

  // Where the classes of rows that are side by side are among the vectors of a block.
  inlined typename Wide<Real>::Signed label_index(const Label& label, const Block& block, int64_t vector) const {
    int64_t width = (block.numbers + lanes - 1) / lanes;
    return (label.y - int32_t(block.column)) * int32_t(width) + int32_t(vector);
  }

  // t in a vector; 0 behind the end of a row. In a single row with a class y, `on_value` at y is still missing.
  inlined Vec t(const Inputs& inputs, const Label& label, typename Wide<Real>::Signed index, int64_t i,
                int64_t count) const {
    Vec t = Vec{} + off_value;
    if (!is_class) t += (1 - smoothing) * inputs.y.at(i, count);
    if (is_weighted) t *= inputs.weight.at(i, count);
    if constexpr (tiled) t = index == int32_t(i) ? label.t : t;
    return first<Real>(count, t, 0);
  }

  // The sums over the columns of each row so far: of exp x, of how many are 1 and of the others; of t x and of t.
  struct Sums {
    Stat m = Stat{} - infinity, ones = {}, others = {}, tx = {}, T = {};
    Stat r() const { return others + (ones - 1); }
  };

  void add(Sums& sums, const Inputs& inputs, const Label& label, const Block& block, int64_t vector) const {
    auto index = label_index(label, block, vector);
    auto z_at = [&](int64_t i, int64_t count) inlined { return first<Real>(count, inputs.z.at(i, count), -infinity); };
    Vec most = Vec{} - infinity;
    this->each_vector(block, vector, [&](int64_t i, int64_t count) inlined {
      most = z_at(i, count) > most ? z_at(i, count) : most;
    });
    Stat m;
    if constexpr (tiled) m = most;
    else m = largest<Real>(most);
    rescale(sums, m > sums.m ? m : sums.m);
    Vec ones = {}, others = {}, tx = {}, T = {};
    this->each_vector(block, vector, [&](int64_t i, int64_t count) inlined {
      Vec x_here = x(z_at(i, count), sums.m), e = exponential(x_here);
      ones = x_here == 0 ? ones + 1 : ones;
      others = x_here == 0 ? others : others + e;
      if (has_t) {
        Vec t_here = t(inputs, label, index, i, count);
        tx += product(t_here, x_here);
        T += t_here;
      }
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

  // The sums of a stripe's rows.
  void add_all(Sums* sums, const Label* labels, const Stripe& stripe, Memory& memory) const {
    each_block(stripe, [&](const Block& block) {
      Inputs inputs = read_all(block, memory);
      for (int64_t vector = 0; vector < this->width(stripe); vector++)
        add(sums[vector], inputs, labels[vector], block, vector);
    });
  }
  Stat T(const Sums& sums, const Label& label) const {
    return is_class ? label.on_value + off_value * total_weight : sums.T;
  }

  // Returns false, and does no more, where some y is no class.
  bool cost() const {
    if (is_class && !task.all_are_classes()) return false;
    double counted = count();
    if (task.statistics) *(double*)task.statistics = counted;
    this->reduced(task.columns, counted, [&](const Stripe& stripe, int64_t, int64_t) { return cost(stripe); });
    return true;
  }

  // Stores the costs of a stripe's rows, or returns their sum.
  double cost(const Stripe& stripe) const {
    Sums all[Base::most_vectors];
    Memory memory;
    Label labels[Base::most_vectors];
    Classes classes = this->classes(stripe);
    set_labels(labels, stripe, classes);
    if (!classes.are_all_ignored) add_all(all, labels, stripe, memory);
    double total = 0;
    for (int64_t vector = 0; vector < this->width(stripe); vector++) {
      const Label& y = labels[vector];
      Sums& sums = all[vector];
      Stat r = sums.r(), C = -sums.tx;
      sums.T = T(sums, y);
      if (!tiled) C -= product(y.on_value, x(y.z, sums.m));
      C += product(sums.T, log1p(r));
      total += this->take_cost(stripe, vector, y.is_ignored != 0 ? 0 : C);
      if (!task.statistics || classes.are_all_ignored) continue;
      this->store_statistic(0, stripe, vector, sums.m);
      this->store_statistic(1, stripe, vector, r);
      if (!is_class) this->store_statistic(2, stripe, vector, sums.T);
    }
    return total;
  }

  // What is known of each row; `is_zero` is 1 for a row that has no gradient.
  struct Known {
    Stat m, r, T, is_zero;
  };
  // What δ takes of each row, and what it is at a class y.
  struct Factors : Known {
    using Known::m, Known::r, Known::T;
    Stat by_s, at_y;

    template <class Number> inlined Number delta(Number e, Number t) const {
      return by_s * (e * (T - t) - t * (r + (1 - e)));
    }
  };

  void delta() const {
    task.use_large_pages();
    double counted = task.statistics ? *(double*)task.statistics : count();
    int64_t part_columns = task.statistics ? std::max<int64_t>(part_elements / this->stripe_rows, 1) : task.columns;
    this->each_part(part_columns, [&](const Stripe& stripe, int64_t start, int64_t end, int64_t) {
      delta(stripe, start, end, counted);
    });
  }

  void delta(const Stripe& stripe, int64_t start, int64_t end, double counted) const {
    Memory memory;
    Factors all[Base::most_vectors];
    Label labels[Base::most_vectors];
    Classes classes = this->classes(stripe);
    set_labels(labels, stripe, classes);
    set_factors(all, labels, stripe, classes, counted, memory);
    for (int64_t next; start < end; start = next) {
      next = std::min(start + this->block_columns(stripe), end);
      Block block = this->block(stripe, start, next);
      auto result = this->result(block, memory.z);
      bool is_zero = !tiled && this->at(all[0].is_zero, 0) != 0;
      Inputs inputs;
      if (!is_zero) inputs = read_all(block, memory);
      for (int64_t vector = 0; vector < this->width(stripe); vector++)
        delta(all[vector], labels[vector], inputs, block, vector, is_zero, result);
      this->finish(result, block);
      int64_t y = classes.y[0] - start;
      if (!tiled && 0 <= y && y < next - start) ((Real*)result.vectors)[y] = this->at(all[0].at_y, 0);
      this->write(result, block);
    }
  }

  template <class Row>
  void set_known(Row* rows, const Label* labels, const Stripe& stripe, const Classes& classes, Memory& memory) const {
    Sums sums[Base::most_vectors];
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
    }
  }

  void set_factors(Factors* all, const Label* labels, const Stripe& stripe, const Classes& classes, double counted,
                   Memory& memory) const {
    set_known(all, labels, stripe, classes, memory);
    for (int64_t vector = 0; vector < this->width(stripe); vector++) {
      const Label& y = labels[vector];
      Factors& of = all[vector];
      Stat g = this->grad(stripe, vector, counted);
      of.is_zero = g == 0 ? 1 : of.is_zero;
      of.by_s = c * g / (1 + of.r);
      of.at_y = of.is_zero != 0 ? 0 : of.delta(exponential(x(y.z, of.m)), y.t);
    }
  }

  void delta(const Factors& of, const Label& label, const Inputs& inputs, const Block& block, int64_t vector,
             bool is_zero, typename Base::Result& result) const {
    if (is_zero) {
      this->each_vector(block, vector, [&](int64_t i, int64_t count) inlined { result.set(i, count, Vec{}); });
      return;
    }
    auto set = [&](int64_t i, int64_t count, Vec delta) inlined {
      if constexpr (tiled) delta = of.is_zero != 0 ? 0 : delta;
      result.set(i, count, delta);
    };
    auto e = [&](int64_t i, int64_t count) inlined { return exponential(x(inputs.z.at(i, count), of.m)); };
    if (has_t) {
      auto index = label_index(label, block, vector);
      this->each_vector(block, vector, [&](int64_t i, int64_t count) inlined {
        set(i, count, of.delta(e(i, count), t(inputs, label, index, i, count)));
      });
    } else {
      Stat factor = of.by_s * of.T;
      this->each_vector(block, vector, [&](int64_t i, int64_t count) inlined { set(i, count, factor * e(i, count)); });
    }
  }

  // What a direction v takes of each row: the sums of v where exp x is 1, of exp x · v elsewhere, and of t v.
  struct Turn {
    Stat ones = {}, others = {}, tv = {};
  };

  // How C changes in the direction v, c (T Σⱼ aⱼ vⱼ − Σⱼ tⱼ vⱼ), and, where that is asked for, δ times the gradient of
  // the row's cost, c² T a ∘ (v − Σⱼ aⱼ vⱼ). With ones + others = (1 + r) Σⱼ aⱼ vⱼ no digits are lost where a is near 1.
  void change() const {
    if (task.data[of_delta]) task.use_large_pages();
    double counted = task.statistics ? *(double*)task.statistics : count();
    this->reduced(task.columns, counted, [&](const Stripe& stripe, int64_t, int64_t) {
      return change(stripe, counted);
    });
  }

  double change(const Stripe& stripe, double counted) const {
    Memory memory;
    Known rows[Base::most_vectors];
    Turn turns[Base::most_vectors];
    Label labels[Base::most_vectors];
    Classes classes = this->classes(stripe);
    set_labels(labels, stripe, classes);
    set_known(rows, labels, stripe, classes, memory);
    each_block(stripe, [&](const Block& block) {
      Inputs inputs = read_all(block, memory);
      auto v = this->read(of_v, block, memory.v);
      for (int64_t vector = 0; vector < this->width(stripe); vector++)
        add_turn(turns[vector], rows[vector], labels[vector], inputs, v, block, vector);
    });
    double total = 0;
    for (int64_t vector = 0; vector < this->width(stripe); vector++)
      total += this->take_cost(stripe, vector, C_change(turns[vector], rows[vector], labels[vector], stripe, vector, classes));
    if (!task.data[of_delta]) return total;
    each_block(stripe, [&](const Block& block) {
      auto z = this->read(of_z, block, memory.z), v = this->read(of_v, block, memory.v);
      auto result = this->result(block, memory.z);
      for (int64_t vector = 0; vector < this->width(stripe); vector++) {
        Stat g = this->grad(stripe, vector, counted);
        set_change(turns[vector], rows[vector], g, z, v, block, vector, result);
      }
      this->finish(result, block);
      this->write(result, block);
    });
    return total;
  }

  template <class Function> void each_block(const Stripe& stripe, Function f) const {
    for (int64_t start = 0; start < task.columns; start += this->block_columns(stripe))
      f(this->block(stripe, start, std::min(start + this->block_columns(stripe), task.columns)));
  }

  void add_turn(Turn& turn, const Known& row, const Label& label, const Inputs& inputs,
                const typename Base::Numbers& v, const Block& block, int64_t vector) const {
    auto index = label_index(label, block, vector);
    Vec ones = {}, others = {}, tv = {};
    this->each_vector(block, vector, [&](int64_t i, int64_t count) inlined {
      Vec e = exponential(x(inputs.z.at(i, count), row.m)), v_here = first<Real>(count, v.at(i, count), 0);
      ones = e == 1 ? ones + v_here : ones;
      others = e == 1 ? others : others + product(v_here, e);
      if (has_t) tv += product(t(inputs, label, index, i, count), v_here);
    });
    turn.ones += this->sum_columns(ones);
    turn.others += this->sum_columns(others);
    turn.tv += this->sum_columns(tv);
  }

  Stat C_change(const Turn& turn, const Known& row, const Label& label, const Stripe& stripe, int64_t vector,
                const Classes& classes) const {
    Stat tv = turn.tv;
    if (!tiled) tv += product(label.on_value, at_classes(of_v, stripe, vector, classes));
    Stat sum = (product(row.T, turn.ones) - tv) + (product(row.T, turn.others) - product(tv, row.r));
    return row.is_zero != 0 ? 0 : c * product(sum, 1 / (1 + row.r));
  }

  void set_change(const Turn& turn, const Known& row, Stat g, const typename Base::Numbers& z,
                  const typename Base::Numbers& v, const Block& block, int64_t vector,
                  typename Base::Result& result) const {
    Stat factor = row.is_zero != 0 ? 0 : product(g, row.T / ((1 + row.r) * (1 + row.r)));
    this->each_vector(block, vector, [&](int64_t i, int64_t count) inlined {
      Vec v_here = v.at(i, count), difference = v_here * row.r + (v_here - turn.ones) - turn.others;
      Vec change = c * (c * (exponential(x(z.at(i, count), row.m)) * difference));
      result.set(i, count, product<Vec>(Vec{} + factor, change));
    });
  }
};

}  // namespace
