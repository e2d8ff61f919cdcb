// How the numbers of several tensors lie in memory: the same rows and columns of each, at steps of its own.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace {

// Whose steps are known. `row` is a row's number in the order of the examples, by which C is found.
// v is a direction; what is written of how C changes beside C lies as C does.
enum Operand { of_z, of_y, of_weight, of_pos_weight, of_v, of_delta, of_grad, of_row, of_change, operands };
// Those that have steps of their own: as many as a vector of the processor has room for.
constexpr int stepped = of_change;

// Where a row begins in each tensor, or how far it is from one number to the next, in numbers.
struct Steps {
  int64_t of[stepped] = {};

  Steps operator+(const Steps& other) const {
    Steps sum = *this;
    for (int i = 0; i < stepped; i++) sum.of[i] += other.of[i];
    return sum;
  }
  Steps operator*(int64_t factor) const {
    Steps product = *this;
    for (int64_t& step : product.of) step *= factor;
    return product;
  }
  bool operator==(const Steps& other) const { return std::equal(of, of + stepped, other.of); }
};

// More dimensions than PyTorch's tensors of numbers have in practice; calls with more are refused.
constexpr int most_dims = 16;

struct Dim {
  int64_t size;
  Steps steps;
};

// Dimensions, sorted by the steps of z: the last has the smallest. Rows are counted in that order.
struct Layout {
  int dims = 0;
  Dim dim[most_dims];

  void add(int64_t size, const Steps& steps) {
    if (size != 1) dim[dims++] = {size, steps};
  }

  // Sorts the dimensions, and makes one of those that follow one another in all tensors.
  void collapse() {
    auto is_before = [](const Dim& left, const Dim& right) {
      return std::abs(left.steps.of[of_z]) > std::abs(right.steps.of[of_z]);
    };
    for (int i = 1; i < dims; i++)
      for (int j = i; j > 0 && is_before(dim[j], dim[j - 1]); j--) std::swap(dim[j], dim[j - 1]);
    int last = 0;
    for (int i = 1; i < dims; i++) {
      if (dim[last].steps == dim[i].steps * dim[i].size)
        dim[last] = {dim[last].size * dim[i].size, dim[i].steps};
      else
        dim[++last] = dim[i];
    }
    if (dims == 0) dim[0] = {1, {}};
    dims = last + 1;
  }

  const Dim& inner() const { return dim[dims - 1]; }

  int64_t size() const {
    int64_t product = 1;
    for (int i = 0; i < dims; i++) product *= dim[i].size;
    return product;
  }

  // Calls f(start, count, step) for all rows that follow one another with the same step in one tensor.
  template <class Function> void each_run(Operand tensor, Function f) const {
    int64_t rows = inner().size, step = inner().steps.of[tensor];
    for (int64_t first = 0, end = size(); first < end; first += rows) f(start(first).of[tensor], rows, step);
  }

  // Where the row of this number begins.
  Steps start(int64_t row) const {
    if (dims == 1) return dim[0].steps * row;
    Steps steps;
    for (int i = dims - 1; i >= 0; i--) {
      steps = steps + dim[i].steps * (row % dim[i].size);
      row /= dim[i].size;
    }
    return steps;
  }
};

}  // namespace
