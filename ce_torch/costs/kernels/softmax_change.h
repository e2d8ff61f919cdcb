// How the cost of a softmax layer and its δ change in a direction.

#pragma once

#include "softmax.h"

namespace {

template <class Real, bool tiled> struct SoftmaxChange : Softmax<Real, tiled> {
  using Base = Softmax<Real, tiled>;
  using typename Base::Classes;
  using typename Base::Inputs;
  using typename Base::Known;
  using typename Base::Label;
  using typename Base::Memory;
  using typename Base::Numbers;
  using typename Base::Place;
  using typename Base::Result;
  using typename Base::Stat;
  using typename Base::Vec;
  using Base::c;
  using Base::adds_class;
  using Base::is_dense;
  using Base::task;
  using Base::x;

  using Base::Base;

  // What a direction v takes of each row: the sums of v where exp x is 1, of exp x · v elsewhere, and of t v.
  struct Turn {
    Stat ones = {}, others = {}, tv = {};
  };

  // How C changes in the direction v, c (T Σⱼ aⱼ vⱼ − Σⱼ tⱼ vⱼ), and, where that is asked for, δ times the gradient of
  // the row's cost, c² T a ∘ (v − Σⱼ aⱼ vⱼ). With ones + others = (1 + r) Σⱼ aⱼ vⱼ no digits are lost where a is near 1.
  void change() const {
    if (task.data[of_delta]) task.use_large_pages();
    double counted = task.statistics ? *(double*)task.statistics : this->count();
    auto change_of = [&](const Stripe& stripe, int64_t, int64_t) { return change(stripe, counted); };
    this->reduced(task.columns, counted, change_of, 0);
  }

  double change(const Stripe& stripe, double counted) const {
    Memory memory;
    Vec of_direction[block_vectors], numbers[block_vectors];
    typename Base::template OfVectors<Known> rows(this->width(stripe));
    typename Base::template OfVectors<Turn> turns(this->width(stripe));
    typename Base::template OfVectors<Label> labels(this->width(stripe));
    Classes classes = this->classes(stripe);
    this->set_labels(labels, stripe, classes);
    this->set_known(rows, labels, stripe, classes, memory);
    this->each_block(stripe, this->block_columns(stripe), [&](const Block& block) {
      Inputs inputs = this->read_all(block, memory);
      Numbers v;
      this->read(v, of_v, block, of_direction);
      for (int64_t vector = 0; vector < this->width(stripe); vector++)
        add_turn(turns[vector], rows[vector], labels[vector], inputs, v, block, vector);
    });
    double total = 0;
    for (int64_t vector = 0; vector < this->width(stripe); vector++)
      total += this->take_cost(stripe, vector, C_change(turns[vector], rows[vector], labels[vector], stripe, vector, classes));
    if (!task.data[of_delta]) return total;
    this->each_block(stripe, this->block_columns(stripe), [&](const Block& block) {
      Numbers z, v;
      this->read(z, of_z, block, memory.z);
      this->read(v, of_v, block, of_direction);
      auto result = this->result(block, numbers);
      for (int64_t vector = 0; vector < this->width(stripe); vector++) {
        Stat g = this->share(this->grad(stripe, vector, counted), stripe, vector, classes);
        set_change(turns[vector], rows[vector], g, z, v, block, vector, result);
      }
      this->finish(result, block);
      this->write(result, block);
    });
    return total;
  }

  void add_turn(Turn& turn, const Known& row, const Label& label, const Inputs& inputs,
                const Numbers& v, const Block& block, int64_t vector) const {
    auto line = this->label_line(label, block);
    Vec ones = {}, others = {}, tv = {};
    this->each_vector_in_turn(block, vector, [&](const Place& place) inlined {
      Vec e = exponential(x(inputs.z.at(place), row.m)), v_here = first<Real>(place.count, v.at(place), 0);
      ones = e == 1 ? ones + v_here : ones;
      others = e == 1 ? others : others + product(v_here, e);
      if (is_dense) tv += product(this->t(inputs, label, line, place), v_here);
    });
    turn.ones += this->sum_columns(ones);
    turn.others += this->sum_columns(others);
    turn.tv += this->sum_columns(tv);
  }

  Stat C_change(const Turn& turn, const Known& row, const Label& label, const Stripe& stripe, int64_t vector,
                const Classes& classes) const {
    Stat tv = turn.tv;
    if (adds_class) tv += product(label.on_value, this->at_classes(of_v, stripe, vector, classes));
    Stat sum = (product(row.T, turn.ones) - tv) + (product(row.T, turn.others) - product(tv, row.r));
    Stat C_change = row.is_zero != 0 ? 0 : c * product(sum, 1 / (1 + row.r));
    return this->share(C_change, stripe, vector, classes);
  }

  void set_change(const Turn& turn, const Known& row, Stat g, const Numbers& z,
                  const Numbers& v, const Block& block, int64_t vector,
                  Result& result) const {
    Stat factor = row.is_zero != 0 ? 0 : product(g, row.T / ((1 + row.r) * (1 + row.r)));
    this->each_vector_in_turn(block, vector, [&](const Place& place) inlined {
      Vec v_here = v.at(place), difference = v_here * row.r + (v_here - turn.ones) - turn.others;
      Vec change = c * (c * (exponential(x(z.at(place), row.m)) * difference));
      result.set(place, product<Vec>(Vec{} + factor, change));
    });
  }
};

}  // namespace
