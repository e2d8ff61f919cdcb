// Costs that are sums over neurons, element by element.

#pragma once

#include "classes.h"
#include "exponential.h"

namespace {

// σ(z) and σ(−z), each with all its digits.
template <class Real> struct Sigmoid {
  Reals<Real> z, larger, smaller, a, one_minus_a;

  explicit Sigmoid(Reals<Real> z) : z(z) {
    Reals<Real> u = exp_of_vector<Real>(negative<Real>(z));
    larger = 1 / (1 + u), smaller = u * larger;
    a = z < 0 ? smaller : larger;
    one_minus_a = z < 0 ? larger : smaller;
  }
  // a − y, which of an a near 1 is (1 − y) − (1 − a): it keeps its digits where y is near 1 too.
  Reals<Real> error(Reals<Real> y) const { return z < 0 ? smaller - y : (1 - y) - smaller; }
  // σ′(z)
  Reals<Real> slope() const { return larger * smaller; }
};

// −y ln a − (1 − y) ln(1 − a) without its ln(1 + exp(−|z|)).
template <class Real> inlined inline Reals<Real> linear_part(Reals<Real> z, Reals<Real> y) {
  return product<Reals<Real>>(z < 0 ? -y : 1 - y, z);
}

// What a formula takes beside tensors: doubles, so that 1 minus one keeps its digits.
template <class Real> struct Numbers {
  double first, second;
};

// Where several tensors are read at once, which no cache holds, a processor foresees too little: so many numbers ahead are
// fetched. Numbers in half precision take longer to compute with than to read.
constexpr int64_t far_ahead = 2048, far_elements = 2 << 20;

// What every sum over neurons reads, whatever its formula.
template <class Real, bool tiled> struct ElementInputs : ClassRows<Real, tiled> {
  using Base = ClassRows<Real, tiled>;
  using typename Base::Classes;
  using typename Base::Column;
  using typename Base::Place;
  using typename Base::Stat;
  using typename Base::Vec;
  using Base::lanes;
  using Base::task;

  const bool is_class, is_weighted, has_pos_weight;
  // True if z and y are all that a formula takes: one question where there would be two.
  const bool is_plain;
  const bool reads_far;

  outlined explicit ElementInputs(const Task& task)
      : Base(task),
        is_class(task.has_classes()),
        is_weighted(task.data[of_weight]),
        has_pos_weight(task.data[of_pos_weight]),
        is_plain(!is_class && !has_pos_weight),
        reads_far(!tiled && !is_half(task.type[of_z]) && task.elements() >= far_elements) {}

  // The blocks that a thread reads and works on.
  struct Memory {
    Vec z[block_vectors], y[block_vectors], weight[block_vectors], pos_weight[block_vectors], v[block_vectors];
  };
  template <class Number> struct InputsOf {
    typename Base::template NumbersOf<Number> z, y;
    typename Base::Numbers weight, pos_weight;
    const Classes& classes;
    int64_t column;  // the first of the block
  };

  template <class Number>
  outlined InputsOf<Number> read_all(const Classes& classes, const Block& block, Memory& memory) const {
    InputsOf<Number> inputs{{}, {}, {}, {}, classes, block.column};
    this->read(inputs.z, of_z, block, memory.z);
    if (!is_class) this->read(inputs.y, of_y, block, memory.y);
    if (is_weighted) this->read(inputs.weight, of_weight, block, memory.weight);
    if (has_pos_weight) this->read(inputs.pos_weight, of_pos_weight, block, memory.pos_weight);
    if (reads_far) inputs.z.ahead = inputs.y.ahead = far_ahead;
    return inputs;
  }

  // The desired outputs of a vector: of rows with a class 1 in its column and 0 elsewhere.
  template <class Number> inlined Vec y(const InputsOf<Number>& inputs, const Place& place) const {
    if (is_plain || !is_class) {
      inputs.y.fetch(place);
      return inputs.y.at(place);
    }
    if constexpr (tiled)
      return this->columns(inputs.classes, place.vector) == Column(inputs.column + place.line) ? Vec{} + 1 : Vec{};
    else
      return lane_numbers<Real>(0) == Column(inputs.classes.y[0] - inputs.column - place.vector * lanes) ? Vec{} + 1 : Vec{};
  }

  // The factors p of a vector.
  template <class Number> inlined Vec p(const InputsOf<Number>& inputs, const Place& place) const {
    return is_plain || !has_pos_weight ? Vec{} + 1 : inputs.pos_weight.at(place);
  }

  // The columns of a part: of all its rows a sum has so many elements.
  int64_t part_columns() const { return part_elements / this->stripe_rows; }

  // The gradients of the costs of a stripe's rows.
  outlined void set_grads(Stat* grads, const Stripe& stripe) const {
    for (int64_t vector = 0; vector < this->width(stripe); vector++)
      grads[vector] = this->grad(stripe, vector, double(task.examples));
  }
};

// Whether a formula's cost without weights is its linear(z, y) + ln(1 + u(z)).
template <class Formula, class = void> constexpr bool has_logarithm = false;
template <class Formula> constexpr bool has_logarithm<Formula, std::void_t<decltype(&Formula::linear)>> = true;

// A cost that is a sum over neurons: of `Formula(numbers).cost(z, y, p)` times their weights, with p = pos_weight.
template <template <class> class Formula, class Real, bool tiled> struct Elements : ElementInputs<Real, tiled> {
  using Base = ElementInputs<Real, tiled>;
  template <class Number> using InputsOf = typename Base::template InputsOf<Number>;
  using typename Base::Classes;
  using typename Base::Memory;
  using typename Base::Place;
  using typename Base::Stat;
  using typename Base::Vec;
  using Base::is_class;
  using Base::is_weighted;
  using Base::part_columns;
  using Base::set_grads;
  using Base::task;

  const Formula<Real> formula;

  explicit Elements(const Task& task) : Base(task), formula{{task.numbers[0], task.numbers[1]}} {}

  template <class Function, class Number>
  inlined Vec weighted(Function f, const InputsOf<Number>& inputs, const Place& place) const {
    inputs.z.fetch(place);
    Vec value = f(inputs.z.at(place), this->y(inputs, place), this->p(inputs, place));
    return is_weighted ? product<Vec>(inputs.weight.at(place), value) : value;
  }

  void cost() const {
    if (task.statistics) *(double*)task.statistics = double(task.examples);
    sum_parts([&](Stat* C, const Stripe& stripe, int64_t start, int64_t end) { add(C, stripe, start, end); });
  }

  // Sets C to the sums that f(sums, stripe, start, end) adds to.
  template <class Function> void sum_parts(Function f) const {
    int64_t columns = task.has_rows() ? task.columns : part_columns();
    this->reduced(columns, double(task.examples), [&](const Stripe& stripe, int64_t start, int64_t end) {
      typename Base::template OfVectors<Stat> C(this->width(stripe));
      f(C, stripe, start, end);
      return total(stripe, C, of_row);
    });
  }
  // Stores the costs of a stripe's rows, or how they change, or returns their sum.
  double total(const Stripe& stripe, Stat* costs, Operand to) const {
    double total = 0;
    for (int64_t vector = 0; vector < this->width(stripe); vector++)
      total += this->take_cost(stripe, vector, costs[vector], to);
    return total;
  }

  // Adds the costs of neurons to those of their rows.
  void add(Stat* C, const Stripe& stripe, int64_t start, int64_t end) const {
    Classes classes = this->classes(stripe);
    Memory memory;
    for (int64_t next; start < end; start = next) {
      next = std::min(start + this->block_columns(stripe), end);
      Block block = this->block(stripe, start, next);
      this->with_vectors({of_z, is_class ? of_z : of_y}, block, [&](auto* null, bool) inlined {
        auto inputs = this->template read_all<std::remove_pointer_t<decltype(null)>>(classes, block, memory);
        if constexpr (has_logarithm<Formula<Real>>) {
          if (!is_weighted && !this->has_pos_weight) return add_logarithms(C, inputs, block, this->width(stripe));
        }
        add(C, inputs, block, this->width(stripe));
      });
    }
  }
  template <class Number> void add(Stat* C, const InputsOf<Number>& inputs, const Block& block, int64_t width) const {
    auto cost = [&](Vec z, Vec y, Vec p) inlined { return formula.cost(z, y, p); };
    Vec sums[Base::most_vectors];
    std::fill(sums, sums + width, Vec{});
    this->each_place(block, 0, width, [&](int64_t vector, const Place& place) inlined {
      sums[vector] += first<Real>(place.count, weighted(cost, inputs, place), 0);
    });
    for (int64_t vector = 0; vector < width; vector++) C[vector] += this->sum_columns(sums[vector]);
  }
  template <class Number>
  void add_logarithms(Stat* C, const InputsOf<Number>& inputs, const Block& block, int64_t width) const {
    static_assert(block_terms <= Logarithms<Real>::most);
    typename Base::template OfVectors<Vec> sums(width);
    typename Base::template OfVectors<Logarithms<Real>> logarithms(width);
    this->each_place(block, 0, width, [&](int64_t vector, const Place& place) inlined {
      inputs.z.fetch(place);
      Vec z = inputs.z.at(place);
      sums[vector] += first<Real>(place.count, formula.linear(z, this->y(inputs, place)), 0);
      logarithms[vector].add(first<Real>(place.count, formula.u(z), 0));
    });
    for (int64_t vector = 0; vector < width; vector++)
      C[vector] += this->sum_columns(sums[vector] + logarithms[vector].sum());
  }

  // δ of each neuron, times the gradient of the row's cost.
  void delta() const {
    task.use_large_pages();
    auto delta = [&](Vec z, Vec y, Vec p) inlined { return formula.delta(z, y, p); };
    this->each_part(part_columns(), [&](const Stripe& stripe, int64_t start, int64_t end) {
      Classes classes = this->classes(stripe);
      Memory memory;
      typename Base::template OfVectors<Stat> grads(this->width(stripe));
      set_grads(grads, stripe);
      for (int64_t next; start < end; start = next) {
        next = std::min(start + this->block_columns(stripe), end);
        Block block = this->block(stripe, start, next);
        auto set = [&](auto* null, bool) inlined {
          using Number = std::remove_pointer_t<decltype(null)>;
          auto inputs = this->template read_all<Number>(classes, block, memory);
          auto result = this->template result<Number>(block, memory.z);
          const Stat g = grads[0];
          this->each_place(block, 0, this->width(stripe), [&](int64_t vector, const Place& place) inlined {
            result.set(place, product<Vec>(Vec{} + (tiled ? grads[vector] : g), weighted(delta, inputs, place)));
          });
          this->finish(result, block);
          this->write(result, block);
        };
        this->with_vectors({of_z, is_class ? of_z : of_y, of_delta}, block, set);
      }
    });
  }

  // How C changes in the direction v and, where that is asked for, δ times the gradient of the row's cost.
  void change() const {
    if (task.data[of_change]) return change_beside_cost();
    if (task.data[of_delta]) task.use_large_pages();
    sum_parts([&](Stat* C, const Stripe& stripe, int64_t start, int64_t end) { change(C, stripe, start, end); });
  }

  // C, and how it changes, of one reading.
  void change_beside_cost() const {
    int64_t columns = task.has_rows() ? task.columns : part_columns();
    this->reduced(columns, double(task.examples), [&](const Stripe& stripe, int64_t start, int64_t end) {
      typename Base::template OfVectors<Stat> C(this->width(stripe)), change(this->width(stripe));
      for (int64_t next; start < end; start = next) {
        next = std::min(start + this->block_columns(stripe), end);
        add_both(C, change, stripe, this->block(stripe, start, next));
      }
      return Sums{total(stripe, C, of_row), total(stripe, change, of_change)};
    });
  }

  void add_both(Stat* C, Stat* change, const Stripe& stripe, const Block& block) const {
    Classes classes = this->classes(stripe);
    Memory memory;
    auto inputs = this->template read_all<Real>(classes, block, memory);
    typename Base::Numbers v;
    this->read(v, of_v, block, memory.v);
    if (this->reads_far) v.ahead = far_ahead;
    for (int64_t vector = 0; vector < this->width(stripe); vector++) {
      Vec costs = {}, changes = {};
      this->each_vector(block, vector, [&](const Place& place) inlined {
        inputs.z.fetch(place);
        v.fetch(place);
        Vec z = inputs.z.at(place), y = this->y(inputs, place), p = this->p(inputs, place);
        Vec cost = formula.cost(z, y, p), delta = formula.delta(z, y, p);
        if (is_weighted) {
          Vec weight = inputs.weight.at(place);
          cost = product<Vec>(weight, cost), delta = product<Vec>(weight, delta);
        }
        costs += first<Real>(place.count, cost, 0);
        changes += first<Real>(place.count, product<Vec>(v.at(place), delta), 0);
      });
      C[vector] += this->sum_columns(costs);
      change[vector] += this->sum_columns(changes);
    }
  }

  void change(Stat* C, const Stripe& stripe, int64_t start, int64_t end) const {
    auto delta = [&](Vec z, Vec y, Vec p) inlined { return formula.delta(z, y, p); };
    auto slope = [&](Vec z, Vec y, Vec p) inlined { return formula.slope(z, y, p); };
    const bool is_written = task.data[of_delta];
    Classes classes = this->classes(stripe);
    Memory memory;
    typename Base::template OfVectors<Stat> grads(this->width(stripe));
    if (is_written) set_grads(grads, stripe);
    for (int64_t next; start < end; start = next) {
      next = std::min(start + this->block_columns(stripe), end);
      Block block = this->block(stripe, start, next);
      auto inputs = this->template read_all<Real>(classes, block, memory);
      typename Base::Numbers v;
      this->read(v, of_v, block, memory.v);
      if (this->reads_far) v.ahead = far_ahead;
      auto result = this->result(block, memory.z);
      for (int64_t vector = 0; vector < this->width(stripe); vector++) {
        Stat g = grads[vector];
        Vec sums = {};
        this->each_vector(block, vector, [&](const Place& place) inlined {
          v.fetch(place);
          Vec v_here = v.at(place);
          sums += first<Real>(place.count, product<Vec>(v_here, weighted(delta, inputs, place)), 0);
          if (is_written) result.set(place, product<Vec>(Vec{} + g, v_here * weighted(slope, inputs, place)));
        });
        C[vector] += this->sum_columns(sums);
      }
      if (!is_written) continue;
      this->finish(result, block);
      this->write(result, block);
    }
  }
};

}  // namespace
