// The costs and their δ on the CPU: z is read once forward, read once and δ written once backward.
//
// There are two families of costs: of a softmax layer, row by row, and sums over neurons, element by element. Both take
// classes or desired outputs y, and weights. The formulas are those of the plain versions, worked out in float64 for z in
// float64 and else in float32, on vectors that the compiler lays over the registers there are. Nothing of PyTorch is
// included: that compiles in seconds, and serves every version. `cpu.py` calls the functions at the end. Tensors are
// rows, one after the other, of `columns` numbers.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>
#ifdef __linux__
#include <sys/mman.h>
#endif

// Of threads.cpp.
void share_out(int64_t parts, int threads, void (*f)(void*, int64_t), void* context);

// What is called for each vector: not inlined, it would take its count of numbers for a variable.
#define inlined __attribute__((always_inline))

namespace {

template <class Function> void share_out(int64_t parts, int threads, Function f) {
  ::share_out(parts, threads, [](void* f, int64_t part) { (*(Function*)f)(part); }, &f);
}

template <class Number, int lanes> using Vector __attribute__((vector_size(lanes * sizeof(Number)))) = Number;

// What is worked with: 64 bytes of float or double.
template <class Real> struct Wide;
template <> struct Wide<float> {
  static constexpr int lanes = 16, terms_of_exp = 8, terms_of_log = 8, fraction_bits = 23;
  using Bits = Vector<uint32_t, lanes>;
  using Signed = Vector<int32_t, lanes>;
  static constexpr float round = 3 << 22;  // a number this large plus another has no room for a fraction
  static constexpr float lowest_exponent = -0x1.5d58ap6f;  // exp of less is below the normal numbers
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
};
template <> struct Wide<double> {
  static constexpr int lanes = 8, terms_of_exp = 15, terms_of_log = 18, fraction_bits = 52;
  using Bits = Vector<uint64_t, lanes>;
  using Signed = Vector<int64_t, lanes>;
  static constexpr double round = 0x1.8p52;
  static constexpr double lowest_exponent = -0x1.6232bdd7abcd2p9;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
};
template <class Real> using Reals = Vector<Real, Wide<Real>::lanes>;

// What is read of a row at once: little enough to stay in the nearest cache, where it is read a second time.
constexpr int64_t chunk = 4096;
// What a thread takes at once: enough to be worth it, little enough that none has to wait long for another.
constexpr int64_t elements_of_part = 32768;

// What tensors are made of.
struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
template <class Number> struct Computed {
  using Real = float;
};
template <> struct Computed<double> {
  using Real = double;
};

using Floats = Reals<float>;
using Words = Vector<uint32_t, 16>;
using Halves = Vector<uint16_t, 16>;

Floats widen(Halves x, Bfloat16) { return (Floats)(__builtin_convertvector(x, Words) << 16); }

Floats widen(Halves x, Float16) {
  Words word = __builtin_convertvector(x, Words), exponent = word & 0x7c00;
  // 2¹¹² is by how much the exponents of a float are larger; subnormal numbers become normal.
  Words number = (Words)((Floats)((word & 0x7fff) << 13) * 0x1p112f);
  Words special = (word & 0x7fff) << 13 | 0x7f800000;
  return (Floats)((exponent == 0x7c00 ? special : number) | (word & 0x8000) << 16);
}

// To nearest, ties to even. A nan stays one.
Halves narrow(Floats x, Bfloat16) {
  Words word = (Words)x, rounded = word + 0x7fff + (word >> 16 & 1);
  return __builtin_convertvector((x == x ? rounded : word | 0x400000) >> 16, Halves);
}

Halves narrow(Floats x, Float16) {
  Words word = (Words)x, sign = word >> 16 & 0x8000, size = word & 0x7fffffff;
  Words normal = ((size + 0xfff + (size >> 13 & 1)) >> 13) - (112 << 10);
  // Subnormal numbers are multiples of 2⁻²⁴, as are the numbers next to ½.
  Words subnormal = (Words)((Floats)size + 0.5f) - (Words)(Floats{} + 0.5f);
  Words special = size > 0x7f800000 ? Words{} + 0x7e00 : Words{} + 0x7c00;
  Words number = size < 0x38800000 ? subnormal : normal;
  return __builtin_convertvector((size >= 0x477ff000 ? special : number) | sign, Halves);
}

template <class Real> Reals<Real> load_real(const Real* from, int64_t count) {
  Reals<Real> vector = {};
  std::memcpy(&vector, from, count * sizeof(Real));
  return vector;
}
Reals<float> load(const float* from, int64_t count) { return load_real(from, count); }
Reals<double> load(const double* from, int64_t count) { return load_real(from, count); }
template <class Half> Floats load_half(const Half* from, int64_t count) {
  Halves vector = {};
  std::memcpy(&vector, from, count * sizeof(Half));
  return widen(vector, Half());
}
Floats load(const Bfloat16* from, int64_t count) { return load_half(from, count); }
Floats load(const Float16* from, int64_t count) { return load_half(from, count); }

void store(Reals<float> x, float* to, int64_t count) { std::memcpy(to, &x, count * sizeof(float)); }
void store(Reals<double> x, double* to, int64_t count) { std::memcpy(to, &x, count * sizeof(double)); }
template <class Half> void store_half(Floats x, Half* to, int64_t count) {
  Halves vector = narrow(x, Half());
  std::memcpy(to, &vector, count * sizeof(Half));
}
void store(Floats x, Bfloat16* to, int64_t count) { store_half(x, to, count); }
void store(Floats x, Float16* to, int64_t count) { store_half(x, to, count); }

// The numbers of the lanes, from `start` on.
template <class Real> typename Wide<Real>::Signed lanes_from(int64_t start) {
  typename Wide<Real>::Signed lane;
  for (int i = 0; i < Wide<Real>::lanes; i++) lane[i] = i + start;
  return lane;
}

// x in the first `count` lanes, `other` in those past the end of a row.
template <class Real> Reals<Real> first(int64_t count, Reals<Real> x, Real other) {
  return count == Wide<Real>::lanes ? x : lanes_from<Real>(-count) < 0 ? x : other;
}

template <class Real> Real sum(Reals<Real> x) {
  Real total = 0;
  for (int lane = 0; lane < Wide<Real>::lanes; lane++) total += x[lane];
  return total;
}

template <class Real> Real largest(Reals<Real> x) {
  Real most = x[0];
  for (int lane = 1; lane < Wide<Real>::lanes; lane++) most = x[lane] > most ? x[lane] : most;
  return most;
}

// The product, 0 where the factor is 0, also of what is not finite: what does not count adds nothing.
template <class Number> Number product(Number factor, Number x) { return factor == 0 ? factor * 0 : factor * x; }

constexpr double inverse_factorials[] = {
    1.0,          1.0,           1.0 / 2,         1.0 / 6,          1.0 / 24,          1.0 / 120,
    1.0 / 720,    1.0 / 5040,    1.0 / 40320,     1.0 / 362880,     1.0 / 3628800,     1.0 / 39916800,
    1.0 / 479001600, 1.0 / 6227020800, 1.0 / 87178291200};

// exp(x) for x ≤ 0, and 0 where that is below the normal numbers. With n = x / ln 2, rounded, and |r| ≤ ½ ln 2 it is
// 2ⁿ exp(r), for which a few terms of the series do.
template <class Real> Reals<Real> exp_of_negative(Reals<Real> x) {
  using W = Wide<Real>;
  Reals<Real> shifted = x * Real(0x1.71547652b82fep0) + W::round, n = shifted - W::round;
  Reals<Real> r = (x - n * W::ln2_high) - n * W::ln2_low;
  Reals<Real> series = Reals<Real>{} + Real(inverse_factorials[W::terms_of_exp - 1]);
#pragma GCC unroll 16
  for (int i = W::terms_of_exp - 2; i >= 0; i--) series = Real(inverse_factorials[i]) + r * series;
  // The last bits of `shifted` are n, and belong where a number has its exponent.
  using Bits = typename W::Bits;
  auto power_of_2 = (Reals<Real>)(((Bits)shifted << W::fraction_bits) + (Bits)(Reals<Real>{} + 1));
  return x < W::lowest_exponent ? 0 : series * power_of_2;
}

// ln(1 + u) for 0 ≤ u ≤ 1, as 2 artanh(q) with q = u / (2 + u) ≤ ⅓: no digit of a small u is lost.
template <class Real> Reals<Real> log1p_of_fraction(Reals<Real> u) {
  Reals<Real> q = u / (2 + u), q2 = q * q, series = {};
#pragma GCC unroll 20
  for (int i = Wide<Real>::terms_of_log - 1; i >= 0; i--) series = Real(2) / Real(2 * i + 1) + q2 * series;
  return q * series;
}

enum Target : int32_t { classes = 0, same, real };  // y: classes, or outputs of z's dtype, or of the dtype worked in
enum Reduction : int32_t { none = 0, of_sum, of_mean };

// What `cpu.py` asks for, field by field as there. Weights, C and what is of rows are of the dtype worked in.
struct Task {
  const void* z;           // rows of `columns` numbers
  const void* y;           // a class for each row, or desired outputs shaped like z
  const void* weight;      // null for 1: of each class, or of each neuron
  const void* pos_weight;  // null for 1: of each neuron
  void* of_rows;           // of each row m, then of each r, T, C; then a double, how many rows count in the mean
  void* C;                 // of each row, or reduced
  const void* grad;        // of C, shaped like it
  void* delta;             // shaped like z
  int64_t rows, columns;
  int64_t weight_row, weight_column, pos_weight_row, pos_weight_column;  // from one to the next
  int64_t ignore_index;
  double c;  // 1 / temperature
  double label_smoothing;
  Target target;
  Reduction reduction;
  int32_t threads;

  int64_t elements() const { return rows * columns; }
  bool is_ignored(int64_t row) const { return target == classes && ((const int64_t*)y)[row] == ignore_index; }
  double& counted() const { return *(double*)((char*)of_rows); }
};

// A task with the types of its numbers.
template <class Number> struct Typed : Task {
  using Real = typename Computed<Number>::Real;
  using Vec = Reals<Real>;
  static constexpr int64_t lanes = Wide<Real>::lanes;

  explicit Typed(const Task& task) : Task(task) {}

  const Number* z_of(int64_t row) const { return (const Number*)z + row * columns; }
  Number* delta_of(int64_t row) const { return (Number*)delta + row * columns; }
  Real* of_row(int which) const { return (Real*)of_rows + 2 + which * rows; }
  Real* m() const { return of_row(0); }
  Real* r() const { return of_row(1); }
  Real* T() const { return of_row(2); }
  Real* C_of_rows() const { return reduction == none ? (Real*)C : of_row(3); }

  Real grad_of(int64_t row) const {
    auto grads = (const Real*)grad;
    return reduction == none ? grads[row] : reduction == of_sum ? *grads : Real(*grads / counted());
  }

  // Desired outputs y of a row from a column on.
  inlined Vec outputs(int64_t row, int64_t column, int64_t count) const {
    int64_t i = row * columns + column;
    if (target == same) return load((const Number*)y + i, count);
    if (target == real) return load((const Real*)y + i, count);
    int64_t lane = ((const int64_t*)y)[row] - column;
    if (lane < 0 || lane >= count) return Vec{};
    return lanes_from<Real>(-lane) == 0 ? Vec{} + 1 : Vec{};
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
    int64_t together = std::max<int64_t>(elements_of_part / columns, 1);
    share_out((rows + together - 1) / together, threads, [&](int64_t part) {
      for (int64_t row = part * together; row < std::min((part + 1) * together, rows); row++) f(row);
    });
  }

  // Calls f(row, start, end) for every row, in parts of its columns, in several threads.
  template <class Function> void each_part_of_rows(Function f) const {
    int64_t parts_of_row = (columns + elements_of_part - 1) / elements_of_part;
    if (parts_of_row == 1) {
      each_row([&](int64_t row) { f(row, 0, columns); });
      return;
    }
    share_out(rows * parts_of_row, threads, [&](int64_t part) {
      int64_t start = part % parts_of_row * elements_of_part;
      f(part / parts_of_row, start, std::min(start + elements_of_part, columns));
    });
  }

  void reduce() const {
    if (reduction == none) return;
    const Real* C_of_row = C_of_rows();
    double total = 0;
    for (int64_t row = 0; row < rows; row++) total += C_of_row[row];
    *(Real*)C = Real(reduction == of_sum ? total : total / counted());
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

// The log-likelihood of a softmax layer. With m = maxⱼ zⱼ, xⱼ = c (zⱼ − m) and r = Σⱼ exp xⱼ − 1, to which the largest z
// adds nothing, C = T ln(1 + r) − Σⱼ tⱼ xⱼ and δ = c (exp x (T − t) − t (r + (1 − exp x))) / (1 + r).
template <class Number> struct Softmax : Typed<Number> {
  using Base = Typed<Number>;
  using typename Base::Real;
  using typename Base::Vec;
  using Base::lanes;
  static constexpr Real infinity = std::numeric_limits<Real>::infinity();

  Real c, spread, sum_of_weights = 0;
  bool is_class, is_spread;

  explicit Softmax(const Task& task) : Base(task) {
    c = Real(std::max(task.c, double(std::numeric_limits<Real>::min())));
    is_class = task.target == classes;
    spread = Real(task.label_smoothing / double(task.columns));
    // Of a class y without label smoothing t is 0 but at j = y.
    is_spread = !is_class || task.label_smoothing != 0;
    if (is_class && is_spread)
      each_vector<lanes>(0, task.columns, [&](int64_t column, int64_t count) inlined {
        sum_of_weights += sum<Real>(first<Real>(count, this->weights(0, column, count), 0));
      });
  }

  int64_t class_of(int64_t row) const { return ((const int64_t*)this->y)[row]; }

  // t of a row, but for what a class y has at j = y beyond the others.
  inlined Vec t(int64_t row, int64_t column, int64_t count) const {
    Vec outputs = is_class ? Vec{} : Real(1 - this->label_smoothing) * this->outputs(row, column, count);
    return first<Real>(count, this->weights(0, column, count) * (outputs + spread), 0);
  }
  Real peak(int64_t row) const {
    if (!is_class) return 0;
    return Real(1 - this->label_smoothing) * (this->weight ? ((const Real*)this->weight)[class_of(row)] : Real(1));
  }

  static Real finite(Real m) { return m == -infinity ? std::numeric_limits<Real>::lowest() : m; }

  inlined Vec x(Vec z, Real m) const {
    Vec difference = z - finite(m);
    if (m == infinity) difference = z == infinity ? 0 : difference;
    return c * difference;
  }
  Real x(Real z, Real m) const { return z == infinity ? 0 : c * (z - finite(m)); }

  // The sums over the columns of a row so far: of exp x, of how many are 1 and of the others; of t x and of t.
  struct Sums {
    Real m = -infinity, ones = 0, others = 0, tx = 0, T = 0;
  };

  void add(Sums& sums, const Number* z, int64_t row, int64_t start, int64_t end) const {
    auto z_at = [&](int64_t column, int64_t count) inlined {
      // Past the end of a row there is the next, which is faster to read too than to leave out.
      bool more_follows = row * this->columns + column + lanes <= this->elements();
      return first<Real>(count, load(z + column, more_follows ? lanes : count), -infinity);
    };
    Vec most = Vec{} - infinity;
    each_vector<lanes>(start, end, [&](int64_t column, int64_t count) inlined {
      most = z_at(column, count) > most ? z_at(column, count) : most;
    });
    Real m = largest<Real>(most);
    if (m > sums.m) {
      Real fall = c * (m - finite(sums.m));
      sums.others = (sums.ones + sums.others == 0) ? 0 : (sums.ones + sums.others) * std::exp(-fall);
      sums.ones = 0;
      sums.tx -= product(sums.T, fall);
      sums.m = m;
    }
    Vec ones = {}, others = {}, tx = {}, T = {};
    each_vector<lanes>(start, end, [&](int64_t column, int64_t count) inlined {
      Vec x_here = x(z_at(column, count), sums.m), e = exp_of_negative<Real>(x_here);
      ones = x_here == 0 ? ones + 1 : ones;
      others = x_here == 0 ? others : others + e;
      if (is_spread) {
        Vec t_here = t(row, column, count);
        tx += product(t_here, x_here);
        T += t_here;
      }
    });
    sums.ones += sum<Real>(ones);
    sums.others += sum<Real>(others);
    if (is_spread) sums.tx += sum<Real>(tx), sums.T += sum<Real>(T);
  }

  // Returns false, and does no more, where some y is no class.
  bool cost() const {
    if (is_class && !this->all_are_classes()) return false;
    this->each_row([&](int64_t row) { cost(row); });
    int64_t counted = 0;
    for (int64_t row = 0; row < this->rows; row++) counted += !this->is_ignored(row);
    this->counted() = double(counted);
    this->reduce();
    return true;
  }

  void cost(int64_t row) const {
    if (this->is_ignored(row)) {
      this->C_of_rows()[row] = 0;
      return;
    }
    const Number* z = this->z_of(row);
    Sums sums;
    for (int64_t start = 0; start < this->columns; start += chunk)
      add(sums, z, row, start, std::min(start + chunk, this->columns));
    Real r = sums.others + (sums.ones - 1), C = -sums.tx;
    if (is_class) {
      sums.T = peak(row) + spread * sum_of_weights;
      C -= product(peak(row), x(load(z + class_of(row), 1)[0], sums.m));
    }
    this->m()[row] = sums.m;
    this->r()[row] = r;
    this->T()[row] = sums.T;
    this->C_of_rows()[row] = C + product(sums.T, std::log1p(r));
  }

  void delta() const {
    this->each_part_of_rows([&](int64_t row, int64_t start, int64_t end) { delta(row, start, end); });
  }

  void delta(int64_t row, int64_t start, int64_t end) const {
    const Number* z = this->z_of(row);
    Number* out = this->delta_of(row);
    Real g = this->grad_of(row), m = this->m()[row], r = this->r()[row], T = this->T()[row];
    if (this->is_ignored(row) || g == 0 || (T == 0 && (m == -infinity || r != r))) {
      std::memset(out + start, 0, (end - start) * sizeof(Number));
      return;
    }
    Real factor = c * g, factor_by_s = factor / (1 + r);
    auto e_at = [&](int64_t column, int64_t count) inlined {
      return exp_of_negative<Real>(x(load(z + column, count), m));
    };
    auto delta_at = [&](Vec e, Vec t) inlined { return factor_by_s * (e * (T - t) - t * (r + (1 - e))); };
    if (is_spread) {
      each_vector<lanes>(start, end, [&](int64_t column, int64_t count) inlined {
        store(delta_at(e_at(column, count), t(row, column, count)), out + column, count);
      });
    } else {
      Real factor_of_e = factor_by_s * T;
      each_vector<lanes>(start, end, [&](int64_t column, int64_t count) inlined {
        store(factor_of_e * e_at(column, count), out + column, count);
      });
    }
    if (is_class && start <= class_of(row) && class_of(row) < end) {
      int64_t y = class_of(row);
      Vec t_y = is_spread ? t(row, y, 1) + peak(row) : Vec{} + peak(row);
      store(delta_at(e_at(y, 1), t_y), out + y, 1);
    }
  }
};

template <class Vec> Vec magnitude(Vec x) { return x < 0 ? -x : x; }

// σ(z) and σ(−z), each with all its digits.
template <class Real> struct Sigmoid {
  Reals<Real> of_z, of_minus_z;

  explicit Sigmoid(Reals<Real> z) {
    Reals<Real> u = exp_of_negative<Real>(-magnitude(z)), larger = 1 / (1 + u), smaller = u * larger;
    of_z = z < 0 ? smaller : larger;
    of_minus_z = z < 0 ? larger : smaller;
  }
  // a − y, of which no digits are lost where y and a are near 1.
  Reals<Real> error(Reals<Real> y) const { return (1 - y) * of_z - y * of_minus_z; }
};

// Formulas of C and δ of a neuron; p is 1 but for the cross-entropy.
struct CrossEntropy {
  template <class Real, class Vec = Reals<Real>> static Vec cost(Vec z, Vec y, Vec p) {
    Vec log1p = log1p_of_fraction<Real>(exp_of_negative<Real>(-magnitude(z)));
    return product<Vec>(1 - y, log1p + (z < 0 ? 0 : z)) + product<Vec>(p * y, log1p + (z < 0 ? -z : 0));
  }
  template <class Real, class Vec = Reals<Real>> static Vec delta(Vec z, Vec y, Vec p) {
    Sigmoid<Real> a(z);
    return (1 - y) * a.of_z - p * y * a.of_minus_z;
  }
};

struct Quadratic {
  template <class Real, class Vec = Reals<Real>> static Vec cost(Vec z, Vec y, Vec) {
    Vec error = Sigmoid<Real>(z).error(y);
    return Real(0.5) * error * error;
  }
  template <class Real, class Vec = Reals<Real>> static Vec delta(Vec z, Vec y, Vec) {
    Sigmoid<Real> a(z);
    return a.error(y) * a.of_z * a.of_minus_z;
  }
};

struct Linear {
  template <class Real, class Vec = Reals<Real>> static Vec cost(Vec z, Vec y, Vec) {
    return Real(0.5) * (z - y) * (z - y);
  }
  template <class Real, class Vec = Reals<Real>> static Vec delta(Vec z, Vec y, Vec) { return z - y; }
};

// A cost that is a sum over neurons.
template <class Formula, class Number> struct Neurons : Typed<Number> {
  using Base = Typed<Number>;
  using typename Base::Real;
  using typename Base::Vec;
  using Base::lanes;

  int64_t elements_in_all;

  explicit Neurons(const Task& task) : Base(joined(task)), elements_in_all(task.elements()) {}

  // Where C is reduced it does not matter where a row ends: short ones are taken together, the last few may be fewer.
  static Task joined(Task task) {
    bool any_row = task.target != classes && any_row_has(task.weight, task.weight_row, task.weight_column, task) &&
                   any_row_has(task.pos_weight, task.pos_weight_row, task.pos_weight_column, task);
    task.counted() = double(task.rows);
    if (task.reduction == none || !any_row) return task;
    int64_t together = std::max<int64_t>(chunk / task.columns, 1);
    task.rows = (task.rows + together - 1) / together;
    for (int64_t* columns : {&task.columns, &task.weight_row, &task.pos_weight_row}) *columns *= together;
    return task;
  }

  // Whether a weight is the same for all neurons, or is laid out as z is.
  static bool any_row_has(const void* weight, int64_t row, int64_t column, const Task& task) {
    return !weight || (row == 0 && column == 0) || (row == task.columns && column == 1);
  }

  int64_t end_of(int64_t row) const { return std::min(this->columns, elements_in_all - row * this->columns); }

  template <Vec (*formula)(Vec, Vec, Vec)> inlined Vec weighted(int64_t row, int64_t column, int64_t count) const {
    Vec value = formula(load(this->z_of(row) + column, count), this->outputs(row, column, count),
                   this->pos_weights(row, column, count));
    return this->weight ? product<Vec>(this->weights(row, column, count), value) : value;
  }

  // C of each row, the sum over its neurons.
  bool cost() const {
    if (this->target == classes && !this->all_are_classes()) return false;
    this->each_row([&](int64_t row) {
      double total = 0;
      for (int64_t start = 0; start < end_of(row); start += chunk) {
        Vec sums = {};
        each_vector<lanes>(start, std::min(start + chunk, end_of(row)), [&](int64_t column, int64_t count) inlined {
          Vec costs = weighted<Formula::template cost<Real>>(row, column, count);
          sums += first<Real>(count, costs, 0);
        });
        total += sum<Real>(sums);
      }
      this->C_of_rows()[row] = Real(total);
    });
    this->reduce();
    return true;
  }

  // δ of each neuron, times the gradient of the row's cost.
  void delta() const {
    this->each_part_of_rows([&](int64_t row, int64_t start, int64_t end) {
      Real g = this->grad_of(row);
      Number* out = this->delta_of(row);
      each_vector<lanes>(start, std::min(end, end_of(row)), [&](int64_t column, int64_t count) inlined {
        Vec delta = weighted<Formula::template delta<Real>>(row, column, count);
        store(product<Vec>(Vec{} + g, delta), out + column, count);
      });
    });
  }
};

template <class Cost, class Number> void write_delta(const Task& task) {
  use_large_pages(task.delta, task.elements() * sizeof(Number));
  Cost(task).delta();
}

}  // namespace

#define OF_COST(name, Cost, dtype, Number)                                               \
  extern "C" bool name##_##dtype(const Task& task) { return Cost(task).cost(); }         \
  extern "C" void name##_delta_##dtype(const Task& task) { write_delta<Cost, Number>(task); }

#define OF_EVERY_COST(dtype, Number)                                     \
  using Softmax_##dtype = Softmax<Number>;                               \
  using CrossEntropy_##dtype = Neurons<CrossEntropy, Number>;            \
  using Quadratic_##dtype = Neurons<Quadratic, Number>;                  \
  using Linear_##dtype = Neurons<Linear, Number>;                        \
  OF_COST(log_likelihood, Softmax_##dtype, dtype, Number)                \
  OF_COST(cross_entropy, CrossEntropy_##dtype, dtype, Number)            \
  OF_COST(quadratic, Quadratic_##dtype, dtype, Number)                   \
  OF_COST(linear, Linear_##dtype, dtype, Number)

OF_EVERY_COST(float32, float)
OF_EVERY_COST(float64, double)
OF_EVERY_COST(bfloat16, Bfloat16)
OF_EVERY_COST(float16, Float16)

// exp x, x = c (z − m), in the place of z, which has an m and a row y for each of its columns, a multiple of 16; the sum
// of each column but for its row y, and Σ base x, if there is a base for each row.
extern "C" void exponentials(float* z, const float* m, const int64_t* y, float c, const float* base, float* sums,
                             float* base_x, int64_t rows, int64_t columns, int threads) {
  constexpr int64_t rows_of_sum = 256;  // sums of more are made apart, and rounded less
  constexpr int64_t lanes = Wide<float>::lanes;
  c = std::max(c, std::numeric_limits<float>::min());
  int64_t parts = (rows + rows_of_sum - 1) / rows_of_sum;
  std::vector<float> sums_of_parts(parts * columns), base_x_of_parts(base ? parts * columns : 0);
  share_out(parts, threads, [&](int64_t part) {
    for (int64_t column = 0; column < columns; column += lanes) {
      Floats most = load(m + column, lanes), sum = {}, sum_of_base = {};
      typename Wide<float>::Signed y_here;
      for (int lane = 0; lane < lanes; lane++) y_here[lane] = int32_t(y[column + lane]);
      for (int64_t row = part * rows_of_sum; row < std::min((part + 1) * rows_of_sum, rows); row++) {
        float* here = z + row * columns + column;
        Floats z_here = load(here, lanes), x = c * (z_here == most ? 0 : z_here - most);
        Floats e = exp_of_negative<float>(x);
        store(e, here, lanes);
        sum = y_here == int32_t(row) ? sum : sum + e;
        if (base && base[row] != 0) sum_of_base += base[row] * x;
      }
      store(sum, &sums_of_parts[part * columns + column], lanes);
      if (base) store(sum_of_base, &base_x_of_parts[part * columns + column], lanes);
    }
  });
  auto add_up = [&](const std::vector<float>& of_parts, float* out) {
    for (int64_t column = 0; column < columns; column++) {
      double total = 0;
      for (int64_t part = 0; part < parts; part++) total += of_parts[part * columns + column];
      out[column] = float(total);
    }
  };
  add_up(sums_of_parts, sums);
  if (base) add_up(base_x_of_parts, base_x);
}
