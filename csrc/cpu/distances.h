// Lengths, products and distances of vectors, in double.
#pragma once

#include <cfloat>
#include <cmath>
#include <limits>

#include "wide.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

inline double inner_product(const float* a, const float* b, int64_t n) {
  vd total{};
  int64_t i = 0;
  for (; i + kHalf <= n; i += kHalf) total += widened(a + i) * widened(b + i);
  double rest = 0.0;
  for (; i < n; ++i) rest += static_cast<double>(a[i]) * b[i];
  return sum(total) + rest;
}

inline double squared_distance(const float* a, const float* b, int64_t n) {
  vd total{};
  int64_t i = 0;
  for (; i + kHalf <= n; i += kHalf) {
    const vd d = widened(a + i) - widened(b + i);
    total += d * d;
  }
  double rest = 0.0;
  for (; i < n; ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    rest += d * d;
  }
  return sum(total) + rest;
}

inline bool finite(const float* p, int64_t n) {
  bool good = true;
  for (int64_t i = 0; i < n; ++i) good &= std::fabs(p[i]) <= FLT_MAX;
  return good;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
