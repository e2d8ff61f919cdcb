// The costs and their δ on the CPU: z is read once forward, read once and δ written once backward.
//
// The formulas are those of the plain versions, worked out in float32, on vectors of 16 numbers that the compiler lays
// over the registers there are. Nothing of PyTorch is included: that compiles in a second, and serves every version.
// `cpu.py` calls the functions at the end. Tensors are rows, one after the other, of `columns` numbers.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

constexpr int64_t lanes = 16;
template <class Number> using Vector __attribute__((vector_size(lanes * sizeof(Number)))) = Number;
using Floats = Vector<float>;
using Words = Vector<uint32_t>;
using Bfloat16s = Vector<uint16_t>;

// What is read of a row at once: little enough to stay in the nearest cache, where it is read a second time.
constexpr int64_t chunk = 4096;
// A thread with fewer elements takes more time than it saves.
constexpr int64_t elements_of_a_thread = 32768;

Floats widen(Floats x) { return x; }
Floats widen(Bfloat16s x) { return (Floats)(__builtin_convertvector(x, Words) << 16); }

void narrow(Floats x, Floats& out) { out = x; }
// To nearest, ties to even. A nan stays one.
void narrow(Floats x, Bfloat16s& out) {
  Words word = (Words)x, rounded = word + 0x7fff + (word >> 16 & 1);
  out = __builtin_convertvector((x == x ? rounded : word | 0x400000) >> 16, Bfloat16s);
}

template <class Number> Floats load(const Number* from, int64_t count) {
  Vector<Number> vector = {};
  std::memcpy(&vector, from, count * sizeof(Number));
  return widen(vector);
}

template <class Number> void store(Floats x, Number* to, int64_t count) {
  Vector<Number> vector;
  narrow(x, vector);
  std::memcpy(to, &vector, count * sizeof(Number));
}

// x in the first `count` lanes, `other` in those past the end of a row.
Floats first(int64_t count, Floats x, float other) {
  constexpr Vector<int32_t> lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lane < int32_t(count) ? x : other;
}

float sum(Floats x) {
  float total = 0;
  for (int lane = 0; lane < lanes; lane++) total += x[lane];
  return total;
}

float largest(Floats x) {
  float most = x[0];
  for (int lane = 1; lane < lanes; lane++) most = x[lane] > most ? x[lane] : most;
  return most;
}

// exp(x) for x ≤ 0, and 0 where that is below float32's normal numbers. With n = x / ln 2, rounded, and |r| ≤ ½ ln 2 it
// is 2ⁿ exp(r), for which eight terms of the series do.
Floats exp_of_negative(Floats x) {
  constexpr float round = 3 << 22;  // a number this large plus another has no room for a fraction
  Floats shifted = x * 0x1.715476p0f + round, n = shifted - round;
  Floats r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  Floats series = 1.0f / 720 + r * (1.0f / 5040);
  series = 1.0f / 120 + r * series;
  series = 1.0f / 24 + r * series;
  series = 1.0f / 6 + r * series;
  series = 0.5f + r * series;
  series = 1.0f + r * series;
  series = 1.0f + r * series;
  // The last bits of `shifted` are n, and belong where a float has its exponent.
  Floats power_of_2 = (Floats)(((Words)shifted << 23) + (Words)(Floats{} + 1.0f));
  return x < -0x1.5d58ap6f ? 0 : series * power_of_2;
}

// ln(1 + u) for 0 ≤ u ≤ 1, as 2 artanh(q) with q = u / (2 + u) ≤ ⅓: no digit of a small u is lost.
Floats log1p_of_fraction(Floats u) {
  Floats q = u / (2 + u), q2 = q * q;
  Floats series = 2.0f / 13 + q2 * (2.0f / 15);
  series = 2.0f / 11 + q2 * series;
  series = 2.0f / 9 + q2 * series;
  series = 2.0f / 7 + q2 * series;
  series = 2.0f / 5 + q2 * series;
  series = 2.0f / 3 + q2 * series;
  series = 2.0f + q2 * series;
  return q * series;
}

Floats magnitude(Floats x) { return x < 0 ? -x : x; }

struct CrossEntropy {
  static Floats cost(Floats z, Floats y) {
    return (z < 0 ? 0 : z) - y * z + log1p_of_fraction(exp_of_negative(-magnitude(z)));
  }
  static Floats delta(Floats z, Floats y) {
    Floats u = exp_of_negative(-magnitude(z));
    return (z < 0 ? u : 1) / (1 + u) - y;
  }
};

struct Quadratic {
  static Floats cost(Floats z, Floats y) {
    Floats u = exp_of_negative(-magnitude(z)), error = (z < 0 ? u : 1) / (1 + u) - y;
    return 0.5f * error * error;
  }
  static Floats delta(Floats z, Floats y) {
    Floats u = exp_of_negative(-magnitude(z)), larger = 1 / (1 + u), smaller = u * larger;
    return ((z < 0 ? smaller : larger) - y) * larger * smaller;
  }
};

struct Linear {
  static Floats cost(Floats z, Floats y) { return 0.5f * (z - y) * (z - y); }
  static Floats delta(Floats z, Floats y) { return z - y; }
};

// What `cpu.py` asks for, field by field as there. Memory that a cost or a δ has no use for may be null.
struct Task {
  const void* z;          // rows of `columns` numbers
  const void* y;          // a class for each row, or desired outputs shaped like z
  float* of_rows;         // of each row m, then of each s, then of each C
  float* C;               // of each row, or reduced
  const float* grad;      // of C, shaped like it
  void* delta;            // shaped like z
  int64_t rows, columns;
  int64_t divisor;        // of the sum that C is reduced to; 0 where C is not reduced
  int32_t threads;
  float c;                // 1 / temperature

  float* C_of_rows() const { return divisor ? of_rows + 2 * rows : C; }
  float grad_of(int64_t row) const { return divisor ? *grad / float(divisor) : grad[row]; }
  int64_t elements() const { return rows * columns; }
  int threads_at_work() const { return int(std::min<int64_t>(threads, 1 + elements() / elements_of_a_thread)); }
};

// Calls f(column, count) for the columns from start to end, a vector's at a time.
template <class Function> void each_vector(int64_t start, int64_t end, Function f) {
  for (; start + lanes <= end; start += lanes) f(start, lanes);
  if (start < end) f(start, end - start);
}

void reduce(const Task& task) {
  const float* C_of_rows = task.C_of_rows();
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t row = 0; row < task.rows; row++) total += C_of_rows[row];
  *task.C = float(total / double(task.divisor));
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

struct LogLikelihood {
  // C = ln s + c (m − z_y) of each row, with m = maxⱼ zⱼ and s = Σⱼ exp(c (zⱼ − m)). Returns false, and does no more,
  // where some y is no class.
  template <class Number> static bool cost(const Task& task) {
    int64_t columns = task.columns;
    float c = task.c;
    auto y = (const int64_t*)task.y;
    if (!std::all_of(y, y + task.rows, [=](int64_t of_row) { return 0 <= of_row && of_row < columns; })) return false;
#pragma omp parallel for num_threads(task.threads_at_work())
    for (int64_t row = 0; row < task.rows; row++) {
      auto z = (const Number*)task.z + row * columns;
      // Past the end of a row there is the next, which is faster to read too than to leave out.
      auto x = [&](int64_t column, int64_t count) {
        bool more_follows = row * columns + column + lanes <= task.elements();
        return first(count, load(z + column, more_follows ? lanes : count), -INFINITY);
      };
      float m_row = -INFINITY, s_row = 0;
      for (int64_t start = 0; start < columns; start += chunk) {
        int64_t end = std::min(start + chunk, columns);
        Floats most = Floats{} - INFINITY;
        each_vector(start, end, [&](int64_t column, int64_t count) {
          most = x(column, count) > most ? x(column, count) : most;
        });
        float m_before = m_row;
        m_row = std::max(m_row, largest(most));
        // Where every z so far was −∞, z − m would be nan.
        float m_finite = m_row == -INFINITY ? 0 : m_row;
        Floats sums = {};
        each_vector(start, end, [&](int64_t column, int64_t count) {
          sums += exp_of_negative(c * (x(column, count) - m_finite));
        });
        s_row = sum(sums) + (s_row == 0 ? 0 : s_row * std::exp(c * (m_before - m_finite)));
      }
      task.of_rows[row] = m_row;
      task.of_rows[task.rows + row] = s_row;
      task.C_of_rows()[row] = std::log(s_row) + c * (m_row - load(z + y[row], 1)[0]);
    }
    if (task.divisor) reduce(task);
    return true;
  }

  // δ = c (exp(c (z − m)) / s − y), times the gradient of the row's cost.
  template <class Number> static void delta(const Task& task) {
    int64_t columns = task.columns;
    float c = task.c;
    auto y = (const int64_t*)task.y;
    const float *m = task.of_rows, *s = m + task.rows;
#pragma omp parallel for collapse(2) num_threads(task.threads_at_work())
    for (int64_t row = 0; row < task.rows; row++) {
      for (int64_t start = 0; start < columns; start += chunk) {
        int64_t end = std::min(start + chunk, columns);
        auto z = (const Number*)task.z + row * columns;
        auto delta = (Number*)task.delta + row * columns;
        float factor = c * task.grad_of(row), m_row = m[row], factor_by_s = factor / s[row];
        auto e = [&](int64_t column, int64_t count) { return exp_of_negative(c * (load(z + column, count) - m_row)); };
        each_vector(start, end, [&](int64_t column, int64_t count) {
          store(factor_by_s * e(column, count), delta + column, count);
        });
        if (start <= y[row] && y[row] < end) store(factor * (e(y[row], 1) / s[row] - 1), delta + y[row], 1);
      }
    }
  }
};

template <class Formula> struct Neurons {
  // C of each row, the sum over its neurons.
  template <class Number> static bool cost(const Task& given) {
    Task task = joined(given);
    auto z = (const Number*)task.z, y = (const Number*)task.y;
#pragma omp parallel for num_threads(task.threads_at_work())
    for (int64_t row = 0; row < task.rows; row++) {
      int64_t start = row * task.columns, end = std::min(start + task.columns, given.elements());
      double total = 0;
      for (; start < end; start += chunk) {
        Floats sums = {};
        each_vector(start, std::min(start + chunk, end), [&](int64_t i, int64_t count) {
          sums += first(count, Formula::cost(load(z + i, count), load(y + i, count)), 0);
        });
        total += sum(sums);
      }
      task.C_of_rows()[row] = float(total);
    }
    if (task.divisor) reduce(task);
    return true;
  }

  // δ of each neuron, times the gradient of the row's cost.
  template <class Number> static void delta(const Task& given) {
    Task task = joined(given);
    auto z = (const Number*)task.z, y = (const Number*)task.y;
    auto delta = (Number*)task.delta;
#pragma omp parallel for collapse(2) num_threads(task.threads_at_work())
    for (int64_t row = 0; row < task.rows; row++) {
      for (int64_t column = 0; column < task.columns; column += chunk) {
        int64_t start = row * task.columns, end = std::min(start + task.columns, given.elements());
        float factor = task.grad_of(row);
        each_vector(start + column, std::min(start + column + chunk, end), [&](int64_t i, int64_t count) {
          store(factor * Formula::delta(load(z + i, count), load(y + i, count)), delta + i, count);
        });
      }
    }
  }

  // Where C is reduced it does not matter where a row ends: short ones are taken together, the last few may be fewer.
  static Task joined(Task task) {
    int64_t together = task.divisor ? std::max<int64_t>(chunk / task.columns, 1) : 1;
    task.rows = (task.rows + together - 1) / together;
    task.columns *= together;
    return task;
  }
};

}  // namespace

#define OF_COST(name, Cost, dtype, Number)                                              \
  extern "C" bool name##_##dtype(const Task& task) { return Cost::cost<Number>(task); } \
  extern "C" void name##_delta_##dtype(const Task& task) {                              \
    use_large_pages(task.delta, task.elements() * sizeof(Number));                      \
    Cost::delta<Number>(task);                                                          \
  }

#define OF_EVERY_COST(dtype, Number)                           \
  OF_COST(log_likelihood, LogLikelihood, dtype, Number)        \
  OF_COST(cross_entropy, Neurons<CrossEntropy>, dtype, Number) \
  OF_COST(quadratic, Neurons<Quadratic>, dtype, Number)        \
  OF_COST(linear, Neurons<Linear>, dtype, Number)

OF_EVERY_COST(float32, float)
OF_EVERY_COST(bfloat16, uint16_t)
