// Rays through a lens with distortion: `_undistort` of camera.py says what this computes, and is what it is tested
// against. A model whose points lie anywhere in their cells asks for new ones with each image.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "vectors.h"

namespace {

constexpr int kNewtonSteps = 10;
constexpr double kConverged = 1e-10, kOnAxis = 1e-12;

// Distorted over undistorted radius, and its derivative by the undistorted radius squared.
struct Radial {
  double ratio, slope;
};

// k1 k2 p1 p2 k3 k4 k5 k6.
struct Polynomial {
  double k1, k2, p1, p2, k3, k4, k5, k6;
  explicit Polynomial(const double *k) : k1(k[0]), k2(k[1]), p1(k[2]), p2(k[3]), k3(k[4]), k4(k[5]), k5(k[6]), k6(k[7]) {}
  Radial operator()(double r2) const {
    const double denominator = 1.0 + r2 * (k4 + r2 * (k5 + r2 * k6));
    const double ratio = (1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))) / denominator;
    const double slope = k1 + r2 * (2.0 * k2 + 3.0 * k3 * r2) - ratio * (k4 + r2 * (2.0 * k5 + 3.0 * k6 * r2));
    return {ratio, slope / denominator};
  }
};

// k1 k2 k3 k4.
struct Equidistant {
  double k1, k2, k3, k4;
  explicit Equidistant(const double *k) : k1(k[0]), k2(k[1]), k3(k[2]), k4(k[3]) {}
  double radius(double angle) const {  // distorted
    const double a2 = angle * angle;
    return angle * (1.0 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))));
  }
  double slope(double angle) const {  // its derivative
    const double a2 = angle * angle;
    return 1.0 + a2 * (3.0 * k1 + a2 * (5.0 * k2 + a2 * (7.0 * k3 + a2 * 9.0 * k4)));
  }
};

// A distorted point, and its Jacobian, which is symmetric.
struct Distorted {
  double x, y, xx, xy, yy;
};

inline Distorted distorted_at(const Polynomial &lens, double x, double y) {
  const double r2 = x * x + y * y;
  const Radial radial = lens(r2);
  return {x * radial.ratio + 2.0 * lens.p1 * x * y + lens.p2 * (r2 + 2.0 * x * x),
          y * radial.ratio + lens.p1 * (r2 + 2.0 * y * y) + 2.0 * lens.p2 * x * y,
          radial.ratio + 2.0 * x * x * radial.slope + 2.0 * lens.p1 * y + 6.0 * lens.p2 * x,
          2.0 * x * y * radial.slope + 2.0 * lens.p1 * x + 2.0 * lens.p2 * y,
          radial.ratio + 2.0 * y * y * radial.slope + 6.0 * lens.p1 * y + 2.0 * lens.p2 * x};
}

// One step of Newton's for each point.
WIDEST_VECTORS void step(const Polynomial &lens, const double *seen_x, const double *seen_y, int n, double *x, double *y) {
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const Distorted at = distorted_at(lens, x[i], y[i]);
    const double error_x = at.x - seen_x[i], error_y = at.y - seen_y[i];
    const double determinant = at.xx * at.yy - at.xy * at.xy;
    x[i] -= (at.yy * error_x - at.xy * error_y) / determinant;
    y[i] -= (at.xx * error_y - at.xy * error_x) / determinant;
  }
}

WIDEST_VECTORS void step_angles(const Equidistant &lens, const double *seen, int n, double *angles) {
#pragma omp simd
  for (int i = 0; i < n; ++i) angles[i] -= (lens.radius(angles[i]) - seen[i]) / lens.slope(angles[i]);
}

// `numpy.interp` of a rising table.
double interpolated(const double *from, const double *to, int size, double at) {
  const int upper = static_cast<int>(std::upper_bound(from, from + size, at) - from);
  if (upper == 0) return to[0];
  if (upper == size) return to[size - 1];
  const double share = (at - from[upper - 1]) / (from[upper] - from[upper - 1]);
  return to[upper - 1] + share * (to[upper] - to[upper - 1]);
}

struct Table {  // rising radii
  const double *undistorted, *distorted;
  int size;
  double start(double radius) const { return interpolated(distorted, undistorted, size, radius); }
  double reach() const { return undistorted[size - 1]; }
};

void write(bool solved, double x, double y, double *normalized) {
  normalized[0] = solved ? x : std::numeric_limits<double>::quiet_NaN();
  normalized[1] = solved ? y : std::numeric_limits<double>::quiet_NaN();
}

void undistort(const Polynomial &lens, const double *distorted, int n, const Table &table, double *normalized) {
  std::vector<double> seen_x(n), seen_y(n), x(n), y(n);
  for (int i = 0; i < n; ++i) {
    seen_x[i] = distorted[2 * i], seen_y[i] = distorted[2 * i + 1];
    const double radius = std::sqrt(seen_x[i] * seen_x[i] + seen_y[i] * seen_y[i]);
    const double start = table.start(radius) / std::max(radius, kOnAxis);
    x[i] = seen_x[i] * start, y[i] = seen_y[i] * start;
  }
  for (int k = 0; k < kNewtonSteps; ++k) step(lens, seen_x.data(), seen_y.data(), n, x.data(), y.data());
  for (int i = 0; i < n; ++i) {
    const Distorted at = distorted_at(lens, x[i], y[i]);
    const bool solved = std::abs(at.x - seen_x[i]) < kConverged && std::abs(at.y - seen_y[i]) < kConverged &&
                        at.xx * at.yy - at.xy * at.xy > 0.0 && std::sqrt(x[i] * x[i] + y[i] * y[i]) <= table.reach();
    write(solved, x[i], y[i], normalized + 2 * i);
  }
}

// By the angle from the axis: such a lens changes nothing else.
void undistort(const Equidistant &lens, const double *distorted, int n, const Table &table, double *normalized) {
  std::vector<double> seen(n), angles(n);
  for (int i = 0; i < n; ++i) {
    seen[i] = std::sqrt(distorted[2 * i] * distorted[2 * i] + distorted[2 * i + 1] * distorted[2 * i + 1]);
    angles[i] = std::atan(table.start(seen[i]));
  }
  for (int k = 0; k < kNewtonSteps; ++k) step_angles(lens, seen.data(), n, angles.data());
  const double reach = std::atan(table.reach());
  for (int i = 0; i < n; ++i) {
    const bool solved = std::abs(lens.radius(angles[i]) - seen[i]) < kConverged && lens.slope(angles[i]) > 0.0 &&
                        std::abs(angles[i]) <= reach;
    const double stretched = std::tan(angles[i]) / std::max(seen[i], kOnAxis);
    write(solved, distorted[2 * i] * stretched, distorted[2 * i + 1] * stretched, normalized + 2 * i);
  }
}

}  // namespace

extern "C" {

// camera._undistort: points (n, 2) at z = 1 in, and out. coefficients: 8, of a polynomial or of an equidistant lens.
// The table's radii rise, `size` of each.
void structpose_undistort(const double *distorted, int n, int equidistant, const double *coefficients,
                          const double *table_undistorted, const double *table_distorted, int size,
                          double *normalized) {
  const Table table{table_undistorted, table_distorted, size};
  if (equidistant) {
    undistort(Equidistant(coefficients), distorted, n, table, normalized);
  } else {
    undistort(Polynomial(coefficients), distorted, n, table, normalized);
  }
}
}
