// Divergences of two softmax layers and their gradients, row by row, for finite weighted inputs.
//
// `divergences.py` has the formulas: q and p are the student's and the teacher's probabilities, u = ln p − ln q. What is
// centered, p (v − Σ p v), loses no digits where p is near 1: with r = Σ e of the others it is
// p (v r + (v − v of the largest) − Σ e v of the others) / (1 + r).

#include "exponential.h"
#include "threads.h"

namespace {

constexpr int64_t lanes = Wide<float>::lanes;
// So many vectors are summed in float, which rounds little.
constexpr int64_t sum_vectors = 32;
constexpr float least_exponent = -80;

enum class Kind { forward_kl, reverse_kl, jensen_shannon };

// exp(x) − 1 for x ≤ 80.
inlined inline Floats expm1(Floats x) {
  ExpTerms terms(x < least_exponent ? least_exponent : x);
  return (terms.power - 1) + terms.change;
}

// ln(1 + w) for −1 < w ≤ 0.
inlined inline Floats log1p_of_negative(Floats w) {
  return w >= -0.5f ? log1p_of_fraction<float>(w) : log_of_positive<float>(1 + w);
}

// One of both layers, for one example.
struct Softmax {
  float* z;
  float c, m, ln, inverse, r;

  // Lanes behind the end of a row hold m.
  inlined Floats at(int64_t j, int64_t count) const { return first<float>(count, load(z + j, count), m); }
  inlined Floats x(Floats z) const {
    Floats x = c * (z - m), least = Floats{} + std::numeric_limits<float>::lowest();
    return x < least ? least : x;
  }
};

// What a formula takes, of a vector of classes.
struct Classes {
  Floats x, e, a, complement, ln;

  inlined Classes(const Softmax& softmax, Floats z)
      : x(softmax.x(z)),
        e(exp_of_vector<float>(x)),
        a(e * softmax.inverse),
        complement((softmax.r + (1 - e)) * softmax.inverse),
        ln(x - softmax.ln) {}
};

// Sums in float that become double before they are long.
struct Sum {
  Floats part = {};
  double total = 0;
  inlined void add(Floats term) { part += term; }
  void carry() { total += sum<float>(part), part = Floats{}; }
};

// Calls f(j, count) for all vectors of a row, and carries the sums in between.
template <class Function, class... Sums> inlined inline void for_each_vector(int64_t K, Function f, Sums&... sums) {
  for (int64_t start = 0; start < K; start += sum_vectors * lanes) {
    int64_t end = std::min(start + sum_vectors * lanes, K), j = start;
    for (; j < end; j += lanes) f(j, std::min(lanes, end - j));
    (sums.carry(), ...);
  }
}

// Finds m and r; returns false if a number of the row is not finite.
bool normalize(Softmax& softmax, int64_t K) {
  Floats most = Floats{} - std::numeric_limits<float>::infinity(), zero = {};
  for_each_vector(K, [&](int64_t j, int64_t count) inlined {
    Floats z = first<float>(count, load(softmax.z + j, count), softmax.z[0]);
    most = z > most ? z : most;
    zero += z * 0;  // nan if z is not finite
  });
  if (sum<float>(zero) != 0) return false;
  softmax.m = largest<float>(most);
  Sum ones, others;
  for_each_vector(K, [&](int64_t j, int64_t count) inlined {
    Floats x = first<float>(count, softmax.x(load(softmax.z + j, count)), -std::numeric_limits<float>::infinity());
    ones.add(x == 0 ? 1 : Floats{});
    others.add(x == 0 ? Floats{} : exp_of_vector<float>(x));
  }, ones, others);
  softmax.r = float(ones.total - 1 + others.total);
  softmax.ln = float(std::log1p(ones.total - 1 + others.total)), softmax.inverse = 1 / (1 + softmax.r);
  return true;
}

// Σ v over the largest classes, and Σ e v over the others.
struct Center {
  Sum largest, others;

  inlined void add(const Classes& classes, Floats v) {
    largest.add(classes.x == 0 ? v : Floats{});
    others.add(classes.x == 0 ? Floats{} : classes.e * v);
  }
  void carry() { largest.carry(), others.carry(); }
  inlined Floats centered(const Softmax& softmax, const Classes& classes, Floats v) const {
    Floats difference = v * softmax.r + (v - float(largest.total)) - float(others.total);
    return classes.a * (difference * softmax.inverse);
  }
};

// ln(q/m) and ln(p/m) for the mixture m, or −u and u: what is centered for the gradient of each layer.
template <Kind kind> struct Ratios {
  Floats student, teacher;

  inlined Ratios(Floats u, float beta) : student(-u), teacher(u) {
    if constexpr (kind == Kind::jensen_shannon) {
      Floats above = u > 0 ? u : 0, below = u > 0 ? 0 : u;
      Floats other = u > 0 ? Floats{} + (1 - beta) : Floats{} + beta;
      Floats larger = -log1p_of_negative(other * expm1(below - above));
      student = larger - above, teacher = larger + below;
    }
  }
};

// Σ p u as Σ (p u + q − p). Of a term whose q is larger by far, only q is left.
inlined inline Floats kl(Floats u, const Classes& p, const Classes& q) {
  return u < least_exponent ? q.a : p.a * (u + expm1(-u));
}

// Returns D of a row and, with a factor, writes the gradients of factor D that are needed.
template <Kind kind>
float divergence(const Softmax& student, const Softmax& teacher, float beta, const float* factor, bool student_needs,
                 bool teacher_needs, int64_t K) {
  Sum sum;
  Center student_center, teacher_center;
  for_each_vector(K, [&](int64_t j, int64_t count) inlined {
    Classes q(student, student.at(j, count)), p(teacher, teacher.at(j, count));
    Floats u = p.ln - q.ln;
    Ratios<kind> ratios(u, beta);
    Floats term = kind == Kind::forward_kl ? kl(u, p, q)
                  : kind == Kind::reverse_kl ? kl(-u, q, p)
                                             : beta * (p.a * ratios.teacher) + (1 - beta) * (q.a * ratios.student);
    sum.add(first<float>(count, term, 0));
    if (kind != Kind::forward_kl) student_center.add(q, first<float>(count, ratios.student, 0));
    if (kind != Kind::reverse_kl) teacher_center.add(p, first<float>(count, ratios.teacher, 0));
  }, sum, student_center, teacher_center);
  float D = float(sum.total);
  if (!factor) return D;
  float student_factor = *factor * student.c * (kind == Kind::jensen_shannon ? 1 - beta : 1);
  float teacher_factor = *factor * teacher.c * (kind == Kind::jensen_shannon ? beta : 1);
  for_each_vector(K, [&](int64_t j, int64_t count) inlined {
    Classes q(student, student.at(j, count)), p(teacher, teacher.at(j, count));
    Ratios<kind> ratios(p.ln - q.ln, beta);
    // In this form of q − p no digits are lost where both are near 1.
    Floats difference = q.a * p.complement - p.a * q.complement;
    Floats student_gradient = kind == Kind::forward_kl ? difference : student_center.centered(student, q, ratios.student);
    Floats teacher_gradient = kind == Kind::reverse_kl ? -difference : teacher_center.centered(teacher, p, ratios.teacher);
    if (student_needs) store(product(Floats{} + student_factor, student_gradient), student.z + j, count);
    if (teacher_needs) store(product(Floats{} + teacher_factor, teacher_gradient), teacher.z + j, count);
  });
  return D;
}

}  // namespace

// Writes D of each row and, with factors, the gradients of Σ factor D that are needed over z and teacher_z. Returns false,
// and writes nothing, if a number is not finite.
extern "C" bool divergences(Kind kind, float beta, float* z, float* teacher_z, float c, float teacher_c,
                            const float* factor, bool student_needs, bool teacher_needs, float* D, int64_t rows,
                            int64_t K, int threads) {
  const float normal = std::numeric_limits<float>::min();
  std::vector<Softmax> softmax(2 * rows);
  std::vector<char> is_finite(rows);
  parallel_for(rows, threads, [&](int64_t row) {
    Softmax *student = &softmax[2 * row], *teacher = student + 1;
    student->z = z + row * K, student->c = std::max(c, normal);
    teacher->z = teacher_z + row * K, teacher->c = std::max(teacher_c, normal);
    is_finite[row] = normalize(*student, K) && normalize(*teacher, K);
  });
  if (!std::all_of(is_finite.begin(), is_finite.end(), [](char row) { return row; })) return false;
  auto find = kind == Kind::forward_kl   ? divergence<Kind::forward_kl>
              : kind == Kind::reverse_kl ? divergence<Kind::reverse_kl>
                                         : divergence<Kind::jensen_shannon>;
  parallel_for(rows, threads, [&](int64_t row) {
    const float* own = factor ? factor + row : nullptr;
    D[row] = find(softmax[2 * row], softmax[2 * row + 1], beta, own, student_needs, teacher_needs, K);
  });
  return true;
}
