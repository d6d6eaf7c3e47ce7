// consensus.py of structpose_ros says what this computes, and why, and is what it is tested against.

#include "consensus.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kabsch.h"
#include "linear.h"
#include "vectors.h"

namespace structpose {

namespace {

// As in consensus.py.
constexpr int kMatches = 128;
constexpr float kLeastSpan = 0.1f;
constexpr double kTolerance = 0.05, kRelativeTolerance = 0.05;
constexpr int kPolishingRounds = 1;
constexpr double kRayScale = 0.05;

#if defined(__GNUC__)
inline __attribute__((always_inline)) int popcount(std::uint64_t word) { return __builtin_popcountll(word); }
#else
inline int popcount(std::uint64_t word) { return static_cast<int>(std::bitset<64>(word).count()); }
#endif

double squared(double value) { return value * value; }

double tolerance_at(double z) { return kTolerance + kRelativeTolerance * std::max(z, 0.0); }

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

}  // namespace

void consensus(const double *a_rows, const double *b_rows, const double *given, int n, int starts, double *result) {
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

}  // namespace structpose
