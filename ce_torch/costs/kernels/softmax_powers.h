// exp x of a softmax layer's classes, kept from the pass that adds them up to the one that sets δ.

#pragma once

#include "softmax_sums.h"

#include <memory>

namespace {

// Statistics of few columns would take much memory beside z. δ is made without them: first m is found, then the powers,
// exp x, and their sums, which stay near the processor until δ is set.
template <class Real, bool tiled> struct SoftmaxPowers : SoftmaxSums<Real, tiled> {
  using Base = SoftmaxSums<Real, tiled>;
  using typename Base::Classes;
  template <class OfZ, class OfY = OfZ> using InputsOf = typename Base::template InputsOf<OfZ, OfY>;
  using typename Base::Label;
  using typename Base::Memory;
  using typename Base::Place;
  using typename Base::Stat;
  using typename Base::Totals;
  using typename Base::Vec;
  using Base::finite;
  using Base::infinity;
  using Base::is_class;
  using Base::lanes;
  using Base::task;

  using Base::Base;

  // Of a stripe's rows: those of a column in a line, and of a single row all columns.
  struct Powers {
    Vec of[most_powers];
  };
  // Those of a thread, whose stack may have no room for them.
  outlined static Powers& powers_of_thread() {
    thread_local std::unique_ptr<Powers> powers(new Powers);
    return *powers;
  }
  int64_t lines() const { return tiled ? task.columns : (task.columns + lanes - 1) / lanes; }
  // Returns true if δ is made of powers.
  bool keeps_powers(const Stripe& stripe) const {
    return !task.statistics && lines() * this->width(stripe) <= most_powers;
  }
  Vec* at_block(Powers& powers, const Block& block, const Stripe& stripe) const {
    return powers.of + (tiled ? block.column * this->width(stripe) : block.column / lanes);
  }
  // Makes the powers of the rows of a vector 0 where `is_zero` is not.
  outlined void clear(Powers& powers, Stat is_zero, int64_t vector, int64_t width) const {
    for (Vec *e = powers.of + vector, *end = powers.of + lines() * width; e < end; e += width) *e = is_zero != 0 ? Vec{} : *e;
  }
  // The powers at the classes of a vector's rows, and any power for a row that is ignored.
  Stat powers_at_classes(const Powers& powers, const Stripe& stripe, int64_t vector, const Classes& classes) const {
    auto from = (const Real*)(powers.of + vector);
    auto y = this->columns(classes, vector), column = y < 0 ? 0 : y;
    if constexpr (tiled) return gather<Real>(from, column * int32_t(this->width(stripe) * lanes) + lane_numbers<Real>(0));
    else return from[column];
  }

  // Lines of a stripe in memory, which are fetched while others are computed with.
  struct Ahead {
    const char* start;
    int64_t step, bytes;

    template <bool are_written> inlined void fetch(int64_t line) const {
      for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(start + line * step + byte, are_written, 2);
    }
  };
  // Those that are so many rows behind a stripe, as many as the stripe has.
  Ahead ahead_of(Operand tensor, const Stripe& stripe, int64_t rows) const {
    const int64_t size = task.number_bytes(tensor), row = task.layout.inner().steps.of[tensor], column = task.column.of[tensor];
    const char* start = task.data[tensor] + size * (stripe.start.of[tensor] + rows * row);
    const int64_t bytes = tiled ? size * stripe.rows : 0;
    if (row == 1) return {start, size * column, bytes};
    return {start, bytes, column == 1 ? bytes : 0};
  }

  outlined void set_powers(Powers& powers, Totals* totals, const Label* labels, const Stripe& stripe, Memory& memory) const {
    const int64_t width = this->width(stripe);
    Vec m[Base::most_vectors], T[Base::most_vectors];
    std::fill(m, m + width, Vec{} - infinity);
    std::fill(T, T + width, Vec{});
    this->each_block(stripe, this->block_columns(stripe), [&](const Block& block) {
      this->with_vectors({of_z, is_class ? of_z : of_y}, block, [&](auto* null, bool) inlined {
        auto inputs = this->template read_all<std::remove_pointer_t<decltype(null)>>(block, memory);
        set_numbers(at_block(powers, block, stripe), m, T, inputs, labels, block, width);
      });
    });
    for (int64_t vector = 0; vector < width; vector++) {
      if constexpr (!tiled) m[vector] = Vec{} + largest<Real>(m[vector]);
      std::memcpy(&totals[vector].m, &m[vector], sizeof totals[vector].m);
      totals[vector].T = this->sum_columns(T[vector]);
      m[vector] = finite(m[vector]);
    }
    add_powers(powers.of, totals, m, stripe);
  }

  // Copies z, and adds to m and T.
  template <class Number>
  outlined void set_numbers(Vec* z, Vec* m, Vec* T, const InputsOf<Number>& inputs, const Label* labels, const Block& block,
                            int64_t width) const {
    auto set_z = [&](int64_t vector, const Place& place) inlined {
      inputs.z.fetch(place);
      *z = first<Real>(place.count, inputs.z.at(place), -infinity);
      m[vector] = larger(m[vector], *z++);
    };
    if (is_class) return this->each_place(block, 0, width, set_z);
    this->each_place(block, 0, width, [&](int64_t vector, const Place& place) inlined {
      set_z(vector, place);
      const Label& label = labels[vector];
      T[vector] += this->t(inputs, label, this->label_line(label, block), place);
    });
  }

  // Makes z powers, and adds them up. The largest are 1: the others keep their digits beside them.
  outlined void add_powers(Vec* powers, Totals* totals, const Vec* m, const Stripe& stripe) const {
    const int64_t width = this->width(stripe);
    const Ahead delta = ahead_of(of_delta, stripe, 0), next_z = ahead_of(of_z, stripe, this->stripe_rows);
    Vec ones[Base::most_vectors], others[Base::most_vectors];
    bool is_finite = true;
    for (int64_t vector = 0; vector < width; vector++) {
      ones[vector] = others[vector] = Vec{};
      is_finite &= this->is_finite_maximum(m[vector]);
    }
    this->with_x(is_finite, [&](auto x_of) inlined {
      for (int64_t line = 0; line < lines(); line++) {
        delta.template fetch<true>(line);
        next_z.template fetch<false>(line);
        for (int64_t vector = 0; vector < width; vector++, powers++) {
          Vec e = *powers = exponential(x_of(*powers, m[vector]));
          ones[vector] = e == 1 ? ones[vector] + 1 : ones[vector];
          others[vector] = e == 1 ? others[vector] : others[vector] + e;
        }
      }
    });
    for (int64_t vector = 0; vector < width; vector++)
      totals[vector].r = this->sum_columns(others[vector]) + (this->sum_columns(ones[vector]) - 1);
  }
};

}  // namespace
