// alignment.py of structpose_ros says what this computes, and why, and is what it is tested against. It is compiled
// whole: behind a network that has just used all caches, NumPy takes four times as long for its thousand small
// operations, each with its own way through memory.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "consensus.h"
#include "kabsch.h"
#include "linear.h"
#include "refinement.h"
#include "vectors.h"

using namespace structpose;

namespace {

constexpr double kLargestSquares = 1e200, kRounding = 1e-14;  // as in alignment.py

// AlignmentFailure, in its order.
enum Failure { kNone, kNonFinite, kZeroWeights, kTooFewPoints, kCollinear };

// AlignmentOptions; as in compiled.py.
struct Options {
  int consensus_starts, robust_rounds, refine_rounds;
  double robust_scale, robust_floor, inlier_threshold, min_effective_points, min_spread, refine_from, refine_to;
};

// PoseEstimate but for what each point has; as in compiled.py.
struct Facts {
  double map_from_camera[4][4];
  double inlier_ratio, effective_points;
  double singular_values[3];
  double covariance[6][6];
};

struct Solved {
  double pose[12];  // rotation and translation
  double singular_values[3];
  double effective_points;
  Failure failure;
};

Failure first(Failure one, Failure other) { return one != kNone ? one : other; }

WIDEST_VECTORS double dot(const double *a, const double *b, int n) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

WIDEST_VECTORS double total_of(const double *values, int n) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < n; ++i) sum += values[i];
  return sum;
}

WIDEST_VECTORS void sum_up(const double *values, const double *weights, int n, double *total, double *squares) {
  double weight = 0.0, sum = 0.0;
#pragma omp simd reduction(+ : weight, sum)
  for (int i = 0; i < n; ++i) {
    weight += weights[i];
    sum += weights[i] * (values[i] * values[i]);
  }
  *total = weight;
  *squares = sum;
}

double effective_points(const double *weights, int n) {
  const double squares = dot(weights, weights, n), total = total_of(weights, n);
  return squares > 0.0 ? total * total / squares : 0.0;
}

// Rows (3, n) of points (n, 3), 0 where there is no weight; whether all of them are finite.
bool rows_of(const double *points, const double *weights, bool any_weight, int n, double *rows) {
  bool finite = true;
  for (int i = 0; i < n; ++i) {
    const bool used = weights[i] > 0.0 || !any_weight;  // what has no weight must not reach a sum: 0 * inf is NaN
    for (int row = 0; row < 3; ++row) {
      const double value = used ? points[3 * i + row] : 0.0;
      finite &= std::isfinite(value);
      rows[row * n + i] = value;
    }
  }
  return finite;
}

// By a power of two: nothing is rounded. In two steps, as no double holds the factor from the least to the largest.
void scale(double *values, int exponent, int n) {
  const double one = std::ldexp(1.0, exponent / 2), other = std::ldexp(1.0, exponent - exponent / 2);
  for (int i = 0; i < n; ++i) values[i] = values[i] * one * other;
}

Solved solve(const double *a, const double *b, const double *given, int n, double rounding, const Options &options) {
  Solved solved;
  solved.failure = kNone;
  std::vector<double> weights(given, given + n);
  if (total_of(given, n) <= 0.0) {
    solved.failure = kZeroWeights;
    std::fill(weights.begin(), weights.end(), 1.0);
  }
  solved.effective_points = effective_points(weights.data(), n);
  if (solved.effective_points < options.min_effective_points * (1.0 - 1e-9)) {
    solved.failure = first(solved.failure, kTooFewPoints);
  }
  kabsch(a, b, weights.data(), n, solved.pose, solved.singular_values);
  const double largest = solved.singular_values[0], second = solved.singular_values[1];
  if (second <= options.min_spread * largest || largest <= rounding) {
    solved.failure = first(solved.failure, kCollinear);
  }
  return solved;
}

WIDEST_VECTORS void square_residuals(const double *a, const double *b, const double *pose, int n, double *squared) {
  const double *ax = a, *ay = a + n, *az = a + 2 * n, *bx = b, *by = b + n, *bz = b + 2 * n;
  const double *r = pose, *t = pose + 9;
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const double x = bx[i] - (r[0] * ax[i] + r[1] * ay[i] + r[2] * az[i]) - t[0];
    const double y = by[i] - (r[3] * ax[i] + r[4] * ay[i] + r[5] * az[i]) - t[1];
    const double z = bz[i] - (r[6] * ax[i] + r[7] * ay[i] + r[8] * az[i]) - t[2];
    squared[i] = x * x + y * y + z * z;
  }
}

WIDEST_VECTORS void weigh(const double *given, const double *squared, double scale, int n, double *weights) {
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const double factor = scale / (scale + squared[i]);
    weights[i] = given[i] * (factor * factor);
  }
}

// Sum of w J'J of a closed-form solve.
WIDEST_VECTORS void inform(const double *a, const double *weights, const double *pose, int n, double information[6][6]) {
  const double *ax = a, *ay = a + n, *az = a + 2 * n, *r = pose;
  double total = 0, x = 0, y = 0, z = 0, xx = 0, xy = 0, xz = 0, yy = 0, yz = 0, zz = 0;
#pragma omp simd reduction(+ : total, x, y, z, xx, xy, xz, yy, yz, zz)
  for (int i = 0; i < n; ++i) {
    const double qx = r[0] * ax[i] + r[1] * ay[i] + r[2] * az[i], qy = r[3] * ax[i] + r[4] * ay[i] + r[5] * az[i];
    const double qz = r[6] * ax[i] + r[7] * ay[i] + r[8] * az[i], w = weights[i];
    total += w, x += w * qx, y += w * qy, z += w * qz;
    xx += w * qx * qx, xy += w * qx * qy, xz += w * qx * qz, yy += w * qy * qy, yz += w * qy * qz, zz += w * qz * qz;
  }
  const double all[6][6] = {{total, 0, 0, 0, z, -y},          {0, total, 0, -z, 0, x},
                            {0, 0, total, y, -x, 0},          {0, -z, y, yy + zz, -xy, -xz},
                            {z, 0, -x, -xy, xx + zz, -yz},    {-y, x, 0, -xz, -yz, xx + yy}};
  std::copy(&all[0][0], &all[0][0] + 36, &information[0][0]);
}

// The two sums over points of `estimate_covariance`: of w (4 g - 1) / 3 and of (w r)^2.
WIDEST_VECTORS void curvature(const double *squared, const double *given, const double *weights, int n, double *slope,
                              double *influence) {
  double slopes = 0, squares = 0;
#pragma omp simd reduction(+ : slopes, squares)
  for (int i = 0; i < n; ++i) {
    const double w = weights[i];
    slopes += w * (4.0 * std::sqrt(w / (given[i] > 0.0 ? given[i] : 1.0)) - 1.0);
    squares += w * w * squared[i];
  }
  *slope = slopes / 3.0;
  *influence = squares;
}

// Whether there is one in finite numbers.
bool estimate_covariance(const double information[6][6], const double *squared, const double *given, const double *weights,
                         int n, int dimensions, double covariance[6][6]) {
  const double total = total_of(weights, n), points = effective_points(weights, n);
  double slope, influence;
  curvature(squared, given, weights, n, &slope, &influence);
  slope = std::max(slope, 0.1 * total);
  const double freedom = points / std::max(points - 6.0 / dimensions, 1.0);
  const double variance = influence / dimensions / (slope * slope) * freedom * total;
  double inverse[6][6];
  for (int column = 0; column < 6; ++column) {
    double used_up[6][6], unit[6] = {};
    std::copy(&information[0][0], &information[0][0] + 36, &used_up[0][0]);
    unit[column] = 1.0;
    if (!eliminate(used_up, unit)) return false;
    std::copy(unit, unit + 6, inverse[column]);
  }
  for (int i = 0; i < 6; ++i) {
    for (int j = 0; j < 6; ++j) covariance[i][j] = 0.5 * (variance * inverse[i][j] + variance * inverse[j][i]);
  }
  return std::all_of(&covariance[0][0], &covariance[0][0] + 36, [](double value) { return std::isfinite(value); });
}

double inlier_ratio(const double *residuals, const double *given, double threshold, int n) {
  double inliers = 0.0;
  for (int i = 0; i < n; ++i) inliers += residuals[i] <= threshold ? given[i] : 0.0;
  return inliers / total_of(given, n);
}

}  // namespace

extern "C" {

// kabsch.weighted_median.
double structpose_weighted_median(const double *values, const double *weights, int n) {
  return weighted_median(values, weights, n);
}

// kabsch.weighted_summary: the sum of weights, the median and the root mean square of values, out.
void structpose_weighted_summary(const double *values, const double *weights, int n, double *summary) {
  double total, squares;
  sum_up(values, weights, n, &total, &squares);
  summary[0] = total;
  summary[1] = weighted_median(values, weights, n);
  summary[2] = std::sqrt(squares / total);
}

// alignment.attempt: points (n, 3) and weights (n,) in; residuals and weights of the last solve (n,), and the other
// facts, out. Returns the number of the failure, 0 for none; below zero where there are no facts to go on with.
int structpose_align(const double *points_in_camera, const double *points_in_map, const double *weights, int n,
                     const Options *options_given, double *residuals, double *current, Facts *facts) {
  const Options &options = *options_given;
  bool any_weight = false;
  for (int i = 0; i < n; ++i) {
    if (!(weights[i] >= 0.0) || !std::isfinite(weights[i])) return -kNonFinite;
    any_weight |= weights[i] > 0.0;
  }
  if (n == 0) return -kZeroWeights;
  Failure failure = any_weight ? kNone : kZeroWeights;
  std::vector<double> a(3 * n), b(3 * n), given(weights, weights + n), squared(n);
  const bool finite_a = rows_of(points_in_camera, weights, any_weight, n, a.data());
  const bool finite_b = rows_of(points_in_map, weights, any_weight, n, b.data());
  if (!finite_a || !finite_b) return -first(failure, kNonFinite);
  const auto stand_in = [&] { std::fill(given.begin(), given.end(), 1.0); };
  // From here on a failure is noted and the work goes on.
  if (failure != kNone) stand_in();
  // Of weights around 1 no sum of squares overflows or vanishes.
  int exponent;
  std::frexp(*std::max_element(given.begin(), given.end()), &exponent);
  scale(given.data(), -exponent, n);
  const double squares_a = dot(a.data(), a.data(), 3 * n), squares_b = dot(b.data(), b.data(), 3 * n);
  if (!(std::max(squares_a, squares_b) < kLargestSquares)) return -first(failure, kCollinear);
  const double rounding = kRounding * std::sqrt(squares_a) * std::sqrt(squares_b);

  std::copy(given.begin(), given.end(), current);
  if (options.consensus_starts > 0) consensus(a.data(), b.data(), given.data(), n, options.consensus_starts, current);
  Solved solved = solve(a.data(), b.data(), current, n, rounding, options);
  for (int round = 0; round < options.robust_rounds; ++round) {
    failure = first(failure, solved.failure);
    square_residuals(a.data(), b.data(), solved.pose, n, squared.data());
    const double median = weighted_median(squared.data(), given.data(), n);
    const double width = options.robust_scale * options.robust_scale * median + options.robust_floor * options.robust_floor;
    weigh(given.data(), squared.data(), width, n, current);
    solved = solve(a.data(), b.data(), current, n, rounding, options);
  }
  failure = first(failure, solved.failure);

  double information[6][6];
  int dimensions;
  if (options.refine_rounds > 0) {
    std::vector<double> seen(2 * n);
    for (int i = 0; i < n; ++i) {
      const double z = a[2 * n + i];
      if (!(z > 0.0)) given[i] = 0.0;  // a point without depth has no ray
      seen[i] = a[i] / (z > 0.0 ? z : 1.0);
      seen[n + i] = a[n + i] / (z > 0.0 ? z : 1.0);
    }
    Refined refined{current, squared.data(), residuals, {}, true};
    refine(solved.pose, seen.data(), b.data(), given.data(), n,
           {options.refine_rounds, options.refine_from, options.refine_to}, refined);
    if (!refined.determined) failure = first(failure, kCollinear);
    solved.effective_points = effective_points(current, n);  // 0 if the last step has left all points behind
    if (solved.effective_points < options.min_effective_points * (1.0 - 1e-9)) failure = first(failure, kTooFewPoints);
    for (int i = 0; i < n; ++i) squared[i] = current[i] > 0.0 ? squared[i] : 0.0;
    std::copy(&refined.normal_matrix[0][0], &refined.normal_matrix[0][0] + 36, &information[0][0]);
    dimensions = 2;
  } else {
    square_residuals(a.data(), b.data(), solved.pose, n, squared.data());
    for (int i = 0; i < n; ++i) residuals[i] = std::sqrt(squared[i]);
    inform(a.data(), current, solved.pose, n, information);
    dimensions = 3;
  }
  if (failure != kNone) {  // on with what no division and no inverse can fail on
    stand_in();
    std::fill(current, current + n, 1.0);
    std::fill(squared.begin(), squared.end(), 0.0);
    for (int i = 0; i < 6; ++i) {
      for (int j = 0; j < 6; ++j) information[i][j] = i == j ? 1.0 : 0.0;
    }
  }
  if (!estimate_covariance(information, squared.data(), given.data(), current, n, dimensions, facts->covariance)) {
    return -first(failure, kCollinear);
  }
  scale(current, exponent, n);
  for (int row = 0; row < 3; ++row) {
    std::copy(solved.pose + 3 * row, solved.pose + 3 * row + 3, facts->map_from_camera[row]);
    facts->map_from_camera[row][3] = solved.pose[9 + row];
    facts->map_from_camera[3][row] = 0.0;
  }
  facts->map_from_camera[3][3] = 1.0;
  facts->inlier_ratio = inlier_ratio(residuals, given.data(), options.inlier_threshold, n);
  facts->effective_points = solved.effective_points;
  std::copy(solved.singular_values, solved.singular_values + 3, facts->singular_values);
  return failure;
}
}
