// The closed-form solve and the weighted median: kabsch.py.

#pragma once

namespace structpose {

// Points a and b (3, n), weights (n,). pose: 12 numbers, rotation and translation, out; values: the
// cross-covariance's three singular values, out.
void kabsch(const double *a, const double *b, const double *weights, int n, double *pose, double *values);

// NaN is larger than all else.
double weighted_median(const double *values, const double *weights, int n);

}  // namespace structpose
