// The inner loops of the pose solve, compiled: consensus.py, kabsch.py and refinement.py of structpose_ros say what
// they compute, and why, and are what they are tested against. NumPy takes four times as long for them behind a
// network that has just used all caches: a thousand small operations, each with its own way through memory.
//
// Points are rows, (3, N), as NumPy lays them out: all x, all y, all z. Matrices are row by row. Transforms name
// both frames, target first.

#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "vectors.h"

namespace {

using Matrix = std::array<double, 9>;
using Vector = std::array<double, 3>;

// As in consensus.py.
constexpr int kMatches = 128;
constexpr float kLeastSpan = 0.1f;
constexpr double kTolerance = 0.05, kRelativeTolerance = 0.05;
constexpr int kPolishingRounds = 1;
constexpr double kRayScale = 0.05;
// As in refinement.py.
constexpr double kDamping = 1e-4, kInMetres = 0.5, kNearest = 0.05;

constexpr int kSums = 23;  // of a round over its points

struct Points {
  const double *x, *y, *z;
  Points(const double *rows, int n) : x(rows), y(rows + n), z(rows + 2 * n) {}
};

Vector turned(const Matrix &r, const Vector &p) {
  return {r[0] * p[0] + r[1] * p[1] + r[2] * p[2], r[3] * p[0] + r[4] * p[1] + r[5] * p[2],
          r[6] * p[0] + r[7] * p[1] + r[8] * p[2]};
}

Matrix transposed(const Matrix &r) { return {r[0], r[3], r[6], r[1], r[4], r[7], r[2], r[5], r[8]}; }

#if defined(__GNUC__)
inline __attribute__((always_inline)) int popcount(std::uint64_t word) { return __builtin_popcountll(word); }
#else
inline int popcount(std::uint64_t word) { return static_cast<int>(std::bitset<64>(word).count()); }
#endif

double squared(double value) { return value * value; }

double tolerance_at(double z) { return kTolerance + kRelativeTolerance * std::max(z, 0.0); }

struct Svd {
  Vector values;  // falling
  Vector left[2], right[2];  // of the two largest
};

double dot(const Vector &a, const Vector &b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

Vector cross(const Vector &a, const Vector &b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

// Any unit vector at right angles to a unit vector.
Vector across(const Vector &a) {
  const Vector axis = std::abs(a[0]) < 0.6 ? Vector{1, 0, 0} : Vector{0, 1, 0};
  const Vector found = cross(a, axis);
  const double length = std::sqrt(dot(found, found));
  return {found[0] / length, found[1] / length, found[2] / length};
}

// By one-sided Jacobi rotations (Hestenes 1958): columns are turned until they are at right angles. Eight sweeps leave
// nothing that a double could hold: each squares the cosines that are left, about.
Svd svd(const Matrix &m) {
  Vector columns[3] = {{m[0], m[3], m[6]}, {m[1], m[4], m[7]}, {m[2], m[5], m[8]}};
  Vector right[3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
  double largest = 0.0;
  for (const double value : m) largest = std::max(largest, std::abs(value));
  const double scale = largest > 0.0 ? largest : 1.0;
  for (Vector &column : columns) {
    for (double &value : column) value /= scale;
  }
  for (int sweep = 0; sweep < 8; ++sweep) {
    for (int p = 0; p < 2; ++p) {
      for (int q = p + 1; q < 3; ++q) {
        const double cosine = dot(columns[p], columns[q]);
        if (cosine == 0.0) continue;
        const double half_difference = 0.5 * (dot(columns[q], columns[q]) - dot(columns[p], columns[p]));
        const double length = std::sqrt(half_difference * half_difference + cosine * cosine);
        if (!(length > 0.0)) continue;
        const double t = cosine / (half_difference + std::copysign(length, half_difference));
        const double c = 1.0 / std::sqrt(1.0 + t * t), s = t * c;
        for (int k = 0; k < 3; ++k) {
          const double one = columns[p][k], other = columns[q][k], turned_one = right[p][k], turned_other = right[q][k];
          columns[p][k] = c * one - s * other;
          columns[q][k] = s * one + c * other;
          right[p][k] = c * turned_one - s * turned_other;
          right[q][k] = s * turned_one + c * turned_other;
        }
      }
    }
  }
  double lengths[3];
  int order[3] = {0, 1, 2};
  for (int k = 0; k < 3; ++k) lengths[k] = std::sqrt(dot(columns[k], columns[k]));
  std::sort(order, order + 3, [&](int i, int j) { return lengths[i] > lengths[j]; });
  Svd result;
  for (int k = 0; k < 3; ++k) result.values[k] = lengths[order[k]] * scale;
  for (int k = 0; k < 2; ++k) {
    const double length = lengths[order[k]];
    result.right[k] = right[order[k]];
    for (int row = 0; row < 3; ++row) result.left[k][row] = length > 0.0 ? columns[order[k]][row] / length : 0.0;
  }
  if (!(lengths[order[0]] > 0.0)) result.left[0] = result.right[0];
  if (!(lengths[order[1]] > 0.0)) result.left[1] = across(result.left[0]);
  return result;
}

// The rotation R with the largest trace of R^T S, S = sum w b a^T (Kabsch). The third axes follow from the others, so
// that it can't come out as a reflection.
Matrix rotation_of(const Svd &s) {
  const Vector left[3] = {s.left[0], s.left[1], cross(s.left[0], s.left[1])};
  const Vector right[3] = {s.right[0], s.right[1], cross(s.right[0], s.right[1])};
  Matrix rotation{};
  for (int k = 0; k < 3; ++k) {
    for (int row = 0; row < 3; ++row) {
      for (int column = 0; column < 3; ++column) rotation[3 * row + column] += left[k][row] * right[k][column];
    }
  }
  return rotation;
}

// Sums over points in two passes: of what is left of them around their means nothing is lost to rounding.
WIDEST_VECTORS void moments(const double *a, const double *b, const double *weights, int n, double *mean_a,
                            double *mean_b, double *cross_covariance) {
  const double *ax = a, *ay = a + n, *az = a + 2 * n, *bx = b, *by = b + n, *bz = b + 2 * n;
  double total = 0, a0 = 0, a1 = 0, a2 = 0, b0 = 0, b1 = 0, b2 = 0;
#pragma omp simd reduction(+ : total, a0, a1, a2, b0, b1, b2)
  for (int i = 0; i < n; ++i) {
    const double w = weights[i];
    total += w, a0 += w * ax[i], a1 += w * ay[i], a2 += w * az[i];
    b0 += w * bx[i], b1 += w * by[i], b2 += w * bz[i];
  }
  const double share = 1.0 / std::max(total, std::numeric_limits<double>::min());
  a0 *= share, a1 *= share, a2 *= share, b0 *= share, b1 *= share, b2 *= share;
  double xx = 0, xy = 0, xz = 0, yx = 0, yy = 0, yz = 0, zx = 0, zy = 0, zz = 0;  // b first
#pragma omp simd reduction(+ : xx, xy, xz, yx, yy, yz, zx, zy, zz)
  for (int i = 0; i < n; ++i) {
    const double w = weights[i] * share;
    const double px = w * (ax[i] - a0), py = w * (ay[i] - a1), pz = w * (az[i] - a2);
    const double qx = bx[i] - b0, qy = by[i] - b1, qz = bz[i] - b2;
    xx += qx * px, xy += qx * py, xz += qx * pz, yx += qy * px, yy += qy * py, yz += qy * pz;
    zx += qz * px, zy += qz * py, zz += qz * pz;
  }
  mean_a[0] = a0, mean_a[1] = a1, mean_a[2] = a2, mean_b[0] = b0, mean_b[1] = b1, mean_b[2] = b2;
  const double all[9] = {xx, xy, xz, yx, yy, yz, zx, zy, zz};
  std::copy(all, all + 9, cross_covariance);
}

// A closed-form solve; pose: 12 numbers, rotation and translation; values: the cross-covariance's singular values.
void kabsch(const double *a, const double *b, const double *weights, int n, double *pose, double *values) {
  Vector mean_a, mean_b;
  Matrix cross_covariance;
  moments(a, b, weights, n, mean_a.data(), mean_b.data(), cross_covariance.data());
  const Svd decomposed = svd(cross_covariance);
  const Matrix rotation = rotation_of(decomposed);
  const Vector moved = turned(rotation, mean_a);
  std::copy(rotation.begin(), rotation.end(), pose);
  for (int row = 0; row < 3; ++row) pose[9 + row] = mean_b[row] - moved[row];
  std::copy(decomposed.values.begin(), decomposed.values.end(), values);
}

// Geman-McClure factors of points under a pose, at twice the tolerance, times their weights.
WIDEST_VECTORS void weigh(const double *a, const double *b, int n, const double *weights, const double *pose,
                          double *weighed) {
  const double *ax = a, *ay = a + n, *az = a + 2 * n, *bx = b, *by = b + n, *bz = b + 2 * n;
  const double *r = pose, *t = pose + 9;
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const double x = r[0] * ax[i] + r[1] * ay[i] + r[2] * az[i] + t[0] - bx[i];
    const double y = r[3] * ax[i] + r[4] * ay[i] + r[5] * az[i] + t[1] - by[i];
    const double z = r[6] * ax[i] + r[7] * ay[i] + r[8] * az[i] + t[2] - bz[i];
    const double depth = az[i] > 0.0 ? az[i] : 0.0;
    const double tolerance = kTolerance + kRelativeTolerance * depth;
    const double scale = 4.0 * tolerance * tolerance;
    const double factor = scale / (scale + x * x + y * y + z * z);
    weighed[i] = weights[i] * (factor * factor);
  }
}

// How much weight falls near its ray under a pose; `seen` is (2, N), x/z and y/z.
WIDEST_VECTORS double score(const double *seen, const double *b, int n, const double *weights, const double *pose) {
  const double *u = seen, *v = seen + n, *bx = b, *by = b + n, *bz = b + 2 * n;
  const double *r = pose, *t = pose + 9;
  const double tx = r[0] * t[0] + r[3] * t[1] + r[6] * t[2], ty = r[1] * t[0] + r[4] * t[1] + r[7] * t[2];
  const double tz = r[2] * t[0] + r[5] * t[1] + r[8] * t[2];
  const double scale = kRayScale * kRayScale;
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < n; ++i) {
    const double x = r[0] * bx[i] + r[3] * by[i] + r[6] * bz[i] - tx;
    const double y = r[1] * bx[i] + r[4] * by[i] + r[7] * bz[i] - ty;
    const double z = r[2] * bx[i] + r[5] * by[i] + r[8] * bz[i] - tz;
    const double inverse_z = 1.0 / (z > 0.0 ? z : 1.0);
    const double eu = x * inverse_z - u[i], ev = y * inverse_z - v[i];
    const double near = scale / (scale + eu * eu + ev * ev);
    sum += z > 0.0 ? weights[i] * (near * near) : 0.0;
  }
  return sum;
}

using Flags = std::array<std::uint64_t, kMatches / 64>;

// Which matches agree with match i: as far from it in the map as before the camera. Rows x, y, z of both, centred.
WIDEST_VECTORS void agreeing(const float *a, const float *b, const float *tolerance, int n, int i, std::uint64_t *flags) {
  unsigned char agree[kMatches] = {};
  const float *ax = a, *ay = a + n, *az = a + 2 * n, *bx = b, *by = b + n, *bz = b + 2 * n;
  const float ax0 = ax[i], ay0 = ay[i], az0 = az[i], bx0 = bx[i], by0 = by[i], bz0 = bz[i], own = tolerance[i];
#pragma omp simd
  for (int j = 0; j < n; ++j) {
    const float px = ax[j] - ax0, py = ay[j] - ay0, pz = az[j] - az0;
    const float qx = bx[j] - bx0, qy = by[j] - by0, qz = bz[j] - bz0;
    const float in_camera = std::sqrt(px * px + py * py + pz * pz), in_map = std::sqrt(qx * qx + qy * qy + qz * qz);
    const float allowed = tolerance[j] > own ? tolerance[j] : own;
    agree[j] = (std::abs(in_camera - in_map) < allowed) & (in_camera + in_map > 2.0f * kLeastSpan);
  }
  for (int word = 0; word < kMatches / 64; ++word) {
    std::uint64_t bits = 0;
#pragma omp simd reduction(| : bits)
    for (int j = 0; j < 64; ++j) bits |= static_cast<std::uint64_t>(agree[64 * word + j]) << j;
    flags[word] = bits;
  }
}

std::vector<float> centred(const double *rows, int n) {
  std::vector<float> result(3 * n);
  for (int row = 0; row < 3; ++row) {
    const double mean = std::accumulate(rows + row * n, rows + (row + 1) * n, 0.0) / n;
    for (int i = 0; i < n; ++i) result[row * n + i] = static_cast<float>(rows[row * n + i] - mean);
  }
  return result;
}

// How many matches agree with both of two, (n, n), where these agree with each other.
WIDEST_VECTORS void common(const Flags *agree, int n, unsigned char *support) {
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      int count = 0;
      for (int word = 0; word < kMatches / 64; ++word) count += popcount(agree[i][word] & agree[j][word]);
      count *= static_cast<int>(agree[i][j / 64] >> (j % 64) & 1);
      support[i * n + j] = support[j * n + i] = static_cast<unsigned char>(count);
    }
  }
}

// How much each match supports each of those chosen as starts, (starts, n). Points (3, n).
std::vector<double> supporters(const double *a, const double *b, int n, int starts) {
  const std::vector<float> in_camera = centred(a, n), in_map = centred(b, n);
  std::vector<float> tolerance(n);
  for (int i = 0; i < n; ++i) tolerance[i] = static_cast<float>(tolerance_at(a[2 * n + i]));
  std::vector<Flags> agree(n);
  for (int i = 0; i < n; ++i) agreeing(in_camera.data(), in_map.data(), tolerance.data(), n, i, agree[i].data());
  std::vector<unsigned char> support(n * n), most(n);  // a match agrees with at most 127 others
  common(agree.data(), n, support.data());
  std::vector<double> remaining(n);
  for (int i = 0; i < n; ++i) {
    const auto row = support.begin() + i * n;
    most[i] = *std::max_element(row, row + n);
    remaining[i] = std::accumulate(row, row + n, 0);
  }
  std::vector<double> rows(starts * n);
  for (int start = 0; start < starts; ++start) {
    const int chosen = static_cast<int>(std::max_element(remaining.begin(), remaining.end()) - remaining.begin());
    for (int j = 0; j < n; ++j) {
      rows[start * n + j] = squared(support[chosen * n + j]);
      // What supports a start needs no pose of its own. The shares are rounded as in consensus.py.
      remaining[j] *= 1.0f - static_cast<float>(support[chosen * n + j]) / static_cast<float>(std::max<int>(most[chosen], 1));
    }
    rows[start * n + chosen] = squared(most[chosen]);  // a match does not agree with itself
    remaining[chosen] = -1.0;
  }
  return rows;
}

// Solve m x = c by Gauss's elimination; whether there is a solution whose squares are finite.
bool solve(double m[6][6], double c[6]) {
  for (int k = 0; k < 6; ++k) {
    int pivot = k;
    for (int i = k + 1; i < 6; ++i) {
      if (std::abs(m[i][k]) > std::abs(m[pivot][k])) pivot = i;
    }
    if (m[pivot][k] == 0.0) return false;
    std::swap(c[k], c[pivot]);
    for (int j = 0; j < 6; ++j) std::swap(m[k][j], m[pivot][j]);
    for (int i = k + 1; i < 6; ++i) {
      const double factor = m[i][k] / m[k][k];
      for (int j = k; j < 6; ++j) m[i][j] -= factor * m[k][j];
      c[i] -= factor * c[k];
    }
  }
  double sum = 0;
  for (int k = 5; k >= 0; --k) {
    for (int j = k + 1; j < 6; ++j) c[k] -= m[k][j] * c[j];
    c[k] /= m[k][k];
    sum += c[k] * c[k];
  }
  return std::isfinite(sum);
}

// As geometry.rotation_from_vector.
Matrix rotation_about(double x, double y, double z) {
  const double angle = std::sqrt(x * x + y * y + z * z);
  double s = 1.0, v = 0.5;
  if (angle >= 1e-8) s = std::sin(angle) / angle, v = (1.0 - std::cos(angle)) / (angle * angle);
  return {1 - v * (y * y + z * z), v * x * y - s * z, v * x * z + s * y,
          v * x * y + s * z, 1 - v * (x * x + z * z), v * y * z - s * x,
          v * x * z - s * y, v * y * z + s * x, 1 - v * (x * x + y * y)};
}

// One round's sums over the points, weighed at `scale`; also the weights, and the errors' squares, for the last.
// seen: (2, N). sums: 17 of the matrix, 6 of the gradient; see `normal_equations`.
WIDEST_VECTORS void add_up(const double *seen, const double *b, const double *weights, int n, const double *pose,
                           double scale, bool in_metres, double *current, double *errors, double *depths,
                           double *sums) {
  const double *u = seen, *v = seen + n, *bx = b, *by = b + n, *bz = b + 2 * n;
  const double *r = pose, *t = pose + 9;
  const double tx = r[0] * t[0] + r[3] * t[1] + r[6] * t[2], ty = r[1] * t[0] + r[4] * t[1] + r[7] * t[2];
  const double tz = r[2] * t[0] + r[5] * t[1] + r[8] * t[2];
  const double scale2 = scale * scale;
  const double metres = in_metres ? 1.0 : 0.0;
  double s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0, s8 = 0, s9 = 0, s10 = 0, s11 = 0;
  double s12 = 0, s13 = 0, s14 = 0, s15 = 0, s16 = 0, g0 = 0, g1 = 0, g2 = 0, g3 = 0, g4 = 0, g5 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15, s16) \
    reduction(+ : g0, g1, g2, g3, g4, g5)
  for (int i = 0; i < n; ++i) {
    const double x = r[0] * bx[i] + r[3] * by[i] + r[6] * bz[i] - tx;
    const double y = r[1] * bx[i] + r[4] * by[i] + r[7] * bz[i] - ty;
    const double z = r[2] * bx[i] + r[5] * by[i] + r[8] * bz[i] - tz;
    const double ahead = z > kNearest ? 1.0 : 0.0;
    const double inverse_z = ahead / (z > kNearest ? z : kNearest);
    const double p = u[i], q = v[i];
    const double eu = x * inverse_z - p, ev = y * inverse_z - q, square = eu * eu + ev * ev;
    // A scale of 0: the weights are those of the last step already.
    const double robust = scale > 0.0 ? scale2 / (scale2 + square) : 1.0;
    const double weight = weights[i] * robust * robust * ahead;
    current[i] = weight;
    errors[i] = square;
    depths[i] = z;
    const double w = weight * (metres * z * z + (1.0 - metres));
    const double wz = w * inverse_z, wzz = wz * inverse_z;
    const double pp = p * p, qq = q * q, pq = p * q, length = 1.0 + pp + qq;
    s0 += wzz, s1 += wzz * p, s2 += wzz * q, s3 += wzz * (pp + qq);
    s4 += wz * pq, s5 += wz * (1.0 + pp), s6 += wz * (1.0 + qq), s7 += wz * p, s8 += wz * q;
    s9 += wz * q * length, s10 += wz * p * length;
    s11 += w * (pp * qq + (1.0 + qq) * (1.0 + qq)), s12 += w * (pp * qq + (1.0 + pp) * (1.0 + pp));
    s13 += w * (pp + qq), s14 += w * pq * (1.0 + length), s15 += w * p, s16 += w * q;
    const double along = p * eu + q * ev;
    g0 -= wz * eu, g1 -= wz * ev, g2 += wz * along;
    g3 += w * (q * along + ev), g4 -= w * (p * along + eu), g5 += w * (q * eu - p * ev);
  }
  const double all[kSums] = {s0,  s1,  s2,  s3,  s4,  s5,  s6,  s7, s8, s9, s10, s11,
                             s12, s13, s14, s15, s16, g0,  g1,  g2, g3, g4, g5};
  std::copy(all, all + kSums, sums);
}

// The sums of w J'J for a step (dt, dtheta) in the camera's axes, of what `add_up` gathered. See `_Rays`: with
// g_u = (1, 0, -u), g_v = (0, 1, -v) and p = (u, v, 1) the Jacobians are -g / z and g x p.
void normal_equations(const double *s, double m[6][6]) {
  const double upper[6][6] = {{s[0], 0, -s[1], -s[4], s[5], -s[8]},
                              {0, s[0], -s[2], -s[6], s[4], s[7]},
                              {0, 0, s[3], s[9], -s[10], 0},
                              {0, 0, 0, s[11], -s[14], -s[15]},
                              {0, 0, 0, 0, s[12], -s[16]},
                              {0, 0, 0, 0, 0, s[13]}};
  for (int i = 0; i < 6; ++i) {
    for (int j = i; j < 6; ++j) m[i][j] = m[j][i] = upper[i][j];
  }
}

}  // namespace

extern "C" {

// consensus.consensus: a and b (3, n), weights (n,) in; n weights out.
void structpose_consensus(const double *a_rows, const double *b_rows, const double *given, int n, int starts,
                          double *result) {
  const Points a(a_rows, n), b(b_rows, n);
  std::vector<double> weights(n), seen(2 * n);
  std::vector<int> order;
  for (int i = 0; i < n; ++i) {
    const bool ahead = a.z[i] > 0.0;
    weights[i] = ahead ? given[i] : 0.0;
    seen[i] = a.x[i] / (ahead ? a.z[i] : 1.0);
    seen[n + i] = a.y[i] / (ahead ? a.z[i] : 1.0);
    if (weights[i] > 0.0) order.push_back(i);
  }
  if (order.size() < 3) {
    std::copy(weights.begin(), weights.end(), result);
    return;
  }
  const int count = std::min<int>(kMatches, static_cast<int>(order.size()));
  const auto heavier = [&](int i, int j) { return weights[i] > weights[j] || (weights[i] == weights[j] && i < j); };
  std::nth_element(order.begin(), order.begin() + (count - 1), order.end(), heavier);
  std::sort(order.begin(), order.begin() + count, heavier);
  std::vector<double> matched_a(3 * count), matched_b(3 * count), matched_weights(count), weighed(count);
  for (int k = 0; k < count; ++k) {
    for (int row = 0; row < 3; ++row) {
      matched_a[row * count + k] = a_rows[row * n + order[k]];
      matched_b[row * count + k] = b_rows[row * n + order[k]];
    }
    matched_weights[k] = weights[order[k]];
  }
  starts = std::min(starts, count);
  const std::vector<double> rows = supporters(matched_a.data(), matched_b.data(), count, starts);
  double best_score = -1.0, best[12] = {};
  for (int start = 0; start < starts; ++start) {
    const double *row = &rows[start * count];
    const bool supported = std::any_of(row, row + count, [](double value) { return value > 0.0; });
    double pose[12], values[3];
    kabsch(matched_a.data(), matched_b.data(), supported ? row : matched_weights.data(), count, pose, values);
    for (int round = 0; round < kPolishingRounds; ++round) {
      weigh(matched_a.data(), matched_b.data(), count, matched_weights.data(), pose, weighed.data());
      kabsch(matched_a.data(), matched_b.data(), weighed.data(), count, pose, values);
    }
    const double reached = score(seen.data(), b_rows, n, weights.data(), pose);
    if (reached > best_score) {
      best_score = reached;
      std::copy(pose, pose + 12, best);
    }
  }
  weigh(a_rows, b_rows, n, weights.data(), best, result);
}

// kabsch.weighted_median. NaN is larger than all else.
double structpose_weighted_median(const double *values, const double *weights, int n) {
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  const double half = 0.5 * std::accumulate(weights, weights + n, 0.0);
  double below = 0.0;
  int low = 0, high = n;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    std::nth_element(order.begin() + low, order.begin() + middle, order.begin() + high, [&](int i, int j) {
      return values[i] < values[j] || (std::isnan(values[j]) && !std::isnan(values[i]));
    });
    double sum = below;
    for (int k = low; k < middle; ++k) sum += weights[order[k]];
    if (sum >= half) {
      high = middle;
    } else {
      low = middle;
      below = sum;
    }
  }
  return values[order[low]];
}

// kabsch.kabsch. pose: 12 numbers, rotation and translation, out; values: 3 singular values out.
void structpose_kabsch(const double *a_rows, const double *b_rows, const double *weights, int n, double *pose,
                       double *values) {
  kabsch(a_rows, b_rows, weights, n, pose, values);
}

// refinement.refine. pose: 12 numbers, rotation and translation, in and out. weights (n,): of the last step out.
// normal_matrix (6, 6). Returns whether the pose is determined.
int structpose_refine(double *pose, const double *seen, const double *b_rows, const double *given, int n, int rounds,
                      double first_scale, double last_scale, double *weights, double *normal_matrix, double *errors,
                      double *distances) {
  const Points b(b_rows, n);
  std::vector<double> depths(n);
  double sums[kSums], m[6][6];
  bool determined = true;  // where it is not, the work goes on: a frame takes as long whatever the camera sees
  for (int round = 0; round < rounds; ++round) {
    const double share = rounds > 1 ? static_cast<double>(round) / (rounds - 1) : 1.0;
    const double scale = first_scale * std::pow(last_scale / first_scale, share);
    const bool in_metres = round < static_cast<int>(kInMetres * rounds);
    add_up(seen, b_rows, given, n, pose, scale, in_metres, weights, errors, depths.data(), sums);
    normal_equations(sums, m);
    for (const int first : {0, 3}) {  // not by elements: the axes must not matter
      const double damping = kDamping / 3.0 * (m[first][first] + m[first + 1][first + 1] + m[first + 2][first + 2]);
      for (int k = first; k < first + 3; ++k) m[k][k] += damping;
    }
    double step[6];
    for (int k = 0; k < 6; ++k) step[k] = -sums[kSums - 6 + k];
    if (!solve(m, step)) {
      determined = false;
      std::fill(step, step + 6, 0.0);
    }
    Matrix rotation;
    std::copy(pose, pose + 9, rotation.begin());
    const Vector moved = turned(rotation, {step[0], step[1], step[2]});
    for (int row = 0; row < 3; ++row) pose[9 + row] += moved[row];
    const Matrix turn = rotation_about(step[3], step[4], step[5]);
    for (int row = 0; row < 3; ++row) {
      for (int column = 0; column < 3; ++column) {
        pose[3 * row + column] = rotation[3 * row] * turn[column] + rotation[3 * row + 1] * turn[3 + column] +
                                 rotation[3 * row + 2] * turn[6 + column];
      }
    }
  }
  std::vector<double> last(weights, weights + n);
  add_up(seen, b_rows, last.data(), n, pose, 0.0, false, weights, errors, depths.data(), sums);
  normal_equations(sums, m);
  Matrix map_from_camera;
  std::copy(pose, pose + 9, map_from_camera.begin());
  for (int block_row = 0; block_row < 6; block_row += 3) {  // to the map's axes
    for (int block_column = 0; block_column < 6; block_column += 3) {
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
          double sum = 0.0;
          for (int k = 0; k < 3; ++k) {
            for (int l = 0; l < 3; ++l) {
              sum += map_from_camera[3 * i + k] * m[block_row + k][block_column + l] * map_from_camera[3 * j + l];
            }
          }
          normal_matrix[6 * (block_row + i) + block_column + j] = sum;
        }
      }
    }
  }
  const Matrix camera_from_map = transposed(map_from_camera);
  for (int i = 0; i < n; ++i) {
    if (depths[i] > kNearest) {
      distances[i] = std::sqrt(errors[i]) * depths[i];
    } else {
      const Vector p = turned(camera_from_map, {b.x[i] - pose[9], b.y[i] - pose[10], b.z[i] - pose[11]});
      distances[i] = std::sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]);
      errors[i] = std::numeric_limits<double>::infinity();
    }
  }
  return determined ? 1 : 0;
}
}
