// kabsch.py of structpose_ros says what this computes, and why, and is what it is tested against.

#include "kabsch.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "linear.h"
#include "vectors.h"

namespace structpose {

namespace {

constexpr std::uint64_t kSign = std::uint64_t{1} << 63;

struct Svd {
  Vector values;  // falling
  Vector left[2], right[2];  // of the two largest
};

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

// Bits that rise with the numbers; NaN is larger than all else.
std::uint64_t key_of(double value) {
  if (std::isnan(value)) return ~std::uint64_t{0};
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits >> 63 ? ~bits : bits | kSign;
}

double value_of(std::uint64_t key) {
  const std::uint64_t bits = key & kSign ? key & ~kSign : ~key;
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

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

// By buckets of the bits of the numbers: which of them hold the median is known without comparing points.
double weighted_median(const double *values, const double *weights, int n) {
  constexpr int kBits = 7;
  struct Weighted {
    std::uint64_t key;
    double weight;
  };
  std::vector<Weighted> points(n);
  std::uint64_t low = ~std::uint64_t{0}, high = 0;
  double half = 0.0, below = 0.0;
  for (int i = 0; i < n; ++i) {
    points[i] = {key_of(values[i]), weights[i]};
    low = std::min(low, points[i].key);
    high = std::max(high, points[i].key);
    half += 0.5 * weights[i];
  }
  while (low < high) {
    int shift = 0;
    while ((high - low) >> shift >> kBits) ++shift;
    const std::uint64_t last = (high - low) >> shift;
    std::array<double, 1 << kBits> sums{};
    for (const Weighted &point : points) sums[(point.key - low) >> shift] += point.weight;
    std::uint64_t bucket = 0;
    while (bucket < last && !(below + sums[bucket] >= half)) below += sums[bucket++];
    const std::uint64_t origin = low;
    low = ~std::uint64_t{0}, high = 0;
    std::size_t kept = 0;
    for (const Weighted &point : points) {
      if ((point.key - origin) >> shift != bucket) continue;
      points[kept++] = point;
      low = std::min(low, point.key);
      high = std::max(high, point.key);
    }
    points.resize(kept);
  }
  return value_of(low);
}

}  // namespace structpose
