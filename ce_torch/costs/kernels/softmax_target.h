// The desired outputs t of a softmax layer: classes or outputs y, with label smoothing and weights of the classes.

#pragma once

#include "rows.h"

namespace {

template <class Real, bool tiled> struct SoftmaxTarget : Rows<Real, tiled> {
  using Base = Rows<Real, tiled>;
  using typename Base::Stat;
  using typename Base::Vec;
  using Base::lanes;
  using Base::task;

  const Real smoothing, off_value;
  const bool is_class;
  // Of a class y without label smoothing t is 0 but at j = y.
  const bool is_dense, is_weighted;
  // True if what t has at a class y is added apart: of many columns few are one.
  const bool is_apart;
  // True if t is computed for every vector.
  const bool has_t;
  const Real total_weight;

  explicit SoftmaxTarget(const Task& task)
      : Base{task},
        smoothing(Real(task.numbers[1])),
        off_value(Real(task.numbers[1] / double(task.columns))),
        is_class(task.has_classes()),
        is_dense(!is_class || smoothing != 0),
        is_weighted(is_dense && task.data[of_weight]),
        is_apart(!tiled || (!is_dense && task.columns > short_columns)),
        has_t(is_dense || !is_apart),
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

  // Of rows with a class y: what t has there, all of it and beyond the others; z there, if that is taken apart.
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
    if (is_apart) label.z = at_classes(of_z, stripe, vector, classes);
    label.on_value = (1 - smoothing) * weights;
    label.t = weights * (1 - smoothing + off_value);
    return label;
  }

  void set_labels(Label* labels, const Stripe& stripe, const Classes& classes) const {
    for (int64_t vector = 0; vector < this->width(stripe); vector++) labels[vector] = label(stripe, vector, classes);
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
    if (!is_class) {
      inputs.y.fetch(i);
      t += (1 - smoothing) * inputs.y.at(i, count);
    }
    if (is_weighted) t *= inputs.weight.at(i, count);
    if constexpr (tiled) t = index == int32_t(i) ? label.t : t;
    return first<Real>(count, t, 0);
  }
};

}  // namespace
