// Which matches fit together: consensus.py.

#pragma once

namespace structpose {

// Points a and b (3, n), weights (n,), in; n weights out.
void consensus(const double *a_rows, const double *b_rows, const double *given, int n, int starts, double *result);

}  // namespace structpose
