// What a kernel is asked for: the tensors of a cost, as rows of `columns` numbers, one after the other.

#pragma once

#include "numbers.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

// In threads.cpp.
void parallel_for(int64_t parts, int threads, void (*f)(void*, int64_t), void* context);

namespace {

template <class Function> void parallel_for(int64_t parts, int threads, Function f) {
  ::parallel_for(parts, threads, [](void* f, int64_t part) { (*(Function*)f)(part); }, &f);
}

// What is read of a row at once: little enough to stay in the nearest cache, where it is read a second time.
constexpr int64_t chunk = 4096;
// What a thread takes at once: enough to be worth it, little enough that none has to wait long for another.
constexpr int64_t part_elements = 32768;

// What y holds: classes, or desired outputs of z's dtype, or of the one to compute in.
enum class Target : int32_t { classes, outputs, wide_outputs };
enum class Reduction : int32_t { none, sum, mean };
// A change of Task, or of what a function takes, changes this number, here and in `cpp.py`.
constexpr int32_t abi_version = 1;

// What `cpp.py` asks for, field by field as there. Weights, C and statistics are of the dtype to compute in.
struct Task {
  const void* z;           // rows of `columns` numbers
  const void* y;           // a class for each row, or desired outputs shaped like z
  const void* weight;      // null for 1: of each class, or of each neuron
  const void* pos_weight;  // null for 1: of each neuron
  void* statistics;        // a double, how many rows count in the mean; from 2 on of each row m, then of each r, T, C
  void* C;                 // of each row, or reduced
  const void* grad;        // of C, shaped like it
  void* delta;             // shaped like z
  int64_t rows, columns;
  int64_t weight_row, weight_column, pos_weight_row, pos_weight_column;  // from one to the next
  int64_t ignore_index;
  double numbers[2];  // temperature and label smoothing, or whatever else the cost takes
  Target target;
  Reduction reduction;
  int32_t threads;

  int64_t elements() const { return rows * columns; }
  bool is_ignored(int64_t row) const { return target == Target::classes && ((const int64_t*)y)[row] == ignore_index; }
  double& counted() const { return *(double*)((char*)statistics); }
};

static_assert(sizeof(Task) == 8 * 8 + 7 * 8 + 2 * 8 + 3 * 4 + 4, "the fields are those of TASK in cpp.py, and padding");

// A task with the types of its numbers.
template <class Number> struct Typed : Task {
  using Real = typename Computed<Number>::Real;
  using Vec = Reals<Real>;
  static constexpr int64_t lanes = Wide<Real>::lanes;

  explicit Typed(const Task& task) : Task(task) {}

  const Number* z_row(int64_t row) const { return (const Number*)z + row * columns; }
  Number* delta_row(int64_t row) const { return (Number*)delta + row * columns; }
  Real* statistic(int which) const { return (Real*)statistics + 2 + which * rows; }
  Real* m() const { return statistic(0); }
  Real* r() const { return statistic(1); }
  Real* T() const { return statistic(2); }
  Real* row_costs() const { return reduction == Reduction::none ? (Real*)C : statistic(3); }

  Real row_grad(int64_t row) const {
    auto grads = (const Real*)grad;
    return reduction == Reduction::none ? grads[row] : reduction == Reduction::sum ? *grads : Real(*grads / counted());
  }

  // Desired outputs y of a row from a column on.
  inlined Vec outputs(int64_t row, int64_t column, int64_t count) const {
    int64_t i = row * columns + column;
    if (target == Target::outputs) return load((const Number*)y + i, count);
    if (target == Target::wide_outputs) return load((const Real*)y + i, count);
    int64_t lane = ((const int64_t*)y)[row] - column;
    if (lane < 0 || lane >= count) return Vec{};
    return lane_numbers<Real>(-lane) == 0 ? Vec{} + 1 : Vec{};
  }

  inlined Vec factors(const void* weight, int64_t row_step, int64_t column_step, int64_t row, int64_t column,
              int64_t count) const {
    if (!weight) return Vec{} + 1;
    auto from = (const Real*)weight + row * row_step;
    return column_step ? load(from + column, count) : Vec{} + *from;
  }
  inlined Vec weights(int64_t row, int64_t column, int64_t count) const {
    return factors(weight, weight_row, weight_column, row, column, count);
  }
  inlined Vec pos_weights(int64_t row, int64_t column, int64_t count) const {
    return factors(pos_weight, pos_weight_row, pos_weight_column, row, column, count);
  }

  // Calls f(row) for every row, in several threads.
  template <class Function> void each_row(Function f) const {
    int64_t together = std::max<int64_t>(part_elements / columns, 1);
    parallel_for((rows + together - 1) / together, threads, [&](int64_t part) {
      for (int64_t row = part * together; row < std::min((part + 1) * together, rows); row++) f(row);
    });
  }

  // Calls f(row, start, end) for every row, in parts of its columns, in several threads.
  template <class Function> void each_row_part(Function f) const {
    int64_t row_parts = (columns + part_elements - 1) / part_elements;
    if (row_parts == 1) {
      each_row([&](int64_t row) { f(row, 0, columns); });
      return;
    }
    parallel_for(rows * row_parts, threads, [&](int64_t part) {
      int64_t start = part % row_parts * part_elements;
      f(part / row_parts, start, std::min(start + part_elements, columns));
    });
  }

  void reduce() const {
    if (reduction == Reduction::none) return;
    const Real* costs = row_costs();
    double total = 0;
    for (int64_t row = 0; row < rows; row++) total += costs[row];
    *(Real*)C = Real(reduction == Reduction::sum ? total : total / counted());
  }

  bool all_are_classes() const {
    auto y = (const int64_t*)this->y;
    int64_t columns = this->columns, ignored = ignore_index;
    return std::all_of(y, y + rows, [=](int64_t y) { return (0 <= y && y < columns) || y == ignored; });
  }
};

// Calls f(column, count) for the columns from start to end, a vector's at a time.
template <int64_t lanes, class Function> inlined inline void each_vector(int64_t start, int64_t end, Function f) {
  for (; start + lanes <= end; start += lanes) f(start, lanes);
  if (start < end) f(start, end - start);
}

// δ is where memory is written for the first time and gets its pages, by 2 MB several times as fast as by 4 kB.
// Less than 4 MB has too few of them to matter.
void use_large_pages(void* memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t page = 2 << 20;
  if (bytes < 4 << 20) return;
  uintptr_t start = (uintptr_t(memory) + page - 1) / page * page, end = (uintptr_t(memory) + bytes) / page * page;
  madvise((void*)start, end - start, MADV_HUGEPAGE);
#endif
}

template <class Cost, class Number> bool write_delta(const Task& task) {
  use_large_pages(task.delta, task.elements() * sizeof(Number));
  Cost(task).delta();
  return true;
}

}  // namespace
