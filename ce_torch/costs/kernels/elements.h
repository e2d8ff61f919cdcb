// Costs that are sums over neurons, element by element.

#pragma once

#include "task.h"

namespace {

template <class Vec> Vec magnitude(Vec x) { return x < 0 ? -x : x; }

// σ(z) and σ(−z), each with all its digits.
template <class Real> struct Sigmoid {
  Reals<Real> a, one_minus_a;

  explicit Sigmoid(Reals<Real> z) {
    Reals<Real> u = exp_of_negative<Real>(-magnitude(z)), larger = 1 / (1 + u), smaller = u * larger;
    a = z < 0 ? smaller : larger;
    one_minus_a = z < 0 ? larger : smaller;
  }
  // a − y, of which no digits are lost where y and a are near 1.
  Reals<Real> error(Reals<Real> y) const { return (1 - y) * a - y * one_minus_a; }
};

// What a formula takes beside tensors.
template <class Real> struct Numbers {
  Real first, second;
};

// A cost that is a sum over neurons: of `Formula(numbers).cost(z, y, p)` times their weights, with p = pos_weight.
template <template <class> class Formula, class Number> struct Elements : Typed<Number> {
  using Base = Typed<Number>;
  using typename Base::Real;
  using typename Base::Vec;
  using Base::lanes;

  Formula<Real> formula;
  int64_t element_count;

  explicit Elements(const Task& task)
      : Base(merged(task)), formula{{Real(task.numbers[0]), Real(task.numbers[1])}}, element_count(task.elements()) {}

  // Where C is reduced it does not matter where a row ends: short ones are taken together, the last few may be fewer.
  static Task merged(Task task) {
    bool any_row = task.target != Target::classes && any_row_has(task.weight, task.weight_row, task.weight_column, task) &&
                   any_row_has(task.pos_weight, task.pos_weight_row, task.pos_weight_column, task);
    task.counted() = double(task.rows);
    if (task.reduction == Reduction::none || !any_row) return task;
    int64_t together = std::max<int64_t>(chunk / task.columns, 1);
    task.rows = (task.rows + together - 1) / together;
    for (int64_t* columns : {&task.columns, &task.weight_row, &task.pos_weight_row}) *columns *= together;
    return task;
  }

  // Whether a weight is the same for all neurons, or is laid out as z is.
  static bool any_row_has(const void* weight, int64_t row, int64_t column, const Task& task) {
    return !weight || (row == 0 && column == 0) || (row == task.columns && column == 1);
  }

  int64_t row_end(int64_t row) const { return std::min(this->columns, element_count - row * this->columns); }

  template <class Function> inlined Vec weighted(Function f, int64_t row, int64_t column, int64_t count) const {
    Vec value = f(load(this->z_row(row) + column, count), this->outputs(row, column, count),
                  this->pos_weights(row, column, count));
    return this->weight ? product<Vec>(this->weights(row, column, count), value) : value;
  }

  // C of each row, the sum over its neurons.
  bool cost() const {
    auto cost = [&](Vec z, Vec y, Vec p) inlined { return formula.cost(z, y, p); };
    if (this->target == Target::classes && !this->all_are_classes()) return false;
    this->each_row([&](int64_t row) {
      double total = 0;
      for (int64_t start = 0; start < row_end(row); start += chunk) {
        Vec sums = {};
        each_vector<lanes>(start, std::min(start + chunk, row_end(row)), [&](int64_t column, int64_t count) inlined {
          Vec costs = weighted(cost, row, column, count);
          sums += first<Real>(count, costs, 0);
        });
        total += sum<Real>(sums);
      }
      this->row_costs()[row] = Real(total);
    });
    this->reduce();
    return true;
  }

  // δ of each neuron, times the gradient of the row's cost.
  void delta() const {
    auto delta = [&](Vec z, Vec y, Vec p) inlined { return formula.delta(z, y, p); };
    this->each_row_part([&](int64_t row, int64_t start, int64_t end) {
      Real g = this->row_grad(row);
      Number* out = this->delta_row(row);
      each_vector<lanes>(start, std::min(end, row_end(row)), [&](int64_t column, int64_t count) inlined {
        store(product<Vec>(Vec{} + g, weighted(delta, row, column, count)), out + column, count);
      });
    });
  }
};

}  // namespace
