// The sums of a softmax layer over its classes, in one pass over z.

#pragma once

#include "softmax_target.h"

namespace {

// With m = maxⱼ zⱼ and xⱼ = c (zⱼ − m) they are r = Σⱼ exp xⱼ − 1, to which the largest z adds nothing, Σⱼ tⱼ xⱼ and
// T = Σⱼ tⱼ. m is not known before the pass: u is near it, and with xⱼ = c (zⱼ − u) each sum is that of m but for a factor.
template <class Real, bool tiled> struct SoftmaxSums : SoftmaxTarget<Real, tiled> {
  using Base = SoftmaxTarget<Real, tiled>;
  using typename Base::Classes;
  template <class OfZ, class OfY = OfZ> using InputsOf = typename Base::template InputsOf<OfZ, OfY>;
  using typename Base::Label;
  using typename Base::Memory;
  using typename Base::Place;
  using typename Base::Stat;
  using typename Base::Vec;
  using Base::is_class;
  using Base::is_dense;
  using Base::is_weighted;
  using Base::sets_class;
  using Base::task;
  static constexpr Real infinity = std::numeric_limits<Real>::infinity();
  static constexpr Real lowest = std::numeric_limits<Real>::lowest();

  const Real c;

  explicit SoftmaxSums(const Task& task)
      : Base(task), c(Real(std::max(task.numbers[0], double(std::numeric_limits<Real>::min())))) {}

  template <class Number> static Number finite(Number m) { return m == -infinity ? lowest : m; }

  // c (z − m), 0 where both are ∞. m is finite(m), with which it is −∞ where both are −∞.
  template <class Number, class OfRows> inlined Number x(Number z, OfRows m) const {
    Number difference = z - m;
    if constexpr (std::is_same_v<OfRows, Real>) {
      if (m == infinity) difference = z == infinity ? 0 : difference;
    } else {
      difference = z == infinity ? 0 : difference;
    }
    return c * difference;
  }
  // Calls f with x, or with z − m where that is the same.
  template <class Function> inlined void with_x(bool is_finite, Function&& f) const {
    if (c == 1 && is_finite) return f([](auto z, auto m) inlined { return z - m; });
    f([this](auto z, auto m) inlined { return x(z, m); });
  }
  template <class Number> static bool is_finite_maximum(Number m) { return bits<Real>(Vec{} + m == infinity) == 0; }

  // Of the numbers in each lane so far: the largest, m; a number u near it; with xⱼ = c (zⱼ − u) the sums of exp x of all
  // others, of t x, and of t; and where columns are few, z at the class y.
  struct Sums {
    Vec m = Vec{} - infinity, u = Vec{} + lowest, others = {}, tx = {}, T = {}, z_y = {};
  };
  // How much c m may be above c u: the larger x is, the less exact it is. Where u is so far below, C is not small, since u
  // is a number of the row.
  static constexpr Real most_rise = 4;
  // The most lines of a block that is read where it lies.
  static constexpr int64_t most_lines = 32;

  // Adds the numbers of a block. Where one is much larger than u, u becomes the largest, and they are added anew.
  template <class OfZ, class OfY>
  void add(Sums* sums, const InputsOf<OfZ, OfY>& inputs, const Label* labels, const Block& block, int64_t width) const {
    if (block.column == 0) set_first(sums, inputs, block, width);
    typename Base::template OfVectors<Sums> here(width);
    set_sums(here, sums, inputs, labels, block, 0, width);
    for (int64_t vector = 0; vector < width; vector++) {
      Sums &more = here[vector], &all = sums[vector];
      if (bits<Real>(c * (more.m - all.u) > most_rise)) {
        move(all, more.m);
        set_sums(here, sums, inputs, labels, block, vector, vector + 1);
      }
      all.m = more.m;
      all.others += more.others;
      all.z_y = more.z_y;
      if (is_dense) all.tx += more.tx, all.T += more.T;
    }
  }

  template <class OfZ, class OfY>
  void set_first(Sums* sums, const InputsOf<OfZ, OfY>& inputs, const Block& block, int64_t width) const {
    Vec m[Base::most_vectors];
    std::fill(m, m + width, Vec{} - infinity);
    this->each_place(block, 0, width, [&](int64_t vector, const Place& place) inlined {
      m[vector] = larger(m[vector], first<Real>(place.count, inputs.z.at(place), -infinity));
    });
    for (int64_t vector = 0; vector < width; vector++) sums[vector].u = finite(m[vector]);
  }

  // Sets `here` to the sums of some vectors of a block alone, beside the largest number so far.
  template <class OfZ, class OfY>
  outlined void set_sums(Sums* here, const Sums* sums, const InputsOf<OfZ, OfY>& inputs, const Label* labels,
                         const Block& block, int64_t start, int64_t end) const {
    constexpr int64_t most = Base::most_vectors;
    Vec m[most], u[most], others[most], tx[most], T[most], z_y[most];
    bool is_finite = true;
    for (int64_t vector = start; vector < end; vector++) {
      m[vector] = sums[vector].m, u[vector] = sums[vector].u, z_y[vector] = sums[vector].z_y;
      others[vector] = tx[vector] = T[vector] = Vec{};
      is_finite &= is_finite_maximum(u[vector]);
    }
    // Of z and the largest before the smaller is not the largest of all.
    auto add_z = [&](int64_t vector, const Place& place, auto x_of) inlined {
      inputs.z.fetch(place);
      Vec z = first<Real>(place.count, inputs.z.at(place), -infinity), before = m[vector];
      others[vector] += exponential(x_of(smaller(before, z), u[vector]));
      m[vector] = larger(before, z);
      return z;
    };
    auto each = [&](auto f) inlined { this->each_place(block, start, end, f); };
    if constexpr (std::is_same_v<OfZ, OfY>) {
      if (is_dense) {
        with_x(is_finite, [&](auto x_of) inlined {
          each([&](int64_t vector, const Place& place) inlined {
            Vec z = add_z(vector, place, x_of);
            const Label& label = labels[vector];
            Vec t = this->t(inputs, label, this->label_line(label, block), place);
            tx[vector] += product(t, x_of(z, u[vector])), T[vector] += t;
          });
        });
      }
    }
    if constexpr (std::is_same_v<OfY, Real>) {
      if (!is_dense) {
        with_x(is_finite, [&](auto x_of) inlined {
          if (sets_class) return each([&](int64_t vector, const Place& place) inlined { add_z(vector, place, x_of); });
          if constexpr (tiled) {
            each([&](int64_t vector, const Place& place) inlined {
              Vec z = add_z(vector, place, x_of);
              z_y[vector] = labels[vector].y == int32_t(block.column + place.line) ? z : z_y[vector];
            });
          }
        });
      }
    }
    for (int64_t i = start; i < end; i++) here[i] = {m[i], u[i], others[i], tx[i], T[i], z_y[i]};
  }

  // Makes the sums those with u = m, where m is larger.
  outlined void move(Sums& sums, Vec m) const {
    Vec rise = m > sums.u ? c * (m - sums.u) : 0;
    sums.others = product(sums.others, exponential(-rise));
    sums.tx -= product(sums.T, rise);
    sums.u = m > sums.u ? m : sums.u;
  }

  // What the sums of a row's lanes, or of a row in each lane, come to.
  struct Totals {
    Stat m = Stat{} - infinity, r = Stat{} - 1, tx = {}, T = {};
  };
  Totals totals(Sums sums) const {
    if constexpr (tiled) {
      move(sums, sums.m);
      return {sums.m, sums.m == -infinity ? sums.others - 1 : sums.others, sums.tx, sums.T};
    } else {
      const Real m = largest<Real>(sums.m);
      move(sums, Vec{} + m);
      // The largest number of all is that of one lane; those of the others are exponents too.
      auto is_one = sums.m == m;
      Vec others = is_one ? sums.others : sums.others + exponential(x(sums.m, finite(m)));
      Real ones = m == -infinity ? 0 : sum<Real>(is_one ? Vec{} + 1 : Vec{});
      return {m, sum<Real>(others) + (ones - 1), sum<Real>(sums.tx), sum<Real>(sums.T)};
    }
  }

  // Calls f(block) for the blocks of a stripe, of so many columns.
  template <class Function> void each_block(const Stripe& stripe, int64_t columns, Function f) const {
    for (int64_t start = 0; start < task.columns; start += columns)
      f(this->block(stripe, start, std::min(start + columns, task.columns)));
  }

  // The sums of a stripe's rows. z of half precision beside classes with label smoothing is made numbers of Real first:
  // a loop of its own would make the kernels larger.
  void add_all(Sums* sums, const Label* labels, const Stripe& stripe, Memory& memory) const {
    Block all = this->block(stripe, 0, task.columns);
    int64_t columns = this->block_columns(stripe);
    this->with_vectors({of_z, is_class ? of_z : of_y}, all, [&](auto* null, bool is_in_place) inlined {
      using Number = std::remove_pointer_t<decltype(null)>;
      bool is_copied = is_class && is_dense && !std::is_same_v<Number, Real>;
      if (is_copied) return add_blocks<Real, Real>(columns, sums, labels, stripe, memory);
      if (tiled && is_in_place && !is_weighted) columns = most_lines;
      if (is_class) add_blocks<Number, Real>(columns, sums, labels, stripe, memory);
      else add_blocks<Number, Number>(columns, sums, labels, stripe, memory);
    });
  }
  template <class OfZ, class OfY>
  void add_blocks(int64_t columns, Sums* sums, const Label* labels, const Stripe& stripe, Memory& memory) const {
    each_block(stripe, columns, [&](const Block& block) inlined {
      add(sums, this->template read_all<OfZ, OfY>(block, memory), labels, block, this->width(stripe));
    });
  }

  // z at the classes, read after the pass over z, which has brought it into a cache.
  Stat z_at_class(const Sums& sums, const Stripe& stripe, int64_t vector, const Classes& classes) const {
    if constexpr (tiled) {
      if (!sets_class) return sums.z_y;
    }
    return this->at_classes(of_z, stripe, vector, classes);
  }
  Stat T(const Totals& totals, const Label& label) const {
    return is_class ? label.on_value + this->off_value * this->total_weight : totals.T;
  }
};

}  // namespace
