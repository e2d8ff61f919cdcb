// The desired outputs t of a softmax layer: classes or outputs y, with label smoothing and weights of the classes.

#pragma once

#include "classes.h"
#include "exponential.h"

namespace {

template <class Real, bool tiled> struct SoftmaxTarget : ClassRows<Real, tiled> {
  using Base = ClassRows<Real, tiled>;
  using typename Base::Classes;
  using typename Base::Column;
  using typename Base::Columns;
  using typename Base::Place;
  using typename Base::Stat;
  using typename Base::Vec;
  using Base::lanes;
  using Base::none;
  using Base::task;

  const Real smoothing, kept, off_value;  // kept is 1 − smoothing
  const bool is_class;
  // Of a class y without label smoothing t is 0 but at j = y.
  const bool is_dense, is_weighted;
  // True if what t has at a class y is added to C after the pass over z, and δ is set there after its pass.
  const bool adds_class, sets_class;
  const Real total_weight;

  outlined explicit SoftmaxTarget(const Task& task)
      : Base(task, task.ignore_index),
        smoothing(Real(task.numbers[1])),
        kept(Real(1 - task.numbers[1])),
        off_value(Real(task.numbers[1] / double(task.columns))),
        is_class(task.has_classes()),
        is_dense(!is_class || smoothing != 0),
        is_weighted(is_dense && task.data[of_weight]),
        adds_class(is_class && (!tiled || !is_dense)),
        // Of many columns few are a row's class.
        sets_class(adds_class && (!tiled || task.columns > compared_columns)),
        total_weight(is_class && is_dense ? Real(sum_weights()) : 0) {}

  Real weight(int64_t column) const {
    return task.data[of_weight] ? Real(this->number(of_weight, column * task.column.of[of_weight])) : Real(1);
  }
  double sum_weights() const {
    double total = 0;
    for (int64_t column = 0; column < task.columns; column++) total += weight(column);
    return total;
  }

  // How much counts in a mean: examples, or the weights of their classes.
  outlined double count() const {
    if (task.reduction != Reduction::mean) return 0;
    if (!is_class) return double(task.examples);
    if (task.data[of_weight]) return this->with_numbers_of(of_weight, [&](auto* weights) { return sum_of(weights); });
    Longs counted = {};
    task.each_class([&](Longs y) inlined { counted -= y != task.ignore_index; });
    return double(combine<int64_t, long_lanes>(counted, [](auto left, auto right) { return left + right; }));
  }
  // The sum of the weights of all classes y.
  template <class Number> double sum_of(const Number* weights) const {
    const int64_t step = task.column.of[of_weight];
    Reals<double> totals = {};
    task.each_class([&](Longs y) inlined {
      auto counts = y != task.ignore_index;
      totals += counts ? gather<Real>(weights, counts ? y * step : 0) : 0;
    });
    return sum<double>(totals);
  }

  // The numbers of a tensor at the classes of a vector's rows, and any for a row that is ignored beside others: to ask each
  // row takes longer than to read what is near the processor.
  Stat at_classes(Operand tensor, const Stripe& stripe, int64_t vector, const Classes& classes) const {
    if (classes.are_all_ignored) return Stat{};
    const int64_t first = this->start(stripe, vector * lanes, tensor), column = task.column.of[tensor];
    if constexpr (!tiled) {
      return Real(this->number(tensor, first + classes.y[0] * column));
    } else {
      const int64_t row = task.layout.inner().steps.of[tensor], count = this->rows_of(stripe, vector);
      const Column* y = classes.y + vector * lanes;
      return this->with_numbers_of(tensor, [&](auto* from) inlined {
        std::remove_const_t<std::remove_pointer_t<decltype(from)>> numbers[lanes] = {};
        auto read = [&](int64_t count) inlined {
          for (int64_t lane = 0; lane < count; lane++)
            numbers[lane] = from[first + lane * row + std::max<int64_t>(y[lane], 0) * column];
        };
        count == lanes ? read(lanes) : read(count);
        return load_as<Real>(numbers, lanes);
      });
    }
  }

  // The weights of the classes of a vector's rows; 0 of what is ignored.
  Stat weights_of(const Stripe& stripe, int64_t vector, const Classes& classes) const {
    Stat weights = task.data[of_weight] ? at_classes(of_weight, stripe, vector, classes) : Stat{} + 1;
    return this->columns(classes, vector) < 0 ? Stat{} : weights;
  }

  // What a vector's rows have of their costs, or of what these have, in means of their own; `empty` where none counts.
  Stat share(Stat of_cost, const Stripe& stripe, int64_t vector, const Classes& classes, Real empty = 0) const {
    if (task.reduction != Reduction::each || !is_class) return of_cost;
    Stat weights = weights_of(stripe, vector, classes);
    return weights == 0 ? empty : of_cost / weights;
  }

  // Of rows with a class y: what t has there, all of it and beyond the others.
  struct Label {
    Stat t = {}, on_value = {}, is_ignored = {};
    Columns y = Columns{} + none;
  };
  Label label(const Stripe& stripe, int64_t vector, const Classes& classes) const {
    Label label;
    if (!is_class) return label;
    label.y = this->columns(classes, vector);
    Stat weights = weights_of(stripe, vector, classes);
    label.is_ignored = label.y < 0 ? Stat{} + 1 : Stat{};
    label.on_value = kept * weights;
    label.t = weights * (kept + off_value);
    return label;
  }

  void set_labels(Label* labels, const Stripe& stripe, const Classes& classes) const {
    for (int64_t vector = 0; vector < this->width(stripe); vector++) labels[vector] = label(stripe, vector, classes);
  }

  // The blocks that a thread reads.
  struct Memory {
    Vec z[block_vectors], y[block_vectors], weight[block_vectors];
  };
  template <class OfZ, class OfY = OfZ> struct InputsOf {
    typename Base::template NumbersOf<OfZ> z;
    typename Base::template NumbersOf<OfY> y;
    typename Base::Numbers weight;
  };
  using Inputs = InputsOf<Real>;

  template <class OfZ = Real, class OfY = OfZ> outlined InputsOf<OfZ, OfY> read_all(const Block& block, Memory& memory) const {
    InputsOf<OfZ, OfY> inputs;
    this->read(inputs.z, of_z, block, memory.z);
    read_target(inputs, block, memory);
    return inputs;
  }
  template <class OfZ, class OfY> inlined void read_target(InputsOf<OfZ, OfY>& inputs, const Block& block, Memory& memory) const {
    if (!is_class) this->read(inputs.y, of_y, block, memory.y);
    if (is_weighted) this->read(inputs.weight, of_weight, block, memory.weight);
  }

  // The lines of a block where the classes of rows that are side by side are.
  inlined Columns label_line(const Label& label, const Block& block) const {
    return label.y - int32_t(block.column);
  }

  // t in a vector; 0 behind the end of a row. In a single row with a class y, `on_value` at y is still missing.
  template <class OfZ, class OfY>
  inlined Vec t(const InputsOf<OfZ, OfY>& inputs, const Label& label, Columns line, const Place& place) const {
    Vec t = Vec{} + off_value;
    if (!is_class) {
      inputs.y.fetch(place);
      t += kept * inputs.y.at(place);
    }
    if (is_weighted) t *= inputs.weight.at(place);
    if constexpr (tiled) {
      if (is_class) t = line == int32_t(place.line) ? label.t : t;
    }
    return first<Real>(place.count, t, 0);
  }
};

}  // namespace
