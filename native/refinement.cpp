// refinement.py of structpose_ros says what this computes, and why, and is what it is tested against.

#include "refinement.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "linear.h"
#include "vectors.h"

namespace structpose {

namespace {

// As in refinement.py.
constexpr double kDamping = 1e-4, kInMetres = 0.5, kNearest = 0.05;

constexpr int kSums = 23;  // of a round over its points

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

void refine(double *pose, const double *seen, const double *b_rows, const double *given, int n, const RefineOptions &options,
            Refined &refined) {
  const Points b(b_rows, n);
  std::vector<double> depths(n);
  double sums[kSums], m[6][6];
  refined.determined = true;  // where it is not, the work goes on: a frame takes as long whatever the camera sees
  for (int round = 0; round < options.rounds; ++round) {
    const double share = options.rounds > 1 ? static_cast<double>(round) / (options.rounds - 1) : 1.0;
    const double scale = options.first_scale * std::pow(options.last_scale / options.first_scale, share);
    const bool in_metres = round < static_cast<int>(kInMetres * options.rounds);
    add_up(seen, b_rows, given, n, pose, scale, in_metres, refined.weights, refined.squared_errors, depths.data(), sums);
    normal_equations(sums, m);
    for (const int first : {0, 3}) {  // not by elements: the axes must not matter
      const double damping = kDamping / 3.0 * (m[first][first] + m[first + 1][first + 1] + m[first + 2][first + 2]);
      for (int k = first; k < first + 3; ++k) m[k][k] += damping;
    }
    double step[6];
    for (int k = 0; k < 6; ++k) step[k] = -sums[kSums - 6 + k];
    if (!eliminate(m, step) || !std::isfinite(std::inner_product(step, step + 6, step, 0.0))) {
      refined.determined = false;
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
  const std::vector<double> last(refined.weights, refined.weights + n);
  add_up(seen, b_rows, last.data(), n, pose, 0.0, false, refined.weights, refined.squared_errors, depths.data(), sums);
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
          refined.normal_matrix[block_row + i][block_column + j] = sum;
        }
      }
    }
  }
  const Matrix camera_from_map = transposed(map_from_camera);
  for (int i = 0; i < n; ++i) {
    if (depths[i] > kNearest) {
      refined.distances[i] = std::sqrt(refined.squared_errors[i]) * depths[i];
    } else {
      const Vector p = turned(camera_from_map, {b.x[i] - pose[9], b.y[i] - pose[10], b.z[i] - pose[11]});
      refined.distances[i] = std::sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]);
      refined.squared_errors[i] = std::numeric_limits<double>::infinity();
    }
  }
}

}  // namespace structpose
