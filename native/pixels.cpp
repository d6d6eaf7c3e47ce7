// From an image's bytes to the network's input in one pass over memory: pixels.py of structpose_ros says what it
// computes, and is what it is tested against. OpenCV takes a pass to part the channels, and one more for each.

#include <cstddef>
#include <cstdint>

#include "vectors.h"

namespace {

WIDEST_VECTORS void scale_row(const std::uint8_t *row, std::ptrdiff_t width, const float *scale, const float *shift, float *first,
                              float *second, float *third) {
  const float scale0 = scale[0], scale1 = scale[1], scale2 = scale[2];
  const float shift0 = shift[0], shift1 = shift[1], shift2 = shift[2];
#pragma omp simd
  for (std::ptrdiff_t x = 0; x < width; ++x) {
    first[x] = row[3 * x] * scale0 + shift0;
    second[x] = row[3 * x + 1] * scale1 + shift1;
    third[x] = row[3 * x + 2] * scale2 + shift2;
  }
}

}  // namespace

extern "C" {

// To be raised with any change of arguments, here and in alignment.cpp, and in compiled.py: a library may be left of
// another release.
int structpose_native_version() { return 3; }

// pixels.scaled_planes: image (height, width, 3) whose rows are `row_bytes` apart in, planes (3, height, width) out.
void structpose_scaled_planes(const std::uint8_t *image, std::ptrdiff_t row_bytes, int height, int width,
                              const float *scale, const float *shift, float *planes) {
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(height) * width;
  for (int y = 0; y < height; ++y) {
    float *row = planes + static_cast<std::ptrdiff_t>(y) * width;
    scale_row(image + y * row_bytes, width, scale, shift, row, row + plane, row + 2 * plane);
  }
}
}
