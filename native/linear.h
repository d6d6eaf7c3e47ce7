// Vectors and matrices of three, row by row, and points as NumPy lays them out: all x, all y, all z.

#pragma once

#include <array>
#include <cmath>
#include <utility>

namespace structpose {

using Matrix = std::array<double, 9>;
using Vector = std::array<double, 3>;

struct Points {
  const double *x, *y, *z;
  Points(const double *rows, int n) : x(rows), y(rows + n), z(rows + 2 * n) {}
};

inline Vector turned(const Matrix &r, const Vector &p) {
  return {r[0] * p[0] + r[1] * p[1] + r[2] * p[2], r[3] * p[0] + r[4] * p[1] + r[5] * p[2],
          r[6] * p[0] + r[7] * p[1] + r[8] * p[2]};
}

inline Matrix transposed(const Matrix &r) { return {r[0], r[3], r[6], r[1], r[4], r[7], r[2], r[5], r[8]}; }

inline double dot(const Vector &a, const Vector &b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

inline Vector cross(const Vector &a, const Vector &b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

// Solve m x = c by Gauss's elimination, which uses m up and leaves x in c; whether m has an inverse.
inline bool eliminate(double m[6][6], double c[6]) {
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
  for (int k = 5; k >= 0; --k) {
    for (int j = k + 1; j < 6; ++j) c[k] -= m[k][j] * c[j];
    c[k] /= m[k][k];
  }
  return true;
}

}  // namespace structpose
