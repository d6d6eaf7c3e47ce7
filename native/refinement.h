// Gauss-Newton on the reprojection error: refinement.py.

#pragma once

namespace structpose {

struct RefineOptions {
  int rounds;
  double first_scale, last_scale;
};

// What the last round left, of n points each: weights of the last step, squared errors, distances from the rays.
struct Refined {
  double *weights, *squared_errors, *distances;
  double normal_matrix[6][6];
  bool determined;
};

// pose: 12 numbers, rotation and translation, in and out. seen: (2, n), x/z and y/z of the rays. b: (3, n).
void refine(double *pose, const double *seen, const double *b_rows, const double *given, int n, const RefineOptions &options,
            Refined &refined);

}  // namespace structpose
