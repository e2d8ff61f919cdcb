// The numbers of rows: how vectors of them are read and written, whatever they are made of.

#pragma once

#include "rows.h"

namespace {

template <class Real, bool tiled> struct RowNumbers : Rows<Real, tiled> {
  using Base = Rows<Real, tiled>;
  using typename Base::Place;
  using typename Base::Stat;
  using typename Base::Vec;
  using Base::at;
  using Base::Base;
  using Base::each_row;
  using Base::lanes;
  using Base::number;
  using Base::rows;
  using Base::rows_of;
  using Base::set_cost;
  using Base::start;
  using Base::stripe_rows;
  using Base::task;
  using Base::with_numbers_of;

  static constexpr Type own_type = std::is_same_v<Real, double> ? Type::float64 : Type::float32;

  // Returns true if whole vectors of a block lie in memory.
  static bool are_vectors(Operand tensor, const Block& block) {
    return block.number.of[tensor] == 1 && (!tiled || block.numbers % lanes == 0);
  }
  // Returns true if they do, or are made by transposing.
  static bool become_vectors(Operand tensor, const Block& block) {
    return are_vectors(tensor, block) || (tiled && block.line.of[tensor] == 1);
  }
  // Calls f(null pointer of numbers, whether their vectors lie in memory) with what all of these tensors are made of, if
  // they become vectors, or else with Real, as which any are read.
  template <class Function>
  inlined void with_vectors(std::initializer_list<Operand> tensors, const Block& block, Function&& f) const {
    auto are = [&](Type type, auto condition) {
      return std::all_of(tensors.begin(), tensors.end(), [&](Operand tensor) {
        return task.type[tensor] == type && condition(tensor, block);
      });
    };
    if constexpr (std::is_same_v<Real, float>) {
      if (are(Type::bfloat16, become_vectors)) return f((Bfloat16*)nullptr, are(Type::bfloat16, are_vectors));
      if (are(Type::float16, become_vectors)) return f((Float16*)nullptr, are(Type::float16, are_vectors));
    }
    f((Real*)nullptr, are(own_type, are_vectors));
  }

  // The numbers of a block as vectors: where they are, or read into a thread's own memory.
  template <class Number> struct NumbersOf {
    const Number* data;
    int64_t line;   // from one line to the next
    int64_t ahead;  // to what is read next, where the processor does not foresee it
    Vec last;       // the numbers of a row behind its whole vectors

    inlined const Number* vector(const Place& place) const { return data + place.line * line + place.vector * lanes; }
    inlined void fetch(const Place& place) const { __builtin_prefetch(vector(place) + ahead); }
    inlined Vec at(const Place& place) const { return place.count == lanes ? load(vector(place), lanes) : last; }
    // One number of a line.
    inlined Real number(int64_t line, int64_t number) const { return load(data + line * this->line + number, 1)[0]; }
  };
  using Numbers = NumbersOf<Real>;

  // How far what is read next is, where the processor does not foresee it: the next columns of a tile, tile, or row.
  int64_t ahead(Operand tensor, const Block& block) const {
    if constexpr (tiled) {
      bool is_last = block.column + block.lines == task.columns;
      if (is_last) return stripe_rows * block.number.of[tensor] - block.column * block.line.of[tensor];
      return block.lines * block.line.of[tensor];
    }
    int64_t next = task.layout.inner().steps.of[tensor];
    return next == task.columns || task.columns > kept_columns ? 0 : next;
  }

  // Returns true if vectors of these numbers are where they are. `with_vectors` has found that other numbers than Real are
  // the tensor's own.
  template <class Number> bool is_direct(Operand tensor, const Block& block) const {
    if constexpr (!std::is_same_v<Number, Real>) return !tiled || are_vectors(tensor, block);
    else return task.type[tensor] == own_type && are_vectors(tensor, block);
  }

  // It sets one field after the other: a processor waits where it reads at once what it wrote in parts.
  template <class Number>
  inlined void read(NumbersOf<Number>& numbers, Operand tensor, const Block& block, Vec* memory) const {
    if (!is_direct<Number>(tensor, block)) {
      if constexpr (std::is_same_v<Number, Real>) copy(tensor, block, memory);
      else if constexpr (tiled) copy_transposed<Number>(tensor, block, memory);
      return read_copied(numbers, block, memory);
    }
    auto from = (const Number*)task.data[tensor] + block.start.of[tensor];
    int64_t whole = block.numbers / lanes * lanes;
    numbers.data = from;
    numbers.line = block.line.of[tensor];
    numbers.ahead = ahead(tensor, block);
    if constexpr (!tiled) numbers.last = load(from + whole, block.numbers - whole);
  }
  outlined void copy(Operand tensor, const Block& block, Vec* memory) const {
    BlockSteps steps = block.steps(tensor);
    steps.ahead = ahead(tensor, block);
    auto read = [&](auto* numbers) { read_block<Real>(numbers + block.start.of[tensor], steps, memory); };
    task.type[tensor] == Type::boolean ? read((Bool*)task.data[tensor]) : with_numbers_of(tensor, read);
  }
  template <class Number> outlined void copy_transposed(Operand tensor, const Block& block, Vec* memory) const {
    BlockSteps steps = block.steps(tensor);
    steps.ahead = ahead(tensor, block);
    if (block.numbers % lanes) std::memset((void*)memory, 0, block.lines * line(block) * sizeof(Number));
    collect((const Number*)task.data[tensor] + block.start.of[tensor], steps, (Number*)memory, line(block));
  }
  // The numbers of a block that a thread's own memory holds.
  template <class Number> static void read_copied(NumbersOf<Number>& numbers, const Block& block, const Vec* memory) {
    numbers.data = (const Number*)memory;
    numbers.line = line(block);
    numbers.ahead = 0;
    if constexpr (!tiled) numbers.last = load(numbers.data + numbers.line - lanes, lanes);
  }
  // The numbers of a line in a thread's own memory.
  static int64_t line(const Block& block) { return (block.numbers + lanes - 1) / lanes * lanes; }

  // Where δ of a block is written as vectors: in its place, or in a thread's own memory until it is `written`.
  template <class Number> struct ResultOf {
    Number* data;
    int64_t line;
    bool is_in_place;
    Vec last = {};

    inlined void set(const Place& place, Vec x) {
      if (place.count == lanes) store(x, data + place.line * line + place.vector * lanes, lanes);
      else last = x;
    }
    // Sets one number of a line.
    void set(int64_t line, int64_t number, Real x) { store(Vec{} + x, data + line * this->line + number, 1); }
  };
  using Result = ResultOf<Real>;

  // A large δ of a tile is written past the caches, by whole blocks.
  template <class Number> bool is_in_place(const Block& block) const {
    if constexpr (std::is_same_v<Number, Real> && tiled) {
      if (task.is_large()) return false;
    }
    return is_direct<Number>(of_delta, block);
  }

  template <class Number = Real> outlined ResultOf<Number> result(const Block& block, Vec* memory) const {
    if (is_in_place<Number>(block))
      return {(Number*)task.data[of_delta] + block.start.of[of_delta], block.line.of[of_delta], true};
    return {(Number*)memory, line(block), false};
  }

  // Stores the last numbers of a row beside the others.
  template <class Number> inlined void finish(ResultOf<Number>& result, const Block& block) const {
    if (!tiled && block.numbers % lanes) store_last(result, block.numbers);
  }
  template <class Number> outlined void store_last(ResultOf<Number>& result, int64_t numbers) const {
    int64_t rest = numbers % lanes;
    store(result.last, result.data + numbers - rest, rest);
  }

  template <class Number> inlined void write(const ResultOf<Number>& result, const Block& block) const {
    if (result.is_in_place) return;
    if constexpr (std::is_same_v<Number, Real>) write_copied(result, block);
    else if constexpr (tiled) write_transposed(result, block);
  }
  template <class Number> outlined void write_transposed(const ResultOf<Number>& result, const Block& block) const {
    auto to = (Number*)task.data[of_delta] + block.start.of[of_delta];
    spread(result.data, result.line, to, block.steps(of_delta), task.is_large());
  }
  outlined void write_copied(const Result& result, const Block& block) const {
    with_numbers_of(of_delta, [&](auto* delta) {
      if constexpr (std::is_same_v<typename Computed<std::remove_pointer_t<decltype(delta)>>::Real, Real>)
        write_block<Real>((const Vec*)result.data, delta + block.start.of[of_delta], block.steps(of_delta),
                          tiled && this->task.is_large());
    });
  }

  Real* statistic(int which) const { return (Real*)task.statistics + 2 + which * rows; }
  // Sets how much counts, and what makes the count of statistics even.
  void set_counted(double counted, int each) const {
    if (rows * each % 2) *statistic(each) = 0;
    statistic(0)[-1] = 0;
    *(double*)task.statistics = counted;
  }
  Stat load_statistic(int which, const Stripe& stripe, int64_t vector) const {
    Real* from = statistic(which) + stripe.first + vector * lanes;
    if constexpr (tiled) return load(from, rows_of(stripe, vector));
    else return *from;
  }
  void store_statistic(int which, const Stripe& stripe, int64_t vector, Stat stat) const {
    Real* to = statistic(which) + stripe.first + vector * lanes;
    if constexpr (tiled) store(stat, to, rows_of(stripe, vector));
    else *to = stat;
  }

  // Stores the costs of a vector's rows in C, or how they change.
  void store_cost(const Stripe& stripe, int64_t vector, Stat C, Operand to) const {
    if constexpr (tiled) {
      if (task.layout.inner().steps.of[of_row] == 1 && store_vector(stripe, vector, C, to)) return;
    }
    each_row(stripe, vector, [&](int64_t lane, int64_t row) {
      set_cost(to, start(stripe, row, of_row), at(C, lane));
    });
  }
  // Stores costs that lie side by side, or returns false if C is not of a dtype that is computed in Real.
  bool store_vector(const Stripe& stripe, int64_t vector, Vec C, Operand to) const {
    const int64_t first = start(stripe, vector * lanes, of_row), count = rows_of(stripe, vector);
    return with_numbers_of(to, [&](auto* numbers) {
      constexpr bool fits = std::is_same_v<typename Computed<std::remove_pointer_t<decltype(numbers)>>::Real, Real>;
      if constexpr (fits) store(C, numbers + first, count);
      return fits;
    });
  }

  // The gradients of the costs of a vector's rows.
  outlined Stat grad(const Stripe& stripe, int64_t vector, double counted) const {
    if (task.reduction == Reduction::sum) return Stat{} + Real(number(of_grad, 0));
    // Where nothing counts, nothing has a gradient.
    if (task.reduction == Reduction::mean) return Stat{} + (counted == 0 ? 0 : Real(number(of_grad, 0) / counted));
    if constexpr (!tiled) return Real(number(of_grad, start(stripe, 0, of_grad)));
    else return with_numbers_of(of_grad, [&](auto* grads) { return load_rows(grads, of_grad, stripe, vector); });
  }

  // What a tensor has for the rows of a vector; behind the last row may be anything finite.
  template <class Number> Vec load_rows(const Number* numbers, Operand tensor, const Stripe& stripe, int64_t vector) const {
    numbers += start(stripe, vector * lanes, tensor);
    int64_t count = rows_of(stripe, vector), step = task.layout.inner().steps.of[tensor];
    if (step == 1) return load_as<Real>(numbers, count);
    if (step == 0) return Vec{} + load_as<Real>(numbers, 1)[0];
    std::remove_const_t<Number> here[lanes] = {};
    for (int64_t lane = 0; lane < count; lane++) here[lane] = numbers[lane * step];
    return load_as<Real>(here, lanes);
  }

  // Stores the costs of a vector's rows in C, or how they change, or returns their sum.
  outlined double take_cost(const Stripe& stripe, int64_t vector, Stat C, Operand to = of_row) const {
    if (task.has_rows()) store_cost(stripe, vector, C, to);
    if constexpr (!tiled) return C;
    else return sum_in_double<Real>(first<Real>(rows_of(stripe, vector), C, 0));
  }
};

}  // namespace
