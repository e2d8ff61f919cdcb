// A task in stripes of rows, whose parts several threads compute, and whose costs are reduced.

#pragma once

#include "task.h"
#include "threads.h"

namespace {

// Rows that are computed together: one, whose columns lie side by side in vectors; or a tile of some, side by side.
struct Stripe {
  int64_t first, rows;
  Steps start;
};

// The sums of a part's costs and, where both are asked for, of how they change.
struct Sums {
  double cost = 0, change = 0;
};

// A function f(stripe, start, end) of columns of a stripe, called by its address: what calls it is compiled once. What it
// returns are sums, or the first of them, or nothing.
class PartFunction {
  const void* f;
  Sums (*call)(const void*, const Stripe&, int64_t, int64_t);

 public:
  template <class Function> PartFunction(const Function& f) : f(&f) {
    call = [](const void* f, const Stripe& stripe, int64_t start, int64_t end) {
      auto& function = *(const Function*)f;
      using Result = decltype(function(stripe, start, end));
      if constexpr (std::is_void_v<Result>) return function(stripe, start, end), Sums{};
      else if constexpr (std::is_same_v<Result, Sums>) return function(stripe, start, end);
      else return Sums{function(stripe, start, end)};
    };
  }
  Sums operator()(const Stripe& stripe, int64_t start, int64_t end) const { return call(f, stripe, start, end); }
};

// A task in stripes, each a row or, of tiles, so many rows, whatever they are computed in.
struct Stripes {
  const Task& task;
  const bool are_tiles;
  const int64_t stripe_rows;
  const int64_t rows = task.layout.size(), inner_size = are_tiles ? task.layout.inner().size : rows;
  const int64_t inner_stripes = (inner_size + stripe_rows - 1) / stripe_rows;

  Stripe stripe(int64_t i) const {
    if (!are_tiles) return {i, 1, task.layout.start(i)};
    int64_t outer = i / inner_stripes, inner = i % inner_stripes * stripe_rows;
    int64_t first = outer * inner_size + inner;
    return {first, std::min(stripe_rows, inner_size - inner), task.layout.start(first)};
  }

  int64_t parts(int64_t part_columns) const {
    return rows / inner_size * inner_stripes * ((task.columns + part_columns - 1) / part_columns);
  }
  // Calls f for every stripe, in parts of so many columns, in several threads, and keeps what it returns.
  outlined void each_part(int64_t part_columns, PartFunction f, Sums* results = nullptr) const {
    int64_t column_parts = (task.columns + part_columns - 1) / part_columns;
    int64_t parts = this->parts(part_columns);
    int64_t elements = std::min(part_columns, task.columns) * std::min(stripe_rows, inner_size);
    int64_t together = std::max<int64_t>(part_elements / elements, 1);
    parallel_for((parts + together - 1) / together, task.threads, [&](int64_t group) {
      for (int64_t part = group * together; part < std::min((group + 1) * together, parts); part++) {
        int64_t start = part % column_parts * part_columns;
        Sums result = f(stripe(part / column_parts), start, std::min(start + part_columns, task.columns));
        if (results) results[part] = result;
      }
    });
  }

  // Calls cost for all parts of so many columns, and reduces the sums that it returns. The mean of nothing is `empty`.
  outlined void reduced(int64_t part_columns, double counted, PartFunction cost, double empty = std::nan("")) const {
    std::vector<Sums> sums(parts(part_columns));
    each_part(part_columns, cost, sums.data());
    if (task.has_rows()) return;
    Sums total;
    for (const Sums& part : sums) total.cost += part.cost, total.change += part.change;
    auto set = [&](Operand to, double sum) {
      set_cost(to, 0, task.reduction == Reduction::sum ? sum : counted == 0 ? empty : sum / counted);
    };
    set(of_row, total.cost);
    if (task.data[of_change]) set(of_change, total.change);
  }

  // One number of a tensor.
  outlined double number(Operand tensor, int64_t index) const {
    return with_numbers(task.type[tensor], [&](auto* null) {
      return double(load((std::remove_pointer_t<decltype(null)>*)task.data[tensor] + index, 1)[0]);
    });
  }
  outlined void set_cost(Operand to, int64_t index, double C) const {
    with_numbers(task.type[to], [&](auto* null) {
      using Number = std::remove_pointer_t<decltype(null)>;
      using Real = typename Computed<Number>::Real;
      store(Reals<Real>{} + Real(C), (Number*)task.data[to] + index, 1);
    });
  }
};

}  // namespace
